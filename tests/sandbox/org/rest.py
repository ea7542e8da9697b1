"""The org's REST API: what the product calls of it, with Salesforce's answers to what is wrong."""

import itertools
import secrets
from datetime import UTC, datetime, timedelta
from typing import Any

from flask import Blueprint, Response, current_app, g, jsonify, request

from tests.sandbox.org import soql
from tests.sandbox.org.faults import Faults
from tests.sandbox.org.oauth import held_tokens, this_org
from tests.sandbox.org.records import Refused, external
from tests.sandbox.org.schema import Field, Kind, SObject

VERSIONS = tuple(f"{number}.0" for number in range(31, 68))
_LONGEST_URL = 16_384
_PAGE = 2_000
_SMALLEST_PAGE = 200
_MOST_RECORDS = 200
_MOST_CHUNKS = 10
_MOST_IDS = 2_000
_MOST_SUBREQUESTS = 25
_MOST_HEAVY_SUBREQUESTS = 5
_DAYS_OF_DELETED = 15
_DAYS_OF_UPDATED = 30

pages = Blueprint("rest", __name__, url_prefix="/services/data")


class Answered(Exception):
    """The request ends here, with this answer."""

    def __init__(self, status: int, code: str, message: str, *fields: str) -> None:
        self.status = status
        self.body = [{"message": message, "errorCode": code} | ({"fields": list(fields)} if fields else {})]
        super().__init__(message)


def _faults() -> Faults:
    return current_app.extensions["faults"]


@pages.before_request
def _enter() -> Response | None:
    """What is asked of every call, in the order in which the real one asks."""
    if len(request.full_path) > _LONGEST_URL:
        return Response("<html><body>URI Too Long</body></html>", 414, content_type="text/html")
    if request.path.rstrip("/") == "/services/data":
        return None
    version = request.path.split("/")[3].removeprefix("v")
    if version not in VERSIONS:
        raise Answered(404, "NOT_FOUND", "The requested resource does not exist")
    user = held_tokens().user(request.headers.get("Authorization", "").removeprefix("Bearer "))
    if user is None:
        raise Answered(401, "INVALID_SESSION_ID", "Session expired or invalid")
    if not current_app.extensions["has_api"]:
        raise Answered(403, "API_DISABLED_FOR_ORG", "The REST API is not enabled for this Organization.")
    g.user = user
    usage = current_app.extensions["usage"]
    if usage["used"] >= usage["total"]:
        raise Answered(403, "REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded.")
    usage["used"] += 1
    usage["users"].append(user)
    usage["calls"].append(f"{request.method} {request.path.split('/', 4)[-1]}")
    return _faults().before(request)


@pages.after_request
def _leave(response: Response) -> Response:
    usage = current_app.extensions["usage"]
    response.headers["Sforce-Limit-Info"] = f"api-usage={usage['used']}/{usage['total']}"
    return _faults().after(request, response)


@pages.errorhandler(Answered)
def _answered(answered: Answered) -> tuple[Response, int]:
    return jsonify(answered.body), answered.status


@pages.errorhandler(Refused)
def _refused(refused: Refused) -> tuple[Response, int]:
    status = 404 if refused.code in {"NOT_FOUND", "ENTITY_IS_DELETED"} and not refused.fields else 400
    error = {"message": str(refused), "errorCode": refused.code, "fields": refused.fields}
    return jsonify([error]), status


@pages.errorhandler(soql.SoqlError)
def _bad_query(error: soql.SoqlError) -> tuple[Response, int]:
    return jsonify([{"message": str(error), "errorCode": error.code}]), 400


@pages.get("/")
def versions() -> Response:
    return jsonify(
        [{"label": version, "url": f"/services/data/v{version}", "version": version} for version in VERSIONS]
    )


@pages.get("/v<version>/limits")
def limits(version: str) -> Response:
    usage = current_app.extensions["usage"]
    return jsonify(DailyApiRequests={"Max": usage["total"], "Remaining": usage["total"] - usage["used"]})


@pages.get("/v<version>/query")
def query(version: str) -> Response:
    return _query(version, everything=False)


