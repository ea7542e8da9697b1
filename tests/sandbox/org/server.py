"""The pretend org as a server: its own certificate, its own page, HTTPS on loopback."""

import ssl
import tempfile
import threading
from datetime import UTC, datetime, timedelta
from html import escape
from pathlib import Path
from typing import Any

import trustme
from flask import Flask
from werkzeug.serving import WSGIRequestHandler, make_server

from tests.sandbox.org import oauth, rest
from tests.sandbox.org.faults import Faults
from tests.sandbox.org.oauth import Client, Tokens
from tests.sandbox.org.records import Features, Org, external

_SHOWN = ("Task", "EmailMessage", "ContentVersion", "Contact", "Lead", "Opportunity", "Account")
_SECONDS_TO_NOTICE_THE_END = 0.02

_COLUMNS = {
    "Task": (
        "Subject",
        "WhoId",
        "TaskWhoIds",
        "WhatId",
        "Status",
        "Priority",
        "ActivityDate",
        "Type",
        "OwnerId",
        "Description",
    ),
    "EmailMessage": (
        "Subject",
        "FromAddress",
        "ToIds",
        "CcIds",
        "BccIds",
        "ToAddress",
        "RelatedToId",
        "MessageDate",
        "TextBody",
    ),
    "ContentVersion": ("Title", "ContentSize", "ContentDocumentId", "PathOnClient", "OwnerId"),
    "Contact": ("Name", "Email", "AccountId", "OwnerId"),
    "Lead": ("Name", "Email", "Company", "Status", "OwnerId"),
    "Opportunity": ("Name", "AccountId", "StageName", "IsClosed", "OwnerId"),
    "Account": ("Name", "OwnerId"),
}


def _handler(app: Flask) -> type[WSGIRequestHandler]:
    class Handler(WSGIRequestHandler):
        def log(self, *_: Any) -> None:
            """Being asked is worth no line."""

        def date_time_string(self, timestamp: float | None = None) -> str:
            """The Date header, by the org's clock."""
            return f"{datetime.now(UTC) + app.extensions['skew']:%a, %d %b %Y %H:%M:%S} GMT"

    return Handler


class PretendOrg:
    """An org that runs on a thread of its own until it is stopped."""

    def __init__(self, features: Features | None = None, client: Client | None = None) -> None:
        self.org = Org(features or Features())
        self.tokens = Tokens(client or Client())
        self.faults = Faults()
        self.app = Flask("pretend_org")
        self.app.url_map.strict_slashes = False
        self.app.extensions |= {
            "org": self.org, "tokens": self.tokens, "faults": self.faults, "has_api": True, "cursors": {},
            "usage": {"used": 0, "total": 15_000, "calls": [], "users": []}, "skew": timedelta(0), "hidden_fields": {},
            "audiences": {"https://login.salesforce.com", "https://test.salesforce.com"},
        }  # fmt: skip
        self.app.register_blueprint(oauth.pages)
        self.app.register_blueprint(rest.pages)
        self.app.add_url_rule("/", "records", self._page)
        self.app.add_url_rule("/favicon.ico", "favicon", lambda: ("", 204))
        self.url = ""
        self.ca_file = Path()
        self._directory = tempfile.TemporaryDirectory(prefix="pretend-org-")
        self._server: Any = None

    def start(self, port: int = 0) -> str:
        """Where it listens."""
        authority = trustme.CA()
        self.ca_file = Path(self._directory.name) / "ca.pem"
        authority.cert_pem.write_to_path(self.ca_file)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
        self._server = make_server(
            "127.0.0.1",
            port,
            self.app,
            threaded=True,
            ssl_context=context,
            request_handler=_handler(self.app),
        )
        self.url = f"https://127.0.0.1:{self._server.server_port}"
        self.app.extensions["audiences"].add(self.url)
        threading.Thread(
            target=self._server.serve_forever,
            args=(_SECONDS_TO_NOTICE_THE_END,),
            name="pretend org",
            daemon=True,
        ).start()
        return self.url

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._directory.cleanup()

    @property
    def calls(self) -> list[str]:
        """The API calls so far, as `GET query`."""
        return self.app.extensions["usage"]["calls"]

    def _page(self) -> str:
        """What a person sees: the records, newest first, the deleted ones struck through."""
        tables = "".join(self._table(name) for name in _SHOWN if name.lower() in self.org.rows)
        return (
            '<!doctype html><html lang="en"><meta charset="utf-8"><title>Pretend '
            "org</title><style>body{font:16px/1.5 system-ui;"
            "max-width:75rem;margin:2rem auto;padding:0 "
            "1rem}table{border-collapse:collapse;width:100%}td,th{border:1px solid #ccc;"
            "padding:.3rem .6rem;text-align:left;vertical-align:top;overflow-wrap:anywhere;white-space:pre-line}.gone{text-decoration:line-through}</style>"
            f"<h1>Pretend org</h1><p>This stands in for Salesforce.</p>{tables}</html>"
        )

    def _table(self, name: str) -> str:
        with self.org.lock:
            rows = list(self.org.rows[name.lower()].values())[::-1]
        if not rows:
            return f"<h2>{name}</h2><p>None.</p>"
        names = [one for one in _COLUMNS[name] if any(row.get(one) not in {None, ""} for row in rows if not isinstance(row.get(one), list))
                 or any(isinstance(row.get(one), list) for row in rows)]  # fmt: skip
        head = "".join(f"<th>{one}</th>" for one in ("Id", *names))
        body = "".join(
            f'<tr class="{"gone" if row["IsDeleted"] else ""}" '
            f'id="{row["Id"]}"><td><small>{row["Id"]}</small></td>'
            + "".join(f"<td>{self._shown(row.get(one))}</td>" for one in names)
            + "</tr>"
            for row in rows
        )
        return f"<h2>{name}</h2><table><tr>{head}</tr>{body}</table>"

    def _shown(self, value: Any) -> str:
        """A value as a person reads it: a reference by the name of what it leads to."""
        if isinstance(value, list):
            return "<br>".join(self._shown(one) for one in value)
        led_to = self.org.row(value) if isinstance(value, str) and len(value) == 18 else None
        if led_to is not None:
            return (
                f'<a href="#{value}">{escape(str(led_to.get("Name") or led_to.get("Subject") or value))}</a>'
            )
        return escape(str(external(value) if value is not None else ""))[:500]
