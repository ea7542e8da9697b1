"""What each organisation has of statuses, priorities and room, as it was last asked."""

from sqlalchemy.orm import Session

from core.database.dialect import there
from core.database.task_models import TaskChoicesRow
from core.tasks.task import Choices, KnownStatus, TextLimits


def choices(session: Session, organisation_id: str | None) -> Choices:
    """What the organisation has, as it was last asked; what every new one has where it never was."""
    row = None if organisation_id is None else session.get(TaskChoicesRow, organisation_id)
    if row is None:
        return Choices()
    plain = row.choices
    return Choices(
        tuple(
            KnownStatus(
                one["name"],
                one["label"],
                is_open=one["is_open"],
                is_default=one["is_default"],
                order=one["order"],
            )
            for one in plain["statuses"]
        ),
        tuple(plain["priorities"]),
        TextLimits(plain["subject"], plain["comments"]),
        has_key=plain["has_key"],
    )


def keep(session: Session, organisation_id: str, known: Choices) -> None:
    """As the organisation has just told."""
    plain = {
        "statuses": [
            {
                "name": one.name,
                "label": one.label,
                "is_open": one.is_open,
                "is_default": one.is_default,
                "order": one.order,
            }
            for one in known.statuses
        ],
        "priorities": list(known.priorities),
        "subject": known.limits.subject,
        "comments": known.limits.comments,
        "has_key": known.has_key,
    }
    row = there(session, TaskChoicesRow, {"organisation_id": organisation_id}, {"choices": plain})
    if row.choices != plain:
        row.choices = plain
