"""Asking and writing in Salesforce, as one person, over simple-salesforce: the only module that knows it.

It has no time-outs, retries nothing and refreshes nothing here (facts: simple-salesforce 4, 5, 6): all that is set once,
in the session's adapter. Its exceptions carry the whole query in their text and go no further than this module."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from simple_salesforce.api import Salesforce
from simple_salesforce.exceptions import SalesforceError

from core.salesforce.login import (
    SECONDS_TO_ANSWER,
    SECONDS_TO_CONNECT,
    App,
    Refused,
    Unavailable,
    checked_host,
    session,
)
from core.salesforce.troubles import Trouble, trouble

API_VERSION = "62.0"
MOST_RECORDS = 200
"""In one collections call (REST guide, "Create Multiple Records")."""
MOST_IDS = 2_000
_ID = re.compile(r"[A-Za-z0-9]{15}(?:[A-Za-z0-9]{3})?")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_USAGE = re.compile(r"api-usage=(\d+)/(\d+)")

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Usage:
    """The API calls of the last 24 hours, of all programs of the org."""

    used: int
    total: int


@dataclass(frozen=True)
class Written:
    """What became of one record of a batch: its id, or its trouble."""

    id: str | None
    trouble: Trouble | None = None


class _WithTimeOut(HTTPAdapter):
    """Every call ends, whoever makes it."""

    def send(self, request: Any, *arguments: Any, **more: Any) -> Any:
        more["timeout"] = (SECONDS_TO_CONNECT, SECONDS_TO_ANSWER)
        return super().send(request, *arguments, **more)


class Client:
    """One person's Salesforce. Not for several threads at once. Every call raises Unavailable or Refused."""

    def __init__(self, app: App, instance_url: str, access_token: str) -> None:
        """Raises NotSalesforce."""
        self.usage: Usage | None = None
        """As the last answer told; None before the first."""
        made = session(app)
        made.mount("https://", _WithTimeOut())
        made.hooks["response"].append(self._note_usage)
        host = checked_host(instance_url, app).removeprefix("https://")
        self._salesforce = Salesforce(
            session_id=access_token, instance=host, version=API_VERSION, session=made
        )

    def query(self, soql: str, *, everything: bool = False) -> list[Record]:
        """All records of a query, page by page; `everything`: deleted and archived ones too."""
        found: list[Record] = _said(
            lambda: list(self._salesforce.query_all_iter(soql, include_deleted=everything))
        )
        return found

    def has(self, sobject: str) -> bool:
        """Whether the org has this kind of record, and the person may see it."""
        found = _said(self._salesforce.describe)
        return any(one["name"] == sobject for one in (found or {}).get("sobjects", ()))

    def fields(self, sobject: str) -> dict[str, Record]:
        """The fields of an object that the person may see: name -> what `describe` says of it."""
        path = f"sobjects/{_checked(sobject, _NAME)}/describe"
        found = _said(lambda: self._salesforce.restful(path))
        return {one["name"]: one for one in found["fields"]}

    def create(self, sobject: str, records: Sequence[Record]) -> list[Written]:
        """New records, up to MOST_RECORDS of one kind in one call; what became of each, in their order."""
        return self._write(
            "POST", [{"attributes": {"type": _checked(sobject, _NAME)}} | dict(one) for one in records]
        )

    def update(self, sobject: str, records: Sequence[Record]) -> list[Written]:
        """Changes; each record with its `Id`."""
        for one in records:
            _checked(one["Id"], _ID)
        return self._write(
            "PATCH", [{"attributes": {"type": _checked(sobject, _NAME)}} | dict(one) for one in records]
        )

    def delete(self, ids: Iterable[str]) -> list[Written]:
        """Into the bin, up to MOST_RECORDS."""
        wanted = [_checked(one, _ID) for one in ids]
        if not wanted:
            return []
        answers = _said(
            lambda: self._salesforce.restful(
                "composite/sobjects", method="DELETE", params={"ids": ",".join(wanted)}
            )
        )
        return _written(answers, len(wanted))

    def retrieve(self, sobject: str, ids: Sequence[str], fields: Sequence[str]) -> list[Record | None]:
        """The records of these ids, up to MOST_IDS in one call; None for one that is gone or out of sight."""
        if not ids:
            return []
        path = f"composite/sobjects/{_checked(sobject, _NAME)}"
        asked = {"ids": [_checked(one, _ID) for one in ids], "fields": list(fields)}
        return list(_said(lambda: self._salesforce.restful(path, method="POST", json=asked)) or [])

    def _write(self, method: str, records: Sequence[Record]) -> list[Written]:
        if not records:
            return []
        asked = {"allOrNone": False, "records": list(records)}
        answers = _said(lambda: self._salesforce.restful("composite/sobjects", method=method, json=asked))
        return _written(answers, len(records))

    def _note_usage(self, answer: requests.Response, *_: Any, **__: Any) -> None:
        if found := _USAGE.search(answer.headers.get("Sforce-Limit-Info", "")):
            self.usage = Usage(int(found.group(1)), int(found.group(2)))


def _said(call: Callable[[], Any]) -> Any:
    """What Salesforce answers. Raises Unavailable, Refused."""
    try:
        return call()
    except SalesforceError as error:
        raise _translated(error) from None  # its text holds the query, with customers' addresses
    except (requests.RequestException, ValueError, KeyError, TypeError) as error:
        raise Unavailable(type(error).__name__) from None


def _translated(error: SalesforceError) -> Unavailable | Refused:
    status = error.status if isinstance(error.status, int) else 0
    content: Any = error.content
    first: Record = (
        content[0] if isinstance(content, list) and content and isinstance(content[0], dict) else {}
    )
    found = trouble(str(first.get("errorCode", "")), str(first.get("message", "")), status)
    if status >= 500 or not first:
        return Unavailable(f"the answer is {status}", found if first else None)
    return Refused(found)


def _written(answers: Any, number: int) -> list[Written]:
    """A batch is answered with 200 whatever became of its records; an answer that does not tell of each tells nothing."""
    if not isinstance(answers, list) or len(answers) != number:
        raise Unavailable("the answer does not tell of each record")
    return [_one_written(one) for one in answers]


def _one_written(answer: Record) -> Written:
    if answer.get("success"):
        return Written(answer["id"])
    error: Record = next(iter(answer.get("errors") or []), {})
    return Written(None, trouble(str(error.get("statusCode", "")), str(error.get("message", ""))))


def _checked(text: str, pattern: re.Pattern[str]) -> str:
    """What stands in an address is an id or a name and nothing else: `//evil.example` would have our token."""
    if not isinstance(text, str) or not pattern.fullmatch(text):
        raise ValueError(f"{text!r} is neither an id nor a name of Salesforce")
    return text
