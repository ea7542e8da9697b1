"""Settings → Salesforce → Connections & Customizations: a person signs in to Salesforce once, or ends that;
an admin sees who is connected as whom, and links people by the team's key."""

import json
from datetime import UTC, datetime, timedelta

from flask import Blueprint, abort, flash, redirect, render_template, request, session, url_for
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_wtf import FlaskForm
from werkzeug.wrappers import Response
from wtforms import RadioField, StringField, SubmitField, TextAreaField
from wtforms.validators import DataRequired, InputRequired, Length

from admin.access import admin_required, config, connections, database, me, sign_in_required
from admin.prerequisites import Prerequisites
from admin.refusals import flash_refusal, flash_trouble, translated
from admin.salesforce.forms import Button
from core.endpoints import SALESFORCE_LOGIN
from core.people import store as people_store
from core.refusal import Refusal
from core.salesforce import connection_store
from core.salesforce.connections import Connections, NotConnected
from core.salesforce.login import Challenge, Login, NotSalesforce, Unavailable, new_challenge
from core.salesforce.troubles import trouble
from core.secrets import Box, Undecryptable

pages = Blueprint("connection", __name__)

_BEGUN = "salesforce"
_GOOD_FOR = timedelta(minutes=10)
_SANDBOX_LOGIN = "https://test.salesforce.com"
_HERE, _PRODUCTION, _SANDBOX, _MY_DOMAIN = "here", "production", "sandbox", "my-domain"


class ConnectForm(FlaskForm):  # type: ignore[misc]  # Flask-WTF ships no types
    where = RadioField(_l("Where do you sign in to Salesforce?"), [InputRequired()])
    my_domain = StringField(
        _l("My Domain"),
        [Length(max=255)],
        description=_l(
            "The address that your browser shows when you work in Salesforce, like acme.my.salesforce.com."
        ),
        render_kw={"placeholder": "acme.my.salesforce.com", "spellcheck": "false", "inputmode": "url"},
    )
    connect = SubmitField(_l("Connect"))


class KeyForm(FlaskForm):  # type: ignore[misc]
    lines = TextAreaField(
        _l("Persons and their Salesforce user names"),
        [DataRequired(), Length(max=100_000)],
        description=_l(
            "One person a line: the e-mail address, a comma, the Salesforce user name (empty: the same)."
        ),
        render_kw={
            "rows": 4,
            "spellcheck": "false",
            "placeholder": "anna@example.com, anna@example.com.sales",
        },
    )
    link = SubmitField(_l("Link"))


@pages.get("/settings/salesforce/connections")
@sign_in_required
def connection() -> str:
    return _render()


@pages.post("/settings/salesforce/connections")
@sign_in_required
def connect() -> str | Response:
    """Off to Salesforce's page, where the person is asked."""
    form, found = _connect_form(), _registered()
    if not form.validate_on_submit():
        return _render(form=form)
    login_url = _login_url(form)
    try:
        challenge = new_challenge()
        page = Login(found.app, login_url).page(challenge)
    except NotSalesforce as error:
        form.my_domain.errors = [*form.my_domain.errors, str(error)]
        return _render(form=form)
    _remember(challenge, login_url)
    # a page of its own, as a form's answer may not lead on to another site, and who knows where a sign-in
    # leads
    return render_template("leave.html", page=page, host=login_url.removeprefix("https://"))


@pages.get("/salesforce/callback")
@sign_in_required
def come_back() -> Response:
    """Back from Salesforce's page."""
    begun = _challenge_of(request.args.get("state", ""))
    if begun is None:
        flash_trouble(trouble("wrong_state"))
        return redirect(url_for("connection.connection"))
    challenge, login_url = begun
    if "error" in request.args or "code" not in request.args:
        flash_trouble(trouble(request.args.get("error", ""), request.args.get("error_description", "")))
        return redirect(url_for("connection.connection"))
    try:
        who = _registered().by_code(
            me(), request.args["code"], challenge, login_url=login_url, actor=me().email
        )
    except NotConnected as refused:
        flash_trouble(refused.trouble)
    except Refusal as refusal:
        flash_refusal(refusal)
    else:
        flash(_("Connected as %(username)s.", username=who.username), "success")
    return redirect(url_for("connection.connection"))


@pages.post("/settings/salesforce/connections/check")
@sign_in_required
def check() -> Response:
    """Look whether the connection holds."""
    if Button().validate_on_submit():
        with database().reading() as opened:
            known = connection_store.connection(opened, me().id)
        try:
            found = None if known is None else _registered().probe(known)
        except Unavailable as error:
            found = error.trouble
        if found is not None:
            flash_trouble(found)
        elif known is not None:
            flash(_("The connection works."), "success")
    return redirect(url_for("connection.connection"))


@pages.post("/settings/salesforce/connections/disconnect")
@sign_in_required
def disconnect() -> Response:
    if Button().validate_on_submit():
        if _registered().disconnect(me(), actor=me().email):
            flash(_("Disconnected: Salesforce has been told, and nothing of yours was deleted."), "success")
        else:
            flash(
                _(
                    "Disconnected here, but Salesforce could not be told. End the session there: your "
                    "picture → Settings → Advanced User Details → OAuth Connected Apps."
                ),
                "warning",
            )
    return redirect(url_for("connection.connection"))


