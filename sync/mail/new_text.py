"""What is new in a mail: its text without the mails that it answers, the signature and disclaimers.

A library knows how mail clients write them in many languages; here is where its word is not believed, and
what it does not know. Where the cut is uncertain the whole text stays.

Pure: text in, a value out; never raises."""

import re
from dataclasses import dataclass

from mailparser_reply.parser import EmailMessage

_LANGUAGES = ("en", "de", "zh")
EARLIER_MAIL = "[earlier mail not repeated]"
_MOST_LINES_OF_A_SIGNATURE = 12
_LONG_LINE = 1_000
_MANY = 20
_ENDLESS_SPACE = re.compile(r"[^\S\n]{60,}")
_EMPTY_LINES = re.compile(r"\n\s*\n\s*\n")
_POSTSCRIPT = re.compile(r"^\W*(?:p\.? ?s\b|nb\b|n\.b\.|又及|附言)", re.IGNORECASE | re.MULTILINE)
_SENTENCE = re.compile(r"[.!?\u3002\uff01\uff1f].*[\w)]", re.DOTALL)
_MOST_WORDS_OF_A_GREETING = 4
_MOST_WORDS_OF_A_LINE = 4
"""Of a signature; a sentence has more, but for the shortest."""
_WORD = re.compile(r"[^\W\d_]{2,}")
_CONTACT = re.compile(
    r"^\W*(?:tel|telefon|phone|mobile|mobil|handy|fax|e-?mail|mail|web|www|https?|[tmfew]|电话|手机|邮箱|传真|地址)\b",
    re.IGNORECASE,
)
_FORWARDED = re.compile(
    r"^\W*(?:begin )?(?:forwarded message|weitergeleitete nachricht|anfang der weitergeleiteten|转发)",
    re.IGNORECASE | re.MULTILINE,
)
_SHORTEST_DISCLAIMER = 60
_FROM = re.compile(r"^[* ]*(?:from|von|发件人|寄件者)[* ]*[:\uff1a]", re.IGNORECASE | re.MULTILINE)
_WHEN = re.compile(
    r"^[* ]*(?:sent|date|gesendet|datum|发送时间|日期|寄件日期)[* ]*[:\uff1a]", re.IGNORECASE | re.MULTILINE
)
_TO = re.compile(r"^[* ]*(?:to|an|收件人|收件者)[* ]*[:\uff1a]", re.IGNORECASE | re.MULTILINE)
_ABOUT = re.compile(r"^[* ]*(?:subject|betreff|主题|主旨)[* ]*[:\uff1a]", re.IGNORECASE | re.MULTILINE)
_LINES_OF_A_HEADER = 8
_MOST_HEADERS = 50
_ORIGINAL = re.compile(
    r"^[-—_ ]{3,}(?:original message|ursprüngliche nachricht|original-?nachricht|"
    r"原始邮件|原始郵件|回复的原邮件)[-—_ ]{3,}$",
    re.IGNORECASE | re.MULTILINE,
)
_WROTE = re.compile(
    r"^(?:(?:on|am)\b[^\n]{4,300}(?:\n[^\n]{0,200})?(?:wrote|schrieb)[^\n]{0,200}[:\uff1a]"
    r"|[^\n]{4,200}(?:写道|寫道)\s*[:\uff1a])[ \t]*$",
    re.IGNORECASE | re.MULTILINE,
)


@dataclass(frozen=True)
class NewText:
    """`left_out`: what of it is not repeated: `earlier`, `signature`."""

    text: str
    left_out: frozenset[str] = frozenset()


def new_text(text: str) -> NewText:
    """What is new in the text of a mail."""
    text = text.strip()
    upper, is_answer = _without_earlier_mail(text)
    own = _without_signature(upper)
    left_out = {"signature"} if own != upper else set()
    if is_answer:
        own, left_out = f"{own}\n\n{EARLIER_MAIL}", left_out | {"earlier"}
    return NewText(own, frozenset(left_out))


