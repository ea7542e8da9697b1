"""How the installation is: every process, the mails of the last minutes, and what needs a person."""

from dataclasses import dataclass
from datetime import timedelta

from flask import Blueprint, render_template
from flask_babel import gettext as _
from flask_babel import ngettext

from admin.access import admin_required, database
from admin.words import STATES
from core.mail import State
from core.storage.audit import settings_revision
from core.storage.beats import Process, database_now, processes
from core.storage.connections import Standing, connections
from core.storage.database import Session
from core.storage.logbook import in_need_of_somebody, mails_since, unknown_senders
from core.storage.task_syncs import asking_for_a_word

pages = Blueprint("health", __name__)

_A_WHILE = timedelta(minutes=10)


@dataclass(frozen=True)
class Need:
    """Something that a person should see to, and the page where that is done."""

    text: str
    endpoint: str | None = None
    state: State | None = None


@pages.get("/health")
@admin_required
def health() -> str:
    with database().reading() as session:
        now, found = database_now(session), processes(session)
        return render_template(
            "health.html",
            processes=found,
            now=now,
            revision=settings_revision(session),
            mails_last_minute=mails_since(session, now - timedelta(minutes=1)),
            mails_per_minute=mails_since(session, now - _A_WHILE) / (_A_WHILE.total_seconds() / 60),
            needs=_needs(session, found),
        )


def _needs_of_salesforce(session: Session, alive: list[Process]) -> list[Need]:
    found = connections(session)
    needs = []
    if found and not any(process.kind == "worker" for process in alive):
        needs.append(
            Need(_("No worker is running: nothing is asked of Salesforce. Start it with `python -m sync`."))
        )
    if broken := sum(one.standing is Standing.BROKEN for _account, one in found):
        text = ngettext(
            "%(num)d person must connect Salesforce again.",
            "%(num)d persons must connect Salesforce again.",
            broken,
        )
        needs.append(Need(text, "connection.connection"))
    if asking := asking_for_a_word(session):
        text = ngettext("The task sync of %(num)d person waits for that person's word.", "The task syncs of %(num)d persons wait for their word.", asking)  # fmt: skip
        needs.append(Need(text, "tasks.command_center"))
    return needs


def _needs(session: Session, found: list[Process]) -> list[Need]:
    alive = [process for process in found if process.is_alive]
    places = {(process.kind, process.host) for process in alive}
    needs = []
    if not any(process.kind == "relay" for process in alive):
        needs.append(
            Need(_("No relay is running: mail clients cannot send. Start it with `python -m relay`."))
        )
    needs += [
        Need(
            _(
                "The relay on %(host)s has trouble with the mail provider: %(cause)s",
                host=process.host,
                cause=cause,
            )
        )
        for process in alive
        if (cause := process.condition.upstream_trouble) is not None
    ]
    needs += [
        Need(
            _(
                "The relay on %(host)s cannot reach the database; its records wait in its journal.",
                host=process.host,
            )
        )
        for process in alive
        if process.condition.journal_bytes
    ]
    needs += _needs_of_salesforce(session, alive)
    needs += [
        Need(
            _("%(host)s, process %(pid)s, has been silent since its last beat and said no goodbye.",
              host=process.host, pid=process.pid)
        )
        for process in found
        if not process.is_alive and (process.kind, process.host) not in places
    ]  # fmt: skip
    for state, number in sorted(in_need_of_somebody(session).items()):
        text = ngettext(
            "%(num)d mail is “%(state)s”.", "%(num)d mails are “%(state)s”.", number, state=STATES[state]
        )
        needs.append(Need(text, "activity.activity", state))
    if unknown := len(unknown_senders(session)):
        text = ngettext("%(num)d sender is nobody's.", "%(num)d senders are nobody's.", unknown)
        needs.append(Need(text, "senders.senders"))
    return needs
