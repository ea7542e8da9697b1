"""What of a mail's bytes goes to Salesforce: who stands in its header, and its text.

Pure: bytes as they came over SMTP in, a value out; never raises, whatever the bytes."""

import base64
import re
from dataclasses import dataclass, replace
from email import policy
from email.message import EmailMessage, Message
from email.parser import BytesParser
from email.utils import getaddresses

from core.mail.row import MOST_OF_A_BODY
from core.people.addresses import address_key
from sync.mail.invitation import Invitation, read_invitation
from sync.mail.page_text import text_of_page

_ENCRYPTED = frozenset({"multipart/encrypted", "application/pkcs7-mime", "application/x-pkcs7-mime"})
NOT_READABLE = "[encrypted, not readable here]"
_ARMOUR = "-----BEGIN PGP MESSAGE-----"
_DEEPEST = 30
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
    is_answer: bool = False
    """Somebody answers an invitation."""
    is_cut: bool = False
    """The text goes on, or begins, behind what was kept of the mail."""
    is_there: bool = True
    """False: the bytes are gone."""
    is_unreadable: bool = False
    """They are there, but no key of this process opens them."""


def read_content(raw: bytes) -> Content:
    """The view of a mail, or of its beginning: dots stuffed (RFC 5321 section 4.5.2), CRLF line ends."""
    try:
        mail = BytesParser(policy=policy.compat32).parsebytes(_unstuffed(raw))
        texts = _texts(mail, is_beginning=len(raw.partition(b"\r\n\r\n")[2]) >= MOST_OF_A_BODY)
    except Exception:  # noqa: BLE001  the email package raises whatever odd bytes make it raise
        return Content()
    # of a page beside it nobody would see what was told of an invitation
    text, html = _text_of(texts), texts.html if texts.invitation is None else None
    return Content(
        to=_keys(mail, "to"),
        cc=_keys(mail, "cc"),
        date=" ".join(str(mail.get("Date") or "").split())[:100],
        name=_name(mail),
        text=None if text is None else text[:_MOST_OF_A_TEXT],
        html=html if html is None or len(html) <= _MOST_OF_A_PAGE else None,
        is_cut=texts.is_cut,
        is_answer=texts.invitation is not None and texts.invitation.is_answer,
    )


def _unstuffed(raw: bytes) -> bytes:
    text = raw.replace(b"\r\n..", b"\r\n.")
    return text[1:] if text.startswith(b"..") else text


@dataclass(frozen=True)
class _Texts:
    """The first plain text, the first page and the first invitation of a mail."""

    plain: str | None = None
    html: str | None = None
    invitation: Invitation | None = None
    is_encrypted: bool = False
    is_cut: bool = False


def _texts(mail: Message, *, is_beginning: bool) -> _Texts:
    """`is_beginning`: the last part goes on, and others may follow."""
    plain: str | None = None
    html: str | None = None
    invitation: Invitation | None = None
    parts = _parts(mail, 0)
    last = parts[-1] if is_beginning else None
    is_cut = is_beginning
    for part in parts:
        kind = part.get_content_type()
        if kind in _ENCRYPTED:
            return _Texts(is_encrypted=True)
        if kind == "text/calendar" and invitation is None:
            invitation = read_invitation(_decoded(part))
            if invitation is not None and _is_attachment(part):
                # who sends somebody's answer on as a file answers nothing
                invitation = replace(invitation, is_answer=False)
        if part.is_multipart() or _is_attachment(part):
            continue
        if kind == "text/plain" and plain is None:
            plain, is_cut = _decoded(part), part is last
            if _ARMOUR in plain:
                return _Texts(is_encrypted=True)
        elif kind == "text/html" and html is None and not (part is last and plain is not None):
            html = _decoded(part)
            is_cut = is_cut if plain is not None else part is last
    return _Texts(plain, html, invitation, is_cut=is_cut)


def _text_of(texts: _Texts) -> str | None:
    if texts.is_encrypted:
        return NOT_READABLE
    text = texts.plain if texts.plain is not None or texts.html is None else text_of_page(texts.html)
    told = texts.invitation.text if texts.invitation is not None else ""
    if told and text:
        return f"{told}\n\n{text}"
    return told or text


def _parts(mail: Message, depth: int) -> list[Message]:
    """A mail within the mail is an attachment, and a nesting that never ends is not followed."""
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


def _decoded(part: Message) -> str:
    if str(part.get("content-transfer-encoding") or "").strip().lower() == "base64":
        data = _from_base64(str(part.get_payload()))
    else:
        payload = part.get_payload(decode=True)
        data = payload if isinstance(payload, bytes) else str(part.get_payload()).encode("utf-8", "replace")
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
