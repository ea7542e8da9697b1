"""What is meant to be written of a mail in Salesforce, what was, and how it came to that.

Pure: values, and their shape in JSON."""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

TASK, EMAIL_MESSAGE = "Task", "EmailMessage"
ID_NOT_TOLD = "there"
"""In place of a record's id: Salesforce refused a second one, and did not say which the first is."""


class Where(StrEnum):
    """Where an address stands."""

    TO = "to"
    CC = "cc"
    BCC = "bcc"
    """In no header."""


class MatchResult(StrEnum):
    """How looking for the records of a mail, or for the receipt of its copy, came out."""

    NOBODY_COUNTS = "nobody-counts"
    MATCHED = "matched"
    ANSWER = "answer"
    """It only answers an invitation."""
    NO_MATCH_UNMATCHED = "no-match-unmatched"
    NO_MATCH_NOTHING = "no-match-nothing"
    NO_MATCH_TASK = "no-match-task"
    NOT_CONFIRMED = "not-confirmed"
    SAME_MAIL = "same-mail"
    """Another part of it had been written before."""


@dataclass(frozen=True)
class Target:
    """One record of a mail: on whom (`who`: ids of contacts or of one lead) and on what it is.

    `adds_to`: the record that is there already and that these are added to. `id`: the record, once it is
    written. `is_tried`: a write was begun whose end nobody may know; `is_sought`: it is looked for, whatever
    the organisation knows. `cuts`: how often its text was halved; `is_asked_anew`: what the org has was asked
    for again after it refused a field. `has_files`: the mail's files are, or are being, attached to it."""

    kind: str
    who: tuple[str, ...]
    what: str | None
    id: str | None = None
    is_tried: bool = False
    is_sought: bool = False
    cuts: int = 0
    is_asked_anew: bool = False
    adds_to: str | None = None
    has_files: bool = False

    @property
    def is_of_a_lead(self) -> bool:
        return any(one.startswith("00Q") for one in self.who)

    @property
    def on(self) -> tuple[str, ...]:
        """The ids of all records that it stands on."""
        return self.who if self.what is None else (*self.who, self.what)

    def key(self, mail: str) -> str:
        """What the record is known by, whoever writes it and however often: 64 hexadecimal digits. `mail`:
        the mail's identity, or its id where it has none."""
        return hashlib.sha256(f"{mail}:{','.join(sorted(self.on))}".encode()).hexdigest()


@dataclass(frozen=True)
class ChosenRecord:
    """A record that the mail belongs to by the person's rules; `kind`: `contact`, `lead`, `opportunity` or
    `account`."""

    kind: str
    id: str
    name: str


@dataclass(frozen=True)
class FailedTry:
    """A try that failed: when (ISO 8601, UTC, seconds), and with which trouble's code."""

    time: str
    code: str


class FileState(StrEnum):
    """What became of a file that was attached to a mail; the first six as the relay has kept it
    (core.mail.kept.Left)."""

    FILE = "file"
    """It goes to Salesforce, or is there."""
    NOT_WANTED = "not-wanted"
    TOO_LARGE = "too-large"
    NO_ROOM = "no-room"
    PACKED = "packed"
    LOST = "lost"
    """What was kept of it is not whole."""
    REFUSED = "refused"
    """Salesforce does not take it."""


@dataclass(frozen=True)
class MailFile:
    """A file that was attached to a mail. `number`: among the mail's files, of those that are kept.

    `version`, `document`: its ids in Salesforce, once it is there; `is_tried`: it was begun to be written,
    and nobody may know how that ended; `tries`: how often it was begun; `code`: why it was refused."""

    name: str
    size: int | None
    state: FileState
    number: int | None = None
    version: str | None = None
    document: str | None = None
    is_tried: bool = False
    tries: int = 0
    code: str = ""

    @property
    def is_to_write(self) -> bool:
        return self.state is FileState.FILE and self.document is None

    @property
    def is_uncertain(self) -> bool:
        return self.is_tried and self.is_to_write and self.version is None


@dataclass(frozen=True)
class LoggedByAnother:
    """Who has logged the mail besides us, and when (ISO 8601, UTC)."""

    by: str
    time: str


@dataclass(frozen=True)
class Trace:
    """How it came to what happened, for the activity page; nothing in it steers the worker but where
    addresses stand, which no text can tell once it is erased."""

    places: Mapping[str, Where] | None = None
    """The addresses that were looked up; None: none yet."""
    internal: int = 0
    ignored: tuple[str, ...] = ()
    blind_copied: tuple[str, ...] = ()
    found: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """How many contacts and leads each address has."""
    chosen: tuple[ChosenRecord, ...] = ()
    open_deals: int = 0
    record_places: Mapping[str, Where] = field(default_factory=dict)
    """Where the address of each chosen record stands, by its id; and each address of the header, and of
    those that were looked up, by itself."""
    addresses: Mapping[str, str] = field(default_factory=dict)
    """The address of each chosen contact and lead, by its id."""
    duplicates: str | None = None
    """The rule that chose among several records of one address."""
    cut: tuple[str, ...] = ()
    """What is longer than Salesforce takes: `subject`, `text`, `recipients`."""
    result: MatchResult | None = None
    there: LoggedByAnother | None = None
    """Who had when we came to it, so that we did not."""
    also: tuple[LoggedByAnother, ...] = ()
    """Who has as well; the mail stands in Salesforce more than once."""
    not_added: tuple[str, ...] = ()
    """Records that Salesforce does not let be added to the one that is there: their ids."""
    tries: tuple[FailedTry, ...] = ()

    @property
    def others(self) -> tuple[LoggedByAnother, ...]:
        """All who have logged the mail besides us."""
        return self.also if self.there is None else (self.there, *self.also)


