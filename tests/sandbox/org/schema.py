"""The objects of the pretend org and their fields, as `describe` gives them."""

from dataclasses import dataclass, field
from enum import Enum


class Kind(Enum):
    ID = "id"
    STRING = "string"
    TEXTAREA = "textarea"
    EMAIL = "email"
    PICKLIST = "picklist"
    BOOLEAN = "boolean"
    DATE = "date"
    DATETIME = "datetime"
    INT = "int"
    REFERENCE = "reference"
    ID_LIST = "junctionidlist"
    BASE64 = "base64"


@dataclass(frozen=True)
class Field:
    """One field: `refers_to` are the objects a reference may name; a `restricted` picklist takes its values
    only."""

    name: str
    kind: Kind = Kind.STRING
    length: int = 255
    creatable: bool = True
    updatable: bool = True
    filterable: bool = True
    required: bool = False
    default: object = None
    values: tuple[str, ...] = ()
    restricted: bool = False
    refers_to: tuple[str, ...] = ()
    relationship: str | None = None
    is_external_id: bool = False
    is_unique: bool = False


@dataclass
class SObject:
    """One object; `prefix` begins its ids."""

    name: str
    prefix: str
    fields: dict[str, Field] = field(default_factory=dict)
    creatable: bool = True
    updatable: bool = True
    deletable: bool = True

    def field(self, name: str) -> Field | None:
        """Names are compared without regard to case, as SOQL does."""
        return self.fields.get(name.lower())


def _read_only(name, kind=Kind.STRING, **more):
    return Field(name, kind, creatable=False, updatable=False, **more)


def _reference(name, *refers_to, relationship=None, **more):
    return Field(
        name, Kind.REFERENCE, 18, refers_to=refers_to,
        relationship=relationship or (name.removesuffix("Id") if name.endswith("Id") else None), **more,
    )  # fmt: skip


def _system():
    return [
        _read_only("Id", Kind.ID, length=18),
        _read_only("IsDeleted", Kind.BOOLEAN, default=False),
        _read_only("CreatedDate", Kind.DATETIME),
        _read_only("CreatedById", Kind.REFERENCE, refers_to=("User",), relationship="CreatedBy"),
        _read_only("LastModifiedDate", Kind.DATETIME),
        _read_only("LastModifiedById", Kind.REFERENCE, refers_to=("User",), relationship="LastModifiedBy"),
        _read_only("SystemModstamp", Kind.DATETIME),
    ]


def _object(name, prefix, *fields, **more):
    return SObject(name, prefix, {one.name.lower(): one for one in (*_system(), *fields)}, **more)


def _owner():
    return _reference("OwnerId", "User", relationship="Owner")


PEOPLE = ("Contact", "Lead")
THINGS = ("Account", "Opportunity")
TASK_STATUSES = ("Not Started", "In Progress", "Completed", "Waiting on someone else", "Deferred")
PRIORITIES = ("High", "Normal", "Low")
TASK_SUBTYPES = ("Task", "Email", "List Email", "Call", "Cadence", "LinkedIn", "Note")