@pages.post("/settings/salesforce/connections/key")
@admin_required
def link_by_key() -> str | Response:
    """Everybody in the list, by the team's key; who cannot be linked stays in the form with the reason."""
    form, found = KeyForm(), _registered()
    if found.app.jwt_key_file is None:
        abort(404)
    if not form.validate_on_submit():
        return _render(key_form=form)
    left, linked = [], 0
    for line in form.lines.data.splitlines():
        if not line.strip():
            continue
        try:
            _link(found, line)
            linked += 1
        except NotConnected as refused:
            left.append(line)
            what = f"{line.strip()}: {_(refused.trouble.cause)} {_(refused.trouble.remedy)}"
            form.lines.errors = [*form.lines.errors, what]
        except Refusal as refusal:
            left.append(line)
            form.lines.errors = [*form.lines.errors, f"{line.strip()}: {translated(refusal)}"]
    if linked:
        flash(_("Linked: %(number)s.", number=linked), "success")
    if not left:
        return redirect(url_for("connection.connection"))
    form.lines.data = "\n".join(left)
    return _render(key_form=form)


def _link(found: Connections, line: str) -> None:
    """Raises NotConnected, Refusal."""
    email, _comma, username = (part.strip() for part in line.partition(","))
    with database().reading() as opened:
        account = people_store.person_by_email(opened, email)
    found.by_key(account, username or account.email, actor=me().email)


def _render(*, form: ConnectForm | None = None, key_form: KeyForm | None = None) -> str:
    with database().reading() as opened:
        mine = connection_store.connection(opened, me().id)
        everybody = connection_store.connections(opened) if me().is_admin else []
    has_key = config().salesforce is not None and config().salesforce.jwt_key_file is not None  # type: ignore[union-attr]
    return render_template(
        "connection.html",
        known=Prerequisites(connections() is not None, mine),
        form=form or _connect_form(unfilled=True),
        key_form=(key_form or KeyForm(formdata=None)) if me().is_admin and has_key else None,
        button=Button(formdata=None),
        everybody=everybody,
        callback_url=f"{config().public_url}/salesforce/callback",
    )


def _connect_form(*, unfilled: bool = False) -> ConnectForm:
    salesforce = config().salesforce
    configured = SALESFORCE_LOGIN if salesforce is None else salesforce.login_url
    choices = [
        (_PRODUCTION, _("Production (login.salesforce.com)")),
        (_SANDBOX, _("Sandbox (test.salesforce.com)")),
    ]
    if configured not in {SALESFORCE_LOGIN, _SANDBOX_LOGIN}:
        choices.insert(
            0, (_HERE, _("Your organisation's page (%(host)s)", host=configured.removeprefix("https://")))
        )
    choices.append((_MY_DOMAIN, _("My Domain, typed in below")))
    first = _SANDBOX if configured == _SANDBOX_LOGIN else choices[0][0]
    form = ConnectForm(formdata=None, where=first) if unfilled else ConnectForm()
    form.where.choices = choices
    return form


def _login_url(form: ConnectForm) -> str:
    if form.where.data == _MY_DOMAIN:
        return _my_domain(form.my_domain.data or "")
    configured = _registered().app.login_url
    return {_HERE: configured, _SANDBOX: _SANDBOX_LOGIN}.get(form.where.data, SALESFORCE_LOGIN)


def _my_domain(text: str) -> str:
    """What people copy out of the browser, as the host that takes sign-ins."""
    host = text.strip().lower().removeprefix("https://").removeprefix("http://").partition("/")[0]
    if host.endswith(".lightning.force.com"):
        host = host.removesuffix(".lightning.force.com") + ".my.salesforce.com"
    return f"https://{host if '.' in host or not host else host + '.my.salesforce.com'}"


def _registered() -> Connections:
    found = connections()
    if found is None:
        abort(404)
    return found


def _remember(challenge: Challenge, login_url: str) -> None:
    """In the person's own cookie, encrypted: what makes the answer ours."""
    begun = [challenge.state, challenge.verifier, login_url, datetime.now(UTC).timestamp()]
    session[_BEGUN] = Box(config().secret_keys).closed(json.dumps(begun).encode()).decode()


def _challenge_of(state: str) -> tuple[Challenge, str] | None:
    """What was begun in this browser with this state, once; None where nothing was, or long ago."""
    try:
        opened = Box(config().secret_keys).opened(str(session.get(_BEGUN, "")).encode())
    except Undecryptable:
        return None
    begun_state, verifier, login_url, begun_at = json.loads(opened)
    is_old = datetime.now(UTC).timestamp() - begun_at > _GOOD_FOR.total_seconds()
    if is_old or not state or state != begun_state:
        return None
    session.pop(_BEGUN)
    return Challenge(begun_state, verifier), login_url
