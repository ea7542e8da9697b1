"""What of a mail's bytes goes to Salesforce: who stands in its header, and its text.

Pure: bytes as they came over SMTP in, a value out; never raises, whatever the bytes."""

import base64
import re
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
from sync.mail.tnef import read_tnef

_ENCRYPTED = frozenset({"multipart/encrypted", "application/pkcs7-mime", "application/x-pkcs7-mime"})
_MAILS = frozenset({"message/rfc822", "message/global"})
_TNEF = "application/ms-tnef"
_TEXTS = frozenset({"text/plain", "text/html"})
NOT_READABLE = "[encrypted, not readable here]"
_ARMOUR = "-----BEGIN PGP MESSAGE-----"
_DEEPEST = 30
_DEEPEST_MAIL = 3
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
    is_encrypted: bool = False
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
        texts = _texts(mail, 0)
    except Exception:  # noqa: BLE001  the email package raises whatever odd bytes make it raise
        return Content()
    if mail.get(PARTS_FIELD) is None:  # kept by a relay of the first release: the beginning, as it came
        is_beginning = len(raw.partition(b"\r\n\r\n")[2]) >= MOST_OF_A_TEXT
        texts = replace(texts, is_cut=is_beginning and texts.is_last_part)
    text = _text_of(texts)
    return Content(
        to=_keys(mail, "to"),
        cc=_keys(mail, "cc"),
        date=" ".join(str(mail.get("Date") or "").split())[:100],
        name=_name(mail),
        text=None if text is None else text[:_MOST_OF_A_TEXT],
        html=_page_of(texts, text),
        forwarded="" if texts.is_encrypted else "\n\n".join(texts.forwarded)[:_MOST_OF_A_TEXT],
        attachments=() if texts.is_encrypted else texts.attachments,
        is_answer=texts.invitation is not None and texts.invitation.is_answer,
        is_encrypted=texts.is_encrypted,
        is_cut=texts.is_cut,
    )


def _unstuffed(raw: bytes) -> bytes:
    text = raw.replace(b"\r\n..", b"\r\n.")
    return text[1:] if text.startswith(b"..") else text


@dataclass(frozen=True)
class _Texts:
    """The first plain text, the first page and the first invitation of a mail, and what is attached."""

    plain: str | None = None
    html: str | None = None
    invitation: Invitation | None = None
    forwarded: tuple[str, ...] = ()
    attachments: tuple[Attachment, ...] = ()
    is_encrypted: bool = False
    is_cut: bool = False
    is_last_part: bool = False
    """Nothing stands behind what was chosen, or there is nothing to choose."""


@dataclass
class _Gathered:
    """What was found so far."""

    plain: str | None = None
    html: str | None = None
    invitation: Invitation | None = None
    forwarded: list[str] = field(default_factory=list)
    attachments: list[Attachment] = field(default_factory=list)
    chosen: Message | None = None
    is_cut: bool = False


def _texts(mail: Message, depth: int) -> _Texts:
    """Of a mail, or of one within it."""
    found = _Gathered()
    parts = _parts(mail, 0)
    for part in parts:
        kind = part.get_content_type()
        if kind in _ENCRYPTED:
            return _Texts(is_encrypted=True)
        if kind in _MAILS:
            _take_mail(part, found, depth)
        elif kind == _TNEF or _is_called_winmail(part):
            _take_tnef(part, found)
        elif kind == "text/calendar" and found.invitation is None:
            _take_invitation(part, found)
        elif part.get_content_maintype() == "multipart":
            continue
        elif kind in _TEXTS and not _is_attachment(part):
            _take_text(part, kind, found)
            if found.plain is not None and _ARMOUR in found.plain:
                return _Texts(is_encrypted=True)
        elif (file := attachment(part)) is not None:
            found.attachments.append(file)
    return _Texts(
        found.plain,
        found.html,
        found.invitation,
        tuple(found.forwarded[:_MOST_MAILS]),
        tuple(found.attachments),
        is_cut=found.is_cut,
        is_last_part=found.chosen is None or found.chosen is parts[-1],
    )