def objects(*, enhanced_email=True, shared_activities=False, blindcopy_key=False) -> dict[str, SObject]:
    """Every object of an org with these features, by its name in lower case."""
    key = [Field("Blindcopy_Key__c", length=64, is_external_id=True, is_unique=True)] if blindcopy_key else []
    shared = (
        [
            Field("TaskWhoIds", Kind.ID_LIST, refers_to=PEOPLE, filterable=False),
            _read_only("WhoCount", Kind.INT, default=0),
            _read_only("WhatCount", Kind.INT, default=0),
        ]
        if shared_activities
        else []
    )
    made = [
        _object(
            "User", "005", Field("Username", length=80), Field("Name", length=121), Field("Email", Kind.EMAIL, 128),
            Field("IsActive", Kind.BOOLEAN, default=True), Field("TimeZoneSidKey", Kind.PICKLIST, 40),
            creatable=False, deletable=False,
        ),
        _object(
            "Account", "001", Field("Name", required=True), _owner(),
            _read_only("MasterRecordId", Kind.REFERENCE, refers_to=("Account",)),
            _read_only("LastActivityDate", Kind.DATE),
        ),
        _object(
            "Contact", "003", Field("FirstName", length=40), Field("LastName", length=80, required=True),
            _read_only("Name", length=121), Field("Email", Kind.EMAIL, 80), _reference("AccountId", "Account"), _owner(),
            _read_only("MasterRecordId", Kind.REFERENCE, refers_to=("Contact",)),
            _read_only("LastActivityDate", Kind.DATE),
        ),
        _object(
            "Lead", "00Q", Field("FirstName", length=40), Field("LastName", length=80, required=True),
            _read_only("Name", length=121), Field("Company", required=True), Field("Email", Kind.EMAIL, 80),
            Field("Status", Kind.PICKLIST, 40, default="Open"), _owner(),
            _read_only("IsConverted", Kind.BOOLEAN, default=False),
            _read_only("ConvertedContactId", Kind.REFERENCE, refers_to=("Contact",)),
            _read_only("ConvertedAccountId", Kind.REFERENCE, refers_to=("Account",)),
            _read_only("ConvertedOpportunityId", Kind.REFERENCE, refers_to=("Opportunity",)),
            _read_only("MasterRecordId", Kind.REFERENCE, refers_to=("Lead",)),
            _read_only("LastActivityDate", Kind.DATE),
        ),
        _object(
            "Opportunity", "006", Field("Name", length=120, required=True), _reference("AccountId", "Account"),
            Field("StageName", Kind.PICKLIST, required=True), Field("CloseDate", Kind.DATE, required=True), _owner(),
            _read_only("IsClosed", Kind.BOOLEAN, default=False), _read_only("IsWon", Kind.BOOLEAN, default=False),
            _read_only("LastActivityDate", Kind.DATE),
        ),
        _object(
            "OpportunityContactRole", "00K", _reference("OpportunityId", "Opportunity", updatable=False, required=True),
            _reference("ContactId", "Contact", required=True), Field("Role", Kind.PICKLIST),
            Field("IsPrimary", Kind.BOOLEAN, default=False),
        ),
        _object(
            "Task", "00T", Field("Subject"), Field("Description", Kind.TEXTAREA, 32_000, filterable=False),
            _reference("WhoId", *PEOPLE, relationship="Who"), _reference("WhatId", *THINGS, relationship="What"),
            _read_only("AccountId", Kind.REFERENCE, refers_to=("Account",)), _owner(),
            Field("ActivityDate", Kind.DATE),
            Field("Status", Kind.PICKLIST, 255, default="Not Started", values=TASK_STATUSES, restricted=True),
            Field("Priority", Kind.PICKLIST, 255, default="Normal", values=PRIORITIES, restricted=True),
            _read_only("IsClosed", Kind.BOOLEAN, default=False), _read_only("IsHighPriority", Kind.BOOLEAN, default=False),
            _read_only("CompletedDateTime", Kind.DATETIME), Field("Type", Kind.PICKLIST, values=("Call", "Meeting", "Email", "Other")),
            Field("TaskSubtype", Kind.PICKLIST, 40, updatable=False, default="Task", values=TASK_SUBTYPES, restricted=True),
            Field("IsReminderSet", Kind.BOOLEAN, default=False), Field("ReminderDateTime", Kind.DATETIME),
            Field("IsRecurrence", Kind.BOOLEAN, updatable=False, default=False),
            _read_only("RecurrenceActivityId", Kind.REFERENCE, refers_to=("Task",)),
            _read_only("IsArchived", Kind.BOOLEAN, default=False), *key, *shared,
        ),
        _object(
            "TaskStatus", "01T", _read_only("ApiName"), _read_only("MasterLabel"),
            _read_only("IsClosed", Kind.BOOLEAN), _read_only("IsDefault", Kind.BOOLEAN), _read_only("SortOrder", Kind.INT),
            creatable=False, updatable=False, deletable=False,
        ),
        _object(
            "EmailServicesFunction", "091", _read_only("FunctionName", length=64), _read_only("IsActive", Kind.BOOLEAN),
            creatable=False, updatable=False, deletable=False,
        ),
        _object(
            "EmailServicesAddress", "093", _read_only("LocalPart", length=64), _read_only("EmailDomainName"),
            _read_only("AuthorizedSenders", Kind.TEXTAREA, length=4000),
            _read_only("RunAsUserId", Kind.REFERENCE, refers_to=("User",)),
            _read_only("FunctionId", Kind.REFERENCE, refers_to=("EmailServicesFunction",), relationship="Function"),
            _read_only("IsActive", Kind.BOOLEAN), _read_only("DeveloperName", length=80),
            creatable=False, updatable=False, deletable=False,
        ),
    ]  # fmt: skip
    made += _files()
    if enhanced_email:
        made += [_email_message(key), _email_message_relation()]
    return {one.name.lower(): one for one in made}


