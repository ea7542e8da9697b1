"""Mails that somebody else has logged: another tool (Einstein Activity Capture writes e-mail messages), a
person from Outlook, or an earlier installation of ours. Such a mail is not written again; what the sender's
rules want besides is added to the record that is there."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from core.mail.progress import EMAIL_MESSAGE, LoggedByAnother, Target
from core.people.addresses import address_key
from core.salesforce.client import Client, Record
from core.salesforce.ids import id_key
from core.salesforce.login import Refused
from core.salesforce.troubles import TroubleKind
from sync.mail.content import clean
from sync.mail.fields import NO_SUBJECT, NOT_KEPT
from sync.mail.lookup import in_batches
from sync.mail.waiting import WaitingMail

LOGGED = (
    "SELECT Id, MessageIdentifier, Subject, FromAddress, MessageDate, RelatedToId, CreatedDate, "
    "CreatedBy.Name "
    "FROM EmailMessage WHERE MessageIdentifier IN {}"
)
_CLOCKS_DIFFER = timedelta(minutes=2)
"""Tools write the Date header, or when the server had the mail."""


def identifiers(mails: Sequence[WaitingMail]) -> list[str]:
    """What to ask for: tools write a Message-ID with its angle brackets or without."""
    found: dict[str, None] = {}
    for mail in mails:
        bare = _bare(mail.job.row.message_id)
        if bare and mail.job.row.identity is not None:
            found |= dict.fromkeys((bare, f"<{bare}>"))
    return list(found)


def logged_by(one: Record) -> LoggedByAnother:
    """By whom this record was made, and when."""
    by = one["CreatedBy"]
    name = str(by["Name"]) if isinstance(by, Mapping) and by.get("Name") else "?"
    return LoggedByAnother(name, str(one["CreatedDate"]))


def belong_to_what_is_there(
    client: Client, mails: Sequence[tuple[WaitingMail, str]], found: Sequence[Record]
) -> None:
    """Give each mail that is there the record as its own, written already; of one that has records of ours
    it is said who has logged it as well. `mails`: each with its Date header. Raises Unavailable, Refused."""
    there: dict[str, list[Record]] = {}
    for one in sorted(found, key=lambda one: str(one["CreatedDate"])):
        there.setdefault(_bare(str(one["MessageIdentifier"])), []).append(one)
    matched: list[tuple[WaitingMail, Record]] = []
    for mail, date in mails:
        like_it = [one for one in there.get(_bare(mail.job.row.message_id), ()) if _is_it(mail, date, one)]
        if mail.log.written:
            ours = {id_key(target.id or "") for target in mail.log.written}
            also = tuple(logged_by(one) for one in like_it if id_key(str(one["Id"])) not in ours)
            mail.log = replace(mail.log, trace=replace(mail.log.trace, also=also))
        elif like_it:
            matched.append((mail, like_it[0]))
    if not matched:
        return
    people = _people_on(client, [str(one["Id"]) for _, one in matched])
    for mail, one in matched:
        record = str(one["Id"])
        on = people.get(id_key(record), ())
        # a lead stands alone, as on a record of ours
        targets = (
            Target(
                EMAIL_MESSAGE,
                tuple(who for who in on if not who.startswith("00Q")),
                one["RelatedToId"],
                id=record,
            ),
            *(Target(EMAIL_MESSAGE, (who,), None, id=record) for who in on if who.startswith("00Q")),
        )
        trace = replace(mail.log.trace, there=logged_by(one))
        mail.log = replace(mail.log, targets=targets, trace=trace, needs_match=True)


def _is_it(mail: WaitingMail, date: str, one: Record) -> bool:
    """By the author, the subject and the time: a device gives one Message-ID to everything that it sends, and
    anybody can write anybody's."""
    row = mail.job.row
    subject = clean(str(one["Subject"] or "")).strip()
    # the last two as we write
    is_like_it = subject in {clean(row.subject or "").strip(), NOT_KEPT, NO_SUBJECT}
    if row.identity is None or not is_like_it:
        return False
    is_authors = address_key(str(one["FromAddress"] or "")) == address_key(row.sender or "")
    sent = _time(str(one["MessageDate"]))
    times = [one for one in (row.time, _time(date)) if one is not None]
    return is_authors and sent is not None and any(abs(sent - one) <= _CLOCKS_DIFFER for one in times)


def _people_on(client: Client, ids: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
    """Contacts and leads by message."""
    found: dict[str, tuple[str, ...]] = {}
    for some in in_batches(ids, 400):
        try:
            related = client.query(
                "SELECT EmailMessageId, RelationId FROM EmailMessageRelation WHERE EmailMessageId IN {}", some
            )
        except Refused as refused:
            if refused.trouble.kind is not TroubleKind.PERMANENT:
                raise
            continue  # who may not see the relations adds to what is there as if nobody were on it
        for one in related:
            who, message = str(one["RelationId"] or ""), id_key(str(one["EmailMessageId"]))
            if who.startswith(("003", "00Q")):
                found[message] = tuple(dict.fromkeys((*found.get(message, ()), who)))
    return found


def _bare(message_id: str | None) -> str:
    text = (message_id or "").strip().removeprefix("<").removesuffix(">")
    return text if "@" in text and len(text.encode("utf-8", "replace")) <= 253 else ""


def _time(text: str) -> datetime | None:
    try:
        read = datetime.fromisoformat(text)
    except ValueError:
        try:
            read = parsedate_to_datetime(text)
        except (ValueError, TypeError, OverflowError):
            return None
    return read.astimezone(UTC) if read.tzinfo is not None else read.replace(tzinfo=UTC)