def _take_text(part: Message, kind: str, found: _Gathered) -> None:
    known = left_out(part.get(PART_FIELD))
    is_cut = known is not None and known.what is Left.CUT
    if kind == "text/plain" and not (found.plain or "").strip():
        found.plain, found.is_cut, found.chosen = _decoded(part), is_cut, part
    elif kind == "text/html" and found.html is None:
        is_alone = not (found.plain or "").strip()
        if is_alone:
            found.is_cut, found.chosen = is_cut, part
        if is_alone or not is_cut:
            found.html = _decoded(part)


def _take_invitation(part: Message, found: _Gathered) -> None:
    found.invitation = read_invitation(_decoded(part))
    if found.invitation is not None and _is_attachment(part):
        # who sends somebody's answer on as a file answers nothing
        found.invitation = replace(found.invitation, is_answer=False)


def _take_tnef(part: Message, found: _Gathered) -> None:
    """Where the same text stands beside it, that counts."""
    known = read_tnef(_bytes_of(part))
    if not (found.plain or "").strip() and not found.html:
        found.plain = clean(known.text).strip() if known.text else found.plain
        found.html = clean(known.html) if known.html else None
    names = [clean_name(clean(name)) for name in known.files]
    found.attachments += [Attachment(name, None, Left.PACKED) for name in names if name]


def _take_mail(part: Message, found: _Gathered, depth: int) -> None:
    inner = part.get_payload()
    is_file = left_out(part.get(PART_FIELD)) is not None
    if is_file or not isinstance(inner, list) or not inner or not isinstance(inner[0], Message):
        if (file := attachment(part)) is not None:
            found.attachments.append(file)
        return
    texts = _texts(inner[0], depth + 1) if depth < _DEEPEST_MAIL else _Texts()
    head = [
        f"{name}: {value}" for name in ("From", "Date", "To", "Subject") if (value := _line(inner[0], name))
    ]
    text = "\n".join(["[Attached mail]", *head])
    inner_text = _text_of(texts)
    found.forwarded.append(f"{text}\n\n{inner_text}" if inner_text else text)
    found.forwarded += texts.forwarded
    found.attachments += texts.attachments
    if found.plain is None and found.html is None:
        found.is_cut = texts.is_cut


def _line(mail: Message, name: str) -> str:
    """A field of the header, decoded."""
    try:
        value = str(make_header(decode_header(str(mail.get(name) or ""))))
    except Exception:  # noqa: BLE001  as above
        value = str(mail.get(name) or "")
    return clean(" ".join(value.split()))[:_LONGEST_LINE]


def _text_of(texts: _Texts) -> str | None:
    if texts.is_encrypted:
        return NOT_READABLE
    is_page = texts.html is not None and not (texts.plain or "").strip()
    text = text_of_page(texts.html or "") if is_page else texts.plain
    told = texts.invitation.text if texts.invitation is not None else ""
    if told and text:
        return f"{told}\n\n{text}"
    return told or text


def _page_of(texts: _Texts, text: str | None) -> str | None:
    """The page, where it says what the text beside it does not. Of a page beside an invitation, or beside
    mails that are attached, nobody would see what was told of these."""
    page = texts.html
    if page is None or texts.invitation is not None or texts.forwarded or len(page) > _MOST_OF_A_PAGE:
        return None
    return None if says_no_more(page, text or "") else page


def _parts(mail: Message, depth: int) -> list[Message]:
    """Without those of a mail within the mail; a nesting that never ends is not followed."""
    if depth > _DEEPEST:
        return []
    found = [mail]
    payload = mail.get_payload()
    if mail.get_content_maintype() == "multipart" and isinstance(payload, list):
        for part in payload:
            if isinstance(part, Message):
                found += _parts(part, depth + 1)
    return found


def _is_attachment(part: Message) -> bool:
    disposition = str(part.get("content-disposition") or "").strip().lower()
    return disposition.startswith("attachment") or "filename" in disposition


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