@pages.get("/v<version>/queryAll")
def query_all(version: str) -> Response:
    return _query(version, everything=True)


def _query(version: str, *, everything: bool) -> Response:
    parsed, rows = this_org().query(request.args.get("q", ""), everything=everything)
    if parsed.columns == ("COUNT()",):
        return jsonify(totalSize=len(rows), done=True, records=[])
    page = _PAGE
    for option in request.headers.get("Sforce-Query-Options", "").split(","):
        if option.strip().lower().startswith("batchsize="):
            page = max(_SMALLEST_PAGE, min(_PAGE, int(option.partition("=")[2])))
    records = [_selected(row, parsed.columns, parsed.sobject, version) for row in rows]
    return jsonify(_page(version, records, page, secrets.token_hex(9), 0, everything=everything))


def _page(
    version: str, records: list[Any], size: int, locator: str, start: int, *, everything: bool
) -> dict[str, Any]:
    done = start + size >= len(records)
    answer = {"totalSize": len(records), "done": done, "records": records[start : start + size]}
    if not done:
        current_app.extensions["cursors"][locator] = (records, size, everything)
        kind = "queryAll" if everything else "query"
        answer["nextRecordsUrl"] = f"/services/data/v{version}/{kind}/{locator}-{start + size}"
    return answer


@pages.get("/v<version>/<any(query, queryAll):kind>/<locator>-<int:start>")
def next_page(version: str, kind: str, locator: str, start: int) -> Response:
    found = current_app.extensions["cursors"].get(locator)
    if found is None:
        raise Answered(400, "INVALID_QUERY_LOCATOR", "invalid query locator")
    records, size, everything = found
    return jsonify(_page(version, records, size, locator, start, everything=everything))


def _selected(row: dict[str, Any], columns: tuple[str, ...], sobject: str, version: str) -> dict[str, Any]:
    answer: dict[str, Any] = {"attributes": _attributes(sobject, row["Id"], version)}
    for path in columns:
        *steps, last = path.split(".")
        into, below = answer, row
        for depth, step in enumerate(steps):
            parent = this_org().value(row, ".".join([*steps[: depth + 1], "Id"]))
            if parent is None:
                into[step] = None
                break
            below = this_org().row(parent) or {}
            into = into.setdefault(step, {"attributes": _attributes(_named(parent), parent, version)})
        else:
            kind = this_org().objects[_named(below["Id"]).lower()]
            named = kind.field(last)
            into[named.name if named else last] = external(this_org().value(row, path))
    return answer


def _named(record_id: str) -> str:
    return next(one.name for one in this_org().objects.values() if one.prefix == record_id[:3])


def _attributes(sobject: str, record_id: str, version: str) -> dict[str, str]:
    return {"type": sobject, "url": f"/services/data/v{version}/sobjects/{sobject}/{record_id}"}


@pages.get("/v<version>/sobjects")
def sobjects(version: str) -> Response:
    return jsonify(
        sobjects=[{"name": one.name, "keyPrefix": one.prefix} for one in this_org().objects.values()]
    )


@pages.get("/v<version>/sobjects/<name>/describe")
def describe(version: str, name: str) -> Response:
    kind = _kind(name)
    hidden = current_app.extensions["hidden_fields"].get(kind.name, set())
    return jsonify(
        name=kind.name, keyPrefix=kind.prefix, createable=kind.creatable, updateable=kind.updatable,
        deletable=kind.deletable, fields=[_described(one) for one in kind.fields.values() if one.name not in hidden],
    )  # fmt: skip


def _kind(name: str) -> SObject:
    found = this_org().objects.get(name.lower())
    if found is None:
        raise Answered(404, "NOT_FOUND", "The requested resource does not exist")
    return found


def _described(one: Field) -> dict[str, Any]:
    return {
        "name": one.name, "type": one.kind.value, "length": one.length if one.kind not in {Kind.BOOLEAN, Kind.INT} else 0,
        "createable": one.creatable, "updateable": one.updatable, "filterable": one.filterable,
        "nillable": not one.required, "defaultValue": one.default, "externalId": one.is_external_id,
        "unique": one.is_unique, "idLookup": one.is_external_id or one.kind is Kind.ID,
        "referenceTo": list(one.refers_to), "relationshipName": one.relationship, "restrictedPicklist": one.restricted,
        "picklistValues": [{"value": value, "label": value, "active": True, "defaultValue": value == one.default}
                           for value in one.values],
    }  # fmt: skip