def _email_message(key):
    def frozen(name, kind=Kind.STRING, length=255, **more):
        return Field(name, kind, length, updatable=False, **more)

    return _object(
        "EmailMessage", "02s", frozen("Status", Kind.PICKLIST, 40, values=("0", "1", "2", "3", "4", "5"), restricted=True,
                                      default="0"),
        frozen("Incoming", Kind.BOOLEAN, default=False), frozen("MessageDate", Kind.DATETIME), frozen("Subject", length=3000),
        frozen("TextBody", Kind.TEXTAREA, 32_000, filterable=False), frozen("HtmlBody", Kind.TEXTAREA, 32_000, filterable=False),
        frozen("Headers", Kind.TEXTAREA, 32_000, filterable=False), frozen("FromAddress", Kind.EMAIL, 1000),
        frozen("FromName", length=1000), frozen("ToAddress", length=4000), frozen("CcAddress", length=4000),
        frozen("BccAddress", length=4000),
        frozen("ToIds", Kind.ID_LIST, refers_to=(*PEOPLE, "User"), filterable=False),
        frozen("CcIds", Kind.ID_LIST, refers_to=(*PEOPLE, "User"), filterable=False),
        frozen("BccIds", Kind.ID_LIST, refers_to=(*PEOPLE, "User"), filterable=False),
        Field("RelatedToId", Kind.REFERENCE, 18, refers_to=THINGS, relationship="RelatedTo"),
        _read_only("ActivityId", Kind.REFERENCE, refers_to=("Task",), relationship="Activity"),
        frozen("MessageIdentifier"), frozen("ThreadIdentifier"), frozen("IsClientManaged", Kind.BOOLEAN, default=False),
        Field("IsExternallyVisible", Kind.BOOLEAN, default=False), frozen("HasAttachment", Kind.BOOLEAN, default=False),
        frozen("ContentDocumentIds", Kind.ID_LIST, refers_to=("ContentDocument",), filterable=False), *key,
    )  # fmt: skip


def _files():
    return [
        _object("ContentDocument", "069", _read_only("Title"), _read_only("ContentSize", Kind.INT), _owner(),
                creatable=False),
        _object(
            "ContentVersion", "068", Field("Title", required=True), Field("PathOnClient", length=500, required=True),
            Field("VersionData", Kind.BASE64, 52_428_800, required=True, filterable=False),
            _reference("ContentDocumentId", "ContentDocument", updatable=False),
            _read_only("ContentSize", Kind.INT), _read_only("IsLatest", Kind.BOOLEAN, default=True), _owner(),
            updatable=False, deletable=False,
        ),
        _object(
            "ContentDocumentLink", "06A", _reference("ContentDocumentId", "ContentDocument", updatable=False, required=True),
            _reference("LinkedEntityId", "Task", "User", *PEOPLE, *THINGS, updatable=False, required=True),
            Field("ShareType", Kind.PICKLIST, 40, values=("V", "C", "I"), restricted=True),
        ),
    ]  # fmt: skip


def _email_message_relation():
    return _object(
        "EmailMessageRelation", "0CZ",
        _reference("EmailMessageId", "EmailMessage", updatable=False, required=True),
        _reference("RelationId", *PEOPLE, "User", updatable=False),
        Field("RelationType", Kind.PICKLIST, 40, updatable=False, required=True, restricted=True,
              values=("ToAddress", "CcAddress", "BccAddress", "FromAddress", "OtherAddress")),
        Field("RelationAddress", length=1000, updatable=False), _read_only("RelationObjectType", Kind.PICKLIST),
        updatable=False,
    )  # fmt: skip
