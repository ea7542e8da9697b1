"""One mail's data: the header is peeked at, the plan made, the bytes passed on, the verdict recorded and
returned.

From the final dot to the verdict nothing here waits for the client."""

import hashlib
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from core import logs
from core.journal.entries import Ended, UnknownSender, Void
from core.mail.reasons import Reason
from core.mail.row import Copy, Decision, Row, State
from core.mail.subject import readable_subject
from core.people.addresses import address_key
from core.people.person import People, Person
from relay import replies
from relay.dataflow import DataScanner, HeaderPeek
from relay.decide import Envelope, Plan, decide
from relay.limits import FailedSignIns, Pace, Sessions
from relay.link import UpstreamLost
from relay.logbook import Logbook, Written
from relay.message import Message, read_message, recipient_key
from relay.meters import MailSeen
from relay.pool import Pool
from relay.replies import Reply, is_our_fault
from relay.snapshot import EarlierAnswer, Snapshot
from relay.upstream import DataBegun, DotNotSent, Transaction

Awaited = TypeVar("Awaited")
MOST_OF_A_BODY = 256 * 1024
"""Bytes of a body that are kept for the worker; Salesforce takes 32,000 characters (object reference,
EmailMessage)."""
MOST_HOPS = 100
"""A mail that more servers have had in hand runs in circles (RFC 5321 section 6.3: at least 100)."""


class ClientGone(Exception):
    """The client hung up before its mail was through."""


def _count_nothing(seen: MailSeen) -> None:
    """For a relay that nobody measures."""


@dataclass
class Relay:
    """What all sessions of one process share."""

    hostname: str
    process_id: str
    pool: Pool
    logbook: Logbook
    snapshot: Snapshot
    failed_sign_ins: FailedSignIns = field(default_factory=FailedSignIns)
    count: Callable[[MailSeen], None] = _count_nothing
    sessions: Sessions = field(default_factory=Sessions)
    pace: Pace = field(default_factory=Pace)


@dataclass(frozen=True, slots=True)
class Delivered:
    """How a mail ended: the reply for the client, and what is noted once it is known whether the client heard
    it.

    `fingerprint` recognises the same mail from the same person; `repeats` is the row whose reply this
    repeats."""

    reply: Reply
    mail_id: str = ""
    fingerprint: bytes = b""
    repeats: str | None = None


@dataclass(frozen=True, slots=True)
class Sending:
    """Whose mail it may be: the signed-in person's only, or, at a gateway, that of whoever its From belongs
    to."""

    people: People
    signed_in: Person | None = None
    is_gateway: bool = False
    has_own_link: bool = False

    def person(self, message: Message) -> Person | None:
        """None: a mail that is passed on and is nobody's."""
        if not self.is_gateway:
            return self.signed_in
        return self.people.by_address.get(address_key(message.author)) if message.author is not None else None


