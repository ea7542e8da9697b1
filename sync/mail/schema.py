"""What an organisation has for logged mails, as one of its users sees it: asked once in an hour, and no more
than is needed. Users of one organisation differ: a field, or all of EmailMessage, can be hidden from some."""

from collections.abc import Mapping
from dataclasses import replace

from core.mail.progress import EMAIL_MESSAGE, TASK
from core.salesforce.client import Client, Record
from core.salesforce.schema import KEY_FIELD, TASK_STATUSES, is_key
from core.settings.catalogue import RecordType
from sync.mail.fields import Features
from sync.session import Remembered

SECONDS_GOOD = 3_600.0
_TEXTS = frozenset({"string", "textarea", "email", "picklist", "combobox", "url", "phone"})


def features_of(
    known: Remembered[Features],
    client: Client,
    user_key: str,
    record: RecordType,
    *,
    needs_task: bool = False,
) -> Features:
    """The features that logging as this kind of record needs. Raises Unavailable, Refused."""

    def ask(features: Features | None) -> Features:
        features = features or Features("EmailMessageRelation" in client.kinds(), {}, {})
        if features.kind(record) == EMAIL_MESSAGE and not features.email_fields:
            described = client.fields(EMAIL_MESSAGE)
            features = replace(features, email_fields=_writable(described), has_email_key=is_key(described))
        if (features.kind(record) == TASK or needs_task) and not features.task_fields:
            described, statuses = client.fields(TASK), client.query(TASK_STATUSES)
            closed = [str(one["ApiName"]) for one in statuses if one["IsClosed"]]
            features = replace(
                features,
                task_fields=_writable(described),
                has_task_key=is_key(described),
                task_types=_values(described, "Type"),
                task_subtypes=_values(described, "TaskSubtype"),
                closed_status="Completed" if "Completed" in closed else closed[0] if closed else None,
            )
        return features

    return known.of(user_key, ask)


def _writable(described: Mapping[str, Record]) -> dict[str, int]:
    """The fields that may be set on a new record, and the room of those that are texts."""
    return {
        name: int(one.get("length") or 0) if one.get("type") in _TEXTS else 0
        for name, one in described.items()
        if one.get("createable") and (name != KEY_FIELD or is_key(described))
    }


def _values(described: Mapping[str, Record], name: str) -> frozenset[str]:
    values = described.get(name, {}).get("picklistValues") or ()
    return frozenset(str(one["value"]) for one in values if one.get("active", True))
