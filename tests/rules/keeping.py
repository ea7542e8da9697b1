"""A mail as the relay keeps it."""

from core.mail.kept import Left
from relay.parts import Parts


def keep(raw, *, files=0, pieces=None, without=Left.NOT_WANTED):
    """The kept mail, and the files: number -> pieces."""
    header, found, body = raw.partition(b"\r\n\r\n")
    header, body = (header + b"\r\n", b"\r\n" + body) if found else (raw, b"")
    parts, new = Parts(header, files, without), []
    for piece in pieces(body) if pieces else [body]:
        new += parts.feed(piece)
    kept, last = parts.end()
    by_number = {}
    for one in [*new, *last]:
        of_it = by_number.setdefault(one.file, [])
        assert one.number == len(of_it)
        of_it.append(one.data)
    return kept, by_number
