"""The tab "Salesforce API": how mail is logged through the API, by a person's own choice or the organisation's policy."""

from collections.abc import Mapping

from flask import Blueprint, flash, redirect, request, url_for
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_login import login_required
from flask_wtf import FlaskForm
from werkzeug.wrappers import Response
from wtforms import RadioField, SelectMultipleField, StringField, SubmitField
from wtforms.fields.choices import SelectChoice
from wtforms.validators import Length, Optional
from wtforms.widgets import CheckboxInput, ListWidget

from admin.access import admin_required, database, me
from admin.prerequisites import NeedsConnection
from admin.refusals import beside, flash_refusal
from admin.salesforce import page
from admin.salesforce.forms import Button
from core.mail import queue as mail_queue
from core.mail.subject import task_subject
from core.settings import catalogue
from core.settings import store as settings_store
from core.settings.catalogue import InForce, LockedSetting, Logging, LogOn, Name, SettingError

pages = Blueprint("api", __name__, url_prefix="/settings/salesforce/api")

_LOG_ON = {
    LogOn.CONTACTS: _l("Contacts"), LogOn.LEADS: _l("Leads"), LogOn.ACCOUNTS: _l("Accounts"),
    LogOn.OPPORTUNITIES: _l("Opportunities"),
}  # fmt: skip


class ApiForm(FlaskForm):  # type: ignore[misc]  # Flask-WTF ships no types
    """Each field is the setting of its name."""

    log_on = SelectMultipleField(
        _l("Log on"),
        choices=[SelectChoice(value.value, text) for value, text in _LOG_ON.items()],
        widget=ListWidget(prefix_label=False),
        option_widget=CheckboxInput(),
    )
    first = RadioField(
        _l("If an address is a contact's and a lead's"), [Optional()],
        choices=[SelectChoice("contact", _l("the contact")), SelectChoice("lead", _l("the lead"))],
    )  # fmt: skip
    duplicates = RadioField(
        _l("If an address is that of several contacts, or leads"), [Optional()],
        choices=[SelectChoice("oldest", _l("the oldest")), SelectChoice("most-recent-activity", _l("the one with the most recent activity")),
                 SelectChoice("all", _l("all of them"))],
    )  # fmt: skip
    opportunity = RadioField(
        _l("Of a contact's open opportunities (by contact role)"), [Optional()],
        choices=[SelectChoice("only-open", _l("the one, if there is only one")), SelectChoice("most-recent-open", _l("the one that was changed last")),
                 SelectChoice("all-open", _l("all of them")), SelectChoice("none", _l("none"))],
    )  # fmt: skip
    no_match = RadioField(
        _l("If nobody is found"), [Optional()],
        choices=[SelectChoice("unmatched", _l("keep the mail under “Unmatched”, and log it when somebody with that address appears")),
                 SelectChoice("task", _l("make an open task of it for me")), SelectChoice("nothing", _l("do nothing"))],
    )  # fmt: skip
    keep = RadioField(
        _l("What goes to Salesforce"), [Optional()],
        choices=[SelectChoice("text", _l("subject and text")), SelectChoice("subject", _l("the subject")),
                 SelectChoice("envelope", _l("only that there was a mail, from whom, to whom and when"))],
    )  # fmt: skip
    blind_copied = RadioField(
        _l("Recipients whom you blind-copied yourself"), [Optional()],
        choices=[SelectChoice("no", _l("are not looked up and not logged")), SelectChoice("yes", _l("are logged; everybody who sees the activity sees them"))],
    )  # fmt: skip
    record = RadioField(
        _l("As what"), [Optional()],
        choices=[SelectChoice("auto", _l("as an e-mail where the organisation has Enhanced Email, else as a task")),
                 SelectChoice("email-message", _l("as an e-mail")), SelectChoice("task", _l("as a completed task"))],
    )  # fmt: skip
    subject_template = StringField(
        _l("Subject of tasks"), [Length(max=1000)],
        description=_l("Dynamic fields: {{activity_type}}, {{activity_subject}}. One line, 255 characters; e-mails keep their own subject."),
        render_kw={"spellcheck": "false"},
    )  # fmt: skip
    preview = SubmitField(_l("Preview"))
    save = SubmitField(_l("Save"))
    activate = SubmitField(_l("Save and log through the API"))


