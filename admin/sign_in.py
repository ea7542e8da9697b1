"""Sign in and out. Guessing is slowed: so many tries an account and an address may make."""

from urllib.parse import urlsplit

from flask import Blueprint, flash, redirect, render_template, request, session, url_for
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_limiter import Limiter
from flask_limiter.errors import RateLimitExceeded
from flask_limiter.util import get_remote_address
from flask_login import current_user, login_user, logout_user
from flask_wtf import FlaskForm
from werkzeug.wrappers import Response
from wtforms import EmailField, PasswordField, SubmitField
from wtforms.validators import DataRequired, Length

from admin import passwords
from admin.access import SignedInPerson, database
from core import logs
from core.people.addresses import address_key
from core.people.store import NoSuchPerson, StoredPerson, person_by_email, rehash_password

pages = Blueprint("sign_in", __name__)
limiter = Limiter(get_remote_address)


class SignInForm(FlaskForm):  # type: ignore[misc]  # Flask-WTF ships no types
    email = EmailField(
        _l("E-mail address"),
        [DataRequired(), Length(max=320)],
        render_kw={"autocomplete": "username", "autofocus": True},
    )
    password = PasswordField(
        _l("Password"), [DataRequired(), Length(max=1000)], render_kw={"autocomplete": "current-password"}
    )
    submit = SubmitField(_l("Sign in"))


def _account_and_address() -> str:
    return f"{address_key(request.form.get('email', ''))} {get_remote_address()}"


@pages.get("/")
def home() -> Response:
    return redirect(url_for("activity.activity"))


@pages.route("/sign-in", methods=["GET", "POST"])
@limiter.limit("30 per minute", methods=["POST"])
@limiter.limit("6 per minute; 30 per hour", key_func=_account_and_address, methods=["POST"])
def sign_in() -> str | Response:
    if current_user.is_authenticated:
        return redirect(_next_page())
    form = SignInForm()
    if form.validate_on_submit():
        account = _account_with(form.email.data, form.password.data)
        if account is not None:
            session.permanent = True
            login_user(SignedInPerson(account))
            return redirect(_next_page())
        logs.sign_in_failed(get_remote_address())
        form.password.errors = [_("E-mail address or password is wrong")]
    return render_template("sign_in.html", form=form)


@pages.post("/sign-out")
def sign_out() -> Response:
    logout_user()
    session.clear()
    flash(_("You are signed out."), "info")
    return redirect(url_for("sign_in.sign_in"))


@pages.errorhandler(RateLimitExceeded)
def too_many_tries(error: RateLimitExceeded) -> tuple[str, int]:
    form = SignInForm()
    form.password.errors = [_("Too many tries. Wait a minute, then try again.")]
    return render_template("sign_in.html", form=form), 429


def _account_with(email: str, password: str) -> StoredPerson | None:
    try:
        with database().reading() as opened:
            account = person_by_email(opened, email)
    except NoSuchPerson:
        passwords.is_right(password, None)
        return None
    if not passwords.is_right(password, account.password_hash) or not account.is_active:
        return None
    if passwords.wants_rehash(account.password_hash or ""):
        with database().writing() as opened:
            rehash_password(opened, account.id, passwords.hashed(password))
    return account


def _next_page() -> str:
    """Where the person wanted to go."""
    return own_path(request.args.get("next", "")) or url_for("sign_in.home")


def own_path(text: str) -> str | None:
    """The address if it is a path of ours, else None."""
    try:
        wanted = urlsplit(text)
    except ValueError:
        return None
    is_ours = (
        not wanted.scheme
        and not wanted.netloc
        and wanted.path.startswith("/")
        and not wanted.path.startswith("//")
    )
    return wanted.geturl() if is_ours and "\\" not in wanted.path else None
