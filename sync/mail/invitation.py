"""An invitation as words: what, when, where, and who invites (RFC 5545, RFC 6047).

Pure: text in, a value out; never raises."""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from icalendar import Calendar

_LONGEST = 64 * 1024
_LONGEST_LINE = 500
_MOST_EVENTS = 5
_TITLES = {"CANCEL": "Cancelled", "REQUEST": "Invitation", "PUBLISH": "Appointment"}


@dataclass(frozen=True)
class Invitation:
    """`text`: a line for each thing said. `is_answer`: somebody accepts, declines or proposes another
    time."""

    text: str
    is_answer: bool


def read_invitation(text: str) -> Invitation | None:
    """None where there is nothing to be told."""
    try:
        calendar = Calendar.from_ical(text[:_LONGEST])
        method = str(calendar.get("METHOD") or "PUBLISH").upper()
        events = [_event(one, method) for one in calendar.walk("VEVENT")[:_MOST_EVENTS]]
    except Exception:  # noqa: BLE001  calendars are as odd as the programs that write them
        return None
    told = "\n\n".join(one for one in events if one)
    is_answer = method in {"REPLY", "COUNTER", "REFRESH"}
    return Invitation(told, is_answer) if told or is_answer else None


def _event(event: Any, method: str) -> str:
    lines = [
        (_TITLES.get(method, "Appointment"), str(event.get("SUMMARY") or "")),
        ("When", _when(event)),
        ("Repeats", event["RRULE"].to_ical().decode() if "RRULE" in event else ""),
        ("Where", str(event.get("LOCATION") or "")),
        ("Organiser", _person(event.get("ORGANIZER"))),
    ]
    return "\n".join(
        f"{name}: {' '.join(value.split())[:_LONGEST_LINE]}" for name, value in lines if value.strip()
    )


def _when(event: Any) -> str:
    begin = event.get("DTSTART")
    if begin is None:
        return ""
    if "DTEND" in event:
        end = event["DTEND"].dt
    else:
        end = begin.dt + event["DURATION"].dt if "DURATION" in event else None
    if not isinstance(begin.dt, datetime):
        last = end - timedelta(days=1) if isinstance(end, date) else begin.dt  # the end is the day after
        return f"{begin.dt}" if last <= begin.dt else f"{begin.dt} to {last}"
    zone = begin.params.get("TZID") or begin.dt.tzname() or "local time"
    text = f"{begin.dt:%Y-%m-%d %H:%M}"
    if isinstance(end, datetime):
        text += f" to {end:%H:%M}" if end.date() == begin.dt.date() else f" to {end:%Y-%m-%d %H:%M}"
    return f"{text} ({zone})"


def _person(address: Any) -> str:
    if address is None:
        return ""
    name, mail = str(address.params.get("CN") or "").strip('"'), str(address)
    mail = mail[7:] if mail.lower().startswith("mailto:") else mail
    return f"{name} <{mail}>" if name and name != mail else mail
