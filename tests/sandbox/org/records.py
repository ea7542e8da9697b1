"""The org's records: what may be written, what follows from it, and what a query gives.

Times are the org's own clock. A change is seen by queries at once, unless late commits are asked for."""

import base64
import itertools
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

from tests.sandbox.org import soql
from tests.sandbox.org.schema import PEOPLE, Field, Kind, SObject, objects

_ID = re.compile(r"[A-Za-z0-9]{15}(?:[A-Za-z0-9]{3})?")
_EMAIL = re.compile(r"[^\s@<>,;]+@[^\s@<>,;]+\.[^\s@<>,;]+")
_DATETIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,3})?(Z|[+-]\d\d:?\d\d)")
_MOST_CONTACTS = 50
_SUFFIX = "ABCDEFGHIJKLMNOPQRSTUVWXYZ012345"
_STATUSES = (("Not Started", False), ("In Progress", False), ("Completed", True), ("Waiting on someone else", False),
             ("Deferred", False))  # fmt: skip

Values = dict[str, Any]


class Refused(Exception):
    """A record is not taken, with Salesforce's code, its sentence and the fields that it names."""

    def __init__(self, code: str, message: str, *fields: str) -> None:
        self.code = code
        self.fields = list(fields)
        super().__init__(message)


@dataclass
class Features:
    """What this org has."""

    enhanced_email: bool = True
    shared_activities: bool = False
    blindcopy_key: bool = False
    refused_files: frozenset[str] = frozenset({"exe", "html"})
    """Ends of names; an organisation takes no such files."""
    file_storage: int = 1 << 40


