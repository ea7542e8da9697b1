"""Set up your mail client: what to type into it, and a test mail that shows the relay's verdict."""

import asyncio
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate, make_msgid

from flask import Blueprint, render_template
from flask_babel import gettext as _
from flask_wtf import FlaskForm

from admin.access import config, database, me, sign_in_required
from core.database.heartbeats import listeners
from core.endpoints import Listener, ListenerKind
from core.people.store import add_app_password, revoke_app_password
from core.smtp import Credentials, MailVerdict, SubmissionEndpoint, UpstreamUnavailable, send_mail

pages = Blueprint("mail_client", __name__, url_prefix="/settings/mail-client")
_PASSWORD_LIVES = timedelta(minutes=2)


class TestMailForm(FlaskForm):  # type: ignore[misc]  # Flask-WTF ships no types
    """A button."""


@pages.get("")
@sign_in_required
def mail_client() -> str:
    return _render(None)


@pages.post("/test")
@sign_in_required
def test_mail() -> str:
    if not TestMailForm().validate_on_submit():
        return _render(None)
    door = _door()
    try:
        verdict = _send(door)
    except UpstreamUnavailable as error:
        verdict = MailVerdict(
            accepted=False,
            text=_(
                "The relay does not answer at %(host)s:%(port)s: %(cause)s",
                host=door.host,
                port=door.port,
                cause=str(error),
            ),
        )
    return _render(verdict)


def _send(door: SubmissionEndpoint) -> MailVerdict:
    """From the person to the person, with a password that is good for this one mail.

    Raises UpstreamUnavailable."""
    account = me()
    with database().writing() as session:
        key, password = add_app_password(
            session,
            account.email,
            label="test mail",
            actor=account.email,
            expires_at=datetime.now(UTC) + _PASSWORD_LIVES,
        )
    try:
        return asyncio.run(
            send_mail(
                door,
                Credentials(account.email, password),
                sender=account.email,
                recipient=account.email,
                content=_content(account.email),
            )
        )
    finally:
        with database().writing() as session:
            revoke_app_password(session, account.email, key, actor=account.email)


def _content(address: str) -> bytes:
    mail = EmailMessage(policy=SMTP)
    mail["From"] = address
    mail["To"] = address
    mail["Subject"] = _("Blindcopy test mail")
    mail["Date"] = formatdate(localtime=True)
    mail["Message-ID"] = make_msgid(domain=address.rpartition("@")[2])
    mail.set_content(_("This mail went through the Blindcopy relay. If you can read it, sending works."))
    return mail.as_bytes()


def _door() -> SubmissionEndpoint:
    """A relay that says it is there, else the one that is configured."""
    with database().reading() as session:
        alive = [Listener.parsed(text) for text in listeners(session)]
    doors = [one for one in [*alive, *config().listeners] if one.kind is not ListenerKind.GATEWAY]
    listener = doors[0] if doors else config().listeners[0]
    tls = config().tls
    return SubmissionEndpoint(
        host="127.0.0.1" if listener.is_everywhere else listener.host,
        port=listener.port,
        is_implicit_tls=listener.kind is ListenerKind.SUBMISSIONS,
        certificate=tls.certificate if tls is not None else None,
    )


def _encryption(door: SubmissionEndpoint) -> str:
    if door.is_implicit_tls:
        return str(_("SSL/TLS"))
    return str(
        _("STARTTLS") if door.certificate is not None else _("none (the relay is on this very machine)")
    )


def _host(door: SubmissionEndpoint) -> str:
    """What people type: the relay's name, unless it is on their own machine."""
    return door.host if door.certificate is None else config().hostname


def _render(verdict: MailVerdict | None) -> str:
    door = _door()
    return render_template(
        "mail_client.html",
        door=door,
        host=_host(door),
        encryption=_encryption(door),
        email=me().email,
        form=TestMailForm(formdata=None),
        verdict=verdict,
    )
