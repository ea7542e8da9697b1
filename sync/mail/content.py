"""What of a mail's bytes goes to Salesforce: who stands in its header, and its text.

Pure: bytes as they came over SMTP in, a value out; never raises, whatever the bytes."""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from email import policy
from email.header import decode_header, make_header
from email.message import EmailMessage, Message
from email.parser import BytesParser
from email.utils import getaddresses

from core.mail.kept import MOST_OF_A_TEXT, PART_FIELD, PARTS_FIELD, Left, left_out
from core.people.addresses import address_key
from sync.mail.attached import Attachment, attachment, clean_name
from sync.mail.invitation import Invitation, read_invitation
from sync.mail.page_text import says_no_more, text_of_page
from sync.mail.tnef import Tnef, read_tnef

_ENCRYPTED = frozenset({"application/pkcs7-mime", "application/x-pkcs7-mime"})
_MAILS = frozenset({"message/rfc822", "message/global"})
_TNEF = "application/ms-tnef"
_TEXTS = frozenset({"text/plain", "text/html"})
NOT_READABLE = "[encrypted, not readable here]"
_ARMOUR = "-----BEGIN PGP MESSAGE-----"
_DEEPEST = 30
_DEEPEST_MAIL = 3
_MOST_SEGMENTS = 50
_NAMED = ("From", "Date", "To", "Subject")
_MOST_MAILS = 5
"""Mails within a mail, of which is told."""
_LONGEST_LINE = 500
_LONGEST_HEADER = 64 * 1024
_MOST_OF_A_PAGE = 131_072
_MOST_OF_A_TEXT = 40_000
"""Characters; Salesforce takes 32,000, and of a page 131,072 at most (facts: EmailMessage, sizes)."""
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")
_ADDRESS = re.compile(r"[^\s<>,;:\"()@\[\]]+@[^\s<>,;:\"()@]+")


@dataclass(frozen=True)
class Content:
    """`to`, `cc`: keys of the addresses in the header; `name`: the author's; `text`, `html`: None where there
    is none."""

    to: tuple[str, ...] = ()
    cc: tuple[str, ...] = ()
    name: str = ""
    date: str = ""
    """As it stands in the header."""
    text: str | None = None
    html: str | None = None
    """Only where it says more than the text."""
    forwarded: str = ""
    """What mails say that are attached to it."""
    attachments: tuple[Attachment, ...] = ()
    is_answer: bool = False
    """Somebody answers an invitation."""
    is_cut: bool = False
    """The text goes on, or begins, behind what was kept of the mail."""
    is_there: bool = True
    """False: the bytes are gone."""
    is_unreadable: bool = False
    """They are there, but no key of this process opens them."""


def read_content(raw: bytes) -> Content:
    """The view of a mail as it is kept (core/mail/kept.py): dots stuffed (RFC 5321 section 4.5.2), CRLF line
    ends."""
    try:
        mail = BytesParser(policy=policy.compat32).parsebytes(_unstuffed(raw))
        found = _found_in(mail, 0)
        text = _text_of(found)
        return Content(
            to=_keys(mail, "to"),
            cc=_keys(mail, "cc"),
            date=" ".join(str(mail.get("Date") or "").split())[:100],
            name=_name(mail),
            text=None if text is None else text[:_MOST_OF_A_TEXT],
            html=_page_of(found, text),
            forwarded="\n\n".join(found.forwarded[:_MOST_MAILS])[:_MOST_OF_A_TEXT],
            attachments=() if found.is_encrypted else tuple(found.attachments),
            is_answer=found.invitation is not None and found.invitation.is_answer,
            is_cut=found.is_cut or _has_more_parts(mail) or _was_cut_by_the_first_release(mail, raw, found),
        )
    except Exception:  # noqa: BLE001  the email package raises whatever odd bytes make it raise
        return Content()


def _unstuffed(raw: bytes) -> bytes:
    text = raw.replace(b"\r\n..", b"\r\n.")
    return text[1:] if text.startswith(b"..") else text


@dataclass(frozen=True)
class _Segment:
    """One text of a mail: as plain text, as a page, or as both."""

    plain: str | None = None
    html: str | None = None
    is_cut: bool = False

    @property
    def text(self) -> str:
        if (self.plain or "").strip() or self.html is None:
            return self.plain or ""
        return text_of_page(self.html)


@dataclass
class _Said:
    """What a mail says, and what is attached to it."""

    segments: list[_Segment] = field(default_factory=list)
    packed: Tnef = field(default_factory=Tnef)
    invitation: Invitation | None = None
    forwarded: list[str] = field(default_factory=list)
    attachments: list[Attachment] = field(default_factory=list)
    last: Message | None = None
    """The part that was read last."""
    last_text: Message | None = None
    """The text that was read last."""
    is_encrypted: bool = False

    @property
    def is_cut(self) -> bool:
        return any(one.is_cut for one in self.segments)


