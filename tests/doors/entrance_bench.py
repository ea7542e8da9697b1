"""Relays with listeners of every kind, and the certificates that they show."""

import asyncio
import base64
import http.server
import json
import socketserver
import ssl
import threading
import time
import urllib.parse
from ipaddress import ip_network

import pytest
import trustme

from core.endpoints import Listener, ListenerKind
from relay.entrance import Entrance
from tests.doors.conftest import running
from tests.sandbox.sink import Sink

NETWORKS = ip_network("127.0.0.0/8"), ip_network("2001:db8::/32")


def run(coroutine):
    return asyncio.run(coroutine)


@pytest.fixture
def start(sqlite, tmp_path):
    return lambda script=None, **options: running(sqlite, tmp_path, Sink(script), **options)


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def tls(authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    authority.issue_cert("relay.test", "127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def trusting(authority):
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def everywhere(tls, kind=ListenerKind.SUBMISSION, **fields):
    """A listener that is not on loopback; the tests reach it there all the same."""
    return Entrance(Listener(kind, "0.0.0.0", 0), tls=tls, **fields)


def token(relay, password=None):
    return base64.b64encode(f"\0anna@acme.test\0{password or relay.password}".encode()).decode()


async def start_tls(client, context):
    assert (await client.command("STARTTLS")).startswith("220")
    await client.writer.start_tls(context, server_hostname="relay.test")


class TokenEndpoint:
    """Issues tokens, or what it is told to."""

    def __init__(self, status=200, answer=None, location=None):
        self.asked = []
        self.answer = status, answer or {"access_token": "t" * 3000, "expires_in": 3600}
        endpoint = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
                endpoint.asked.append(asked)
                status, said = endpoint.reply(asked)
                body = json.dumps(said).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                if location is not None:
                    self.send_header("Location", location)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/token"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def reply(self, asked):
        """Status and JSON."""
        return self.answer

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class RotatingEndpoint(TokenEndpoint):
    """Gives short-lived tokens, and a new refresh token with each answer, and takes each once: whoever comes
    with a used one has lost all of them, as the strictest providers have it (RFC 9700 section 4.14.2)."""

    def __init__(self, first="refresh-0"):
        super().__init__()
        self.good, self.lost, self.uses = first, False, []
        self.turn = threading.Lock()

    def reply(self, asked):
        given = dict(urllib.parse.parse_qsl(asked))
        with self.turn:
            self.uses.append(given.get("refresh_token"))
            time.sleep(0.05)
            if self.lost or given.get("refresh_token") != self.good:
                self.lost = True
                return 400, {"error": "invalid_grant", "error_description": "The token\r\nwas used"}
            self.good = f"refresh-{len(self.uses)}"
            return 200, {"access_token": "t" * 30, "expires_in": 30, "refresh_token": self.good}


class NoHttp:
    """A token endpoint's port on which something else answers."""

    def __init__(self):
        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                self.wfile.write(b"* OK IMAP4rev1 at your service\r\n")

        self.server = socketserver.TCPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/token"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
