"""What operators' tools ask the web process: whether it lives, whether all is well, and its figures.

In plain HTTP, without a redirect to HTTPS and without a sign-in, as balancers and Prometheus ask from within;
the figures are for this machine only."""

import time
from typing import cast

from flask import Blueprint, Flask, Response, current_app, g, request
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from admin.access import Services, config
from core.endpoints import is_loopback
from core.findings import Finding, Light, facts
from core.health import Watch, look_at_installation, look_at_machine
from core.monitor import CONTENT_TYPE, readiness

pages = Blueprint("probes", __name__)
ENDPOINTS = frozenset({"probes.healthz", "probes.readyz", "probes.metrics"})
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_KEY = "blindcopy-probes"


class Probes:
    """What the probes of one application look at and count."""

    def __init__(self, app: Flask, services: Services) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "blindcopy_web_requests",
            "Requests answered, by page and class of the status.",
            ["page", "status"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "blindcopy_web_seconds",
            "How long a page took to be answered.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.watch = Watch(lambda: look_at_installation(services.database))
        app.extensions[_KEY] = self
        app.before_request(_note_beginning)
        app.after_request(self._count)

    def _count(self, response: Response) -> Response:
        page = request.endpoint or "none"
        if page not in ENDPOINTS and not page.endswith("static"):
            self._requests.labels(page, f"{response.status_code // 100}xx").inc()
            if "began" in g:
                self._seconds.observe(time.monotonic() - g.began)
        return response


@pages.get("/healthz")
def healthz() -> Response:
    return _answer([facts(Light.GREEN, "web", "ok", stops_mail=True)])


@pages.get("/readyz")
def readyz() -> Response:
    return _answer([*_probes().watch.findings(), *look_at_machine(config())])


@pages.get("/metrics")
def metrics() -> Response:
    """Loopback only."""
    if not _is_asked_from_here():
        return Response("Figures are for this machine only.\n", 404, content_type="text/plain; charset=utf-8")
    return Response(generate_latest(_probes().registry), content_type=CONTENT_TYPE)


def _answer(findings: list[Finding]) -> Response:
    """Other machines get the lights alone: the sentences name people, hosts and paths, and a probe does not
    sign in."""
    is_well, text = readiness(
        findings, is_for_mail=request.args.get("for") == "mail", with_details=_is_asked_from_here()
    )
    return Response(text, 200 if is_well else 503, content_type="text/plain; charset=utf-8")


def _is_asked_from_here() -> bool:
    """Whether a process of this machine asks, by a name of this machine; what a proxy passes on comes from
    elsewhere."""
    headers = {name.lower() for name, _ in request.headers}
    is_forwarded = any(name.startswith(("x-forwarded-", "forwarded", "via", "x-real-")) for name in headers)
    source = request.environ.get("werkzeug.proxy_fix.orig", {}).get("REMOTE_ADDR") or request.remote_addr
    host = request.host.rpartition(":")[0] if ":" in request.host.rpartition("]")[2] else request.host
    return not is_forwarded and is_loopback(source or "") and is_loopback(host.strip("[]"))


def _probes() -> Probes:
    return cast("Probes", current_app.extensions[_KEY])


def _note_beginning() -> None:
    g.began = time.monotonic()
