"""The settings: one row for each, with its name, default, kind, label, help and where it stands. Pages,
commands, the table in the documentation and what is noted of a change are built from these rows.

Pure: names and texts in, texts and values out."""

import zoneinfo
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from core.mail.subject import DEFAULT_TEMPLATE, TemplateError, checked_template
from core.people.addresses import checked_bcc_address, checked_domain_pattern, checked_pattern
from core.settings.kinds import Flag, Line, ListOf, Number, OneOf, SettingError, SomeOf, ValueKind
from core.translation import N_


class UnknownSetting(SettingError):
    """There is no setting of this name on this level."""


class Logging(StrEnum):
    """How mail is logged in Salesforce."""

    OFF = "off"
    BCC = "bcc"
    API = "api"
    BCC_WITH_RECEIPT = "bcc+receipt"

    @property
    def copies(self) -> bool:
        """Whether mail is logged by blind copy."""
        return self in {Logging.BCC, Logging.BCC_WITH_RECEIPT}


class TaskSyncMode(StrEnum):
    """Whether tasks are kept the same here and in Salesforce."""

    OFF = "off"
    BOTH_WAYS = "both-ways"


class LogOn(StrEnum):
    """The kinds of record that a mail is logged on."""

    CONTACTS = "contacts"
    LEADS = "leads"
    ACCOUNTS = "accounts"
    OPPORTUNITIES = "opportunities"


class First(StrEnum):
    """Who counts where an address is a contact's and a lead's."""

    CONTACT = "contact"
    LEAD = "lead"


class Duplicates(StrEnum):
    """Which of several contacts, or leads, of one address."""

    OLDEST = "oldest"
    ALL = "all"
    MOST_RECENT_ACTIVITY = "most-recent-activity"


class Opportunity(StrEnum):
    """Which of a contact's open opportunities."""

    ONLY_OPEN = "only-open"
    NONE = "none"
    MOST_RECENT_OPEN = "most-recent-open"
    ALL_OPEN = "all-open"


class NoMatch(StrEnum):
    """What becomes of a mail on which nobody is found."""

    UNMATCHED = "unmatched"
    NOTHING = "nothing"
    TASK = "task"


class Keep(StrEnum):
    """How much of a mail goes to Salesforce."""

    TEXT = "text"
    NEW_TEXT = "new-text"
    SUBJECT = "subject"
    ENVELOPE = "envelope"


class Attachments(StrEnum):
    """What goes to Salesforce of the files that are attached to a mail."""

    NAMES = "names"
    FILES = "files"
    NONE = "none"


class SendAs(StrEnum):
    """From which addresses people who sign in may send."""

    ANYBODY = "anybody"
    OWN_ADDRESSES = "own-addresses"


class RecordType(StrEnum):
    """As what a mail is logged."""

    AUTO = "auto"
    TASK = "task"
    EMAIL_MESSAGE = "email-message"


class Section(StrEnum):
    """Where a setting stands on the pages."""

    MAIL = "mail"
    API = "api"
    TASKS = "tasks"
    LIMITS = "limits"


class Level(StrEnum):
    """Who may choose it: each person (the policy gives the default, and may lock it), or the organisation
    alone."""

    PERSON = "person"
    POLICY = "policy"
    PERSON_ONLY = "person-only"


@dataclass(frozen=True)
class Definition:
    """What is known of a setting. `is_secret`: encrypted in the database, and never noted in words."""

    kind: ValueKind
    default: str
    level: Level
    section: Section
    label: str
    help: str = ""
    is_secret: bool = False


def _template(text: str) -> str:
    try:
        return checked_template(text)
    except TemplateError as error:
        raise SettingError(error.sentence, **error.parts) from error


def _time_zone(text: str) -> str:
    name = text.strip()
    if name not in zoneinfo.available_timezones():
        raise SettingError("“%(text)s” is not a time zone; write an IANA name like Europe/Berlin", text=name)
    return name