@pages.post("/v<version>/sobjects/<name>")
def create(version: str, name: str) -> tuple[Response, int]:
    record_id = this_org().create(_kind(name).name, _json(dict), g.user)
    return jsonify(id=record_id, success=True, errors=[]), 201


@pages.get("/v<version>/sobjects/<name>/<record_id>")
def retrieve(version: str, name: str, record_id: str) -> Response:
    kind, row = _kind(name), this_org().row(record_id)
    if row is None or row.get("IsDeleted") or not row["Id"].startswith(kind.prefix):
        raise Answered(404, "NOT_FOUND", "The requested resource does not exist")
    return jsonify(_whole(row, kind, version))


def _whole(
    row: dict[str, Any], kind: SObject, version: str, names: list[str] | None = None
) -> dict[str, Any]:
    fields = [one.name for one in kind.fields.values()] if names is None else names
    for name in fields:
        if kind.field(name) is None:
            raise Answered(400, "INVALID_FIELD", f"No such column '{name}' on sobject of type {kind.name}")
    return {"attributes": _attributes(kind.name, row["Id"], version)} | {
        name: external(row.get(name)) for name in fields
    }


@pages.patch("/v<version>/sobjects/<name>/<record_id>")
def update(version: str, name: str, record_id: str) -> tuple[str, int]:
    row = this_org().row(record_id)
    since = request.headers.get("If-Unmodified-Since")
    if since is not None and row is not None:
        limit = datetime.strptime(since, "%a, %d %b %Y %H:%M:%S GMT").replace(tzinfo=UTC)
        if row["LastModifiedDate"].replace(microsecond=0) > limit:
            raise Answered(412, "PRECONDITION_FAILED", "A conditional request failed")
    this_org().update(_kind(name).name, record_id, _json(dict), g.user)
    return "", 204


@pages.delete("/v<version>/sobjects/<name>/<record_id>")
def delete(version: str, name: str, record_id: str) -> tuple[str, int]:
    this_org().delete(_kind(name).name, record_id, g.user)
    return "", 204


@pages.get("/v<version>/sobjects/<name>/updated")
def updated(version: str, name: str) -> Response:
    start, end = _span(_DAYS_OF_UPDATED)
    rows = this_org().rows[_kind(name).name.lower()].values()
    ids = [row["Id"] for row in rows if not row["IsDeleted"] and start <= row["SystemModstamp"] < end]
    return jsonify(ids=ids, latestDateCovered=external(end))


@pages.get("/v<version>/sobjects/<name>/deleted")
def deleted(version: str, name: str) -> Response:
    start, end = _span(_DAYS_OF_DELETED)
    rows = this_org().rows[_kind(name).name.lower()].values()
    found = [
        {"id": row["Id"], "deletedDate": external(row["SystemModstamp"])}
        for row in rows
        if row["IsDeleted"] and start <= row["SystemModstamp"] < end
    ]
    earliest = this_org().clock() - timedelta(days=_DAYS_OF_DELETED)
    return jsonify(
        deletedRecords=found, earliestDateAvailable=external(earliest), latestDateCovered=external(end)
    )


def _span(days: int) -> tuple[datetime, datetime]:
    """Seconds are cut off (guide, "Get Updated")."""
    try:
        start, end = (
            datetime.fromisoformat(request.args[name]).astimezone(UTC).replace(second=0, microsecond=0)
            for name in ("start", "end")
        )
    except (KeyError, ValueError) as error:
        raise Answered(400, "INVALID_FIELD", "start and end must be date times") from error
    if end - start < timedelta(minutes=1):
        raise Answered(
            400, "INVALID_REPLICATION_DATE", "endDate must be at least one minute greater than startDate"
        )
    if start < this_org().clock() - timedelta(days=days):
        raise Answered(400, "INVALID_REPLICATION_DATE", "startDate is before the earliest date available")
    return start, end


