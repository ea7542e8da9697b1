"""One way to write new records to Salesforce, so that each is there once whatever happens. Mails and tasks
are written alike.

Every record takes these steps. (1) `noted`: in one transaction it is noted as begun, with the moment from
which it may be repeated; a record that another worker has claimed meanwhile is left to that worker. (2) The
call goes out. Where it raises WROTE_NOTHING, the note is taken back; after any other error the record stays
noted. (3) Each answer is `judged`.

A process that dies between (1) and (3) leaves a noted record: it is looked for before it is repeated, and not
repeated before its write would show (`core.salesforce.late_commits`), unless the organisation itself refuses
a second one by its unique field `Blindcopy_Key__c`."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import TypeVar

from core.database.engine import Database, DatabaseUnavailable, Session
from core.salesforce import late_commits
from core.salesforce.client import Written
from core.salesforce.login import NeverSent, Refused
from core.salesforce.schema import KEY_FIELD
from core.salesforce.troubles import Trouble, trouble

_FRESH = timedelta(seconds=10)
_MOST_NOTES = 5
_DUPLICATE_FIELD = re.compile(r"found: (\S+) duplicates")
_DUPLICATE_OF = re.compile(r"id: ([A-Za-z0-9]{15,18})")

WROTE_NOTHING = (Refused, NeverSent)
"""What a call raises where it certainly wrote none of its records."""

T = TypeVar("T")


class Verdict(Enum):
    """What an answer says of one record."""

    WRITTEN = "written"
    ALREADY_THERE = "already-there"
    """The organisation refused it because it has a record with our key."""
    UNCERTAIN = "uncertain"
    """This write was refused, but an earlier one, whose end is not known, may have succeeded."""
    REFUSED = "refused"


@dataclass(frozen=True)
class Judged:
    """`id`: of a record that was written, or is there (None where the answer does not tell which it is)."""

    verdict: Verdict
    id: str | None = None
    trouble: Trouble | None = None


def noted(database: Database, note: Callable[[Session, datetime], list[T]]) -> list[T]:
    """Step 1: what `note(session, not_before)` has noted in one transaction, the records that are still ours
    to write. Raises DatabaseUnavailable.

    The note is at most ten seconds old when the call starts. If more time has passed (say, the machine was
    suspended), another worker may have taken the records over, so the note is made again."""
    for _ in range(_MOST_NOTES):
        noted_at = datetime.now(UTC)
        with database.writing() as session:
            begun = note(session, noted_at + late_commits.UNTIL_A_WRITE_SHOWS)
            marker = database.installation.advance(session)
        database.installation.keep(marker)
        if datetime.now(UTC) - noted_at < _FRESH:
            return begun
    raise DatabaseUnavailable("it takes too long to note what is to be written")


def judged(answer: Written, *, has_key: bool, was_tried: bool = False) -> Judged:
    """What the answer says. `has_key`: whether the organisation has our unique field on this kind of record;
    `was_tried`: whether an earlier write of the record has an end that is not known."""
    if answer.id is not None:
        return Judged(Verdict.WRITTEN, answer.id)
    found = answer.trouble or trouble("")
    if has_key and _is_of_our_key(found):
        known = _DUPLICATE_OF.search(found.detail)
        return Judged(Verdict.ALREADY_THERE, known.group(1) if known else None, found)
    return Judged(Verdict.UNCERTAIN if was_tried else Verdict.REFUSED, None, found)


def _is_of_our_key(found: Trouble) -> bool:
    """Whether it is our field that must be unique: an organisation may have made others so."""
    if found.code != "DUPLICATE_VALUE":
        return False
    named = _DUPLICATE_FIELD.search(found.detail)
    return named is None or named.group(1) in {KEY_FIELD, "<unknown>"}
