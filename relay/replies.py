"""SMTP replies: every one that we say ourselves, by name, and what becomes of those that the upstream says.

Codes: RFC 5321 section 4.2, enhanced codes: RFC 3463.

Pure: values and their wire form."""

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

_LONGEST_LINE = 510  # RFC 5321 section 4.5.3.1.5: 512 with CRLF
_MOST_LINES = 20
_ENHANCED = re.compile(rb"[245]\.\d{1,3}\.\d{1,3}(?=\s|$)")
_REPLY_LINE = re.compile(rb"([2-5][0-9][0-9])(?:([ -]).*)?", re.DOTALL)
_CODE = re.compile(rb"[2-5][0-9][0-9]")
_LONGEST_REPLY = 32 * 1024
_UNPRINTABLE = re.compile(rb"[^\x20-\x7e]")


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply: its code, and its lines without code and line end."""

    code: int
    lines: tuple[bytes, ...]

    @property
    def is_positive(self) -> bool:
        return 200 <= self.code < 300

    @property
    def kind(self) -> int:
        """The first digit: 2 done, 3 go on, 4 try again, 5 never."""
        return self.code // 100

    def wire(self, *, in_utf8: bool = False) -> bytes:
        """What goes to a client: bounded, each line with its code; `in_utf8`: to one that uses SMTPUTF8 (RFC
        6531 section 3.7.4.2), else in ASCII, as well as that can say it."""
        if len(self.lines) == 1:
            return b"%03d %b\r\n" % (self.code, _printable(self.lines[0], in_utf8=in_utf8))
        lines = [_printable(line, in_utf8=in_utf8) for line in self.lines[:_MOST_LINES]] or [b""]
        code = b"%03d" % self.code
        head = [code + b"-" + line for line in lines[:-1]]
        return b"\r\n".join([*head, code + b" " + lines[-1], b""])

    def text(self) -> str:
        """The reply on one line, for people: `250 2.0.0 Ok: queued`."""
        said = b" ".join(line.strip() for line in self.lines)
        return f"{self.code} {said.decode('utf-8', 'replace')}".strip()

    def bare(self) -> str:
        """Code and enhanced code only: what may be kept of a mail that is nobody's business."""
        enhanced = _ENHANCED.match(self.lines[0]) if self.lines else None
        return f"{self.code} {enhanced.group().decode()}" if enhanced else str(self.code)

    def names(self, secret: bytes) -> bool:
        """Whether the text gives away an address or its domain, in any case."""
        said = b"\n".join(self.lines).lower()
        domain = secret.lower().rpartition(b"@")[2]
        return bool(secret) and domain in said

    def without_text(self) -> "Reply":
        """The same verdict in words of ours."""
        enhanced = _ENHANCED.match(self.lines[0]) if self.lines else None
        code = enhanced.group() if enhanced else b"%d.0.0" % self.kind
        return Reply(
            self.code, (code + (b" Ok" if self.is_positive else b" Not accepted by the mail provider"),)
        )


def _printable(line: bytes, *, in_utf8: bool) -> bytes:
    if not line.isascii():
        text = line.decode("utf-8", "replace")
        if in_utf8:
            kept = "".join(character if character.isprintable() else "?" for character in text)
            return kept.encode()[: _LONGEST_LINE - 4].decode("utf-8", "ignore").encode()
        # "für" becomes "fur", and what has no such form a question mark
        marks = unicodedata.normalize("NFKD", text.replace("ß", "ss"))
        line = "".join(one for one in marks if not unicodedata.combining(one)).encode("ascii", "replace")
    return _UNPRINTABLE.sub(b"?", line)[: _LONGEST_LINE - 4]


class Garbage(Exception):
    """What came is no SMTP reply (RFC 5321 section 4.2)."""


