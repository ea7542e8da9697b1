"""What is meant to be written of a mail in Salesforce, what was, and how it came to that.

Pure: values, and their shape in JSON."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

TASK, EMAIL_MESSAGE = "Task", "EmailMessage"
KEY_FIELD = "Blindcopy_Key__c"
"""The unique external-id field that an organisation may give to a record type, so that nothing is written to it twice."""


@dataclass(frozen=True)
class Target:
    """One record of a mail: on whom (`who`: ids of contacts or of one lead) and on what it is.

    `id`: the record, once it is written. `is_tried`: a write was begun whose end nobody may know;
    `is_sought`: it is looked for, whatever the organisation knows. `cuts`: how often its
    text was halved; `is_asked_anew`: what the org has was asked for again after it refused a field."""

    kind: str
    who: tuple[str, ...]
    what: str | None
    id: str | None = None
    is_tried: bool = False
    is_sought: bool = False
    cuts: int = 0
    is_asked_anew: bool = False

    @property
    def on(self) -> tuple[str, ...]:
        """The ids of all records that it stands on."""
        return self.who if self.what is None else (*self.who, self.what)

    def key(self, mail_id: str) -> str:
        """What the record is known by, whoever writes it and however often: 64 hexadecimal digits."""
        return hashlib.sha256(f"{mail_id}:{','.join(sorted(self.on))}".encode()).hexdigest()


@dataclass(frozen=True)
class MailLog:
    """How far a mail has come. `targets` None: not decided yet. `trace` tells how it came to that; see `admin.trace`."""

    targets: tuple[Target, ...] | None = None
    trace: Mapping[str, Any] = field(default_factory=dict)
    not_before: datetime | None = None
    trouble_code: str | None = None
    trouble_detail: str = ""

    @property
    def written(self) -> tuple[Target, ...]:
        return tuple(target for target in self.targets or () if target.id is not None)

    @property
    def uncertain(self) -> tuple[Target, ...]:
        return tuple(target for target in self.missing if target.is_tried)

    @property
    def missing(self) -> tuple[Target, ...]:
        return tuple(target for target in self.targets or () if target.id is None)


def to_json(targets: tuple[Target, ...] | None) -> list[dict[str, Any]] | None:
    """For the database."""
    return None if targets is None else [asdict(target) for target in targets]


def from_json(plain: list[dict[str, Any]] | None) -> tuple[Target, ...] | None:
    """What `to_json` gave."""
    return None if plain is None else tuple(Target(**{**one, "who": tuple(one["who"])}) for one in plain)