FIELDS: Mapping[Name, str] = {
    Name.LOG_ON: "log_on", Name.FIRST: "first", Name.DUPLICATES: "duplicates", Name.OPPORTUNITY: "opportunity",
    Name.NO_MATCH: "no_match", Name.KEEP: "keep", Name.BLIND_COPIED: "blind_copied", Name.RECORD: "record",
    Name.SUBJECT_TEMPLATE: "subject_template",
}  # fmt: skip


def filled(in_force: Mapping[Name, InForce]) -> ApiForm:
    """The form as the settings are."""
    values = {field: in_force[name].value for name, field in FIELDS.items()}
    values["log_on"] = catalogue.entries(values["log_on"])  # type: ignore[assignment]
    return ApiForm(formdata=None, **values)


def preview(template: str) -> str:
    """What the template makes of a mail; "" where it is none."""
    try:
        return task_subject(catalogue.checked(Name.SUBJECT_TEMPLATE, template), str(_("Our offer")))
    except SettingError:
        return ""


@pages.get("")
@login_required  # type: ignore[untyped-decorator]  # Flask-Login ships no types
def api() -> str:
    return page.render(tab="api")


@pages.post("")
@login_required  # type: ignore[untyped-decorator]
def save() -> str | Response:
    """Nothing applies until it is saved."""
    form, account = ApiForm(), me()
    with database().reading() as session:
        policy, preference = settings_store.policy(session), settings_store.preference(session, account.id)
        reason = page.prerequisites(session).reason
    in_force = {one.name: one for one in catalogue.in_force(policy, preference)}
    values = {name: value for name, value in _values(form).items() if not in_force[name].locked}
    if not form.validate_on_submit() or not _are_right(form, values) or form.preview.data:
        return page.render(tab="api", api_form=form)
    try:
        if reason is not None:
            raise _needs_connection(reason)
        with database().writing() as session:
            for name, value in values.items():
                if catalogue.checked(name, value) != in_force[name].value:
                    settings_store.set_preference(session, account, name, value, actor=account.email)
            if form.activate.data:
                settings_store.set_preference(
                    session, account, Name.LOGGING, Logging.API, actor=account.email
                )
    except (LockedSetting, NeedsConnection) as refusal:
        flash_refusal(refusal)
        return page.render(tab="api", api_form=form)
    flash(_("Saved. The relay follows within two seconds."), "success")
    return redirect(url_for("api.api"))


@pages.post("/policy")
@admin_required
def save_policy() -> str | Response:
    """The organisation's values, and where persons may not differ."""
    form = ApiForm()
    if not form.validate_on_submit() or not _are_right(form, _values(form)):
        return page.render(tab="api", policy_api_form=form)
    actor = me().email
    with database().writing() as session:
        before = {one.name: one.value for one in catalogue.policy_in_force(settings_store.policy(session))}
        for name, value in _values(form).items():
            if catalogue.checked(name, value) != before[name]:
                settings_store.set_policy(session, name, value, actor=actor)
            settings_store.lock_policy(session, name, locked=f"lock-{name}" in request.form, actor=actor)
    flash(_("Saved. The relay follows within two seconds."), "success")
    return redirect(url_for("api.api"))


@pages.post("/stop-ignoring")
@login_required  # type: ignore[untyped-decorator]
def stop_ignoring() -> Response:
    """Mails to this address or domain are looked up again."""
    if Button().validate_on_submit():
        with database().writing() as session:
            mail_queue.stop_ignoring(session, me().id, request.form.get("pattern", ""))
        flash(_("Mails that come from now on are looked up again."), "success")
    return redirect(url_for("api.api"))


def _values(form: ApiForm) -> dict[Name, str]:
    values = {name: form[field].data or "" for name, field in FIELDS.items()}
    values[Name.LOG_ON] = ",".join(form.log_on.data or ())
    return values


def _are_right(form: ApiForm, values: Mapping[Name, str]) -> bool:
    right = True
    for name, value in values.items():
        try:
            catalogue.checked(name, value)
        except SettingError as refusal:
            beside(form[FIELDS[name]], refusal)
            right = False
    return right


def _needs_connection(reason: str) -> NeedsConnection:
    return NeedsConnection("%(reason)s Connect Salesforce first", reason=reason)
