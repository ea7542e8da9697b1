"""Who is signed in, and what that person may do; and where views find configuration and database."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import ParamSpec, TypeVar, cast

from flask import Flask, abort, current_app, g
from flask_login import AnonymousUserMixin, LoginManager, UserMixin, current_user, login_required

from core.config import Config
from core.database.engine import Database
from core.journal import loading
from core.people.store import StoredPerson, person_by_id
from core.salesforce.connections import Connections

_KEY = "blindcopy"
_SECONDS_BETWEEN_LOOKS = 10.0
_P = ParamSpec("_P")
_R = TypeVar("_R")


@dataclass
class Services:
    """What the views work with."""

    config: Config
    database: Database
    connections: Connections | None = None
    """None where Blindcopy is not registered with Salesforce."""
    looked_for_journals_at: float = float("-inf")


class SignedInPerson(UserMixin):  # type: ignore[misc]  # Flask-Login ships no types
    """The person of this request. The session's key is part of the id, so that a new password ends old
    sign-ins."""

    def __init__(self, account: StoredPerson) -> None:
        self.account = account

    def get_id(self) -> str:
        return f"{self.account.id}:{self.account.session_key}"


def set_up(app: Flask, services: Services) -> None:
    """Make views find their services, and pages ask for a sign-in."""
    app.extensions[_KEY] = services
    manager = LoginManager(app)
    manager.login_view = "sign_in.sign_in"
    manager.login_message = None
    manager.session_protection = "basic"
    manager.user_loader(_load)


def config() -> Config:
    return cast("Services", current_app.extensions[_KEY]).config


def database() -> Database:
    return cast("Services", current_app.extensions[_KEY]).database


def connections() -> Connections | None:
    return cast("Services", current_app.extensions[_KEY]).connections


def load_left_behind() -> None:
    """For pages that show what happened: what a relay that was killed has left in its journal is loaded,
    where no relay and no worker of this machine is there to do it. Looked for every ten seconds at most."""
    services = cast("Services", current_app.extensions[_KEY])
    if time.monotonic() - services.looked_for_journals_at > _SECONDS_BETWEEN_LOOKS:
        services.looked_for_journals_at = time.monotonic()
        loading.load_left_behind(services.database, services.config)


def me() -> StoredPerson:
    """The person who is signed in; only for views that ask for a sign-in."""
    return cast("SignedInPerson", current_user).account


def sign_in_required(view: Callable[_P, _R]) -> Callable[_P, _R]:
    """Whoever is not signed in is asked to. Flask-Login's own, with the view's types kept."""
    return cast("Callable[_P, _R]", login_required(view))


def admin_required(view: Callable[_P, _R]) -> Callable[_P, _R]:
    """Admins only: everybody else gets 403, whatever the method."""

    @wraps(view)
    def guarded(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        if not me().is_admin:
            abort(403)
        return view(*args, **kwargs)

    return cast("Callable[_P, _R]", login_required(guarded))


def assume_nobody() -> None:
    """Treat the rest of this request as not signed in, without asking the database."""
    g._login_user = AnonymousUserMixin()  # noqa: SLF001  where Flask-Login keeps it


def _load(key: str) -> SignedInPerson | None:
    number, _, session_key = key.partition(":")
    if not number.isdecimal():
        return None
    with database().reading() as session:
        account = person_by_id(session, int(number))
    if account is None or not account.is_active or account.session_key != session_key:
        return None
    return SignedInPerson(account)
