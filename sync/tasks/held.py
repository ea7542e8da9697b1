"""One person's task sync, held by this worker for one cycle, with the Salesforce that it is with."""

import threading
from dataclasses import dataclass
from datetime import datetime, timedelta

from core.database.engine import Session
from core.salesforce.client import Client
from core.settings.in_force import PolicySettings
from core.tasks import links as task_links
from core.tasks import queue as task_queue
from core.tasks.queue import TaskSync
from core.tasks.task import Choices, TextLimits
from sync.session import Remembered, SalesforceSession
from sync.tasks.plan import View


@dataclass
class HeldSync:
    """`row` is what the database knows of the sync. `everything`: every known link is to be verified now."""

    salesforce: SalesforceSession
    row: TaskSync
    policy: PolicySettings
    known_choices: Remembered[Choices]
    choices: Choices
    everything: bool
    stop: threading.Event

    @property
    def client(self) -> Client:
        return self.salesforce.client

    @property
    def organisation_id(self) -> str:
        return self.salesforce.organisation_id

    @property
    def enabled_at(self) -> datetime:
        """When it was switched on and could begin."""
        if self.row.since is None:
            return max(self.row.enabled_at, self.salesforce.connection.connected_at)
        return self.row.enabled_at

    @property
    def bring_in_since(self) -> datetime:
        """A task that is not here comes in if it was changed at that moment or later, by Salesforce's
        clock."""
        since = self.enabled_at + self.salesforce.offset - timedelta(hours=self.policy.first_sync_hours)
        return since.replace(microsecond=0)  # records tell less of their times than we keep of ours

    def limits(self, *, is_by_bytes: bool) -> TextLimits:
        """How much Salesforce holds of a task's texts."""
        return TextLimits(self.choices.limits.subject, self.choices.limits.comments, is_by_bytes=is_by_bytes)

    def view(self, session: Session, ids: list[str]) -> View:
        """By what records of these ids are looked at."""
        return View(
            self.row.person_id,
            self.salesforce.user_id,
            self.bring_in_since,
            self.salesforce.offset,
            task_queue.by_user(session, self.organisation_id),
            task_links.own_logs(session, ids),
            self.choices.limits,
            self.choices.has_key,
        )
