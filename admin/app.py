"""The pages: one Flask application of blueprints, one blueprint per noun."""

import sys
from datetime import timedelta
from typing import NoReturn

from flask import Flask, Response, abort, render_template, request
from flask_babel import Babel, get_locale
from flask_bootstrap import Bootstrap5
from flask_login import current_user
from flask_wtf import CSRFProtect
from werkzeug.exceptions import HTTPException
from werkzeug.middleware.proxy_fix import ProxyFix

from admin import (
    access,
    account,
    activity,
    app_passwords,
    changes,
    diagnostics,
    health,
    mail_client,
    people,
    probes,
    security,
    senders,
    sign_in,
    tasks,
)
from admin.salesforce import addresses, api, bcc, connection, page, policy, redraw
from admin.salesforce import tasks as task_sync
from admin.times import day_of, local_day, local_reminder, local_time
from core import logs
from core.config import Config, ConfigurationError, read_config
from core.database.engine import Database, DatabaseUnavailable
from core.salesforce.connections import Connections

_GUNICORNS_BOOT_ERROR = 3
"""The status with which gunicorn gives up; on any other it would start the worker again for ever."""

LANGUAGES = ("en",)
_MOST_BYTES = 2 * 1024 * 1024
"""The longest comments of a task take so many, as a form sends what is not ASCII."""


def build_app(config: Config | None = None) -> Flask:
    """The application, with its database brought up to date.

    Without a configuration the environment's is read; mistakes in it are printed, and the process ends."""
    if config is None:
        logs.to_stderr()
        config = _config_or_exit()
    app = Flask("admin")
    app.config.update(
        SECRET_KEY=config.secret_keys[0],
        SECRET_KEY_FALLBACKS=list(config.secret_keys[1:]),
        SESSION_COOKIE_SAMESITE="Lax",
        PERMANENT_SESSION_LIFETIME=timedelta(hours=12),
        BOOTSTRAP_SERVE_LOCAL=True,
        WTF_CSRF_TIME_LIMIT=None,
        MAX_CONTENT_LENGTH=_MOST_BYTES,
        MAX_FORM_MEMORY_SIZE=_MOST_BYTES,
        RATELIMIT_STORAGE_URI="memory://",
    )
    database = Database.of(config)
    connected = Connections(database, config.salesforce) if config.salesforce is not None else None
    services = access.Services(config, database, connected)
    try:
        services.database.migrate()
    except DatabaseUnavailable as error:
        logs.database_unavailable(str(error))
    except ConfigurationError as error:
        _give_up(error)
    access.set_up(app, services)
    redraw.set_up(app, page.draw)
    security.set_up(app, public_url=config.public_url, in_clear=probes.ENDPOINTS)
    # before all libraries: the CSRF page of a POST, say, shows who is signed in, and needs the database for
    # it
    app.before_request(_look_first)
    probes.Probes(app, services)
    _set_up_libraries(app, config)
    for blueprint in (
        probes.pages,
        sign_in.pages,
        activity.pages,
        senders.pages,
        page.pages,
        bcc.pages,
        api.pages,
        addresses.pages,
        connection.pages,
        diagnostics.pages,
        policy.pages,
        people.pages,
        app_passwords.pages,
        mail_client.pages,
        account.pages,
        changes.pages,
        health.pages,
        tasks.pages,
        task_sync.pages,
    ):
        app.register_blueprint(blueprint)
    for text in (local_time, local_day, day_of, local_reminder):
        app.add_template_filter(text)
    app.add_template_global(get_locale)
    app.add_template_global(tasks.reminders, "due_reminders")
    app.register_error_handler(HTTPException, _error_page)
    app.register_error_handler(DatabaseUnavailable, _database_away)
    app.register_error_handler(ConfigurationError, _database_away)
    app.after_request(_keep_private)
    return app


def _config_or_exit() -> Config:
    try:
        return read_config(needs=("BLINDCOPY_SECRET_KEY",))
    except ConfigurationError as error:
        _give_up(error)


def _give_up(error: ConfigurationError) -> NoReturn:
    print(error, file=sys.stderr)  # noqa: T201
    sys.exit(_GUNICORNS_BOOT_ERROR)


def _set_up_libraries(app: Flask, config: Config) -> None:
    is_https = config.public_url.startswith("https://")
    if is_https:  # a proxy in front terminates TLS and forwards the client's address
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1, x_proto=1, x_host=1)  # type: ignore[method-assign]  # Flask's documented way
    CSRFProtect(app)
    Bootstrap5(app)
    Babel(app, locale_selector=lambda: request.accept_languages.best_match(LANGUAGES, "en"))
    sign_in.limiter.init_app(app)


def _look_first() -> None:
    """What no page could answer for is told at once: a database that is away, and NUL, which no text of ours
    holds."""
    if request.endpoint in {"static", "bootstrap.static"} | probes.ENDPOINTS:
        return
    access.database().migrate()
    current_user.is_authenticated  # noqa: B018  loads the person, from the database
    if any("\0" in text for text in (request.path, *request.values.values())):
        abort(400)


def _error_page(error: HTTPException) -> tuple[str, int]:
    return render_template("error.html", error=error), error.code or 500


def _database_away(error: DatabaseUnavailable | ConfigurationError) -> tuple[str, int]:
    logs.database_unavailable(str(error))
    access.assume_nobody()
    return render_template("database_away.html"), 503


def _keep_private(response: Response) -> Response:
    """Pages are one person's: no cache keeps them."""
    if request.endpoint not in {"static", "bootstrap.static"}:
        response.headers["Cache-Control"] = "no-store"
    return response