def _found_in(mail: Message, depth: int) -> _Said:
    """In a mail, or in one within it."""
    found = _Said()
    segments: list[_Segment] = []
    for one in _segments(mail, found, 0, depth):
        before = "\n".join(known.plain or "" for known in segments)
        # some programs send text and page one after the other, and not as alternatives
        is_said = one.html is not None and bool(before.strip()) and not one.plain
        if (one.plain or one.html) and not (is_said and says_no_more(one.html or "", before)):
            segments.append(one)
    if not any(one.text.strip() for one in segments):
        packed = found.packed
        segments = [_Segment(packed.text, packed.html)] if packed.text or packed.html else segments
    found.segments = segments[:_MOST_SEGMENTS]
    has_text = any(one.text.strip() for one in segments)
    is_armoured = has_text and (segments[0].plain or "").lstrip().startswith(_ARMOUR)
    found.is_encrypted = is_armoured or (found.is_encrypted and not has_text)
    return found


def _segments(part: Message, found: _Said, level: int, depth: int) -> list[_Segment]:
    """The texts of a part, in their order; what else it holds is noted. A nesting that never ends is not
    followed."""
    kind = part.get_content_type()
    payload = part.get_payload()
    if kind in _ENCRYPTED:
        found.is_encrypted = True
    if kind == "multipart/encrypted":
        return [_Segment(NOT_READABLE)]
    if part.get_content_maintype() == "multipart":
        if not isinstance(payload, list):  # nobody can tell its parts apart
            return [_Segment(_decoded(part))]
        if level > _DEEPEST:
            return []
        is_choice = kind == "multipart/alternative"
        parts = [
            _segments(one, found, level + 1, depth)
            for one in payload
            if isinstance(one, Message) and not (is_choice and _is_of_no_use(one))
        ]
        return _chosen(parts) if is_choice else [one for some in parts for one in some]
    found.last = part
    if kind in _MAILS:
        _take_mail(part, found, depth)
    elif kind == _TNEF or _is_called_winmail(part):
        _take_tnef(part, found)
    elif kind == "text/calendar":
        _take_invitation(part, found)
    elif kind in _TEXTS and not _is_attachment(part, is_first=found.last_text is None):
        found.last_text = part
        known = left_out(part.get(PART_FIELD))
        is_cut = known is not None and known.what is Left.CUT
        text = _decoded(part)
        return [_Segment(html=text, is_cut=is_cut) if kind == "text/html" else _Segment(text, is_cut=is_cut)]
    elif (file := attachment(part)) is not None:
        found.attachments.append(file)
    return []


def _chosen(parts: Sequence[Sequence[_Segment]]) -> list[_Segment]:
    """Of parts that say the same (RFC 2046 section 5.1.4): the plain text, and the page beside it."""
    plain = next((some for some in parts if any((one.plain or "").strip() for one in some)), None)
    pages = next((some for some in reversed(parts) if any(one.html for one in some)), None)
    if plain is None or pages is None:
        return list(plain or pages or ())
    page = next(one for one in pages if one.html)
    if len(plain) > 1 or plain[0].html is not None or page.is_cut:
        return list(plain)
    return [replace(plain[0], html=page.html)]


def _is_of_no_use(part: Message) -> bool:
    """What says the same in a way that only some programs know."""
    kind = part.get_content_type()
    return kind.startswith("text/") and kind not in {*_TEXTS, "text/calendar"}


def _take_invitation(part: Message, found: _Said) -> None:
    told = read_invitation(_decoded(part)) if found.invitation is None else None
    if told is not None:
        # who sends somebody's answer on as a file answers nothing
        is_answer = told.is_answer and not _is_attachment(part)
        found.invitation = replace(told, is_answer=is_answer)
    if (told is None or _is_attachment(part)) and (file := attachment(part)) is not None:
        found.attachments.append(file)


def _take_tnef(part: Message, found: _Said) -> None:
    """Its text counts where there is no other."""
    known = read_tnef(_bytes_of(part))
    found.packed = Tnef(
        clean(known.text).strip() if known.text else None, clean(known.html) if known.html else None
    )
    names = [clean_name(clean(name)) for name in known.files]
    found.attachments += [Attachment(name, None, Left.PACKED) for name in names if name]
    kept = left_out(part.get(PART_FIELD))
    if kept is not None and kept.what is Left.CUT:  # there may be others behind what was kept of it
        found.attachments.append(Attachment("winmail.dat", kept.size, Left.PACKED))


