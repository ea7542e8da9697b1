"""Invitations as words, and answers to them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.mail.content import read_content
from sync.mail.invitation import read_invitation

ZONE = (
    "BEGIN:VTIMEZONE\r\nTZID:Europe/Berlin\r\nBEGIN:STANDARD\r\nDTSTART:19701025T030000\r\nTZOFFSETFROM:+0200\r\n"
    "TZOFFSETTO:+0100\r\nEND:STANDARD\r\nEND:VTIMEZONE\r\n"
)


def calendar(*lines, method="REQUEST"):
    event = "\r\n".join(("BEGIN:VEVENT", "UID:1", *lines, "END:VEVENT"))
    return (
        f"BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:x\r\nMETHOD:{method}\r\n{ZONE}{event}\r\nEND:VCALENDAR\r\n"
    )


MEETING = (
    "SUMMARY:Kick-off\\, first part",
    "DTSTART;TZID=Europe/Berlin:20261201T100000",
    "DTEND;TZID=Europe/Berlin:20261201T113000",
    "LOCATION:Room 5",
    'ORGANIZER;CN="Anna A":mailto:anna@acme.test',
)


@pytest.mark.parametrize(
    ("lines", "method", "text"),
    [
        (
            MEETING,
            "REQUEST",
            ("Invitation: Kick-off, first part\nWhen: 2026-12-01 10:00 to 11:30 (Europe/Berlin)\nWhere: "
            "Room 5\n"
            "Organiser: Anna A <anna@acme.test>"),
        ),
        (("SUMMARY:Off", "DTSTART:20261201T100000Z", "DURATION:PT1H"), "CANCEL", ("Cancelled: Off\nWhen: 2026-12-01 "
                                                                                 "10:00 "
                                                                                 "to 11:00 (UTC)")),
        (("SUMMARY:Fair", "DTSTART;VALUE=DATE:20261201", "DTEND;VALUE=DATE:20261204"), "PUBLISH", ("Appointment: Fair\nWhen: 2026-12-01 "
                                                                                                  "to "
                                                                                                  "2026-12-03")),
        (("SUMMARY:Day", "DTSTART;VALUE=DATE:20261201"), "PUBLISH", "Appointment: Day\nWhen: 2026-12-01"),
        (("SUMMARY:Night", "DTSTART:20261201T220000Z", "DTEND:20261202T060000Z"), "REQUEST", ("Invitation: Night\nWhen: 2026-12-01 "
                                                                                             "22:00 to 2026-12-02 06:00 (UTC)")),
        (("SUMMARY:Weekly", "DTSTART:20261201T220000", "RRULE:FREQ=WEEKLY"), "REQUEST", ("Invitation: Weekly\nWhen: 2026-12-01 "
                                                                                        "22:00 (local time)\nRepeats: "
                                                                                        "FREQ=WEEKLY")),
    ],
)  # fmt: skip
def test_an_invitation_says_what_when_where_and_who(lines, method, text):
    assert read_invitation(calendar(*lines, method=method)).text == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no calendar",
        "BEGIN:VCALENDAR",
        "BEGIN:VCALENDAR\r\nBEGIN:VEVENT\r\nDTSTART:x\r\nEND:VEVENT\r\nEND:VCALENDAR",
    ],
)
def test_what_is_no_invitation_says_nothing(text):
    assert read_invitation(text) is None


@given(st.text(max_size=100))
def test_whatever_stands_in_it_nothing_breaks(text):
    read_invitation(
        f"BEGIN:VCALENDAR\r\nBEGIN:VEVENT\r\nSUMMARY:{text}\r\nDTSTART:{text}\r\nEND:VEVENT\r\nEND:VCALENDAR"
    )


def mail(*parts):
    body = b"".join(b"--b\r\n" + part + b"\r\n" for part in parts)
    return b"Content-Type: multipart/alternative; boundary=b\r\n\r\n" + body + b"--b--\r\n"


def test_it_stands_above_the_text_of_the_mail():
    raw = mail(
        b"Content-Type: text/plain\r\n\r\nSee you there",
        b"Content-Type: text/html\r\n\r\n<p>See you there</p>",
        b"Content-Type: text/calendar; method=REQUEST; charset=utf-8\r\n\r\n" + calendar(*MEETING).encode(),
    )
    content = read_content(raw)
    assert content.text.startswith("Invitation: Kick-off, first part\nWhen: 2026-12-01")
    assert content.text.endswith("\n\nSee you there")
    assert content.html is None, "Salesforce shows a page instead of the text"
    assert not content.is_answer


@pytest.mark.parametrize("method", ["REPLY", "COUNTER"])
def test_an_answer_is_none(method):
    raw = mail(
        b"Content-Type: text/calendar; method=REPLY\r\n\r\n" + calendar(*MEETING, method=method).encode()
    )
    assert read_content(raw).is_answer
