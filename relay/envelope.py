"""The arguments of MAIL and RCPT, parsed as bytes: what is passed on is what the client sent.

A path is accepted as it stands or refused, never rewritten: no RFC 2047 word is decoded in it, nothing is
quoted or unquoted, and no control character gets through (RFC 5321 section 4.1.2, RFC 6531 section 3.3).

Pure: bytes in, values or a reply out."""

import re
from collections.abc import Container
from dataclasses import dataclass

from relay import replies
from relay.replies import Reply

_ATOM = rb"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.,:;()\[\]\x80-\xff-]+"
_QUOTED = rb'"(?:[^"\\\x00-\x1f\x7f]|\\[\x20-\x7e])*"'
_DOMAIN = rb"(?:[A-Za-z0-9\x80-\xff](?:[A-Za-z0-9._\x80-\xff-]*)|\[[A-Za-z0-9.:-]+\])"
_ROUTE = rb"(?:@" + _DOMAIN + rb"(?:,@" + _DOMAIN + rb")*:)?"
_PATH = re.compile(
    rb"<(?P<route>"
    + _ROUTE
    + rb")(?P<address>(?:"
    + _ATOM
    + rb"|"
    + _QUOTED
    + rb")(?:@"
    + _DOMAIN
    + rb")?)?>"
)
_PARAMETER = re.compile(rb"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([\x21-\x3c\x3e-\x7e\x80-\xff]+))?")
_LONGEST_PATH = 256  # RFC 5321 section 4.5.3.1.3

MAIL_PARAMETERS = {
    b"SIZE": b"size",
    b"BODY": b"8bitmime",
    b"SMTPUTF8": b"smtputf8",
    b"RET": b"dsn",
    b"ENVID": b"dsn",
}
RCPT_PARAMETERS = {b"NOTIFY": b"dsn", b"ORCPT": b"dsn"}

_EXTENSIONS = {name: one.decode() for name, one in (MAIL_PARAMETERS | RCPT_PARAMETERS).items()}

_NOT_PASSED_ON = b"AUTH="
"""RFC 4954 section 5: a server that is not told to trust its client takes AUTH= and drops it."""


class BadCommand(Exception):
    """The client's command cannot be passed on; `reply` says why."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        super().__init__(reply.text())


@dataclass(frozen=True, slots=True)
class Path:
    """A path and its parameters, exactly as sent; `address` is the mailbox in it, b"" for the null sender."""

    wire: bytes
    address: bytes
    parameters: tuple[bytes, ...] = ()
    extensions: frozenset[str] = frozenset()
    declared_size: int | None = None

    @property
    def needed(self) -> frozenset[str]:
        """The extensions without which the mail cannot go; a size and a body of seven bits need not be
        said."""
        return frozenset(_EXTENSIONS[_name(one)] for one in self.parameters if not _says_nothing_new(one))

    def line(self, verb: bytes, offered: Container[str] | None = None) -> bytes:
        """The command as it goes upstream, without its line end. `offered`: what the upstream offers there;
        what need not be said is left out where it does not."""
        said = self.parameters
        if offered is not None and any(_EXTENSIONS[_name(one)] not in offered for one in said):
            said = tuple(
                one for one in said if _EXTENSIONS[_name(one)] in offered or not _says_nothing_new(one)
            )
        return b" ".join((verb + self.wire, *said))


def parse_mail(arguments: bytes) -> Path:
    """What follows `MAIL `: `FROM:<path> parameters`. Raises BadCommand."""
    return _parsed(arguments, b"FROM:", MAIL_PARAMETERS, replies.BAD_SENDER_SYNTAX)


def parse_rcpt(arguments: bytes, *, smtputf8: bool) -> Path:
    """What follows `RCPT `: `TO:<path> parameters`. Raises BadCommand."""
    path = _parsed(arguments, b"TO:", RCPT_PARAMETERS, replies.BAD_RECIPIENT_SYNTAX)
    if not path.address:
        raise BadCommand(replies.BAD_RECIPIENT_SYNTAX)
    if not smtputf8 and not path.wire.isascii():
        raise BadCommand(replies.NEEDS_SMTPUTF8)
    return path


def _parsed(arguments: bytes, word: bytes, known: dict[bytes, bytes], bad_path: Reply) -> Path:
    if arguments[: len(word)].upper() != word:
        raise BadCommand(replies.BAD_ARGUMENTS)
    rest = arguments[len(word) :].lstrip(b" ")
    match = _PATH.match(rest)
    if (
        match is None
        or len(match.group()) > _LONGEST_PATH
        or (match.group("route") and not match.group("address"))
    ):
        raise BadCommand(bad_path)
    after = rest[match.end() :]
    if after and not after.startswith(b" "):
        raise BadCommand(bad_path)
    wire = match.group()
    parameters = tuple(one for one in after.split() if not _is_dropped(one, word))
    extensions, size = _known_parameters(parameters, known)
    if word == b"FROM:" and not wire.isascii() and "smtputf8" not in extensions:
        raise BadCommand(replies.NEEDS_SMTPUTF8)
    if not _is_utf8(arguments):
        raise BadCommand(bad_path)
    return Path(wire, match.group("address") or b"", parameters, extensions, size)


def _name(parameter: bytes) -> bytes:
    return parameter.partition(b"=")[0].upper()


def _says_nothing_new(parameter: bytes) -> bool:
    return _name(parameter) == b"SIZE" or parameter.upper() == b"BODY=7BIT"


def _is_dropped(parameter: bytes, word: bytes) -> bool:
    return word == b"FROM:" and parameter[: len(_NOT_PASSED_ON)].upper() == _NOT_PASSED_ON


def _known_parameters(
    parameters: tuple[bytes, ...], known: dict[bytes, bytes]
) -> tuple[frozenset[str], int | None]:
    """Which extensions the parameters belong to, and the declared size."""
    extensions: set[str] = set()
    seen: set[bytes] = set()
    size = None
    for parameter in parameters:
        match = _PARAMETER.fullmatch(parameter)
        if match is None:
            raise BadCommand(replies.BAD_ARGUMENTS)
        name, value = match.group(1).upper(), match.group(2)
        if name not in known:
            raise BadCommand(replies.UNKNOWN_PARAMETER)
        if name in seen or not _is_valid(name, value):
            raise BadCommand(replies.BAD_ARGUMENTS)
        seen.add(name)
        extensions.add(known[name].decode())
        if name == b"SIZE":
            size = int(value)
    return frozenset(extensions), size


def _is_valid(name: bytes, value: bytes | None) -> bool:
    """The values that decide something here; DSN's are the upstream's business."""
    if name == b"SIZE":
        return value is not None and value.isdigit() and len(value) <= 20
    if name == b"BODY":
        return value is not None and value.upper() in {b"7BIT", b"8BITMIME"}
    if name == b"SMTPUTF8":
        return value is None
    return value is not None


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
