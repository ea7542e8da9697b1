"""Asking and writing in Salesforce, as one person, over simple-salesforce: the only module that knows it.

It has no time-outs, retries nothing and refreshes nothing here (facts: simple-salesforce 4, 5, 6): all that
is set once, in the session's adapter. Its exceptions carry the whole query in their text and go no further
than this module."""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

import requests
from requests.adapters import HTTPAdapter
from simple_salesforce.api import Salesforce
from simple_salesforce.exceptions import SalesforceError
from simple_salesforce.format import format_soql
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

from core.endpoints import SalesforceApp
from core.salesforce import late_commits
from core.salesforce.login import (
    SECONDS_TO_ANSWER,
    SECONDS_TO_CONNECT,
    NeverSent,
    Refused,
    Unavailable,
    checked_host,
    clock_offset,
    read_in_time,
    session,
)
from core.salesforce.troubles import Trouble, TroubleKind, trouble

API_VERSION = "62.0"
MOST_RECORDS = 200
"""In one collections call (REST guide, "Create Multiple Records")."""
MOST_IDS = 2_000
MOST_QUERIES = 5
"""In one composite call (REST guide, "Composite")."""
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
class Opening:
    """Where, and with what, Salesforce is open to a person."""

    instance_url: str
    access_token: str = field(repr=False)


@dataclass(frozen=True)
class Written:
    """What became of one record of a batch: its id, or its trouble."""

    id: str | None
    trouble: Trouble | None = None


class WithTimeOut(HTTPAdapter):
    """Every call ends, whoever makes it, and however slowly the answer drips."""

    def send(self, request: Any, *arguments: Any, **more: Any) -> Any:
        more |= {"timeout": (SECONDS_TO_CONNECT, SECONDS_TO_ANSWER), "stream": True}
        answer = super().send(request, *arguments, **more)
        read_in_time(answer)
        return answer


