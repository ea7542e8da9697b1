"""Policy and preferences, stored; and everybody's settings as the value that a relay holds."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.database import sealed
from core.database.audit import Change, note, settings_changed, settings_revision
from core.database.dialect import there
from core.database.models import (
    AddressRow,
    AppPasswordRow,
    ConnectionRow,
    OrganisationRow,
    PersonRow,
    PolicyRow,
    PreferenceRow,
)
from core.people.person import AppPassword, People, Person
from core.people.public_mail import company_domains
from core.people.store import StoredPerson, account_of, active_rows
from core.salesforce.connection_store import Standing
from core.settings.catalogue import BY_NAME, Logging, Setting
from core.settings.in_force import (
    LockedSetting,
    PolicyEntry,
    PolicySettings,
    person_settings,
    policy_settings,
    syncs_tasks,
)

_HIDDEN = "(not shown)"


def policy(session: Session) -> dict[Setting, PolicyEntry]:
    """The organisation's word on each setting that it has spoken of."""
    rows = session.scalars(select(PolicyRow))
    return {BY_NAME[row.name]: PolicyEntry(row.value, row.locked) for row in rows if row.name in BY_NAME}


def preference(session: Session, person_id: int) -> dict[Setting, str]:
    """What this person chose."""
    return _preferences(session, PreferenceRow.person_id == person_id).get(person_id, {})


def set_policy(session: Session, name: Setting, text: str, *, actor: str | None) -> None:
    """The organisation's value. Raises SettingError."""
    _change_policy(session, name, actor=actor, value=name.check(text))


def lock_policy(session: Session, name: Setting, *, locked: bool, actor: str | None) -> None:
    """Whether persons may differ."""
    _change_policy(session, name, actor=actor, locked=locked)


def set_preference(
    session: Session, account: StoredPerson, name: Setting, text: str, *, actor: str | None
) -> None:
    """The person's choice; an empty one clears it. Raises SettingError, LockedSetting."""
    if policy(session).get(name, PolicyEntry()).locked:
        raise LockedSetting("“%(name)s” is fixed by the organisation's policy", name=name)
    value = name.check(text) if text.strip() else ""
    row = session.get(PreferenceRow, (account.id, name), with_for_update=True)
    before = _opened(session, row) if row is not None else None
    if before == (value or None) and not (before is None and row is not None):
        return
    is_secret = name.definition.is_secret
    if value:
        kept = sealed.closed(session, value) if is_secret else value
        there(
            session, PreferenceRow, {"person_id": account.id, "name": name.value}, {"value": kept}
        ).value = kept
    elif row is not None:
        session.delete(row)
    was, now = (_HIDDEN if text and is_secret else text for text in (before, value or None))
    note(session, Change(actor=actor, person=account.email, what=name, before=was, after=now))
    settings_changed(session)
    if name is Setting.TASK_SYNC:
        session.flush()
        follow_task_sync(session, account.id)


def follow_task_sync(session: Session, person_id: int | None = None) -> None:
    """Everybody's task sync, or that of one person, is on or off as the settings in force say."""
    from core.tasks import queue as task_queue  # noqa: PLC0415  tables that a relay, which only reads settings, does without

    in_policy, chosen = policy(session), _preferences(session, PreferenceRow.name == Setting.TASK_SYNC.value)
    for row in active_rows(session):
        if person_id in {None, row.id}:
            task_queue.switch(session, row.id, is_on=syncs_tasks(in_policy, chosen.get(row.id, {})))


def syncs_tasks_of(session: Session, person_id: int) -> bool:
    """Whether what this person adds is to be in Salesforce too; before the first connection there is nothing
    to be in sync with, and what is here by then is not sent unasked."""
    from core.tasks import queue as task_queue  # noqa: PLC0415  tables that a relay, which only reads settings, does without

    if not syncs_tasks(policy(session), preference(session, person_id)):
        return False
    held = task_queue.task_sync(session, person_id)
    was_connected = held is not None and held.organisation_id is not None
    return was_connected or session.get(ConnectionRow, person_id) is not None