def _without_earlier_mail(text: str) -> tuple[str, bool]:
    """The text up to the mail that it answers, and whether there is one."""
    original = _ORIGINAL.search(text)
    begins = [_begin_of_header(text), _begin_of_quote(text), None if original is None else original.start()]
    first = min((one for one in begins if one is not None), default=None)
    if first is None or _FORWARDED.search(text, 0, first + 1):
        return text, False
    upper = text[:first].rstrip("_- \n")  # a line that Outlook draws
    return (upper, True) if upper else (text, False)


def _begin_of_header(text: str) -> int | None:
    """Where the header of an earlier mail stands in the text, as Outlook writes it: who, when and about
    what."""
    for number, found in enumerate(_FROM.finditer(text)):
        if number == _MOST_HEADERS:
            return None
        block = "\n".join(text[found.start() : found.start() + 4_000].split("\n")[:_LINES_OF_A_HEADER])
        block = block.partition("\n\n\n")[0]
        is_mail = "@" in block or _TO.search(block) is not None
        if is_mail and _WHEN.search(block) and _ABOUT.search(block):
            return found.start()
    return None


def _begin_of_quote(text: str) -> int | None:
    """Where it is said who wrote the marked lines that go on to the end; None where nobody is named, or
    somebody has written between them, or behind."""
    lines = text.split("\n")
    at = len(lines)
    while at and (not lines[at - 1].strip() or lines[at - 1].lstrip().startswith(">")):
        at -= 1
    if at == len(lines) or any(line.lstrip().startswith(">") for line in lines[:at]):
        return None
    begin = sum(len(line) + 1 for line in lines[:at])
    introduced = list(_WROTE.finditer(text, 0, max(0, begin - 1)))
    if introduced and not text[introduced[-1].end() : begin].strip():
        return introduced[-1].start()
    return None


def _without_signature(text: str) -> str:
    """Nothing of the library's is believed that is not at the text's end, or is as long as a text."""
    text = _EMPTY_LINES.sub("\n\n", text)
    if _is_too_odd(text):
        return text
    parts = EmailMessage(text=text, languages=list(_LANGUAGES), keep_hyphen_lists=True).read().replies
    own = parts[0].content.strip()
    if len(parts) > 1:
        return text  # it sees an earlier mail where we are not certain of one
    for disclaimer in reversed(parts[0].disclaimers or []):
        if len(disclaimer) >= _SHORTEST_DISCLAIMER:
            own = own.removesuffix(disclaimer.strip()).rstrip()
    signature = (parts[0].signatures or "").strip()
    is_marked = not signature.startswith("--") or "\n-- \n" in f"\n{text}"
    if is_marked and _is_signature(signature) and own.endswith(signature):
        own = own.removesuffix(signature).rstrip()
    return own if own and own != parts[0].content.strip() else text


def _is_signature(text: str) -> bool:
    """Whether these lines say nothing but who wrote them: no line has a sentence in it, or a value that is no
    means to reach somebody."""
    greeting, _, rest = text.partition("\n")
    lines = [line.strip() for line in rest.split("\n")]
    return bool(
        text
        and len(_WORD.findall(greeting)) <= _MOST_WORDS_OF_A_GREETING
        and not _SENTENCE.search(greeting)
        and len(lines) < _MOST_LINES_OF_A_SIGNATURE
        and all(_CONTACT.match(line) or _is_of_a_signature(line) for line in lines)
        and not _POSTSCRIPT.search(text)
    )


def _is_of_a_signature(line: str) -> bool:
    is_short = len(_WORD.findall(line)) <= _MOST_WORDS_OF_A_LINE
    return is_short and (":" not in line or "//" in line) and not line.endswith(("?", "!", ";"))


def _is_too_odd(text: str) -> bool:
    """Whether the library's patterns would look at the text again and again: no person wrote it."""
    has_long_lines = any(len(line) > _LONG_LINE for line in text.split("\n"))
    return bool(_ENDLESS_SPACE.search(text)) or (
        has_long_lines and text.count("On ") + text.count("Am ") > _MANY
    )
