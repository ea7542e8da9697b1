"""Whether Salesforce has a mail whose blind copy was sent."""

from collections.abc import Sequence
from datetime import timedelta

from core.mail.progress import LoggedByAnother
from core.mail.row import Row
from core.mail.subject import LONGEST_TASK_SUBJECT
from core.salesforce.client import Client, Record
from core.salesforce.ids import id_key
from core.salesforce.login import Refused
from sync.mail.fields import identifier
from sync.mail.lookup import in_batches
from sync.mail.others import logged_by

_AT_ONCE = 50
_BEFORE = timedelta(minutes=1)
_PREFIXES = ("", "Email: ")
"""Before the mail's subject, as Email to Salesforce writes it."""


def receipts(client: Client, user_id: str, rows: Sequence[Row]) -> dict[str, tuple[LoggedByAnother, ...]]:
    """The ids of those that are there: by message identifier, or as exactly one e-mail task of that owner
    with that subject since then; and who has logged each besides, where it is there more than once. Raises
    Unavailable, Refused."""
    there: list[Record] = []
    # Tools write a Message-ID with its angle brackets or without, and so does Email to Salesforce by its
    # version.
    wanted = {row.id: (identifier(row), identifier(row).removeprefix("<").removesuffix(">")) for row in rows}
    for some in in_batches([one for both in wanted.values() for one in both], _AT_ONCE):
        there += _messages(client, some)
    found: dict[str, tuple[LoggedByAnother, ...]] = {}
    for row in rows:
        its_own = [one for one in there if one["MessageIdentifier"] in wanted[row.id]]
        if its_own:
            found[row.id] = _all_but_the_copy(its_own, user_id)
    left = [row for row in rows if row.id not in found and row.subject]
    by_subject = _by_subject(client, user_id, left) if left else frozenset()
    return found | dict.fromkeys(by_subject, ())


def _messages(client: Client, identifiers: list[str]) -> list[Record]:
    try:
        return client.query(
            "SELECT MessageIdentifier, CreatedById, CreatedDate, CreatedBy.Name FROM EmailMessage "
            "WHERE MessageIdentifier IN {}",
            identifiers,
        )
    except Refused as refused:
        if refused.trouble.code == "INVALID_TYPE":
            return []  # an organisation without e-mail messages
        raise


def _all_but_the_copy(there: Sequence[Record], user_id: str) -> tuple[LoggedByAnother, ...]:
    """Email to Salesforce writes as the person; of several that it may be, it is the oldest."""
    in_order = sorted(
        there, key=lambda one: (id_key(str(one["CreatedById"])) != id_key(user_id), str(one["CreatedDate"]))
    )
    return tuple(logged_by(one) for one in in_order[1:])


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
