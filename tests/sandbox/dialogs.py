"""Dialogs as files: what a client says, and what it must hear. They run over sockets, and without."""

import base64
from pathlib import Path

DIALOGS = sorted((Path(__file__).parents[1] / "dialogs").glob("*.txt"))


def read(path):
    """(what `#` lines set up, [(who, line)])"""
    setup, lines = [], []
    for line in path.read_text().splitlines():
        if line.startswith("# "):
            setup.append(line[2:])
        else:
            assert line[:2] in {"C:", "S:"}, line
            lines.append((line[0], line[3:]))
    return setup, lines


def said(line, password):
    """A client's line with its placeholders filled in, as it goes over the wire."""
    words = {
        "<token>": _plain(password), "<wrong>": _plain("wrong"), "<login>": base64.b64encode(b"anna@acme.test").decode(),
        "<password>": base64.b64encode(password.encode()).decode(), "<long>": "x" * 20_000, "<bare>": "a\nb", "<nul>": "a\0b",
    }  # fmt: skip
    for name, text in words.items():
        line = line.replace(name, text)
    return line.encode() + b"\r\n"


def _plain(password):
    return base64.b64encode(f"\0anna@acme.test\0{password}".encode()).decode()
