"""Contacts, leads and open opportunities, asked for in batches; answers are good for a short while."""

import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from core.people.addresses import address_key
from core.salesforce.client import Client, Record
from core.salesforce.login import Refused
from core.settings.catalogue import First, LogOn
from core.settings.in_force import Rules
from sync.mail.choose import Deal, LookUp, PersonRecord

MOST_ADDRESSES = 100
_LONGEST_LIST = 12_000
"""Bytes of a list in the query's URL, which ends at 16,384 (REST guide, status 414)."""
_ESCAPED = str.maketrans({character: f"\\{character}" for character in "\\'\""})
_SECONDS_GOOD = 60.0
_MOST_KNOWN = 20_000
_NOT_TO_BE_SEEN = ("INVALID_TYPE", "INVALID_FIELD")

Known = tuple[float, tuple[PersonRecord, ...]]


class Directory:
    """What one Salesforce user can see of persons."""

    def __init__(self) -> None:
        self._contacts: dict[str, Known] = {}
        self._leads: dict[str, Known] = {}

    def find(self, client: Client, addresses: Iterable[str], rules: Rules) -> LookUp:
        """Everybody of these addresses (keys) who counts by these rules; not their opportunities. Raises
        Unavailable, Refused."""
        wanted = list(dict.fromkeys(addresses))
        if rules.first is First.LEAD and LogOn.LEADS in rules.log_on:
            leads = self._leads_of(client, wanted, rules)
            contacts = self._contacts_of(client, [one for one in wanted if not leads.get(one)], rules)
        else:
            contacts = self._contacts_of(client, wanted, rules)
            leads = self._leads_of(client, [one for one in wanted if not contacts.get(one)], rules)
        contacts = _with_converted(contacts, leads)
        leads = {
            address: tuple(one for one in found if one.account is None) for address, found in leads.items()
        }
        return LookUp(contacts, leads)

    def forget(self, addresses: Iterable[str]) -> None:
        """What was known of these turned out to be old."""
        for address in addresses:
            self._contacts.pop(address, None)
            self._leads.pop(address, None)

    def _contacts_of(
        self, client: Client, addresses: Sequence[str], rules: Rules
    ) -> dict[str, tuple[PersonRecord, ...]]:
        if rules.log_on == {LogOn.LEADS}:
            return {}
        # whoever logs on no accounts may be somebody who sees none
        account = "AccountId, Account.Name" if LogOn.ACCOUNTS in rules.log_on else "AccountId"
        return _people_of(client, self._contacts, addresses, "Contact", account, _contact)

    def _leads_of(
        self, client: Client, addresses: Sequence[str], rules: Rules
    ) -> dict[str, tuple[PersonRecord, ...]]:
        if LogOn.LEADS not in rules.log_on:
            return {}
        return _people_of(
            client,
            self._leads,
            addresses,
            "Lead",
            "IsConverted, ConvertedContactId, ConvertedAccountId",
            _lead,
        )


def _people_of(
    client: Client, known: dict[str, Known], addresses: Sequence[str], sobject: str, more: str, read: Any
) -> dict[str, tuple[PersonRecord, ...]]:
    now = time.monotonic()
    if len(known) > _MOST_KNOWN:
        known.clear()
    fresh = {one: known[one] for one in addresses if one in known and known[one][0] >= now}
    asked = [one for one in addresses if one not in fresh]
    for some in in_batches(asked, MOST_ADDRESSES):
        found: dict[str, list[PersonRecord]] = {one: [] for one in some}
        soql = (
            f"SELECT Id, Name, Email, CreatedDate, LastActivityDate, {more} FROM {sobject} "
            "WHERE Email IN {}"
        )
        for row in _query_visible(client, soql, some):
            address = address_key(str(row["Email"] or ""))
            if address in found:
                found[address].append(read(row, address))
        learnt = {address: (now + _SECONDS_GOOD, tuple(persons)) for address, persons in found.items()}
        known.update(learnt)
        fresh |= learnt
    return {address: fresh[address][1] for address in addresses}


def _query_visible(client: Client, soql: str, values: list[str]) -> list[Record]:
    """The records that the user may see; an object or field out of sight gives none."""
    try:
        return client.query(soql, values)
    except Refused as refused:
        if refused.trouble.code in _NOT_TO_BE_SEEN:
            return []
        raise


def _contact(row: Record, address: str) -> PersonRecord:
    return PersonRecord(
        row["Id"],
        row["Name"] or "",
        address,
        _time(row["CreatedDate"]),
        row["LastActivityDate"],
        row["AccountId"],
        (row.get("Account") or {}).get("Name") or "",
    )


def _lead(row: Record, address: str) -> PersonRecord:
    """One that was converted is the contact that it became, told by having an account."""
    if row["IsConverted"]:
        contact, account = row["ConvertedContactId"] or "", row["ConvertedAccountId"] or ""
        return PersonRecord(contact, row["Name"] or "", address, _time(row["CreatedDate"]), None, account)
    return PersonRecord(
        row["Id"], row["Name"] or "", address, _time(row["CreatedDate"]), row["LastActivityDate"]
    )


def _with_converted(
    contacts: dict[str, tuple[PersonRecord, ...]], leads: dict[str, tuple[PersonRecord, ...]]
) -> dict[str, tuple[PersonRecord, ...]]:
    """Contacts of the address, and where there are none, those that its leads became."""
    result = dict(contacts)
    for address, found in leads.items():
        became = tuple(
            PersonRecord(one.id, one.name, one.address, one.created, None, one.account or None)
            for one in found
            if one.account is not None and one.id
        )
        if became and not result.get(address):
            result[address] = became
    return result


DEALS = (
    "SELECT OpportunityId, ContactId, IsPrimary, Opportunity.Name, Opportunity.AccountId, "
    "Opportunity.LastModifiedDate "
    "FROM OpportunityContactRole WHERE ContactId IN {} AND Opportunity.IsClosed = false"
)
"""Open opportunities by contact role (object reference, OpportunityContactRole)."""


def deals_of(found: Iterable[Record]) -> tuple[Deal, ...]:
    """What DEALS has found, the primary ones first."""
    return tuple(
        Deal(
            row["OpportunityId"],
            row["Opportunity"]["Name"] or "",
            row["ContactId"],
            row["Opportunity"]["AccountId"],
            _time(row["Opportunity"]["LastModifiedDate"]),
        )
        for row in sorted(found, key=lambda row: not row["IsPrimary"])
        if row["Opportunity"] is not None
    )


def visible(answer: list[Record] | Refused) -> list[Record]:
    """The records that the user may see; an object or field out of sight gives none. Raises Refused."""
    if not isinstance(answer, Refused):
        return answer
    if answer.trouble.code in _NOT_TO_BE_SEEN:
        return []
    raise answer


def in_batches(values: Sequence[str], most: int) -> Iterator[list[str]]:
    """So many at once that the query's URL is not too long."""
    batch: list[str] = []
    length = 0
    for value in dict.fromkeys(values):
        size = len(quote(value.translate(_ESCAPED))) + 9  # quotes and comma, quoted
        if batch and (len(batch) >= most or length + size > _LONGEST_LIST):
            yield batch
            batch, length = [], 0
        batch.append(value)
        length += size
    if batch:
        yield batch


def _time(text: object) -> datetime:
    try:
        return datetime.fromisoformat(str(text)).astimezone(UTC)
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)
