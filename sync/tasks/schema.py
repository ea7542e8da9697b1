"""What an organisation has for tasks: statuses, priorities, room for texts, and whether it has our unique
field."""

from collections.abc import Mapping
from typing import Any

from core.salesforce.client import Record
from core.salesforce.schema import TASK_STATUSES, is_key
from core.tasks import picklists
from core.tasks.task import Choices, KnownStatus, TextLimits
from sync.session import Remembered, SalesforceSession

SECONDS_GOOD = 3_600.0


def choices_of(known: Remembered[Choices], salesforce: SalesforceSession) -> Choices:
    """Asked once in a while, and kept for the pages. Raises Unavailable, Refused, DatabaseUnavailable."""

    def ask(remembered: Choices | None) -> Choices:
        if remembered is not None:
            return remembered
        found = _choices(salesforce.client.fields("Task"), salesforce.client.query(TASK_STATUSES))
        with salesforce.database.writing() as session:
            picklists.keep(session, salesforce.organisation_id, found)
        return found

    return known.of(salesforce.organisation_id, ask)


def _choices(fields: Mapping[str, Record], statuses: list[Record]) -> Choices:
    priorities = fields.get("Priority", {}).get("picklistValues") or ()
    known = tuple(
        KnownStatus(
            str(one["ApiName"]),
            str(one["MasterLabel"] or one["ApiName"]),
            is_open=not one["IsClosed"],
            is_default=bool(one["IsDefault"]),
            order=int(one["SortOrder"] or 0),
        )
        for one in statuses
    )
    usual = Choices()
    return Choices(
        known or usual.statuses,
        tuple(str(one["value"]) for one in priorities if one.get("active", True)) or usual.priorities,
        TextLimits(_length(fields, "Subject", 255), _length(fields, "Description", 32_000)),
        has_key=is_key(fields),
    )


def _length(fields: Mapping[str, Any], name: str, usual: int) -> int:
    length = fields.get(name, {}).get("length")
    return length if isinstance(length, int) and length > 0 else usual