@dataclass
class Org:
    """All records, by object and id."""

    features: Features = field(default_factory=Features)
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    seen_after: timedelta = timedelta(0)
    """Commits show to queries this much later; their SystemModstamp is that of the write."""

    def __post_init__(self) -> None:
        self.lock = threading.RLock()
        self.objects = objects(
            enhanced_email=self.features.enhanced_email,
            shared_activities=self.features.shared_activities,
            blindcopy_key=self.features.blindcopy_key,
        )
        self.rows: dict[str, dict[str, Values]] = {name: {} for name in self.objects}
        self.shown_at: dict[str, datetime] = {}
        self._numbers = itertools.count(1)
        for number, (name, is_closed) in enumerate(_STATUSES, 1):
            self.put("TaskStatus", ApiName=name, MasterLabel=name, IsClosed=is_closed, IsDefault=number == 1,
                     SortOrder=number)  # fmt: skip

    # -- without the rules of the API: for whoever sets the scene

    def put(self, sobject: str, **values: Any) -> str:
        """A record as it is, whatever the API would say to it; its id."""
        with self.lock:
            kind = self.objects[sobject.lower()]
            record_id = _new_id(kind.prefix, next(self._numbers))
            row = self._defaults(kind) | {"Id": record_id} | values
            self.rows[kind.name.lower()][record_id] = row
            self._derive(kind, row)
            return record_id

    def row(self, record_id: str) -> Values | None:
        """The record of this id, 15 or 18 characters, deleted ones too."""
        for rows in self.rows.values():
            if record_id in rows:
                return rows[record_id]
            for known, row in rows.items():
                if len(record_id) == 15 and known[:15] == record_id:
                    return row
        return None

    # -- with them

    def create(self, sobject: str, values: Values, user: str) -> str:
        """A new record's id. Raises Refused, soql.SoqlError."""
        with self.lock:
            kind = self._kind(sobject)
            if not kind.creatable:
                raise Refused(
                    "CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY", f"entity type cannot be inserted: {kind.name}"
                )
            taken = self._taken(kind, values, creating=True)
            missing = [
                one.name for one in kind.fields.values() if one.required and taken.get(one.name) in {None, ""}
            ]
            if missing:
                raise Refused("REQUIRED_FIELD_MISSING", f"Required fields are missing: {missing}", *missing)
            row = (
                self._defaults(kind)
                | {"OwnerId": user, "CreatedById": user, "LastModifiedById": user}
                | taken
            )
            row = {name: value for name, value in row.items() if kind.field(name) is not None}
            self.check(kind, row, None)
            row["Id"] = _new_id(kind.prefix, next(self._numbers))
            self._derive(kind, row)
            self.rows[kind.name.lower()][row["Id"]] = row
            self.shown_at[row["Id"]] = self.clock() + self.seen_after
            self._follow_up(kind, row, user)
            return str(row["Id"])

    def update(self, sobject: str, record_id: str, values: Values, user: str) -> None:
        """Raises Refused."""
        with self.lock:
            kind = self._kind(sobject)
            row = self._existing(kind, record_id)
            taken = self._taken(kind, values, creating=False)
            if kind.name == "EmailMessage" and not row.get("IsClientManaged") and "RelatedToId" in taken:
                raise Refused(
                    "INSUFFICIENT_ACCESS_OR_READONLY", "you cannot edit a sent email", "RelatedToId"
                )
            changed = row | taken
            self.check(kind, changed, row)
            now = self.clock()
            row |= taken | {"LastModifiedDate": now, "LastModifiedById": user, "SystemModstamp": now}
            self._derive(kind, row)

    def delete(self, sobject: str, record_id: str, user: str) -> None:
        """Into the bin. Raises Refused."""
        with self.lock:
            kind = self._kind(sobject)
            row = self._existing(kind, record_id)
            if not kind.deletable:
                raise Refused("INSUFFICIENT_ACCESS_OR_READONLY", "insufficient access rights on object id")
            now = self.clock()
            row |= {
                "IsDeleted": True,
                "LastModifiedDate": now,
                "LastModifiedById": user,
                "SystemModstamp": now,
            }

    def query(self, text: str, *, everything: bool) -> tuple[soql.Query, list[Values]]:
        """The rows of a query; `everything`: deleted and archived ones too. Raises soql.SoqlError."""
        with self.lock:
            query = soql.read(text, soql.Schema(self.objects), self.value)
            now = self.clock()
            found = [
                row
                for record_id, row in self.rows[query.sobject.lower()].items()
                if (everything or not (row.get("IsDeleted") or row.get("IsArchived")))
                and self.shown_at.get(record_id, now) <= now
                and query.where(row)
            ]
            for path, is_backwards in reversed(query.order):
                found.sort(key=lambda row, path=path: _sortable(self.value(row, path)), reverse=is_backwards)
            end = None if query.limit is None else query.offset + query.limit
            return query, [dict(row) for row in found[query.offset : end]]

    def value(self, row: Mapping[str, Any], path: str) -> Any:
        """What a path such as `Opportunity.Name` leads to from a row; None where it breaks off."""
        current: Mapping[str, Any] | None = row
        *steps, last = path.split(".")
        for step in steps:
            kind = self._kind_of(current)
            through = next(
                one for one in kind.fields.values() if (one.relationship or "").lower() == step.lower()
            )
            current = (
                self.row(str(current.get(through.name))) if current and current.get(through.name) else None
            )
            if current is None:
                return None
        if last.lower() == "type" and steps:
            return self._kind_of(current).name
        named = self._kind_of(current).field(last)
        return current.get(named.name) if named is not None and current is not None else None

    def _kind(self, name: str) -> SObject:
        found = self.objects.get(name.lower())
        if found is None:
            raise Refused("NOT_FOUND", "The requested resource does not exist")
        return found

    def _kind_of(self, row: Mapping[str, Any] | None) -> SObject:
        prefix = str((row or {}).get("Id"))[:3]
        return next(one for one in self.objects.values() if one.prefix == prefix)

    def _existing(self, kind: SObject, record_id: str) -> Values:
        if not _ID.fullmatch(record_id):
            raise Refused("MALFORMED_ID", f"malformed id {record_id}", "Id")
        row = self.row(record_id)
        if row is None or not str(row["Id"]).startswith(kind.prefix):
            raise Refused("NOT_FOUND", "The requested resource does not exist")
        if row.get("IsDeleted"):
            raise Refused("ENTITY_IS_DELETED", "entity is deleted")
        return row

    def _defaults(self, kind: SObject) -> Values:
        now = self.clock()
        row = {one.name: one.default for one in kind.fields.values()}
        return row | {"CreatedDate": now, "LastModifiedDate": now, "SystemModstamp": now, "IsDeleted": False}

    def _taken(self, kind: SObject, values: Values, *, creating: bool) -> Values:
        taken = {}
        for name, value in values.items():
            if name == "attributes":
                continue
            found = kind.field(name)
            if found is None:
                raise Refused("INVALID_FIELD", f"No such column '{name}' on sobject of type {kind.name}")
            if not (found.creatable if creating else found.updatable):
                raise Refused(
                    "INVALID_FIELD_FOR_INSERT_UPDATE",
                    f"Unable to create/update fields: {found.name}. Please check the security settings of "
                    f"this field",
                    found.name,
                )
            taken[found.name] = self.converted(found, value)
        return taken

    def converted(self, one: Field, value: Any) -> Any:
        if value is None:
            return None
        expected = {Kind.BOOLEAN: bool, Kind.INT: int, Kind.ID_LIST: list}.get(one.kind, str)
        if not isinstance(value, expected) or (expected is int and isinstance(value, bool)):
            raise Refused(
                "JSON_PARSER_ERROR",
                f"Cannot deserialize instance of {one.kind.value} from {value!r}",
                one.name,
            )
        if one.kind is Kind.BASE64:
            try:
                base64.b64decode(value, validate=True)
            except ValueError as error:
                raise Refused("JSON_PARSER_ERROR", "not base64", one.name) from error
        if one.kind is Kind.DATE:
            return _date(one, value)
        if one.kind is Kind.DATETIME:
            return _datetime(one, value)
        if one.kind is Kind.REFERENCE:
            return self.referred(one, value)
        if one.kind is Kind.ID_LIST:
            return [self.referred(one, each) for each in value]
        if isinstance(value, str):
            if len(value) > one.length:
                raise Refused(
                    "STRING_TOO_LONG",
                    f"{one.name}: data value too large: (max length={one.length})",
                    one.name,
                )
            if one.kind is Kind.EMAIL and value and not _EMAIL.fullmatch(value):
                raise Refused(
                    "INVALID_EMAIL_ADDRESS", f"{one.name}: invalid email address: {value}", one.name
                )
            if one.restricted and value not in one.values:
                raise Refused(
                    "INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST",
                    f"{one.name}: bad value for restricted picklist field: {value}", one.name,
                )  # fmt: skip
        return value

    def referred(self, one: Field, value: Any) -> str:
        if not isinstance(value, str) or not _ID.fullmatch(value):
            raise Refused("MALFORMED_ID", f"{one.name}: id value of incorrect type: {value}", one.name)
        row = self.row(value)
        if row is None:
            raise Refused("INVALID_CROSS_REFERENCE_KEY", "invalid cross reference id", one.name)
        kind = self._kind_of(row)
        if kind.name not in one.refers_to:
            raise Refused(
                "FIELD_INTEGRITY_EXCEPTION", f"{one.name}: id value of incorrect type: {value}", one.name
            )
        if row.get("IsDeleted"):
            raise Refused("ENTITY_IS_DELETED", "entity is deleted", one.name)
        if kind.name == "Lead" and row.get("IsConverted"):
            raise Refused("CANNOT_UPDATE_CONVERTED_LEAD", "cannot reference converted lead", one.name)
        if kind.name == "User" and not row.get("IsActive"):
            raise Refused("INACTIVE_OWNER_OR_USER", "operation performed with inactive user", one.name)
        return str(row["Id"])

    def check(self, kind: SObject, row: Values, before: Values | None) -> None:
        """What concerns several fields, or several records."""
        for one in kind.fields.values():
            if one.is_unique and row.get(one.name) is not None:
                self._refuse_duplicate(kind, one, row)
        if kind.name == "Task":
            self._check_task(row, before)
        if kind.name == "ContentVersion" and before is None:
            self._check_file(row)
        if kind.name == "ContentDocumentLink" and before is None:
            for other in self.rows["contentdocumentlink"].values():
                if (other["ContentDocumentId"], other["LinkedEntityId"]) == (
                    row["ContentDocumentId"],
                    row["LinkedEntityId"],
                ):
                    raise Refused(
                        "DUPLICATE_VALUE", f"{row['ContentDocumentId']} is already linked with the entity"
                    )
        if kind.name == "EmailMessage" and row.get("ContentDocumentIds") and not row.get("IsClientManaged"):
            raise Refused("INSUFFICIENT_ACCESS_OR_READONLY", "only on a draft", "ContentDocumentIds")
        if kind.name == "EmailMessage" and before is None:
            if row.get("Status") != "3":
                raise Refused(
                    "FIELD_INTEGRITY_EXCEPTION",
                    "Status: only Sent is valid for an email without a case",
                    "Status",
                )
            if row.get("Incoming"):
                raise Refused(
                    "FIELD_INTEGRITY_EXCEPTION", "Incoming: not for an email without a case", "Incoming"
                )

    def _check_file(self, row: Values) -> None:
        end = str(row.get("PathOnClient")).rpartition(".")[2].lower()
        if end in self.features.refused_files:
            code = "HTML_FILE_UPLOAD_NOT_ALLOWED" if end == "html" else "FILE_EXTENSION_NOT_ALLOWED"
            raise Refused(code, "Your company doesn't support the following file types")
        used = sum(one["ContentSize"] for one in self.rows["contentversion"].values())
        if used + len(base64.b64decode(row["VersionData"])) > self.features.file_storage:
            raise Refused("STORAGE_LIMIT_EXCEEDED", "storage limit exceeded")

    def _refuse_duplicate(self, kind: SObject, one: Field, row: Values) -> None:
        for other in self.rows[kind.name.lower()].values():
            same = str(other.get(one.name) or "").casefold() == str(row[one.name]).casefold()
            if same and other["Id"] != row.get("Id") and not other.get("IsDeleted"):
                raise Refused(
                    "DUPLICATE_VALUE",
                    f"duplicate value found: {one.name} duplicates value on record with id: "
                    f"{other['Id'][:15]}",
                )

    def _check_task(self, row: Values, before: Values | None) -> None:
        who_ids = row.get("TaskWhoIds") or []
        who = {str(each)[:3] for each in [row.get("WhoId"), *who_ids] if each}
        if "00Q" in who and row.get("WhatId"):
            raise Refused(
                "FIELD_INTEGRITY_EXCEPTION", "WhatId: cannot be set together with a lead in WhoId", "WhatId"
            )
        if "00Q" in who and (len(who) > 1 or len(who_ids) > 1):
            raise Refused(
                "FIELD_INTEGRITY_EXCEPTION", "a task relates to one lead or to contacts", "TaskWhoIds"
            )
        if len(who_ids) > _MOST_CONTACTS:
            raise Refused("FIELD_INTEGRITY_EXCEPTION", "a task relates to 50 contacts at most", "TaskWhoIds")
        if before is None and row.get("IsRecurrence"):
            raise Refused(
                "REQUIRED_FIELD_MISSING", "Required fields are missing: [RecurrenceType]", "RecurrenceType"
            )
        if before is None and row.get("TaskSubtype") == "Cadence":
            raise Refused("FIELD_INTEGRITY_EXCEPTION", "TaskSubtype: Cadence cannot be set", "TaskSubtype")
        if before is not None and before.get("IsRecurrence") and before.get("Status") != row.get("Status"):
            raise Refused(
                "INVALID_FIELD_FOR_INSERT_UPDATE", "Status of a recurring series cannot be set", "Status"
            )

    def _derive(self, kind: SObject, row: Values) -> None:
        if kind.name in PEOPLE and not row.get("Name"):
            row["Name"] = " ".join(filter(None, [row.get("FirstName"), row.get("LastName")]))
        if kind.name != "Task":
            return
        closed = {each["ApiName"] for each in self.rows["taskstatus"].values() if each["IsClosed"]}
        was_closed, row["IsClosed"] = row.get("IsClosed"), row.get("Status") in closed
        row["IsHighPriority"] = row.get("Priority") == "High"
        if row["IsClosed"] and not (was_closed and row.get("CompletedDateTime")):
            row["CompletedDateTime"] = self.clock()
        if not row["IsClosed"]:
            row["CompletedDateTime"] = None
        row["AccountId"] = self._account_of(row)
        if "TaskWhoIds" in kind.fields or kind.field("TaskWhoIds"):
            who_ids = row.get("TaskWhoIds") or []
            row["WhoId"] = row.get("WhoId") or next(iter(who_ids), None)
            row["WhoCount"] = len({row["WhoId"], *who_ids} - {None})
            row["WhatCount"] = int(row.get("WhatId") is not None)

    def _account_of(self, row: Values) -> str | None:
        what = self.row(str(row.get("WhatId"))) if row.get("WhatId") else None
        if what is not None:
            return str(what["Id"]) if str(what["Id"]).startswith("001") else what.get("AccountId")
        who = self.row(str(row.get("WhoId"))) if row.get("WhoId") else None
        return who.get("AccountId") if who is not None else None

    def _follow_up(self, kind: SObject, row: Values, user: str) -> None:
        """An e-mail message makes its own closed task, and a relation for each id (object page, "Usage")."""
        if kind.name == "EmailMessageRelation":
            row["RelationObjectType"] = (
                self._kind_of(self.row(str(row["RelationId"]))).name if row.get("RelationId") else None
            )
        if kind.name == "ContentVersion":
            row["ContentSize"] = len(base64.b64decode(row["VersionData"]))
            row["ContentDocumentId"] = self.put(
                "ContentDocument", Title=row["Title"], ContentSize=row["ContentSize"], OwnerId=user
            )
            self.put(
                "ContentDocumentLink",
                ContentDocumentId=row["ContentDocumentId"],
                LinkedEntityId=user,
                ShareType="I",
            )
        if kind.name != "EmailMessage":
            return
        for document in row.get("ContentDocumentIds") or ():
            self.put(
                "ContentDocumentLink", ContentDocumentId=document, LinkedEntityId=row["Id"], ShareType="V"
            )
            row["HasAttachment"] = True
        people = [
            each
            for name in ("ToIds", "CcIds", "BccIds")
            for each in row.get(name) or []
            if not each.startswith("005")
        ]
        contacts = [each for each in people if each.startswith("003")]
        row["ActivityId"] = self.put(
            "Task", Subject=(row.get("Subject") or "")[:255], Status="Completed", TaskSubtype="Email", Type="Email",
            OwnerId=user, CreatedById=user, LastModifiedById=user, WhatId=row.get("RelatedToId"),
            WhoId=next(iter(contacts or people), None), ActivityDate=(row.get("MessageDate") or self.clock()).date(),
        )  # fmt: skip
        for name, relation in (("ToIds", "ToAddress"), ("CcIds", "CcAddress"), ("BccIds", "BccAddress")):
            for each in row.get(name) or []:
                self.put("EmailMessageRelation", EmailMessageId=row["Id"], RelationId=each, RelationType=relation,
                         RelationObjectType=self._kind_of(self.row(each)).name)  # fmt: skip


