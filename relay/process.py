"""What all sessions of one relay process share."""

from collections.abc import Callable
from dataclasses import dataclass, field

from relay.daily import DailyMails
from relay.limits import FailedSignIns, Pace, Sessions
from relay.logbook import Logbook
from relay.meters import MailSeen
from relay.pool import Pool
from relay.same_mails import SameMails
from relay.snapshot import Snapshot
from relay.under_way import UnderWay


def _count_nothing(seen: MailSeen) -> None:
    """For a relay whose mails are not measured."""


@dataclass
class Relay:
    """The process as its sessions know it. `count` is told of each mail that has ended."""

    hostname: str
    process_id: str
    pool: Pool
    logbook: Logbook
    snapshot: Snapshot
    under_way: UnderWay
    failed_sign_ins: FailedSignIns
    same_mails: SameMails
    count: Callable[[MailSeen], None] = _count_nothing
    sessions: Sessions = field(default_factory=Sessions)
    pace: Pace = field(default_factory=Pace)
    daily: DailyMails = field(default_factory=DailyMails)
