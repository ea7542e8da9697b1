"""The kinds of value that a setting can have: each checks what was typed, and reads what is stored.

Every text that is stored has been through `check`, so `read` never fails on it.

Pure: texts in, texts and values out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from core.people.addresses import AddressError
from core.refusal import Refusal


class SettingError(Refusal):
    """This is not a value of the setting."""


class ValueKind(Protocol):
    """`shape` says how a page shows it: `one-of`, `some-of`, `flag`, `number`, `line` or `list`."""

    @property
    def shape(self) -> str: ...

    def check(self, text: str) -> str:
        """The text as it is stored. Raises SettingError with a sentence that names what would be right."""

    def read(self, text: str) -> Any:
        """The value of a stored text."""


@dataclass(frozen=True)
class OneOf:
    """One word of an enumeration, with what a page says for each."""

    words: type[StrEnum]
    labels: Mapping[str, str]
    shape: str = "one-of"

    def check(self, text: str) -> str:
        word = text.strip().lower()
        if word not in [one.value for one in self.words]:
            raise SettingError(
                "“%(text)s” is not one of: %(choices)s", text=text.strip(), choices=", ".join(self.words)
            )
        return word

    def read(self, text: str) -> StrEnum:
        return self.words(text)


@dataclass(frozen=True)
class SomeOf:
    """Any words of an enumeration, in its order; none at all would log nothing and is `logging off`."""

    words: type[StrEnum]
    labels: Mapping[str, str]
    shape: str = "some-of"

    def check(self, text: str) -> str:
        chosen = set(entries(text.lower()))
        if not chosen or not chosen <= {one.value for one in self.words}:
            raise SettingError(
                "“%(text)s” is no combination of: %(choices)s",
                text=text.strip(),
                choices=", ".join(self.words),
            )
        return ",".join(one.value for one in self.words if one.value in chosen)

    def read(self, text: str) -> frozenset[StrEnum]:
        return frozenset(self.words(one) for one in entries(text))


@dataclass(frozen=True)
class Flag:
    """Yes or no. `labels`: where a page says more than a tick can."""

    labels: Mapping[str, str] | None = None

    @property
    def shape(self) -> str:
        return "flag" if self.labels is None else "one-of"

    def check(self, text: str) -> str:
        word = text.strip().lower()
        if word not in {"no", "yes"}:
            raise SettingError("“%(text)s” is not one of: %(choices)s", text=text.strip(), choices="no, yes")
        return word

    def read(self, text: str) -> bool:
        return text == "yes"


@dataclass(frozen=True)
class Number:
    """A whole number."""

    least: int = 1
    most: int = 1_000_000
    shape: str = "number"

    def check(self, text: str) -> str:
        digits = text.strip()
        is_number = digits.isascii() and digits.isdecimal() and len(digits) <= 9
        if not is_number or not self.least <= int(digits) <= self.most:
            raise SettingError(
                "“%(text)s” is not a whole number from %(least)s to %(most)s",
                text=digits,
                least=self.least,
                most=self.most,
            )
        return str(int(digits))

    def read(self, text: str) -> int:
        return int(text)


@dataclass(frozen=True)
class Line:
    """A line of text that a function of ours checks; `may_be_empty`: without asking it."""

    checked: Callable[[str], str]
    may_be_empty: bool = False
    placeholder: str = ""
    shape: str = "line"

    def check(self, text: str) -> str:
        return "" if self.may_be_empty and not text.strip() else _checked_by(self.checked, text)

    def read(self, text: str) -> str:
        return text


@dataclass(frozen=True)
class ListOf:
    """Entries that are parted by commas or lines, each checked by itself, each once."""

    checked: Callable[[str], str]
    shape: str = "list"

    def check(self, text: str) -> str:
        typed = [entry for entry in text.replace("\n", ",").split(",") if entry.strip()]
        return ",".join(dict.fromkeys(_checked_by(self.checked, entry) for entry in typed))

    def read(self, text: str) -> tuple[str, ...]:
        return entries(text)


def entries(text: str) -> tuple[str, ...]:
    """The entries of a stored list."""
    return tuple(entry.strip() for entry in text.split(",") if entry.strip())


def _checked_by(check: Callable[[str], str], text: str) -> str:
    try:
        return check(text)
    except AddressError as error:
        raise SettingError(error.sentence, **error.parts) from error