def external(value: Any) -> Any:
    """A value as the REST API writes it."""
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%S}.{value.microsecond // 1000:03d}+0000"
    if isinstance(value, date):
        return value.isoformat()
    return value


def _date(one: Field, value: str) -> date:
    try:
        if not re.fullmatch(r"\d{4}-\d\d-\d\d", value):
            raise ValueError(value)
        return date.fromisoformat(value)
    except ValueError as error:
        raise Refused(
            "JSON_PARSER_ERROR",
            f"Cannot deserialize instance of date from VALUE_STRING value {value}",
            one.name,
        ) from error


def _datetime(one: Field, value: str) -> datetime:
    try:
        if not _DATETIME.fullmatch(value):
            raise ValueError(value)
        return datetime.fromisoformat(value).astimezone(UTC)
    except ValueError as error:
        raise Refused(
            "JSON_PARSER_ERROR",
            f"Cannot deserialize instance of datetime from VALUE_STRING value {value}",
            one.name,
        ) from error


def _sortable(value: Any) -> tuple[bool, Any]:
    return (
        value is not None,
        value.casefold() if isinstance(value, str) else value if value is not None else 0,
    )


def _new_id(prefix: str, number: int) -> str:
    """Fifteen characters, and three that carry their upper case (object reference, "ID Field Type")."""
    digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    body = ""
    while number:
        number, digit = divmod(number, 62)
        body = digits[digit] + body
    fifteen = f"{prefix}5g000{body:0>7}"
    suffix = "".join(
        _SUFFIX[
            sum(
                1 << index
                for index, character in enumerate(fifteen[start : start + 5])
                if character.isupper()
            )
        ]
        for start in (0, 5, 10)
    )
    return fifteen + suffix
