"""How the pretend org misbehaves when it is told to: each fault strikes so many calls that match, then is over."""

import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from flask import Request, Response, jsonify

from tests.sandbox.org.records import Refused


class Fault(StrEnum):
    """What goes wrong."""

    EXPIRED = "expired session"
    HTML = "503 with HTML"
    LIMIT = "403 limit"
    SLOW = "time-out"
    LOST = "work done, answer lost"
    HELD = "work done, answer late"
    LOCKED = "rows locked"
    """Every second item of a collection."""
    GARBAGE = "200 with garbage"
    BARE_401 = "401 with a word"
    DRIP = "an answer that drips"
    POISON = "400 for all because of one"
    """Only calls that hold the word `poison`."""
    UNKNOWN_FIELD = "400 for a field that is gone"


@dataclass
class _Ordered:
    fault: Fault
    path: str
    method: str | None
    times: int
    seconds: float


class Faults:
    """The faults that are ordered; thread-safe."""

    def __init__(self) -> None:
        self._ordered: list[_Ordered] = []
        self._lock = threading.Lock()
        self._here = threading.local()

    def order(
        self, fault: Fault, path: str = "", *, method: str | None = None, times: int = 1, seconds: float = 30
    ) -> None:
        """The next `times` calls whose path holds `path`, a regular expression, go wrong so; `seconds`: how long a slow one takes."""
        with self._lock:
            self._ordered.append(_Ordered(fault, path, method, times, seconds))

    def clear(self) -> None:
        with self._lock:
            self._ordered.clear()

    def before(self, request: Request) -> Response | None:
        """Before any work is done."""
        self._here.fault = struck = self._strike(request)
        if struck is None:
            return None
        if struck.fault is Fault.EXPIRED:
            return _error(401, "INVALID_SESSION_ID", "Session expired or invalid")
        if struck.fault is Fault.LIMIT:
            return _error(403, "REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded.")
        if struck.fault is Fault.HTML:
            return Response("<html><body>Down for maintenance</body></html>", 503, content_type="text/html")
        if struck.fault is Fault.GARBAGE:
            return Response("{nonsense", 200, content_type="application/json")
        if struck.fault is Fault.UNKNOWN_FIELD:
            return _error(400, "INVALID_FIELD", "No such column 'X' on sobject of type Task")
        if struck.fault is Fault.POISON and b"poison" in request.get_data():
            return _error(400, "JSON_PARSER_ERROR", "Cannot deserialize instance of date")
        if struck.fault is Fault.BARE_401:
            return Response("Unauthorized", 401, content_type="text/plain")
        if struck.fault is Fault.DRIP:
            return Response(
                _dripping(struck.seconds),
                200,
                content_type="application/json",
                headers={"Content-Length": "1000000"},
            )
        if struck.fault is Fault.SLOW:
            time.sleep(struck.seconds)
        return None

    def after(self, request: Request, response: Response) -> Response:
        """When the work is done: an answer that is lost breaks the connection off."""
        struck = getattr(self._here, "fault", None)
        if struck is not None and struck.fault is Fault.LOST:
            self._here.fault = None
            request.environ["werkzeug.socket"].shutdown(2)
        if struck is not None and struck.fault is Fault.HELD:
            self._here.fault = None
            time.sleep(struck.seconds)
        return response

    def refuse_item(self, number: int) -> None:
        """Raises Refused for a row that somebody else holds."""
        struck = getattr(self._here, "fault", None)
        if struck is not None and struck.fault is Fault.LOCKED and number % 2 == 1:
            raise Refused("UNABLE_TO_LOCK_ROW", "unable to obtain exclusive access to this record")

    def _strike(self, request: Request) -> _Ordered | None:
        with self._lock:
            for ordered in self._ordered:
                if re.search(ordered.path, request.path) and ordered.method in {None, request.method}:
                    ordered.times -= 1
                    if ordered.times <= 0:
                        self._ordered.remove(ordered)
                    return ordered
        return None


def _dripping(seconds: float) -> Iterator[bytes]:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        yield b" "
        time.sleep(0.05)


def _error(status: int, code: str, message: str) -> Response:
    response = jsonify([{"message": message, "errorCode": code}])
    response.status_code = status
    return response
