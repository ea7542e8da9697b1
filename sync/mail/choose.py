"""Whom of a mail's recipients to look up, and of those who were found, on which records the mail is logged.

Pure: values in, values out."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from core.mail.progress import Where
from core.people.addresses import address_key, domain_of, matches
from core.salesforce.ids import id_key
from core.settings.catalogue import Duplicates, First, LogOn, Opportunity
from core.settings.in_force import Rules


@dataclass(frozen=True)
class Recipients:
    """The recipients of a mail, by what is done with them: keys of addresses."""

    looked_up: Mapping[str, Where]
    internal: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    blind_copied: tuple[str, ...] = ()


@dataclass(frozen=True)
class PersonRecord:
    """A contact or a lead in Salesforce. `account`: of a contact."""

    id: str
    name: str
    address: str
    created: datetime
    last_activity: str | None = None
    account: str | None = None
    account_name: str = ""


@dataclass(frozen=True)
class Deal:
    """An open opportunity, and the contact whose role leads to it."""

    id: str
    name: str
    contact: str
    account: str | None
    changed: datetime


@dataclass(frozen=True)
class LookUp:
    """What Salesforce has: contacts and leads by address, open opportunities of these contacts."""

    contacts: Mapping[str, tuple[PersonRecord, ...]] = field(default_factory=dict)
    leads: Mapping[str, tuple[PersonRecord, ...]] = field(default_factory=dict)
    deals: tuple[Deal, ...] = ()


@dataclass(frozen=True)
class RelatedRecord:
    """A record other than a person that the mail is logged on, and through which contact."""

    id: str
    name: str
    contact: str
    is_deal: bool


@dataclass(frozen=True)
class Choice:
    """Whom and what a mail is logged on."""

    contacts: tuple[PersonRecord, ...] = ()
    leads: tuple[PersonRecord, ...] = ()
    related: tuple[RelatedRecord, ...] = ()
    open_deals: int = 0
    """How many there were to choose from."""

    @property
    def is_empty(self) -> bool:
        return not (self.contacts or self.leads or self.related)

    def without(self, ids: Collection[str]) -> "Choice":
        """The same without these records, on which the mail stands already; the first fifteen characters say
        which."""
        ids = {id_key(one) for one in ids}
        return Choice(
            tuple(one for one in self.contacts if id_key(one.id) not in ids),
            tuple(one for one in self.leads if id_key(one.id) not in ids),
            tuple(one for one in self.related if id_key(one.id) not in ids),
            self.open_deals,
        )


def people_to_look_for(
    recipients: Iterable[str],
    to: Collection[str],
    cc: Collection[str],
    *,
    internal: tuple[str, ...],
    ignored: Collection[str],
    with_blind_copied: bool,
) -> Recipients:
    """Who of the envelope's recipients is looked up: nobody of our own house, on the never-log list or
    ignored, and those who stand in no header only where that is wanted."""
    looked_up: dict[str, Where] = {}
    inside, left_out, blind = [], [], []
    for key in dict.fromkeys(address_key(recipient) for recipient in recipients):
        where = Where.TO if key in to else Where.CC if key in cc else Where.BCC
        if not domain_of(key) or matches(key, internal):
            inside.append(key)
        elif matches(key, tuple(ignored)):
            left_out.append(key)
        elif where is Where.BCC and not with_blind_copied:
            blind.append(key)
        else:
            looked_up[key] = where
    return Recipients(looked_up, tuple(inside), tuple(left_out), tuple(blind))


def choose(recipients: Recipients, found: LookUp, rules: Rules) -> Choice:
    """The records for a mail, by the person's rules."""
    contacts: dict[str, PersonRecord] = {}
    leads: dict[str, PersonRecord] = {}
    for address in recipients.looked_up:
        of_contacts, of_leads = found.contacts.get(address, ()), found.leads.get(address, ())
        if LogOn.LEADS not in rules.log_on:
            of_leads = ()
        if rules.first is First.LEAD and of_leads:
            of_contacts = ()
        elif of_contacts:
            of_leads = ()
        contacts |= {one.id: one for one in _of_several(of_contacts, rules.duplicates)}
        leads |= {one.id: one for one in _of_several(of_leads, rules.duplicates)}
    deals = tuple(deal for deal in found.deals if deal.contact in contacts)
    related = _deals(deals, rules.opportunity) if LogOn.OPPORTUNITIES in rules.log_on else []
    if LogOn.ACCOUNTS in rules.log_on:
        related += _accounts(contacts.values(), deals, related)
    return Choice(
        contacts=tuple(contacts.values()) if LogOn.CONTACTS in rules.log_on else (),
        leads=tuple(leads.values()),
        related=tuple(related),
        open_deals=len({deal.id for deal in deals}),
    )


def _of_several(persons: tuple[PersonRecord, ...], rule: Duplicates) -> tuple[PersonRecord, ...]:
    if len(persons) < 2 or rule is Duplicates.ALL:
        return persons
    oldest_first = sorted(persons, key=lambda one: (one.created, one.id))
    if rule is Duplicates.OLDEST:
        return (oldest_first[0],)
    return (max(oldest_first, key=lambda one: one.last_activity or ""),)


def _deals(deals: tuple[Deal, ...], rule: Opportunity) -> list[RelatedRecord]:
    """Each opportunity once, through the first contact that has a role on it."""
    by_id: dict[str, Deal] = {}
    for deal in deals:
        by_id.setdefault(deal.id, deal)
    chosen = list(by_id.values())
    if rule is Opportunity.NONE or (rule is Opportunity.ONLY_OPEN and len(chosen) != 1):
        return []
    if rule is Opportunity.MOST_RECENT_OPEN and chosen:
        chosen = [max(chosen, key=lambda deal: (deal.changed, deal.id))]
    return [RelatedRecord(deal.id, deal.name, deal.contact, is_deal=True) for deal in chosen]


def _accounts(
    contacts: Iterable[PersonRecord], deals: tuple[Deal, ...], related: list[RelatedRecord]
) -> list[RelatedRecord]:
    """The contacts' accounts, each once; one whose opportunity was chosen has the mail through that."""
    chosen = {one.id for one in related}
    covered = {deal.account for deal in deals if deal.id in chosen}
    accounts: dict[str, RelatedRecord] = {}
    for contact in contacts:
        if contact.account is not None and contact.account not in covered:
            accounts.setdefault(
                contact.account,
                RelatedRecord(contact.account, contact.account_name, contact.id, is_deal=False),
            )
    return list(accounts.values())