@dataclass(frozen=True)
class MailLog:
    """How far a mail has come. `targets` None: not decided yet. `not_before`: when an uncertain write may be
    repeated.

    `files`: what was attached to it; None: not looked at yet.

    `needs_match`: what is not written yet is decided anew. `picked`: the records that a person chose.
    `was_rematched`: a record was gone when it was to be written on; that is looked up anew once."""

    targets: tuple[Target, ...] | None = None
    trace: Trace = field(default_factory=Trace)
    not_before: datetime | None = None
    trouble_code: str | None = None
    trouble_detail: str = ""
    needs_match: bool = False
    picked: tuple[str, ...] = ()
    was_rematched: bool = False
    files: tuple[MailFile, ...] | None = None

    @property
    def is_uncertain(self) -> bool:
        """Whether a write of a record or a file was begun, and its outcome is unknown."""
        return bool(self.uncertain) or any(file.is_uncertain for file in self.files or ())

    @property
    def without_files(self) -> tuple[Target, ...]:
        """Records that are there, and to which the mail's files are still to be attached."""
        if not any(file.document is not None for file in self.files or ()):
            return ()
        return tuple(
            one for one in self.written if one.adds_to is None and not one.has_files and one.id != ID_NOT_TOLD
        )

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
    if targets is None:
        return None
    plain = [asdict(target) for target in targets]
    for one in plain:
        # stands in the trace: workers of the release before fail for what they do not know
        del one["has_files"]
        if one["adds_to"] is None:
            del one["adds_to"]
    return plain


def from_json(
    plain: list[dict[str, Any]] | None, with_files: Collection[str] = ()
) -> tuple[Target, ...] | None:
    """What `to_json` gave. `with_files`: the records that have files, as the trace names them."""
    if plain is None:
        return None
    targets = (Target(**{**one, "who": tuple(one["who"])}) for one in plain)
    return tuple(replace(one, has_files=True) if ",".join(one.on) in with_files else one for one in targets)


def trace_to_json(log: MailLog) -> dict[str, Any]:
    """The trace and the flags as one object; what says nothing is left out."""
    trace = log.trace
    plain: dict[str, Any] = {
        "internal": trace.internal,
        "ignored": list(trace.ignored),
        "blind_copied": list(trace.blind_copied),
        "found": {address: list(numbers) for address, numbers in trace.found.items()},
        "chosen": [[one.kind, one.id, one.name] for one in trace.chosen],
        "open_deals": trace.open_deals,
        "record_places": dict(trace.record_places),
        "addresses": dict(trace.addresses),
        "duplicates": trace.duplicates,
        "cut": list(trace.cut),
        "outcome": trace.result,
        "not_added": list(trace.not_added),
        "there": None if trace.there is None else [trace.there.by, trace.there.time],
        "also": [[one.by, one.time] for one in trace.also],
        "tries": [[one.time, one.code] for one in trace.tries],
        "needs_match": log.needs_match,
        "picked": list(log.picked),
        "rematched": log.was_rematched,
        "files": [_file_to_json(one) for one in log.files or ()],
        "with_files": [",".join(one.on) for one in log.targets or () if one.has_files],
    }
    places = {} if trace.places is None else {"places": dict(trace.places)}
    return places | {name: value for name, value in plain.items() if value}


def log_from_json(plain: Mapping[str, Any] | None) -> MailLog:
    """What `trace_to_json` gave, this release or an earlier one; what is not known of is left out."""
    known = plain or {}
    places = known.get("places")
    results = {one.value: one for one in MatchResult}
    return MailLog(
        trace=Trace(
            places=None if places is None else {address: Where(where) for address, where in places.items()},
            internal=int(known.get("internal") or 0),
            ignored=tuple(known.get("ignored") or ()),
            blind_copied=tuple(known.get("blind_copied") or ()),
            found={address: (one[0], one[1]) for address, one in (known.get("found") or {}).items()},
            chosen=tuple(ChosenRecord(*one) for one in known.get("chosen") or ()),
            open_deals=int(known.get("open_deals") or 0),
            record_places={one: Where(where) for one, where in (known.get("record_places") or {}).items()},
            addresses=dict(known.get("addresses") or {}),
            duplicates=known.get("duplicates"),
            cut=tuple(known.get("cut") or ()),
            result=results.get(known.get("outcome") or ""),
            not_added=tuple(known.get("not_added") or ()),
            there=LoggedByAnother(*known["there"]) if known.get("there") else None,
            also=tuple(LoggedByAnother(*one) for one in known.get("also") or ()),
            tries=tuple(FailedTry(*one) for one in known.get("tries") or ()),
        ),
        needs_match=bool(known.get("needs_match")),
        picked=tuple(known.get("picked") or ()),
        was_rematched=bool(known.get("rematched")),
        files=tuple(_file_from_json(one) for one in known["files"]) if known.get("files") else None,
    )


def _file_to_json(file: MailFile) -> dict[str, Any]:
    """Without what says nothing; the number of the first file is 0."""
    return {
        name: value for name, value in asdict(file).items() if value not in {None, ""} and value is not False
    }


def _file_from_json(plain: Mapping[str, Any]) -> MailFile:
    return MailFile(**{"size": None, **plain, "state": FileState(plain["state"])})