@pages.post("/v<version>/composite/sobjects")
def create_many(version: str) -> Response:
    def make(record: dict[str, Any]) -> str:
        if record.get("VersionData") is not None:
            raise Refused(
                "INVALID_FIELD", "binary data in a collection needs a multipart request", "VersionData"
            )
        return this_org().create(_type_of(record), record, g.user)

    return _collection(_records(), make)


@pages.patch("/v<version>/composite/sobjects")
def update_many(version: str) -> Response:
    def change(record: dict[str, Any]) -> str:
        record_id = record.get("Id") or record.get("id")
        if not isinstance(record_id, str):
            raise Refused("MISSING_ARGUMENT", "Id not specified in an update call")
        values = {name: value for name, value in record.items() if name.lower() != "id"}
        this_org().update(_type_of(record), record_id, values, g.user)
        return record_id

    return _collection(_records(), change)


@pages.delete("/v<version>/composite/sobjects")
def delete_many(version: str) -> Response:
    ids = [{"id": one} for one in request.args.get("ids", "").split(",") if one]
    if len(ids) > _MOST_RECORDS:
        raise Answered(
            400, "EXCEEDED_ID_LIMIT", f"record limit reached. cannot submit more than {_MOST_RECORDS} records"
        )

    def bin_it(record: dict[str, Any]) -> str:
        row = this_org().row(record["id"])
        if row is None:
            raise Refused("INVALID_CROSS_REFERENCE_KEY", "invalid cross reference id")
        this_org().delete(_named(row["Id"]), record["id"], g.user)
        return str(record["id"])

    return _collection(ids, bin_it, all_or_none=request.args.get("allOrNone", "false") == "true")


@pages.post("/v<version>/composite/sobjects/<name>")
def retrieve_many(version: str, name: str) -> Response:
    kind, asked = _kind(name), _json(dict)
    ids, fields = asked.get("ids"), asked.get("fields")
    if not isinstance(ids, list) or not isinstance(fields, list):
        raise Answered(400, "JSON_PARSER_ERROR", "ids and fields are required")
    if len(ids) > _MOST_IDS:
        raise Answered(
            400, "EXCEEDED_ID_LIMIT", f"record limit reached. cannot submit more than {_MOST_IDS} records"
        )
    answer = []
    for record_id in ids:
        row = this_org().row(str(record_id))
        is_there = row is not None and not row.get("IsDeleted") and row["Id"].startswith(kind.prefix)
        answer.append(_whole(row or {}, kind, version, fields) if is_there else None)
    return jsonify(answer)


def _json(kind: type) -> Any:
    body = request.get_json(silent=True)
    if not isinstance(body, kind):
        raise Answered(400, "JSON_PARSER_ERROR", "The content is not what was expected")
    return body


def _records() -> list[dict[str, Any]]:
    body = _json(dict)
    if unknown := set(body) - {"allOrNone", "records"}:
        raise Answered(400, "JSON_PARSER_ERROR", f"Unrecognized field {unknown.pop()!r}")
    records = body.get("records")
    if not isinstance(records, list) or not records or not all(isinstance(one, dict) for one in records):
        raise Answered(400, "JSON_PARSER_ERROR", "records are required")
    if len(records) > _MOST_RECORDS:
        raise Answered(
            400,
            "EXCEEDED_ID_LIMIT",
            f"record limit reached. cannot submit more than {_MOST_RECORDS} records in this request",
        )
    types = [_type_of(one) for one in records]
    if 1 + sum(before != after for before, after in itertools.pairwise(types)) > _MOST_CHUNKS:
        raise Answered(
            400, "LIMIT_EXCEEDED", f"cannot have more than {_MOST_CHUNKS} chunks in a single operation"
        )
    return records


def _type_of(record: dict[str, Any]) -> str:
    attributes = record.get("attributes")
    name = attributes.get("type") if isinstance(attributes, dict) else None
    if not isinstance(name, str):
        raise Answered(400, "INVALID_INPUT", "attributes.type is required")
    return name


