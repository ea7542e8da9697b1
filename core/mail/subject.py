"""A subject as people read it, and the subject of a logged task by a template (Activity Detail
Customization).

Pure: header bytes, templates and texts in, text out."""

import re
from email.errors import HeaderParseError
from email.header import decode_header

from core.refusal import Refusal

DEFAULT_TEMPLATE = "{{activity_type}}: {{activity_subject}}"
LONGEST_TASK_SUBJECT = 255
_TOKENS = ("activity_type", "activity_subject")
_TOKEN = re.compile(r"\{\{\s*(\w*)\s*\}\}")
_LONGEST_TEMPLATE = 1000

_LONGEST = 998  # RFC 5322 section 2.1.1: more cannot stand on one line


def readable_subject(raw: bytes) -> str:
    """The text of a Subject field's value: unfolded, RFC 2047 words decoded, control characters gone."""
    text = " ".join(raw.decode("utf-8", "replace").split())
    if "=?" in text:
        text = _decoded(text) or text
    if not text.isprintable():
        text = "".join(character for character in text if character.isprintable())
    return text[:_LONGEST].strip()


def _decoded(text: str) -> str:
    try:
        return "".join(_part(content, charset) for content, charset in decode_header(text))
    except (HeaderParseError, ValueError):
        return text


def _part(content: bytes | str, charset: str | None) -> str:
    if isinstance(content, str):
        return content
    try:
        return content.decode(charset or "ascii", "replace")
    except LookupError:
        return content.decode("utf-8", "replace")


class TemplateError(Refusal):
    """This is no template."""


def checked_template(text: str) -> str:
    """The template on one line. Raises TemplateError with what is wrong."""
    template = " ".join(text.split())
    if not template:
        raise TemplateError("The template is empty; write one like %(example)s", example=DEFAULT_TEMPLATE)
    if len(template) > _LONGEST_TEMPLATE:
        raise TemplateError("The template is longer than %(most)s characters", most=_LONGEST_TEMPLATE)
    for found in _TOKEN.finditer(template):
        if found.group(1).lower() not in _TOKENS:
            raise TemplateError(
                "“%(token)s” is not a dynamic field; there are: %(tokens)s",
                token=found.group(),
                tokens=", ".join(f"{{{{{one}}}}}" for one in _TOKENS),
            )
    if "{{" in _TOKEN.sub("", template) or "}}" in _TOKEN.sub("", template):
        raise TemplateError(
            "A dynamic field is written in two pairs of braces, like %(example)s",
            example="{{activity_subject}}",
        )
    return template


def task_subject(template: str, subject: str, activity_type: str = "Email") -> str:
    """The subject of a task, in one line of any length; what is empty inserts nothing."""
    values = {"activity_type": activity_type, "activity_subject": subject}
    text = _TOKEN.sub(lambda found: values.get(found.group(1).lower(), ""), template)
    return " ".join(text.split())
