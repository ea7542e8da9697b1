"""The bytes of a winmail.dat."""

import struct


def attribute(name, value, level=1):
    return struct.pack("<BHHI", level, name, 6, len(value)) + value + struct.pack("<H", sum(value) & 0xFFFF)


def properties(*found):
    out = struct.pack("<I", len(found))
    for name, kind, value in found:
        out += struct.pack("<HHII", kind, name, 1, len(value)) + value + b"\0" * (-len(value) % 4)
    return out


def tnef(*attributes):
    return struct.pack("<IH", 0x223E9F78, 1) + b"".join(attributes)


def file(name):
    return (
        attribute(0x9002, b"x" * 14, level=2)
        + attribute(0x8010, b"SHORT~1.PDF\0", level=2)
        + attribute(0x9005, properties((0x3707, 0x1F, name.encode("utf-16-le") + b"\0\0")), level=2)
    )


CODE_PAGE = attribute(0x9007, struct.pack("<II", 1252, 0))