class ReplyReader:
    """Puts replies together from whatever pieces they arrive in."""

    __slots__ = ("_buffer", "_lines", "_size", "is_spoilt")

    def __init__(self) -> None:
        self._buffer = b""
        self._lines: list[bytes] = []
        self._size = 0
        self.is_spoilt = False
        """Whether garbage came right behind the last replies."""

    def feed(self, data: bytes) -> list[Reply]:
        """The replies that are complete now. Raises Garbage, after which the connection is worth nothing."""
        if not (self._buffer or self._lines) and (reply := _single_line(data)) is not None:
            return [reply]
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        found: list[Reply] = []
        for line in lines:
            try:
                reply = self._add(line.rstrip(b"\r"))
            except Garbage:
                if not found:
                    raise
                self.is_spoilt = True  # what came before it is still true: a mail may have been taken
                return found
            if reply is not None:
                found.append(reply)
        if self._size + len(self._buffer) > _LONGEST_REPLY:
            raise Garbage
        return found

    def _add(self, line: bytes) -> Reply | None:
        if not line and not self._lines:
            return None  # an empty line before a reply says nothing; some servers send one
        match = _REPLY_LINE.fullmatch(line)
        if match is None or (self._lines and self._lines[0][:3] != line[:3]):
            raise Garbage
        self._lines.append(line)
        self._size += len(line)
        if match.group(2) == b"-":
            return None
        reply = Reply(int(line[:3]), tuple(one[4:] for one in self._lines))
        self._lines, self._size = [], 0
        return reply


@lru_cache(maxsize=256)
def _single_line(data: bytes) -> Reply | None:
    """The reply, where the data is just one of one line: nearly always, and nearly always the same few."""
    if not data.endswith(b"\r\n") or data.count(b"\n") > 1 or len(data) > _LONGEST_LINE or data[3:4] != b" ":
        return None
    code = data[:3]
    return Reply(int(code), (data[4:-2].rstrip(b"\r"),)) if _CODE.fullmatch(code) else None


def _reply(code: int, text: str) -> Reply:
    return Reply(code, (text.encode(),))