class Delivery:
    """The data of one mail; used once."""

    def __init__(
        self,
        relay: Relay,
        sending: Sending,
        transaction: Transaction,
        read: Callable[[], Awaitable[bytes]],
        most_bytes: int,
    ) -> None:
        self._relay = relay
        self._sending = sending
        self._transaction = transaction
        self._read = read
        self._most_bytes = most_bytes
        self._scanner = DataScanner()
        self._digest = hashlib.sha256()
        self._started = time.monotonic()
        self._seconds_elsewhere = 0.0
        self._time = datetime.now(UTC)
        self._id = new_mail_id()
        self._message = Message()
        self._person: Person | None = sending.signed_in
        self._plan = Plan(Decision.NONE, Reason.UNREADABLE_AUTHOR)
        self._begun = DataBegun(None)
        self._is_retry_without_copy = False
        self._beginning = b""
        self._header_length = 0
        self._subject: str | None = None
        self._recipients: tuple[str, ...] = ()
        self._copy_reply: str | None = None
        self._text = bytearray()
        self._room_for_text = 0
        self._fingerprint = b""
        self._begun_row: Written | None = None
        self._is_begun = False
        self._is_recorded = False

    @property
    def has_read_all(self) -> bool:
        """Whether the client's data was read to its end; else what follows is no command."""
        return self._scanner.done

    @property
    def rest(self) -> bytes:
        """What the client sent after the end of its data."""
        return self._scanner.rest

    async def run(self) -> Delivered:
        """Pass the mail on. Raises ClientGone; the upstream then discards what it has of the mail."""
        try:
            await self._read_header()
            self._make_plan()
            if self._reason_to_refuse() is not None:
                return await self._refuse_data()
            copy_to = self._copy_to()
            self._begun = DataBegun(None, Copy.NONE if copy_to is None else Copy.UNANSWERED)
            if self._scanner.done:
                self._open_row()
            self._begun = await self._for_others(self._transaction.begin_data(copy_to))
            self._copy_reply = self._kept_copy_reply()
            if not self._begun.may_stream:
                return await self._not_begun()
            return await self._pass_on()
        except ClientGone:
            await self._settle(State.ABORTED, None)
            raise
        finally:
            self._transaction.drop()
            self._record_what_broke_off()

    def _record_what_broke_off(self) -> None:
        """Something unforeseen: what was begun in the journal must be ended there, and whether the dot was
        sent is not known."""
        if self._begun_row is not None and not self._is_recorded and self._person is not None:
            self._relay.logbook.note(Ended(self._row(self._person, State.UNKNOWN)))

    # -- before the data goes upstream

    async def _read_header(self) -> None:
        """Read up to where the header ends, at least."""
        peek = HeaderPeek()
        pieces: list[bytes] = []
        while not (peek.complete or self._scanner.done) and self._reason_to_refuse() is None:
            piece = await self._next()
            peek.feed(piece)
            pieces.append(piece)
        self._message = read_message(bytes(peek.block))
        self._header_length = len(peek.block)
        self._beginning = pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _next(self) -> bytes:
        chunk = await self._for_others(self._read())
        if not chunk:
            raise ClientGone
        piece = self._scanner.feed(chunk)
        self._digest.update(piece)
        if self._room_for_text:
            self._keep_text(piece)
        return piece

    def _keep_text(self, piece: bytes) -> None:
        kept = piece[: self._room_for_text]
        self._text += kept
        self._room_for_text -= len(kept)

    async def _read_to_the_end(self) -> None:
        """A client that sends on and on, though its mail is refused already, is not read for ever."""
        while not self._scanner.done:
            if self._scanner.size > 2 * self._most_bytes:
                raise ClientGone
            await self._next()

    def _reason_to_refuse(self) -> Reply | None:
        """What the mail's bytes are guilty of, as far as they are known."""
        if self._scanner.has_nul:
            return replies.NUL_BYTE
        if self._scanner.has_bare_newline:
            return replies.BARE_NEWLINE
        if self._scanner.size > self._most_bytes:
            return replies.TOO_BIG
        return replies.LOOP if self._message.hops > MOST_HOPS else None

    def _make_plan(self) -> None:
        self._person = self._sending.person(self._message)
        if self._person is None:
            return
        sender = self._transaction.sender
        recipients = [recipient_key(path.address) for path in self._transaction.accepted]
        envelope = Envelope(recipient_key(sender.address), recipients, sender.declared_size)
        self._plan = decide(self._message, envelope, self._person, self._sending.people.policy)
        if self._plan.decision.may_log:
            most = MOST_OF_A_BODY if self._person.settings.keeps_text else 0
            self._room_for_text = self._header_length + most
            self._keep_text(self._beginning)
        self._is_retry_without_copy = (
            self._plan.decision.copies
            and self._relay.snapshot.knows_refused_copies
            and self._relay.snapshot.copy_was_refused(self._copy_refusal_key())
        )
        self._subject = readable_subject(self._message.subject) or None
        self._recipients = tuple(
            [path.address.decode("utf-8", "replace") for path in self._transaction.accepted]
        )

    def _row(
        self,
        person: Person,
        state: State,
        upstream: str | None = None,
        copy_refusal: bytes | None = None,
        *,
        with_text: bool = False,
    ) -> Row:
        """The row as it stands now, with what may be kept of the mail: of one that was never meant to be
        logged neither names nor words."""
        plan = self._plan
        is_kept = plan.reason.keeps_content
        return Row(
            id=self._id,
            time=self._time,
            process=self._relay.process_id,
            person=person.id,
            sender=self._message.author,
            recipient_count=len(self._transaction.accepted),
            recipients=self._recipients if is_kept else None,
            subject=self._subject if is_kept else None,
            message_id=self._message.message_id if is_kept else None,
            mode=person.settings.logging,
            decision=plan.decision,
            reason=plan.reason,
            state=state,
            upstream=upstream,
            bcc=Copy.REFUSED if self._is_retry_without_copy else self._begun.copy,
            bcc_reply=self._copy_reply,
            copy_refusal=copy_refusal,
            due_at=self._due_at(state),
            text=bytes(self._text) if with_text and plan.decision.may_log else None,
        )

    def _due_at(self, state: State) -> datetime | None:
        """When the worker is to see to a mail in this state: at once, or, for a copy's receipt, after a
        while."""
        if state is State.WAITING:
            return datetime.now(UTC)
        if state is State.COPIED and self._plan.decision is Decision.COPY_AND_API:
            return datetime.now(UTC) + timedelta(minutes=self._sending.people.policy.receipt_after)
        return None

    def _copy_to(self) -> bytes | None:
        if self._plan.bcc is None or self._is_retry_without_copy:
            return None
        return self._plan.bcc.encode()

    # -- ways that end before the dot

    async def _refuse_data(self) -> Delivered:
        """The upstream must not see a dot: it discards what it has (facts of smuggling, 4.3)."""
        self._transaction.drop()
        await self._read_to_the_end()
        reply = self._reason_to_refuse() or replies.INTERNAL
        await self._settle(State.ABORTED, reply)
        return self._ended(reply)

    async def _not_begun(self) -> Delivered:
        """The upstream refused DATA, or was lost: that is said where the client can hear it, at the end."""
        refusal = self._begun.reply
        self._transaction.give_up()
        await self._read_to_the_end()
        return await self._refused(refusal)

    async def _refused(self, refusal: Reply | None) -> Delivered:
        """`refusal`: None where the upstream was lost before the dot."""
        if refusal is None:
            await self._settle(State.ABORTED, replies.UPSTREAM_LOST)
            return self._ended(replies.UPSTREAM_LOST)
        await self._settle(State.REFUSED, refusal)
        return self._ended(self._for_client(refusal))

    # -- the data, the dot and the verdict

    async def _pass_on(self) -> Delivered:
        """A mail has one chunk in memory: what the upstream has taken is let go of before more is read."""
        piece, self._beginning = self._beginning, b""
        try:
            while not self._scanner.done:
                if self._transaction.early_verdict is not None:
                    return await self._refused_early(self._transaction.early_verdict)
                await self._for_others(self._transaction.write(piece))
                piece = b""
                piece = await self._next()
                if self._reason_to_refuse() is not None:
                    return await self._refuse_data()
        except UpstreamLost:
            early = self._transaction.early_verdict
            self._transaction.drop()
            await self._read_to_the_end()
            return await self._refused(early if early is not None and early.kind in {4, 5} else None)
        return await self._finish(piece)

    async def _refused_early(self, verdict: Reply) -> Delivered:
        """A verdict before the dot can only be a refusal; the link is then in nobody's hands."""
        self._transaction.drop()
        await self._read_to_the_end()
        return await self._refused(verdict if verdict.kind in {4, 5} else None)

    async def _finish(self, last: bytes) -> Delivered:
        """From here on nothing depends on the client, and nothing is tried twice."""
        if self._begun_row is None:
            self._open_row()
        earlier = self._relay.snapshot.earlier_answer(
            self._fingerprint
        )  # it may have come while the upstream spoke
        if earlier is not None:
            if self._begun_row is not None:
                self._relay.logbook.note(Void(self._id))
                self._is_recorded = True
            return self._repeated(earlier)
        self._is_begun = await self._relay.logbook.wait(self._begun_row)
        if self._transaction.early_verdict is not None:
            return await self._refused_early(self._transaction.early_verdict)
        try:
            verdict = await self._for_others(self._transaction.finish(last))
        except DotNotSent:
            return await self._refused(None)
        except UpstreamLost:
            await self._settle(State.UNKNOWN, None)
            return self._ended(replies.UPSTREAM_LOST)
        if not verdict.is_positive:
            return await self._refused(verdict)
        self._relay.pool.note_yes()
        await self._settle(self._state_when_accepted(), verdict)
        self._count_if_unknown()
        return self._ended(self._for_client(verdict), self._fingerprint)

    def _open_row(self) -> None:
        """Begin to write the pending row, which is on disk before the dot is sent. A mail that has come whole
        is recognised by its bytes at once, and is written down while the upstream says what it thinks of copy
        and data."""
        self._fingerprint = _digest_of([*self._envelope_parts(), self._digest.digest()])
        is_repeated = self._relay.snapshot.earlier_answer(self._fingerprint) is not None
        if self._person is not None and not is_repeated:
            pending = self._row(self._person, State.PENDING, with_text=True)
            self._begun_row = self._relay.logbook.begin(pending)

    def _repeated(self, earlier: EarlierAnswer) -> Delivered:
        code, _, text = earlier.reply.partition(" ")
        reply = Reply(int(code), (text.encode(),)) if code.isdecimal() else replies.OK
        self._log("repeated", reply)
        self._count(reply)
        return Delivered(self._for_client(reply), earlier.mail_id, self._fingerprint, repeats=earlier.mail_id)

    def _state_when_accepted(self) -> State:
        if self._plan.decision is Decision.NONE:
            return State.NOT_LOGGED
        if self._plan.decision is Decision.API:
            return State.WAITING
        if self._begun.copy is Copy.ACCEPTED:
            return State.COPIED
        return State.WAITING if self._plan.decision is Decision.COPY_AND_API else State.COPY_REFUSED

    # -- what is recorded and said

    async def _settle(self, state: State, verdict: Reply | None) -> None:
        """Write the row as it ends, with the final reply; None: there is none. A mail that is nobody's has no
        row."""
        self._log(state, verdict)
        try:
            await self._settle_row(state, verdict)
        finally:
            self._count(verdict)

    async def _settle_row(self, state: State, verdict: Reply | None) -> None:
        if self._person is None:
            return
        broken_by_copy = (
            state is State.ABORTED and self._begun.reply is None and self._begun.copy is not Copy.NONE
        )
        refused_with_copy = (
            state is State.REFUSED
            and self._begun.copy is Copy.ACCEPTED
            and verdict is not None
            and verdict.kind == 5
        )
        key = self._copy_refusal_key() if refused_with_copy or broken_by_copy else None
        if key is not None:
            self._relay.snapshot.remember_refused_copy(key)
        row = self._row(self._person, state, self._kept(verdict), key, with_text=not self._is_begun)
        self._is_recorded = True
        await self._relay.logbook.end(row)

    async def _for_others(self, what: Awaitable[Awaited]) -> Awaited:
        """Wait for the client or the upstream: time that is not ours."""
        began = time.monotonic()
        try:
            return await what
        finally:
            self._seconds_elsewhere += time.monotonic() - began

    def _count(self, verdict: Reply | None) -> None:
        seconds = time.monotonic() - self._started - self._seconds_elsewhere
        kind = f"{verdict.kind}xx" if verdict is not None else "none"
        self._relay.count(MailSeen(self._reason, kind, self._begun.copy, seconds))

    @property
    def _reason(self) -> str:
        return self._plan.reason if self._person is not None else "unknown-sender"

    def _log(self, outcome: str, verdict: Reply | None) -> None:
        logs.relayed(
            mail_id=self._id,
            recipients=len(self._transaction.accepted),
            copy=self._begun.copy,
            reason=self._reason,
            upstream=f"{verdict.bare()} {outcome}" if verdict is not None else outcome,
            seconds=time.monotonic() - self._started,
        )

    def _kept(self, verdict: Reply | None) -> str | None:
        if verdict is None:
            return None
        return self._unnamed(verdict).text() if self._plan.reason.keeps_content else verdict.bare()

    def _kept_copy_reply(self) -> str | None:
        reply = self._begun.copy_reply
        return None if reply is None else self._unnamed(reply).text()

    def _for_client(self, verdict: Reply) -> Reply:
        """The upstream's own code and text; faults of ours in words of ours, and never the copy's address."""
        if not self._sending.has_own_link and is_our_fault(verdict):
            self._relay.pool.note_refusal_of_us(verdict.code)
            return replies.MISCONFIGURED
        return self._unnamed(verdict)

    def _unnamed(self, reply: Reply) -> Reply:
        bcc = self._person.settings.bcc_address if self._person is not None else None
        return reply.without_text() if bcc is not None and reply.names(bcc.encode()) else reply

    def _ended(self, reply: Reply, fingerprint: bytes = b"") -> Delivered:
        if self._person is None:
            return Delivered(reply)
        return Delivered(reply, self._id, fingerprint)

    def _count_if_unknown(self) -> None:
        """A sender that is nobody's is counted, so that the admin sees whose address is missing."""
        author = self._message.author
        is_nobodys = self._person is None or self._plan.reason is Reason.NOT_OWN_ADDRESS
        if not is_nobodys or author is None:
            return
        key = address_key(author)
        if key not in self._sending.people.by_address:
            self._relay.logbook.note(UnknownSender(key, author, self._time))

    def _copy_refusal_key(self) -> bytes:
        return _digest_of(
            [*self._envelope_parts(), (self._message.message_id or "").encode("utf-8", "replace")]
        )

    def _envelope_parts(self) -> list[bytes]:
        recipients = sorted(path.wire for path in self._transaction.accepted)
        return [
            str(self._person.id if self._person is not None else 0).encode(),
            self._transaction.sender.wire,
            *recipients,
        ]


def new_mail_id() -> str:
    """A UUIDv7 (RFC 9562 sections 5.7 and 6.2, method 3): in the order of time, unique without asking
    anybody."""
    milliseconds, nanoseconds = divmod(time.time_ns(), 1_000_000)
    fraction = (nanoseconds << 12) // 1_000_000
    random = int.from_bytes(os.urandom(8)) >> 2
    text = f"{milliseconds << 80 | 0x7 << 76 | fraction << 64 | 0b10 << 62 | random:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _digest_of(parts: list[bytes]) -> bytes:
    lengths = b"".join([len(part).to_bytes(8) for part in (parts, *parts)])
    return hashlib.sha256(b"".join([lengths, *parts])).digest()
