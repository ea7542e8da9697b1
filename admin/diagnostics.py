"""Settings → Salesforce → Diagnostics: Check set-up, one button."""

from flask import Blueprint, render_template
from flask_babel import gettext as _

from admin.access import config, connections, database, me, sign_in_required
from admin.salesforce.forms import Button
from core.diagnostics import Examined, look_at_salesforce, look_at_upstream
from core.findings import Finding
from core.health import look_at_installation, look_at_machine
from core.people import store as people_store
from core.salesforce import connection_store
from core.settings import store as settings_store
from core.settings.in_force import policy_settings

pages = Blueprint("diagnostics", __name__, url_prefix="/settings/salesforce/diagnostics")


@pages.get("")
@sign_in_required
def diagnostics() -> str:
    return _render(None)


@pages.post("")
@sign_in_required
def check() -> str:
    return _render(_findings() if Button().validate_on_submit() else None)


def _findings() -> list[Finding]:
    """One's own Salesforce; for an admin the installation too."""
    account = me()
    with database().reading() as session:
        person = Examined(
            account.email,
            connection_store.connection(session, account.id),
            tuple(people_store.addresses(session, account.id)),
        )
        reserve = policy_settings(settings_store.policy(session)).api_reserve
    of_the_installation = _of_the_installation() if account.is_admin else []
    return [*of_the_installation, *look_at_salesforce(connections(), person, reserve)]


def _of_the_installation() -> list[Finding]:
    return [*look_at_installation(database()), *look_at_machine(config()), *look_at_upstream(config())]


def _sentence(finding: Finding) -> str:
    return str(_(finding.sentence, **finding.parts))


def _render(findings: list[Finding] | None) -> str:
    return render_template(
        "diagnostics.html", findings=findings, sentence=_sentence, button=Button(formdata=None)
    )
