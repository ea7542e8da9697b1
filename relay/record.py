"""One mail as its row in the record: what is known of it while it passes through, and what may be kept."""

import os
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from core.mail.reasons import Reason
from core.mail.row import Copy, Decision, Row, State
from core.people.person import Person
from relay.decide import Plan
from relay.message import Message


def new_mail_id() -> str:
    """A UUIDv7 (RFC 9562 sections 5.7 and 6.2, method 3): in the order of time, unique without asking
    anybody."""
    milliseconds, nanoseconds = divmod(time.time_ns(), 1_000_000)
    fraction = (nanoseconds << 12) // 1_000_000
    random = int.from_bytes(os.urandom(8)) >> 2
    text = f"{milliseconds << 80 | 0x7 << 76 | fraction << 64 | 0b10 << 62 | random:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


@dataclass
class MailRecord:
    """`person` None: a mail that is passed on and has no row. `text`: what is kept of it for the worker.

    `identity`: of the mail that this transaction carries; `same_as`: the mail that had it first.
    `copy_reply`: what the upstream said to the copy's RCPT, as it may be kept."""

    process_id: str
    person: Person | None
    id: str = field(default_factory=new_mail_id)
    time: datetime = field(default_factory=lambda: datetime.now(UTC))
    message: Message = field(default_factory=Message)
    plan: Plan = field(default_factory=lambda: Plan(Decision.NONE, Reason.UNREADABLE_AUTHOR))
    recipients: tuple[str, ...] = ()
    recipient_count: int = 0
    subject: str | None = None
    identity: bytes | None = None
    same_as: str | None = None
    copy: Copy = Copy.NONE
    copy_reply: str | None = None
    text: bytes = b""
    receipt_after: timedelta = timedelta(0)
    settles_for: timedelta = timedelta(0)
    """How long the worker waits for other parts of the mail."""

    @property
    def copy_address(self) -> str | None:
        """The person's Email to Salesforce address, which no client and no row may see."""
        return None if self.person is None else self.person.settings.bcc_address

    @property
    def reason(self) -> str:
        """As logs and figures tell it."""
        return self.plan.reason if self.person is not None else "unknown-sender"

    def row(
        self,
        person: Person,
        state: State,
        upstream: str | None = None,
        copy_refusal: bytes | None = None,
        *,
        with_text: bool = False,
    ) -> Row:
        """The row in this state, with what the plan's reason lets be kept of the mail."""
        plan, is_kept = self.plan, self.plan.keeps_content
        return Row(
            id=self.id,
            time=self.time,
            process=self.process_id,
            person=person.id,
            sender=self.message.author,
            recipient_count=self.recipient_count,
            recipients=self.recipients if is_kept else None,
            subject=self.subject if is_kept else None,
            message_id=self.message.message_id if is_kept else None,
            mode=person.settings.logging,
            decision=plan.decision,
            reason=plan.reason,
            state=state,
            upstream=upstream,
            bcc=self.copy,
            bcc_reply=self.copy_reply,
            copy_refusal=copy_refusal,
            identity=self.identity if is_kept else None,
            same_as=self.same_as if is_kept else None,
            detail=plan.detail,
            due_at=self._due_at(state),
            text=self.text if with_text and plan.decision.may_log and is_kept else None,
        )

    def state_when_accepted(self) -> State:
        """In which state a mail is that the upstream has just accepted."""
        if self.plan.decision is Decision.NONE:
            return State.NOT_LOGGED
        if self.plan.decision is Decision.API:
            return State.WAITING
        if self.copy is Copy.ACCEPTED or self.plan.reason is Reason.SAME_MAIL:
            return State.COPIED
        return State.WAITING if self.plan.decision is Decision.COPY_AND_API else State.COPY_REFUSED

    def _due_at(self, state: State) -> datetime | None:
        """When the worker is to see to it: at once, or, where a server in front may have split it, once its
        parts are there; for a copy's receipt after a while."""
        if state is State.WAITING:
            return datetime.now(UTC) + self.settles_for
        if state is State.COPIED and self.plan.decision is Decision.COPY_AND_API:
            return datetime.now(UTC) + self.receipt_after
        return None