def _collection(records: list[dict[str, Any]], do: Any, *, all_or_none: bool | None = None) -> Response:
    """200 whatever became of the items; all or none where that was asked for."""
    strict = (
        bool((request.get_json(silent=True) or {}).get("allOrNone")) if all_or_none is None else all_or_none
    )
    answers: list[dict[str, Any]] = []
    with this_org().lock:
        before = (
            {name: {key: dict(row) for key, row in rows.items()} for name, rows in this_org().rows.items()}
            if strict
            else {}
        )
        for number, record in enumerate(records):
            try:
                _faults().refuse_item(number)
                answers.append({"id": do(record), "success": True, "errors": []})
            except Refused as refused:
                error = {"statusCode": refused.code, "message": str(refused), "fields": refused.fields}
                answers.append({"success": False, "errors": [error]})
        if strict and not all(answer["success"] for answer in answers):
            this_org().rows = before
            rolled_back = {
                "statusCode": "ALL_OR_NONE_OPERATION_ROLLED_BACK",
                "message": "Record rolled back because not all records were valid and the request was "
                "using AllOrNone header",
                "fields": [],
            }
            answers = [
                {"success": False, "errors": [rolled_back]} if answer["success"] else answer
                for answer in answers
            ]
    return jsonify(answers)


@pages.post("/v<version>/composite")
def composite(version: str) -> Response:
    """Each part as a call of its own over the same session, references filled in."""
    asked = _json(dict)
    parts = asked.get("compositeRequest")
    if not isinstance(parts, list) or not parts:
        raise Answered(400, "JSON_PARSER_ERROR", "compositeRequest is required")
    heavy = [
        part
        for part in parts
        if "/query" in part.get("url", "") or "composite/sobjects" in part.get("url", "")
    ]
    if len(parts) > _MOST_SUBREQUESTS or len(heavy) > _MOST_HEAVY_SUBREQUESTS:
        raise Answered(400, "LIMIT_EXCEEDED", "too many subrequests")
    bodies: dict[str, Any] = {}
    answers = []
    client = current_app.test_client()
    with this_org().lock:
        before = {
            name: {key: dict(row) for key, row in rows.items()} for name, rows in this_org().rows.items()
        }
        used = current_app.extensions["usage"]["used"]
        for part in parts:
            reference = part.get("referenceId")
            if not reference:
                raise Answered(400, "JSON_PARSER_ERROR", "referenceId is required")
            response = client.open(
                _filled(part["url"], bodies), method=part["method"], json=_filled(part.get("body"), bodies),
                headers={"Authorization": request.headers["Authorization"]}, base_url=request.host_url,
            )  # fmt: skip
            bodies[reference] = response.get_json(silent=True)
            answers.append(
                {
                    "body": bodies[reference],
                    "httpHeaders": {},
                    "httpStatusCode": response.status_code,
                    "referenceId": reference,
                }
            )
        current_app.extensions["usage"]["used"] = used
        if asked.get("allOrNone") and any(answer["httpStatusCode"] >= 400 for answer in answers):
            this_org().rows = before
            for answer in answers:
                if answer["httpStatusCode"] < 400:
                    message = (
                        "The transaction was rolled back since another operation in the same "
                        "transaction failed."
                    )
                    answer |= {
                        "httpStatusCode": 400,
                        "body": [{"errorCode": "PROCESSING_HALTED", "message": message}],
                    }
    return jsonify(compositeResponse=answers)


def _filled(value: Any, bodies: dict[str, Any]) -> Any:
    """`@{ref.id}`, with regard to case."""
    if isinstance(value, dict):
        return {name: _filled(each, bodies) for name, each in value.items()}
    if isinstance(value, list):
        return [_filled(each, bodies) for each in value]
    if isinstance(value, str) and "@{" in value:
        before, _, rest = value.partition("@{")
        path, _, after = rest.partition("}")
        reference, _, name = path.partition(".")
        body = bodies.get(reference)
        if not isinstance(body, dict) or name not in body:
            raise Answered(
                400,
                "PROCESSING_HALTED",
                f"Invalid reference specified. No value for {path} found in {reference}",
            )
        return _filled(f"{before}{body[name]}{after}", bodies)
    return value
