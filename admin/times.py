"""Times as the person who looks at them reads them."""

from datetime import date, datetime
from zoneinfo import ZoneInfo

from flask import g
from flask_babel import format_date, format_datetime
from flask_login import current_user

from admin.access import database, me
from core.salesforce import connection_store
from core.settings import store as settings_store
from core.settings.in_force import time_zone


def local_time(time: datetime) -> str:
    """Date and time in the person's language and time zone, else the server's."""
    return str(format_datetime(time.astimezone(zone()), "medium", rebase=False))


def local_day(day: date) -> str:
    """A day in the person's language."""
    return str(format_date(day, "full"))


def day_of(text: str) -> str:
    """A day as the history keeps it."""
    return local_day(date.fromisoformat(text))


def local_reminder(text: str) -> str:
    """A time as the history keeps it."""
    return local_time(datetime.fromisoformat(text))


def zone() -> ZoneInfo | None:
    """The zone in force, looked up once a request; None: the server's."""
    if "zone" not in g:
        g.zone = _zone_in_force() if current_user.is_authenticated else None
    zone: ZoneInfo | None = g.zone
    return zone


def _zone_in_force() -> ZoneInfo | None:
    with database().reading() as session:
        return time_zone(
            settings_store.policy(session),
            settings_store.preference(session, me().id),
            connection_store.time_zone_in_salesforce(session, me().id),
        )