class Setting(StrEnum):
    """The names that operators type, in the order in which they are shown."""

    definition: Definition

    def __new__(cls, name: str, definition: Definition) -> Self:
        member = str.__new__(cls, name)
        member._value_ = name
        member.definition = definition
        return member

    LOGGING = (
        "logging",
        Definition(
            OneOf(
                Logging,
                {
                    Logging.OFF: N_("Not at all"),
                    Logging.BCC: N_("By blind copy to the person's Email to Salesforce address"),
                    Logging.BCC_WITH_RECEIPT: N_(
                        "By blind copy, and looked up in Salesforce afterwards (needs a connection)"
                    ),
                    Logging.API: N_("Through the Salesforce API (needs a connection)"),
                },
            ),
            Logging.OFF,
            Level.PERSON,
            Section.MAIL,
            N_("How mail is logged"),
        ),
    )
    BCC_ADDRESS = (
        "bcc-address",
        Definition(
            Line(checked_bcc_address, may_be_empty=True),
            "",
            Level.PERSON_ONLY,
            Section.MAIL,
            N_("Email to Salesforce address"),
            is_secret=True,
        ),
    )
    TASK_SYNC = (
        "task-sync",
        Definition(
            OneOf(
                TaskSyncMode,
                {
                    TaskSyncMode.OFF: N_("Do not sync to Salesforce tasks"),
                    TaskSyncMode.BOTH_WAYS: N_("Sync both ways"),
                },
            ),
            TaskSyncMode.OFF,
            Level.PERSON,
            Section.TASKS,
            N_("Tasks"),
        ),
    )
    LOG_ON = (
        "log-on",
        Definition(
            SomeOf(
                LogOn,
                {
                    LogOn.CONTACTS: N_("Contacts"),
                    LogOn.LEADS: N_("Leads"),
                    LogOn.ACCOUNTS: N_("Accounts"),
                    LogOn.OPPORTUNITIES: N_("Opportunities"),
                },
            ),
            ",".join(LogOn),
            Level.PERSON,
            Section.API,
            N_("Log on"),
        ),
    )
    FIRST = (
        "first",
        Definition(
            OneOf(First, {First.CONTACT: N_("the contact"), First.LEAD: N_("the lead")}),
            First.CONTACT,
            Level.PERSON,
            Section.API,
            N_("If an address is a contact's and a lead's"),
        ),
    )
    DUPLICATES = (
        "duplicates",
        Definition(
            OneOf(
                Duplicates,
                {
                    Duplicates.OLDEST: N_("the oldest"),
                    Duplicates.MOST_RECENT_ACTIVITY: N_("the one with the most recent activity"),
                    Duplicates.ALL: N_("all of them"),
                },
            ),
            Duplicates.OLDEST,
            Level.PERSON,
            Section.API,
            N_("If an address is that of several contacts, or leads"),
        ),
    )
    OPPORTUNITY = (
        "opportunity",
        Definition(
            OneOf(
                Opportunity,
                {
                    Opportunity.ONLY_OPEN: N_("the one, if there is only one"),
                    Opportunity.MOST_RECENT_OPEN: N_("the one that was changed last"),
                    Opportunity.ALL_OPEN: N_("all of them"),
                    Opportunity.NONE: N_("none"),
                },
            ),
            Opportunity.ONLY_OPEN,
            Level.PERSON,
            Section.API,
            N_("Of a contact's open opportunities (by contact role)"),
        ),
    )
    NO_MATCH = (
        "no-match",
        Definition(
            OneOf(
                NoMatch,
                {
                    NoMatch.UNMATCHED: N_(
                        "keep the mail under “Unmatched”, and log it when a person with that address appears"
                    ),
                    NoMatch.TASK: N_("create an open task for me"),
                    NoMatch.NOTHING: N_("do nothing"),
                },
            ),
            NoMatch.UNMATCHED,
            Level.PERSON,
            Section.API,
            N_("If no record is found"),
        ),
    )
    KEEP = (
        "keep",
        Definition(
            OneOf(
                Keep,
                {
                    Keep.TEXT: N_("subject and text"),
                    Keep.NEW_TEXT: N_("subject and what is new in the text"),
                    Keep.SUBJECT: N_("the subject"),
                    Keep.ENVELOPE: N_("only that there was a mail, from whom, to whom and when"),
                },
            ),
            Keep.TEXT,
            Level.PERSON,
            Section.API,
            N_("What goes to Salesforce"),
            N_(
                "What is new: without the mails that it answers, the signature and disclaimers, where these "
                "can be told for certain."
            ),
        ),
    )
    ATTACHMENTS = (
        "attachments",
        Definition(
            OneOf(
                Attachments,
                {
                    Attachments.NAMES: N_("their names and sizes, below the text"),
                    Attachments.FILES: N_("they themselves too, as Files"),
                    Attachments.NONE: N_("nothing"),
                },
            ),
            Attachments.NAMES,
            Level.PERSON,
            Section.API,
            N_("Attachments"),
            N_(
                "Where the text goes to Salesforce. Files take the organisation's file storage; small "
                "pictures "
                "of a signature are no attachments."
            ),
        ),
    )
    BLIND_COPIED = (
        "blind-copied",
        Definition(
            Flag(
                {
                    "no": N_("are not looked up and not logged"),
                    "yes": N_("are logged; everybody who sees the activity sees them"),
                }
            ),
            "no",
            Level.PERSON,
            Section.API,
            N_("Recipients whom you blind-copied yourself"),
        ),
    )
    RECORD = (
        "record",
        Definition(
            OneOf(
                RecordType,
                {
                    RecordType.AUTO: N_(
                        "as an e-mail where the organisation has Enhanced Email, otherwise as a task"
                    ),
                    RecordType.EMAIL_MESSAGE: N_("as an e-mail"),
                    RecordType.TASK: N_("as a completed task"),
                },
            ),
            RecordType.AUTO,
            Level.PERSON,
            Section.API,
            N_("Record type"),
        ),
    )
    SUBJECT_TEMPLATE = (
        "subject-template",
        Definition(
            Line(_template),
            DEFAULT_TEMPLATE,
            Level.PERSON,
            Section.API,
            N_("Subject of tasks"),
            N_(
                "Dynamic fields: {{activity_type}}, {{activity_subject}}. One line, 255 characters; "
                "e-mails keep their own subject."
            ),
        ),
    )
    LOG_BULK = (
        "log-bulk",
        Definition(
            Flag(),
            "no",
            Level.PERSON,
            Section.API,
            N_("Log mail merges and newsletters"),
            N_("Mails with Precedence: bulk, List-Id or List-Unsubscribe; this counts for blind copies too."),
        ),
    )
    TIME_ZONE = (
        "time-zone",
        Definition(
            Line(_time_zone, may_be_empty=True),
            "",
            Level.PERSON,
            Section.MAIL,
            N_("Time zone"),
            N_("For people who choose none, e.g. Europe/Berlin; empty: the server's."),
        ),
    )
    OWN_DOMAINS = (
        "own-domains",
        Definition(
            ListOf(checked_domain_pattern),
            "",
            Level.POLICY,
            Section.MAIL,
            N_("Own domains"),
            N_(
                "Mail whose recipients are all in these domains is internal and is never logged; a "
                "gateway takes mail from them. "
                "Comma-separated; .example.com means it and everything below."
            ),
        ),
    )
    NEVER_LOG = (
        "never-log",
        Definition(
            ListOf(checked_pattern),
            "",
            Level.POLICY,
            Section.MAIL,
            N_("Never log"),
            N_(
                "Addresses and domains that are treated as internal: the lawyer, the works council, the bank."
            ),
        ),
    )
    BLOCKED_DOMAINS = (
        "blocked-domains",
        Definition(
            ListOf(checked_domain_pattern),
            "",
            Level.POLICY,
            Section.MAIL,
            N_("Blocked domains"),
            N_(
                "Nobody may send there: such a recipient is refused, the others are not, and Activity counts "
                "it. Comma-separated; .example.com means it and everything below."
            ),
        ),
    )
    SEND_AS = (
        "send-as",
        Definition(
            OneOf(
                SendAs,
                {
                    SendAs.ANYBODY: N_("any; mail from another's address passes and is not logged"),
                    SendAs.OWN_ADDRESSES: N_("their own acceptable addresses only; other mail is refused"),
                },
            ),
            SendAs.ANYBODY,
            Level.POLICY,
            Section.MAIL,
            N_("Addresses that people who sign in may send from"),
        ),
    )
    CONFIRM_FIRST_SYNC = (
        "confirm-first-sync",
        Definition(
            Flag(),
            "no",
            Level.POLICY,
            Section.TASKS,
            N_("Show what a first sync would do, and wait for the person to confirm it"),
        ),
    )
    SYNC_INTERVAL = (
        "sync-interval",
        Definition(
            Number(5, 86_400),
            "60",
            Level.POLICY,
            Section.TASKS,
            N_("Shortest interval between two looks at Salesforce, in seconds"),
        ),
    )
    FIRST_SYNC_HOURS = (
        "first-sync-hours",
        Definition(
            Number(0, 8_760),
            "24",
            Level.POLICY,
            Section.TASKS,
            N_("The first sync brings in what was changed within this many hours"),
        ),
    )
    API_SHARE = (
        "api-share",
        Definition(
            Number(1, 100),
            "30",
            Level.POLICY,
            Section.TASKS,
            N_("Per cent of the organisation's daily API calls that looking for changes may use"),
        ),
    )
    API_RESERVE = (
        "api-reserve",
        Definition(
            Number(0, 100),
            "10",
            Level.POLICY,
            Section.LIMITS,
            N_("Per cent of the organisation's daily API calls that are never used"),
            N_(
                "Other programs need calls too. When only these are left, all work for the organisation "
                "waits."
            ),
        ),
    )
    RECEIPT_AFTER = (
        "receipt-after",
        Definition(
            Number(0),
            "5",
            Level.POLICY,
            Section.LIMITS,
            N_("Minutes after which a blind copy is first looked for in Salesforce"),
            N_("With “BCC with receipt”; looked for again after three and twelve times as long."),
        ),
    )
    MAILS_PER_MINUTE = (
        "mails-per-minute",
        Definition(
            Number(),
            "60",
            Level.POLICY,
            Section.LIMITS,
            N_("Mails a minute that one person may send"),
            N_(
                "For people who sign in. A minute's worth may be sent at once; above that a mail waits "
                "its turn, up to 45 seconds. "
                "A gateway passes on what its servers send."
            ),
        ),
    )
    MAILS_PER_DAY = (
        "mails-per-day",
        Definition(
            Number(),
            "2000",
            Level.POLICY,
            Section.LIMITS,
            N_("Mails a day that one person may send"),
            N_(
                "For people who sign in. It bounds what a stolen password can do; above it mail is refused, "
                "and Health says so."
            ),
        ),
    )
    ATTACHMENTS_MB = (
        "attachments-mb",
        Definition(
            Number(1, 35),
            "10",
            Level.POLICY,
            Section.LIMITS,
            N_("Megabytes of a mail's attachments that go to Salesforce as files"),
            N_("A file that goes beyond that is only named. Salesforce takes 35 in one call."),
        ),
    )
    ATTACHMENTS_WAITING_MB = (
        "attachments-waiting-mb",
        Definition(
            Number(0, 1_000_000),
            "2000",
            Level.POLICY,
            Section.LIMITS,
            N_("Megabytes of attachments that may wait in the database to be logged"),
            N_("Files of mails that come while there is no room are only named."),
        ),
    )
    SHOW_SUBJECTS = (
        "show-subjects-to-admins",
        Definition(
            Flag(),
            "no",
            Level.POLICY,
            Section.MAIL,
            N_("Admins see the subjects of other people's mails"),
        ),
    )
    SHOW_INTERNAL_RECIPIENTS = (
        "show-internal-recipients",
        Definition(
            Flag(),
            "yes",
            Level.POLICY,
            Section.MAIL,
            N_("Name colleagues in the records"),
            N_(
                "Whoever reads the record sees whom the mail went to. Addresses on the never-log list are "
                "not named."
            ),
        ),
    )
    RETENTION_DAYS = (
        "retention-days",
        Definition(
            Number(1, 36_500),
            "90",
            Level.POLICY,
            Section.LIMITS,
            N_("Days for which a mail stays on the activity page"),
        ),
    )
    UNMATCHED_DAYS = (
        "unmatched-days",
        Definition(
            Number(0, 36_500),
            "30",
            Level.POLICY,
            Section.LIMITS,
            N_("Days for which Salesforce is searched again for an unmatched mail"),
        ),
    )

    @property
    def is_for_persons(self) -> bool:
        """Whether a person may choose it, unless the policy locks it."""
        return self.definition.level is not Level.POLICY

    @property
    def is_for_policy(self) -> bool:
        """Whether the organisation may say something of it."""
        return self.definition.level is not Level.PERSON_ONLY

    @property
    def may_be_locked(self) -> bool:
        """Whether it stands on both levels."""
        return self.definition.level is Level.PERSON

    @property
    def attribute(self) -> str:
        """Its name in forms and in our values."""
        return self.value.replace("-", "_")

    def check(self, text: str) -> str:
        """The text as it is stored. Raises SettingError with a sentence that names what would be right."""
        return self.definition.kind.check(text)


BY_NAME: Mapping[str, Setting] = {one.value: one for one in Setting}


def preference_name(text: str) -> Setting:
    """The setting that persons may choose. Raises UnknownSetting."""
    return _named(text, [setting for setting in Setting if setting.is_for_persons])


def policy_name(text: str) -> Setting:
    """The setting that the organisation may fix. Raises UnknownSetting."""
    return _named(text, [setting for setting in Setting if setting.is_for_policy])


def of_policy(section: Section) -> tuple[Setting, ...]:
    """The settings that an admin finds in this section of the policy."""
    return tuple(one for one in Setting if one.is_for_policy and one.definition.section is section)


def of_persons(section: Section) -> tuple[Setting, ...]:
    """The settings that each person finds in this section."""
    return tuple(one for one in Setting if one.is_for_persons and one.definition.section is section)


def _named(text: str, known: list[Setting]) -> Setting:
    for setting in known:
        if setting.value == text:
            return setting
    raise UnknownSetting(
        "“%(text)s” is not a setting here; there are: %(names)s", text=text, names=", ".join(known)
    )