def policy_for_mail(session: Session) -> PolicySettings:
    """What applies to everybody's mail, with the domains that count as internal while the policy names
    none."""
    named = policy_settings(policy(session))
    if named.own_domains:
        return named
    keys = session.scalars(select(PersonRow.email_key).where(PersonRow.is_active))
    return replace(named, derived_domains=company_domains(keys))


def logging_of_all(session: Session) -> list[tuple[StoredPerson, Logging, bool]]:
    """Every active person, how that person's mail is logged, and whether an Email to Salesforce address is
    stored.

    Addresses are not decrypted."""
    in_policy = policy(session)
    logging: dict[int, str] = {}
    with_address: set[int] = set()
    for row in session.scalars(
        select(PreferenceRow).where(
            PreferenceRow.name.in_([Setting.LOGGING.value, Setting.BCC_ADDRESS.value])
        )
    ):
        if row.name == Setting.LOGGING:
            logging[row.person_id] = row.value
        elif row.value:
            with_address.add(row.person_id)
    found = []
    for person in active_rows(session):
        chosen = {Setting.LOGGING: logging[person.id]} if person.id in logging else {}
        how = person_settings(in_policy, chosen).logging
        found.append((account_of(person), how, person.id in with_address))
    return found


def people(session: Session) -> People:
    """Everybody who may send, at the revision of this transaction."""
    in_policy = policy(session)
    addresses: dict[int, set[str]] = defaultdict(set)
    for row in session.scalars(select(AddressRow)):
        addresses[row.person_id].add(row.key)
    passwords: dict[int, list[AppPassword]] = defaultdict(list)
    for entry in session.scalars(select(AppPasswordRow)):
        passwords[entry.person_id].append(AppPassword(entry.id, entry.digest, entry.expires_at))
    chosen = _preferences(session)
    scarce = dict(
        session.execute(
            select(ConnectionRow.person_id, OrganisationRow.is_scarce)
            .join(OrganisationRow, OrganisationRow.id == ConnectionRow.organisation_id, isouter=True)
            .where(ConnectionRow.standing != Standing.NO_API.value)
        ).all()
    )
    return People(
        revision=settings_revision(session),
        policy=policy_for_mail(session),
        persons=tuple(
            Person(
                id=row.id,
                email=row.email,
                addresses=frozenset(addresses[row.id]),
                app_passwords=tuple(passwords[row.id]),
                settings=person_settings(in_policy, chosen.get(row.id, {})),
                is_connected=row.id in scarce,
                calls_are_scarce=bool(scarce.get(row.id)),
            )
            for row in active_rows(session)
        ),
    )


def _change_policy(
    session: Session,
    name: Setting,
    *,
    actor: str | None,
    value: str | None = None,
    locked: bool | None = None,
) -> None:
    row = session.get(PolicyRow, name)
    before = _described(row)
    if row is None:
        row = PolicyRow(name=name, value=None, locked=False)
        session.add(row)
    row.value = value if value is not None else row.value
    row.locked = locked if locked is not None else row.locked
    if _described(row) == before:
        return
    note(session, Change(actor=actor, person=None, what=name, before=before, after=_described(row)))
    settings_changed(session)
    if name is Setting.TASK_SYNC:
        session.flush()
        follow_task_sync(session)


def _described(row: PolicyRow | None) -> str | None:
    if row is None:
        return None
    value = BY_NAME[row.name].definition.default if row.value is None else row.value
    return f"{value} (locked)" if row.locked else value


def _preferences(session: Session, *conditions: object) -> Mapping[int, dict[Setting, str]]:
    result: dict[int, dict[Setting, str]] = defaultdict(dict)
    for row in session.scalars(select(PreferenceRow).where(*conditions)):  # type: ignore[arg-type]  # SQLAlchemy's column expressions are typed as bool
        if row.name in BY_NAME and (value := _opened(session, row)) is not None:
            result[row.person_id][BY_NAME[row.name]] = value
    return result


def _opened(session: Session, row: PreferenceRow) -> str | None:
    """The value in clear; None where it was encrypted with a key that is gone."""
    if not BY_NAME[row.name].definition.is_secret or "@" in row.value:
        return row.value
    return sealed.opened_or_lost(session, row.value, row.name)