BYE = _reply(221, "2.0.0 Bye")
OK = _reply(250, "2.0.0 Ok")
CANNOT_VERIFY = _reply(252, "2.1.5 Cannot verify, but send some mail and I will try")
SIGNED_IN = _reply(235, "2.7.0 Authentication successful")
SEND_DATA = _reply(354, "End data with <CR><LF>.<CR><LF>")
SHUTTING_DOWN = _reply(421, "4.3.2 Shutting down, try again in a moment")
IDLE = _reply(421, "4.4.2 Idle for too long")
TOO_MANY_ERRORS = _reply(421, "4.7.0 Too many errors")
TOO_MANY_SESSIONS = _reply(421, "4.3.2 Too many connections, try again in a moment")
SIGN_IN_AGAIN = _reply(421, "4.4.2 The connection to the mail provider was lost, connect again")
TOO_MANY_MAILS = _reply(450, "4.7.1 Too many mails in a minute, try again in a moment")
TOO_MANY_TODAY = _reply(450, "4.7.1 Too many mails in a day; contact your administrator")
INTERNAL = _reply(451, "4.3.0 Try again later")
MISCONFIGURED = _reply(451, "4.3.5 Relay misconfigured; contact your administrator")
UPSTREAM_LACKS = _reply(451, "4.3.0 The mail provider does not take such a mail now, try again later")
OFFERS_HAVE_CHANGED = _reply(421, "4.3.2 What the mail provider takes has changed, connect again")
UPSTREAM_UNKNOWN = _reply(421, "4.4.1 The mail provider has not been reached yet, try again later")
UPSTREAM_BUSY = _reply(451, "4.3.2 Too busy, try again in a moment")
UPSTREAM_UNREACHABLE = _reply(451, "4.4.1 The mail provider cannot be reached, try again later")
UPSTREAM_LOST = _reply(451, "4.4.2 The connection to the mail provider was lost, try again later")
TOO_MANY_RECIPIENTS = _reply(452, "4.5.3 Too many recipients")
TOO_MANY_FAILED_SIGN_INS = _reply(454, "4.7.0 Too many failed sign-ins, try again later")
CANNOT_CHECK_SIGN_IN = _reply(454, "4.7.0 Cannot check the sign-in now, try again later")
LINE_TOO_LONG = _reply(500, "5.5.2 Line too long")
UNKNOWN_COMMAND = _reply(500, "5.5.2 Unknown command")
BAD_ARGUMENTS = _reply(501, "5.5.4 Syntax error in the arguments")
BAD_BASE64 = _reply(501, "5.5.2 Cannot decode the response")
AUTH_CANCELLED = _reply(501, "5.7.0 Authentication cancelled")
BAD_SENDER_SYNTAX = _reply(501, "5.1.7 Syntax error in the sender's address")
BAD_RECIPIENT_SYNTAX = _reply(501, "5.1.3 Syntax error in the recipient's address")
NOT_OFFERED = _reply(502, "5.5.1 Not offered")
SAY_HELLO_FIRST = _reply(503, "5.5.1 Say EHLO first")
MAIL_FIRST = _reply(503, "5.5.1 Say MAIL first")
NESTED_MAIL = _reply(503, "5.5.1 A mail is on its way already")
ALREADY_SIGNED_IN = _reply(503, "5.5.1 Already signed in")
NOT_DURING_MAIL = _reply(503, "5.5.1 Not while a mail is on its way")
PIPELINED_STARTTLS = _reply(503, "5.5.1 Nothing may be sent ahead of STARTTLS")
NO_PARAMETERS = _reply(501, "5.5.4 No parameters are allowed")
GO_AHEAD = _reply(220, "2.0.0 Ready to start TLS")
NEEDS_ENCRYPTION = _reply(538, "5.7.11 Signing in needs encryption, say STARTTLS first")
UNKNOWN_MECHANISM = _reply(504, "5.5.4 This way of signing in is not offered")
START_TLS_FIRST = _reply(530, "5.7.0 Say STARTTLS first")
SIGN_IN_FIRST = _reply(530, "5.7.0 Sign in first")
BAD_CREDENTIALS = _reply(535, "5.7.8 Name or app password is wrong")
NOT_PERMITTED = _reply(550, "5.7.1 This server or sender may not send through this relay")
BLOCKED_DOMAIN = _reply(550, "5.7.1 Mail to this domain is blocked here; contact your administrator")
NOT_YOUR_ADDRESS = _reply(550, "5.7.60 The From address is not one that you may send from")
BARE_NEWLINE = _reply(550, "5.6.11 A line ends in a bare CR or LF")
NUL_BYTE = _reply(550, "5.6.0 The mail holds a NUL byte")
TOO_BIG = _reply(552, "5.3.4 The mail is too big")
NEEDS_SMTPUTF8 = _reply(553, "5.6.7 An address with these characters needs SMTPUTF8")
LOOP = _reply(554, "5.4.6 Mail loop: this mail has come this way too often")
NO_RECIPIENTS = _reply(554, "5.5.1 No valid recipients")
UNKNOWN_PARAMETER = _reply(555, "5.5.4 A parameter is not known or not offered")

OVERLOADED = _reply(421, "4.3.2 Too busy, try again in a moment")

CLIENT_ERRORS = frozenset(
    {
        LINE_TOO_LONG,
        UNKNOWN_COMMAND,
        BAD_ARGUMENTS,
        BAD_BASE64,
        NOT_OFFERED,
        SAY_HELLO_FIRST,
        MAIL_FIRST,
        NESTED_MAIL,
        UNKNOWN_MECHANISM,
        SIGN_IN_FIRST,
        BAD_CREDENTIALS,
        START_TLS_FIRST,
        NEEDS_ENCRYPTION,
        NOT_PERMITTED,
        AUTH_CANCELLED,
        ALREADY_SIGNED_IN,
        NOT_DURING_MAIL,
        NO_PARAMETERS,
        BAD_SENDER_SYNTAX,
        UNKNOWN_PARAMETER,
        TOO_MANY_FAILED_SIGN_INS,
    },
)
"""What a client should not have made us say; the upstream's refusals of a recipient are none."""
