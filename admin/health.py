"""How the installation is: what is not as it should be and what to do, every process, the mails of the last
minutes."""

from dataclasses import dataclass
from datetime import timedelta

from flask import Blueprint, render_template
from flask_babel import gettext as _
from flask_babel import ngettext

from admin.access import admin_required, config, database
from admin.words import STATES
from core.database.audit import settings_revision
from core.database.engine import Session
from core.database.heartbeats import database_now, processes
from core.findings import Finding, Light
from core.health import look_at_installation, look_at_machine
from core.mail.row import State
from core.mail.storage_use import in_month as written_in_month
from core.mail.store import MOST_COUNTED, in_need_of_somebody, mails_since, unknown_senders

pages = Blueprint("health", __name__)

_A_WHILE = timedelta(minutes=10)


@dataclass(frozen=True)
class Need:
    """Mails or senders that a person should see to, and the page where that is done."""

    text: str
    endpoint: str
    state: State | None = None


@pages.get("/health")
@admin_required
def health() -> str:
    findings = [*look_at_installation(database()), *look_at_machine(config())]
    with database().reading() as session:
        now = database_now(session)
        return render_template(
            "health.html",
            findings=sorted(
                (one for one in findings if one.light is not Light.GREEN),
                key=lambda one: one.light is not Light.RED,
            ),
            well=[one.what for one in findings if one.light is Light.GREEN],
            sentence=_sentence,
            capitalised=_capitalised,
            processes=processes(session),
            now=now,
            revision=settings_revision(session),
            mails_last_minute=mails_since(session, now - timedelta(minutes=1)),
            mails_per_minute=mails_since(session, now - _A_WHILE) / (_A_WHILE.total_seconds() / 60),
            written=written_in_month(session, now),
            needs=_mails_that_need_attention(session),
        )


def _sentence(finding: Finding) -> str:
    return _capitalised(str(_(finding.sentence, **finding.parts)))


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


def _mails_that_need_attention(session: Session) -> list[Need]:
    needs = []
    for state, number in sorted(in_need_of_somebody(session).items()):
        text = ngettext(
            "%(num)d mail is “%(state)s”.", "%(num)d mails are “%(state)s”.", number, state=STATES[state]
        )
        if number >= MOST_COUNTED:
            text = _("%(num)d mails or more are “%(state)s”.", num=number, state=STATES[state])
        needs.append(Need(text, "activity.activity", state))
    if unknown := len(unknown_senders(session)):
        text = ngettext("%(num)d sender is unknown.", "%(num)d senders are unknown.", unknown)
        needs.append(Need(text, "senders.senders"))
    return needs
