"""What browsers are told for safety: TLS only where pages are served with it, and no content but ours.

Flask-Talisman did this and has had no release since 2023; these are the lines of it that we need."""

from collections.abc import Collection

from flask import Flask, Response, redirect, request
from werkzeug.wrappers import Response as AnyResponse

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'self'; "
        "form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": "browsing-topics=()",
}
_A_YEAR = 31_556_926


def set_up(app: Flask, *, is_https: bool, in_clear: Collection[str]) -> None:
    """`is_https`: the pages are served by TLS, so that whoever comes without it is sent there, and cookies
    are not sent in clear. `in_clear`: endpoints that programs of the same machine ask without TLS."""
    app.config.update(SESSION_COOKIE_SECURE=is_https, SESSION_COOKIE_HTTPONLY=True)

    def to_tls() -> AnyResponse | None:
        if not is_https or request.is_secure or request.endpoint in in_clear:
            return None
        return redirect(request.url.replace("http://", "https://", 1), 302)

    def tell(response: Response) -> Response:
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        if is_https and request.is_secure:
            response.headers["Strict-Transport-Security"] = f"max-age={_A_YEAR}; includeSubDomains"
        return response

    app.before_request(to_tls)
    app.after_request(tell)