class Client:
    """One person's Salesforce. Not for several threads at once. Every call raises Unavailable or Refused.

    `renew` gives a new access token in place of one that has had its day; it is asked once a call."""

    def __init__(
        self,
        app: SalesforceApp,
        instance_url: str,
        access_token: str,
        renew: Callable[[], Opening] | None = None,
    ) -> None:
        """Raises NotSalesforce."""
        self.usage: Usage | None = None
        """As the last answer told; None before the first."""
        self.offset: timedelta | None = None
        """How far Salesforce's clock is ahead of ours, as the last answer told."""
        self._app = app
        self._renew = renew
        self._session = session(app)
        self._session.mount("https://", WithTimeOut())
        self._session.hooks["response"].append(self._note)
        self._open(Opening(instance_url, access_token))

    def _open(self, opening: Opening) -> None:
        host = checked_host(opening.instance_url, self._app).removeprefix("https://")
        self._salesforce = Salesforce(
            session_id=opening.access_token, instance=host, version=API_VERSION, session=self._session
        )

    def query(self, soql: str, *values: object, everything: bool = False) -> list[Record]:
        """All records of a query, page by page; `everything`: deleted and archived ones too.

        Each `{}` of the query stands for a value, which is quoted; a list stands in IN."""
        asked = format_soql(soql, *values) if values else soql
        columns = _columns(soql)
        found: list[Record] = self._call(
            lambda salesforce: [
                _checked_record(one, columns)
                for one in salesforce.query_all_iter(asked, include_deleted=everything)
            ]
        )
        return found

    def query_together(self, queries: Sequence[tuple[str, Sequence[object]]]) -> list[list[Record] | Refused]:
        """The records of up to five queries that are asked in one call (REST guide, "Composite"), in their
        order; a query that is refused by itself, or takes Salesforce too long, gives its refusal. Raises
        Unavailable, Refused."""
        if len(queries) == 1:
            [(soql, values)] = queries
            try:
                return [self.query(soql, *values)]
            except Refused as refused:
                if not _is_of_the_query(refused.trouble):
                    raise
                return [refused]
        asked = [format_soql(soql, *values) if values else soql for soql, values in queries]
        parts = [
            {
                "method": "GET",
                "url": f"/services/data/v{API_VERSION}/query?{urlencode({'q': soql})}",
                "referenceId": f"query{number}",
            }
            for number, soql in enumerate(asked)
        ]
        body = {"allOrNone": False, "compositeRequest": parts}
        answers = self._call(lambda salesforce: salesforce.restful("composite", method="POST", json=body))
        try:
            return self._taken_apart(queries, _parts(answers, len(parts)))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Unavailable(f"the answer is not what was asked for: {type(error).__name__}") from None

    def _taken_apart(
        self, queries: Sequence[tuple[str, Sequence[object]]], answers: Sequence[Any]
    ) -> list[list[Record] | Refused]:
        """Raises ValueError, KeyError, TypeError, AttributeError for what is no answer."""
        found: list[list[Record] | Refused] = []
        for (soql, values), answer in zip(queries, answers, strict=True):
            status, content = int(answer["httpStatusCode"]), answer["body"]
            if status != HTTPStatus.OK:
                first: Record = content[0] if isinstance(content, list) and content else {}
                met = trouble(str(first.get("errorCode", "")), str(first.get("message", "")), status)
                if not _is_of_the_query(met):
                    raise Refused(met)
                found.append(Refused(met))
            elif not content.get("done"):
                found.append(self.query(soql, *values))  # more than fits into one answer
            else:
                found.append([_checked_record(one, _columns(soql)) for one in content["records"]])
        return found

    def pages(self, soql: str, *values: object) -> Iterator[list[Record]]:
        """The records of a query, deleted and archived ones too, page by page as they are asked for, up to
        2,000 at a time."""
        asked, columns = format_soql(soql, *values) if values else soql, _columns(soql)
        more: str | None = None
        while True:
            found, more = self._call(lambda salesforce: _page(_query_page(salesforce, asked, more), columns))  # noqa: B023  called at once
            yield found
            if more is None:
                return

    def kinds(self) -> frozenset[str]:
        """The kinds of record that the org has, and the person may see."""
        found: frozenset[str] = self._call(
            lambda salesforce: frozenset(
                str(one["name"]) for one in (salesforce.restful("sobjects") or {})["sobjects"]
            )
        )
        return found

    def fields(self, sobject: str) -> dict[str, Record]:
        """The fields of an object that the person may see: name -> what `describe` says of it."""
        path = f"sobjects/{_checked(sobject, _NAME)}/describe"
        found: dict[str, Record] = self._call(
            lambda salesforce: {one["name"]: one for one in (salesforce.restful(path) or {})["fields"]}
        )
        return found

    def create(self, sobject: str, records: Sequence[Record]) -> list[Written]:
        """New records, up to MOST_RECORDS of one kind in one call; what became of each, in their order."""
        return self._write(
            "POST", [{"attributes": {"type": _checked(sobject, _NAME)}} | dict(one) for one in records]
        )

    def create_one(self, sobject: str, values: Record) -> str:
        """The id of one new record, in a call of its own: of one that holds a file (REST guide, "Insert or
        Update Blob Data")."""
        path = f"sobjects/{_checked(sobject, _NAME)}"
        answer = self._call(lambda salesforce: salesforce.restful(path, method="POST", json=dict(values)))
        try:
            return str(answer["id"])
        except (KeyError, TypeError):
            raise Unavailable("the answer does not tell of the record") from None

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
        answers = self._call(
            lambda salesforce: salesforce.restful(
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
        return list(self._call(lambda salesforce: salesforce.restful(path, method="POST", json=asked)) or [])

    def _write(self, method: str, records: Sequence[Record]) -> list[Written]:
        if not records:
            return []
        asked = {"allOrNone": False, "records": list(records)}
        answers = self._call(
            lambda salesforce: salesforce.restful("composite/sobjects", method=method, json=asked)
        )
        return _written(answers, len(records))

    def _call(self, call: Callable[[Salesforce], Any]) -> Any:
        """What Salesforce answers; a session that has ended is renewed, once. Raises Unavailable, Refused."""
        began = time.monotonic()
        try:
            return _translating(call, self._salesforce)
        except Refused as refused:
            if self._renew is None or refused.trouble.kind is not TroubleKind.SESSION:
                raise
        try:
            self._open(self._renew())
        except (
            Refused
        ) as refused:  # whatever it is, it is the connection's trouble and not that of what was asked
            raise Refused(replace(refused.trouble, kind=TroubleKind.CONNECTION)) from None
        except Unavailable as error:  # and what was asked has been refused, with the session
            raise NeverSent(str(error), error.trouble) from None
        if time.monotonic() - began > late_commits.LONGEST_RENEWAL.total_seconds():
            raise NeverSent("it took too long to renew the session")
        try:
            return _translating(call, self._salesforce)
        except Refused as refused:
            if refused.trouble.kind is not TroubleKind.SESSION:
                raise
            # a new session is refused too: no renewing helps, time or an admin does
            raise NeverSent("a session that has just been renewed is refused", refused.trouble) from None

    def _note(self, answer: requests.Response, *_: Any, **__: Any) -> None:
        if found := _USAGE.search(answer.headers.get("Sforce-Limit-Info", "")):
            self.usage = Usage(int(found.group(1)), int(found.group(2)))
        self.offset = clock_offset(answer)


def _translating(call: Callable[[Salesforce], Any], salesforce: Salesforce) -> Any:
    """Raises Unavailable, Refused."""
    try:
        return call(salesforce)
    except SalesforceError as error:
        raise _translated(error) from None  # its text holds the query, with customers' addresses
    except requests.ConnectionError as error:
        kind = NeverSent if _is_without_connection(error) else Unavailable
        raise kind(type(error).__name__) from None
    except (requests.RequestException, ValueError, KeyError, TypeError) as error:
        raise Unavailable(type(error).__name__) from None


def _is_without_connection(error: requests.ConnectionError) -> bool:
    """Whether not even a connection could be made: a name that does not resolve, a port that is closed,
    nobody who answers."""
    reason = getattr(error.args[0] if error.args else None, "reason", None)
    return isinstance(reason, NewConnectionError | ConnectTimeoutError)


def _is_of_the_query(met: Trouble) -> bool:
    """Whether others that were asked in the same call may be answered, now and at any time."""
    return met.kind is TroubleKind.PERMANENT or met.code == "QUERY_TIMEOUT"


def _translated(error: SalesforceError) -> Unavailable | Refused:
    status = error.status if isinstance(error.status, int) else 0
    content: Any = error.content
    first: Record = (
        content[0] if isinstance(content, list) and content and isinstance(content[0], dict) else {}
    )
    found = trouble(str(first.get("errorCode", "")), str(first.get("message", "")), status)
    if status >= 500 or (not first and status != 401):
        return Unavailable(f"the answer is {status}", found if first else None)
    return Refused(found)


def _parts(answers: Any, number: int) -> list[Any]:
    """Raises Unavailable where the answer does not tell of each."""
    parts = answers.get("compositeResponse") if isinstance(answers, dict) else None
    if not isinstance(parts, list) or len(parts) != number:
        raise Unavailable("the answer does not tell of each query")
    return parts


def _written(answers: Any, number: int) -> list[Written]:
    """A batch is answered with 200 whatever became of its records; an answer that does not tell of each tells
    nothing."""
    if not isinstance(answers, list) or len(answers) != number:
        raise Unavailable("the answer does not tell of each record")
    return [_one_written(one) for one in answers]


def _one_written(answer: Record) -> Written:
    if answer.get("success"):
        return Written(answer["id"])
    error: Record = next(iter(answer.get("errors") or []), {})
    return Written(None, trouble(str(error.get("statusCode", "")), str(error.get("message", ""))))


def _query_page(salesforce: Salesforce, asked: str, more: str | None) -> Any:
    """The first page of a query, or the one that an answer has named."""
    if more is None:
        return salesforce.query(asked, include_deleted=True)
    return salesforce.query_more(more, identifier_is_url=True, include_deleted=True)


def _page(answer: Any, columns: frozenset[str]) -> tuple[list[Record], str | None]:
    """The records of one page, and where the next is. Raises ValueError, KeyError, TypeError."""
    more = None if answer["done"] else str(answer["nextRecordsUrl"])
    if more is not None and not more.startswith("/services/data/"):
        raise ValueError("the next page is somewhere else")
    return [_checked_record(one, columns) for one in answer["records"]], more


def _columns(soql: str) -> frozenset[str]:
    """What each record of the answer must hold."""
    selected = soql.removeprefix("SELECT ").partition(" FROM ")[0]
    return frozenset(column.strip().partition(".")[0] for column in selected.split(","))


def _checked_record(record: Record, columns: frozenset[str]) -> Record:
    """The record, if it is one. Raises ValueError."""
    if not columns <= record.keys():
        raise ValueError("the answer is not what was asked for")
    return record


def _checked(text: str, pattern: re.Pattern[str]) -> str:
    """What stands in an address is an id or a name and nothing else: `//evil.example` would have our
    token."""
    if not isinstance(text, str) or not pattern.fullmatch(text):
        raise ValueError(f"{text!r} is neither an id nor a name of Salesforce")
    return text
