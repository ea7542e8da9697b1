"""What browsers are told for safety: TLS only where pages are served with it, and no content but ours.

Flask-Talisman did this and has had no release since 2023; these are the lines of it that we need."""

from collections.abc import Collection

from flask import Flask, Response, redirect, request
from flask.sessions import SecureCookieSessionInterface, SessionMixin
from werkzeug.wrappers import Response as AnyResponse

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; "
        "form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": "browsing-topics=()",
}
_A_YEAR = 31_556_926


class _CookieForPages(SecureCookieSessionInterface):
    """Files that are the same for everybody carry no cookie: what a proxy keeps of them would be
    somebody's."""

    def should_set_cookie(self, app: Flask, session: SessionMixin) -> bool:
        return not (request.endpoint or "").endswith("static") and super().should_set_cookie(app, session)


def set_up(app: Flask, *, public_url: str, in_clear: Collection[str]) -> None:
    """Where `public_url` is served by TLS, whoever comes without it is sent there, and cookies are not sent
    in clear. `in_clear`: endpoints that programs of the same machine ask without TLS."""
    is_https = public_url.startswith("https://")
    app.config.update(SESSION_COOKIE_SECURE=is_https, SESSION_COOKIE_HTTPONLY=True)
    app.session_interface = _CookieForPages()

    def to_tls() -> AnyResponse | None:
        if not is_https or request.is_secure or request.endpoint in in_clear:
            return None
        # never to the host that the browser names: whoever chooses that would choose where people sign in
        path = request.full_path if request.query_string else request.path
        return redirect(public_url.rstrip("/") + path, 302)

    def tell(response: Response) -> Response:
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        if is_https and request.is_secure:
            response.headers["Strict-Transport-Security"] = f"max-age={_A_YEAR}; includeSubDomains"
        return response

    app.before_request(to_tls)
    app.after_request(tell)
