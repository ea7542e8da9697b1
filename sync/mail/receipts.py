"""Whether Salesforce has a mail whose blind copy was sent."""

from collections.abc import Sequence
from datetime import timedelta

from core.mail.row import Row
from core.mail.subject import LONGEST_TASK_SUBJECT
from core.salesforce.client import Client
from core.salesforce.login import Refused
from sync.mail.fields import identifier
from sync.mail.lookup import in_batches

_AT_ONCE = 50
_BEFORE = timedelta(minutes=1)
_PREFIXES = ("", "Email: ")
"""Before the mail's subject, as Email to Salesforce writes it."""


def confirmed(client: Client, user_id: str, rows: Sequence[Row]) -> frozenset[str]:
    """The ids of those that are there: by message identifier, or as exactly one e-mail task of that owner
    with that subject since then. Raises Unavailable, Refused."""
    there: set[str] = set()
    # Tools write a Message-ID with its angle brackets or without, and so does Email to Salesforce by its
    # version.
    wanted = {row.id: (identifier(row), identifier(row).removeprefix("<").removesuffix(">")) for row in rows}
    for some in in_batches([one for both in wanted.values() for one in both], _AT_ONCE):
        there |= _identifiers(client, some)
    found = {row.id for row in rows if there.intersection(wanted[row.id])}
    left = [row for row in rows if row.id not in found and row.subject]
    return frozenset(found | _by_subject(client, user_id, left)) if left else frozenset(found)


def _identifiers(client: Client, identifiers: list[str]) -> set[str]:
    try:
        found = client.query(
            "SELECT MessageIdentifier FROM EmailMessage WHERE MessageIdentifier IN {}", identifiers
        )
    except Refused as refused:
        if refused.trouble.code == "INVALID_TYPE":
            return set()  # an organisation without e-mail messages
        raise
    return {str(one["MessageIdentifier"]) for one in found}


def _by_subject(client: Client, user_id: str, rows: Sequence[Row]) -> set[str]:
    since = min(row.time for row in rows) - _BEFORE
    tasks = client.query(
        "SELECT Subject, CreatedDate FROM Task WHERE OwnerId = {} AND TaskSubtype = 'Email' AND "
        "CreatedDate >= {}",
        user_id,
        since,
    )
    found = set()
    for row in rows:
        names = {(prefix + (row.subject or ""))[:LONGEST_TASK_SUBJECT].strip() for prefix in _PREFIXES}
        earliest = (row.time - _BEFORE).isoformat()[:19]
        if (
            sum(
                str(one["Subject"]).strip() in names and str(one["CreatedDate"])[:19] >= earliest
                for one in tasks
            )
            == 1
        ):
            found.add(row.id)
    return found
