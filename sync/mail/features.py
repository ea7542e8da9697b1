"""What an organisation has, asked once in a while for all of its users, and no more than is needed."""

import time
from collections.abc import Mapping
from dataclasses import replace

from core.diagnostics import is_key
from core.mail.writes import EMAIL_MESSAGE, KEY_FIELD, TASK
from core.salesforce.client import Client, Record
from core.settings.catalogue import Record as AsRecord
from sync.mail.fields import Features

_SECONDS_GOOD = 600.0
_TEXTS = frozenset({"string", "textarea", "email", "picklist", "combobox", "url", "phone"})


class FeatureBook:
    """By organisation; for several threads."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, Features]] = {}

    def of(
        self, client: Client, organisation_id: str, record: AsRecord, *, needs_task: bool = False
    ) -> Features:
        """The features that logging as this kind of record needs. Raises Unavailable, Refused."""
        good_until, features = self._known.get(organisation_id, (0.0, None))
        if features is None or good_until < time.monotonic():
            good_until = time.monotonic() + _SECONDS_GOOD
            features = Features("EmailMessageRelation" in client.kinds(), {}, {})
        if features.kind(record) == EMAIL_MESSAGE and not features.email_fields:
            described = client.fields(EMAIL_MESSAGE)
            features = _with_email(features, described)
        if (features.kind(record) == TASK or needs_task) and not features.task_fields:
            statuses = client.query("SELECT ApiName, IsClosed FROM TaskStatus ORDER BY SortOrder")
            features = _with_task(features, client.fields(TASK), statuses)
        self._known[organisation_id] = (good_until, features)
        return features

    def forget(self, organisation_id: str) -> None:
        """The organisation has refused a field: look again."""
        self._known.pop(organisation_id, None)


def _with_email(features: Features, described: Mapping[str, Record]) -> Features:

    return replace(features, email_fields=_lengths(described), has_email_key=is_key(described))


def _with_task(features: Features, described: Mapping[str, Record], statuses: list[Record]) -> Features:

    closed = [str(one["ApiName"]) for one in statuses if one["IsClosed"]]
    return replace(
        features, task_fields=_lengths(described), has_task_key=is_key(described),
        task_types=_values(described, "Type"), task_subtypes=_values(described, "TaskSubtype"),
        closed_status="Completed" if "Completed" in closed else closed[0] if closed else None,
    )  # fmt: skip


def _lengths(described: Mapping[str, Record]) -> dict[str, int]:
    """The fields that may be set on a new record, and the room of those that are texts."""
    return {
        name: int(one.get("length") or 0) if one.get("type") in _TEXTS else 0
        for name, one in described.items()
        if one.get("createable") and (name != KEY_FIELD or is_key(described))
    }


def _values(described: Mapping[str, Record], name: str) -> frozenset[str]:
    values = described.get(name, {}).get("picklistValues") or ()
    return frozenset(str(one["value"]) for one in values if one.get("active", True))
