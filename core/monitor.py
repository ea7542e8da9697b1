"""What operators' tools ask a relay or a worker over HTTP: figures, whether it lives, whether it is ready.

On a thread of its own. Several processes of one kind on one machine share the port; whichever is asked
answers for all of them in /metrics, and for itself elsewhere. `/readyz?for=mail`, which balancers use, looks
only at what stops mail."""

import socket
import socketserver
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING
from urllib.parse import parse_qs
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from core import logs
from core.endpoints import HostPort
from core.findings import Finding, Light

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

_SECONDS_TO_ASK = 5
_OK, _NOT_NOW = "200 OK", "503 Service Unavailable"
_TEXT = "text/plain; charset=utf-8"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Of figures in Prometheus' text format."""


Ask = Callable[[], Iterable[Finding]]


class _Handler(WSGIRequestHandler):
    timeout = _SECONDS_TO_ASK

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the library's name for it
        """Being asked is worth no line."""


class _ProbeServer(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True
    allow_reuse_port = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Who asks and does not stay for the answer is worth no line."""

    def server_bind(self) -> None:
        """Without asking the name service who we are, as the library would."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()


class _ServerOnIPv6(_ProbeServer):
    address_family = socket.AF_INET6


class Monitor:
    """Answers /metrics, /healthz and /readyz."""

    def __init__(self, metrics: Callable[[], bytes], lives: Ask, is_ready: Ask) -> None:
        self._metrics = metrics
        self._asks = {"/healthz": lives, "/readyz": is_ready}
        self._server: _ProbeServer | None = None

    def start(self, place: HostPort) -> HostPort | None:
        """Where it listens; None where it cannot, which stops no mail."""
        try:
            kind = _ServerOnIPv6 if ":" in place.host else _ProbeServer
            self._server = kind((place.host, place.port), _Handler)
        except OSError as error:
            logs.monitor_unavailable(str(place), str(error))
            return None
        self._server.set_app(self._answer)
        threading.Thread(target=self._server.serve_forever, name="monitor", daemon=True).start()
        bound = HostPort(place.host, self._server.server_port)
        logs.monitor_started(str(bound))
        return bound

    def stop(self) -> None:
        """Answer nobody any more."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def _answer(self, environ: "WSGIEnvironment", start: "StartResponse") -> list[bytes]:
        path, query = environ["PATH_INFO"], parse_qs(environ.get("QUERY_STRING", ""))
        if environ["REQUEST_METHOD"] not in {"GET", "HEAD"}:
            start("405 Method Not Allowed", [("Allow", "GET, HEAD")])
            return []
        status, kind, body = self._response(path, is_for_mail=query.get("for") == ["mail"])
        start(status, [("Content-Type", kind), ("Content-Length", str(len(body)))])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    def _response(self, path: str, *, is_for_mail: bool) -> tuple[str, str, bytes]:
        if path == "/metrics":
            try:
                return _OK, CONTENT_TYPE, self._metrics()
            except OSError as error:
                logs.metrics_not_kept(str(error))
                return _NOT_NOW, _TEXT, f"The state directory cannot be used: {error}\n".encode()
        if path not in self._asks:
            return "404 Not Found", _TEXT, b"There are /metrics, /healthz and /readyz.\n"
        is_well, text = readiness(self._asks[path](), is_for_mail=is_for_mail)
        return _OK if is_well else _NOT_NOW, _TEXT, text.encode()


def readiness(
    findings: Iterable[Finding], *, is_for_mail: bool, with_details: bool = True
) -> tuple[bool, str]:
    """Whether nothing is red, and a line for each finding: `name: ok`, or what is wrong and what to do.

    `is_for_mail`: only what mail cannot pass without counts. `with_details`: without them only the light is
    said, as the sentences name persons, hosts and paths."""
    looked_at = [one for one in findings if one.stops_mail or not is_for_mail]
    lines = [f"{one.what}: {_finding_line(one, with_details=with_details)}" for one in looked_at]
    return all(one.light is not Light.RED for one in looked_at), "".join(f"{line}\n" for line in lines)


def _finding_line(finding: Finding, *, with_details: bool) -> str:
    if finding.light is Light.GREEN:
        return "ok"
    if not with_details:
        return finding.light.value
    return finding.advice if finding.light is Light.RED else f"{finding.light.value}: {finding.advice}"
