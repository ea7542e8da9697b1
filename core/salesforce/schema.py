"""What an organisation's objects look like, as `describe` tells it.

Pure: records in, values out."""

from collections.abc import Mapping
from typing import Any

KEY_FIELD = "Blindcopy_Key__c"
"""The unique external-id field that an organisation may give to a record type, so that nothing is written to
it twice."""
TASK_STATUSES = (
    "SELECT ApiName, MasterLabel, IsClosed, IsDefault, SortOrder FROM TaskStatus ORDER BY SortOrder"
)


def is_key(fields: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether the org has the unique external id by which a record is written once."""
    found = fields.get(KEY_FIELD, {})
    return bool(found.get("externalId") and found.get("unique") and found.get("createable"))
