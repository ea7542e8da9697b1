"""One thing that was looked at, and how it stands: what *Health*, *Check set-up*, `core check` and `/readyz`
show.

Pure: values only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Light(StrEnum):
    """How a line stands: all is well, it works and could do more or soon will not work, or it does not
    work."""

    GREEN = "green"
    YELLOW = "yellow"
    RED = "red"


@dataclass(frozen=True)
class Finding:
    """One line: `sentence` with its `parts` is what was found, `remedy` what to do, `path` where.

    `stops_mail`: where it is red, mail cannot pass."""

    light: Light
    what: str
    sentence: str
    parts: Mapping[str, str | int] = field(default_factory=dict)
    remedy: str = ""
    path: str = ""
    stops_mail: bool = False

    @property
    def said(self) -> str:
        """The sentence in English."""
        return self.sentence % self.parts if self.parts else self.sentence

    @property
    def advice(self) -> str:
        """The sentence and what to do, in English."""
        return "; ".join(part for part in (self.said, self.remedy, self.path) if part)


def facts(light: Light, what: str, said: str, remedy: str = "", *, stops_mail: bool = False) -> Finding:
    """A line of facts, with nothing in it to translate."""
    return Finding(light, what, "%(said)s", {"said": said}, remedy=remedy, stops_mail=stops_mail)


def to_plain(finding: Finding) -> dict[str, Any]:
    """For the database: what a process says of itself."""
    return {
        "light": finding.light.value,
        "what": finding.what,
        "sentence": finding.sentence,
        "parts": dict(finding.parts),
        "remedy": finding.remedy,
        "path": finding.path,
        "stops_mail": finding.stops_mail,
    }


def from_plain(plain: Mapping[str, Any]) -> Finding:
    """What `to_plain` gave."""
    return Finding(**{**plain, "light": Light(plain["light"])})