def _take_mail(part: Message, found: _Said, depth: int) -> None:
    inner = part.get_payload()
    is_file = left_out(part.get(PART_FIELD)) is not None
    if is_file or not isinstance(inner, list) or not inner or not isinstance(inner[0], Message):
        if (file := attachment(part)) is not None:
            found.attachments.append(file)
        return
    within = _found_in(inner[0], depth + 1) if depth < _DEEPEST_MAIL else _Said()
    head = [f"{name}: {value}" for name in _NAMED if (value := _line(inner[0], name))]
    text = "\n".join(["[Attached mail]", *head])
    inner_text = _text_of(within)
    found.forwarded.append(f"{text}\n\n{inner_text}" if inner_text else text)
    found.forwarded += within.forwarded
    found.attachments += within.attachments


def _line(mail: Message, name: str) -> str:
    """A field of the header, decoded."""
    try:
        value = str(make_header(decode_header(str(mail.get(name) or ""))))
    except Exception:  # noqa: BLE001  as above
        value = str(mail.get(name) or "")
    return clean(" ".join(value.split()))[:_LONGEST_LINE]


def _text_of(found: _Said) -> str | None:
    if found.is_encrypted:
        return NOT_READABLE
    told = found.invitation.text if found.invitation is not None else ""
    texts = [told, *(one.text.strip() for one in found.segments)]
    return "\n\n".join(filter(None, texts)) or (None if found.last_text is None else "")


def _page_of(found: _Said, text: str | None) -> str | None:
    """The page, where it says what the text beside it does not. Of a page beside an invitation, or beside
    other texts, nobody would see what was told of these."""
    page = found.segments[0].html if len(found.segments) == 1 else None
    if page is None or found.invitation is not None or found.forwarded or len(page) > _MOST_OF_A_PAGE:
        return None
    return None if found.is_encrypted or says_no_more(page, text or "") else page


def _has_more_parts(mail: Message) -> bool:
    """Than the relay has told apart."""
    return str(mail.get(PARTS_FIELD) or "").endswith("more")


def _was_cut_by_the_first_release(mail: Message, raw: bytes, found: _Said) -> bool:
    """Whose relay kept the beginning of the body as it came: where that ends in the text, or before it, more
    of the text may have followed."""
    is_beginning = len(raw.partition(b"\r\n\r\n")[2]) >= MOST_OF_A_TEXT
    has_no_end = found.last_text is None or found.last_text is found.last
    is_page_behind = len(found.segments) == 1 and found.segments[0].plain is not None
    is_page = found.last_text is not None and found.last_text.get_content_type() == "text/html"
    return mail.get(PARTS_FIELD) is None and is_beginning and has_no_end and not (is_page and is_page_behind)


def _is_attachment(part: Message, *, is_first: bool = True) -> bool:
    """A text that has a name is one behind the first."""
    disposition = str(part.get("content-disposition") or "").strip().lower()
    is_named = not is_first and part.get_param("name") is not None
    return disposition.startswith("attachment") or "filename" in disposition or is_named


def _is_called_winmail(part: Message) -> bool:
    return "winmail.dat" in str(part.get("content-disposition") or "").lower()


def _bytes_of(part: Message) -> bytes:
    if str(part.get("content-transfer-encoding") or "").strip().lower() == "base64":
        return _from_base64(str(part.get_payload()))
    payload = part.get_payload(decode=True)
    return payload if isinstance(payload, bytes) else str(part.get_payload()).encode("utf-8", "replace")


def _decoded(part: Message) -> str:
    data = _bytes_of(part)
    charset = str(part.get_content_charset() or "utf-8")
    try:
        text = data.decode(charset, "replace")
    except (LookupError, ValueError):
        text = data.decode("utf-8", "replace")
    return clean(text).replace("\r\n", "\n").replace("\r", "\n").strip()


def _from_base64(text: str) -> bytes:
    """As far as it goes: only the beginning of a large mail is kept."""
    digits = re.sub(r"[^A-Za-z0-9+/]", "", text)
    if len(digits) % 4 == 1:
        digits = digits[:-1]
    return base64.b64decode(digits + "=" * (-len(digits) % 4))


def clean(text: str) -> str:
    """Without what no database and no JSON reader takes."""
    return _CONTROLS.sub("", text)


def _keys(mail: Message, name: str) -> tuple[str, ...]:
    values = [str(value)[:_LONGEST_HEADER] for value in mail.get_all(name) or ()]
    try:
        found = [address for _name, address in getaddresses(values)]
    except Exception:  # noqa: BLE001  RecursionError, for comments that never end
        found = [address for value in values for address in _ADDRESS.findall(value)]
    return tuple(dict.fromkeys(address_key(address) for address in found if "@" in address))


def _name(mail: Message) -> str:
    """The author's name, decoded."""
    header = EmailMessage(policy=policy.default)
    try:
        header["From"] = " ".join(str(mail.get("from") or "")[:2000].split())
        addresses = header["From"].addresses
    except Exception:  # noqa: BLE001  see above
        return ""
    return clean(addresses[0].display_name)[:200] if addresses else ""
