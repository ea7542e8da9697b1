"""One mail's data: the header is peeked at, the plan made, the bytes passed on, the verdict recorded and
returned.

From the final dot to the verdict nothing here waits for the client."""

import hashlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TypeVar

from core import logs
from core.journal.entries import Ended, UnknownSender, Void
from core.mail.reasons import Reason
from core.mail.row import Copy, Decision, State
from core.mail.subject import readable_subject
from core.people.addresses import address_key
from core.people.person import People, Person
from core.settings.catalogue import SendAs
from relay import replies
from relay.blame import Stage, blames_size, is_our_fault
from relay.dataflow import DataScanner, HeaderPeek
from relay.decide import Envelope, Plan, decide
from relay.fingerprint import copy_refusal_key, mail_fingerprint
from relay.identity import delivery_key, identity_with_body, named_identity
from relay.keeping import Keeping
from relay.link import UpstreamLost
from relay.logbook import Written
from relay.masking import kept_in_record, without_copy_address
from relay.message import Message, read_message, recipient_key
from relay.meters import MailSeen
from relay.process import Relay
from relay.record import MailRecord
from relay.replies import Reply
from relay.snapshot import EarlierAnswer
from relay.upstream import DataBegun, DotNotSent, Transaction

Awaited = TypeVar("Awaited")
UNTIL_A_MAIL_HAS_SETTLED = timedelta(seconds=5)
"""A server in front that splits a mail sends its parts one after the other, or at once; those that come later
than this are added to what is written."""
MOST_HOPS = 100
"""A mail that more servers have had in hand runs in circles (RFC 5321 section 6.3: at least 100)."""


class ClientGone(Exception):
    """The client hung up before its mail was through."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """How a mail ended: the reply for the client, and what is noted once it is known whether the client heard
    it.

    `fingerprint` recognises the same mail from the same person; `unheard` is the row of whose reply it is
    noted that its client did not hear it: an earlier mail's, which this repeats, or this one's own."""

    reply: Reply
    mail_id: str = ""
    fingerprint: bytes = b""
    unheard: str | None = None


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
        is_client_gone: Callable[[], bool],
    ) -> None:
        self._relay = relay
        self._sending = sending
        self._transaction = transaction
        self._read = read
        self._most_bytes = most_bytes
        self._is_client_gone = is_client_gone
        self._scanner = DataScanner()
        self._header_digest = b""
        self._body_digest = hashlib.sha256()
        self._started = time.monotonic()
        self._seconds_elsewhere = 0.0
        self._record = MailRecord(
            relay.process_id,
            sending.signed_in,
            recipient_count=len(transaction.accepted),
            receipt_after=timedelta(minutes=sending.people.policy.receipt_after),
            settles_for=UNTIL_A_MAIL_HAS_SETTLED if sending.is_gateway else timedelta(0),
        )
        self._begun = DataBegun(None)
        self._leaves_copy_out = False
        self._beginning = b""
        self._header_length = 0
        self._fingerprint = b""
        self._has_plan = False
        self._keeping: Keeping | None = None
        self._begun_row: Written | None = None
        self._is_begun = False
        self._is_recorded = False
        self._has_claimed_copy = False
        self._has_gone_with_copy = False

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
            await self._join_same_mail()
            if self._reason_to_refuse() is not None:
                return await self._refuse_data()
            # The copy's RCPT comes last: a client must hear no verdict that the copy has changed, and a copy
            # that is refused must not cost a recipient (RFC 5321 section 3.3 lets each RCPT have its own).
            copy_to = self._copy_to()
            self._note_begun(DataBegun(None, Copy.NONE if copy_to is None else Copy.UNANSWERED))
            # A mail that came in one piece is known by its bytes already, so its row is written while the
            # upstream answers the copy and DATA: that hides the sync of the disk.
            if self._scanner.done:
                self._open_row()
            self._note_begun(await self._for_others(self._transaction.begin_data(copy_to)))
            if not self._begun.may_stream:
                return await self._not_begun()
            return await self._pass_on()
        except ClientGone:
            await self._settle(State.ABORTED, None)
            raise
        finally:
            self._transaction.drop()
            if self._has_claimed_copy and self._record.identity is not None:
                self._relay.same_mails.settle_copy(
                    self._record.identity, self._record.id, has_gone=self._has_gone_with_copy
                )
            self._record_what_broke_off()

    def _record_what_broke_off(self) -> None:
        """Something unforeseen: what was begun in the journal must be ended there, and whether the dot was
        sent is not known."""
        if self._begun_row is not None and not self._is_recorded and self._record.person is not None:
            self._relay.logbook.note(Ended(self._record.row(self._record.person, State.UNKNOWN)))

    # -- before the data goes upstream

    async def _read_header(self) -> None:
        """Read up to where the header ends, at least."""
        peek = HeaderPeek()
        pieces: list[bytes] = []
        while not (peek.complete or self._scanner.done) and self._reason_to_refuse() is None:
            piece = await self._next()
            peek.feed(piece)
            pieces.append(piece)
        self._record.message = read_message(bytes(peek.block))
        self._header_length = len(peek.block)
        self._beginning = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self._header_digest = hashlib.sha256(self._beginning[: self._header_length]).digest()
        self._body_digest.update(self._beginning[self._header_length :])

    async def _next(self) -> bytes:
        chunk = await self._for_others(self._read())
        if not chunk:
            raise ClientGone
        return self._scanner.feed(chunk)

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
        if self._is_from_another:
            return replies.NOT_YOUR_ADDRESS
        return replies.LOOP if self._record.message.hops > MOST_HOPS else None

    @property
    def _is_from_another(self) -> bool:
        """Whether the signed-in person may not send it, as its From is not certainly one of theirs."""
        is_bound = self._sending.people.policy.send_as is SendAs.OWN_ADDRESSES
        reason = self._record.plan.reason
        is_another = reason in {Reason.NOT_OWN_ADDRESS, Reason.UNREADABLE_AUTHOR}
        return is_bound and self._has_plan and self._sending.signed_in is not None and is_another

    def _make_plan(self) -> None:
        record = self._record
        record.person = self._sending.person(record.message)
        record.subject = readable_subject(record.message.subject) or None
        record.identity = named_identity(record.message, record.subject or "")
        if record.identity is None and self._scanner.done:
            self._identify_by_body()
        if record.person is None:
            return
        sender, accepted = self._transaction.sender, self._transaction.accepted
        envelope = Envelope(
            recipient_key(sender.address),
            [recipient_key(path.address) for path in accepted],
            sender.declared_size,
        )
        record.plan = decide(record.message, envelope, record.person, self._sending.people.policy)
        self._has_plan = True
        if record.plan.decision.may_log:
            self._keeping = Keeping(self._relay, record, self._beginning[: self._header_length])
            self._keeping.take(self._beginning[self._header_length :])
        self._leaves_copy_out = (
            record.plan.decision.copies
            and self._relay.snapshot.knows_refused_copies
            and self._relay.snapshot.copy_was_refused(self._copy_refusal_key())
        )
        if self._leaves_copy_out:
            record.copy = Copy.REFUSED
        record.recipients = tuple([path.address.decode("utf-8", "replace") for path in accepted])

    def _identify_by_body(self) -> None:
        """A mail that its header does not tell from the next one, once its body is known."""
        record = self._record
        record.identity = identity_with_body(record.message, record.subject or "", self._body_digest.digest())

    async def _join_same_mail(self) -> None:
        """A mail that comes in several transactions, split by a server in front or sent again, has its blind
        copy with the first of them only."""
        record = self._record
        if not record.plan.decision.copies or record.identity is None or self._leaves_copy_out:
            return
        self._has_claimed_copy = True
        first = await self._for_others(
            self._relay.same_mails.claim_copy(
                record.identity, record.id, record.message.date, is_gateway=self._sending.is_gateway
            )
        )
        if first is not None:
            self._has_claimed_copy = False
            record.same_as = first.mail_id
            # Under way at another relay, the first may still be refused. Then no receipt comes, and the
            # person can have this mail logged by API.
            may_lack = record.plan.decision.may_log and not first.is_accepted
            decision = Decision.COPY_AND_API if may_lack else Decision.NONE
            self._keeping = self._keeping if may_lack else None
            record.plan = Plan(decision, Reason.SAME_MAIL)

    def _delivery_key(self) -> bytes | None:
        """What this delivery is known by when it comes again, now that all of the mail is read."""
        if self._record.identity is None:
            self._identify_by_body()
        if self._record.identity is None:
            return None
        recipients = [recipient_key(path.address) for path in self._transaction.accepted]
        return delivery_key(self._record.identity, self._body_digest.digest(), recipients)

    def _note_begun(self, begun: DataBegun) -> None:
        self._begun = begun
        self._record.copy = Copy.REFUSED if self._leaves_copy_out else begun.copy
        if begun.copy_reply is not None:
            self._record.copy_reply = without_copy_address(begun.copy_reply, self._record.copy_address).text()

    def _copy_to(self) -> bytes | None:
        if self._record.plan.bcc is None or self._leaves_copy_out:
            return None
        most = self._relay.pool.most_recipients
        if most is not None and len(self._transaction.accepted) >= most:
            self._leaves_copy_out = True  # the copy never costs the mail
            return None
        return self._record.plan.bcc.encode()

    # -- ways that end before the dot

    async def _refuse_data(self) -> Delivered:
        """The upstream must not see a dot: it discards what it has (facts of smuggling, 4.3)."""
        # Closing without a dot is the only way to take back what was streamed (RFC 5321 section 4.1.1.4).
        self._transaction.drop()
        await self._read_to_the_end()
        reply = self._reason_to_refuse() or replies.INTERNAL
        await self._settle(State.ABORTED, reply)
        return self._ended(reply)

    async def _refuse_loop(self) -> Delivered:
        """The same mail went the same way three times within ten minutes: a rule sends it round. The server
        that hears this ends the loop; a third copy of it helps nobody."""
        self._transaction.drop()
        self._record.plan = Plan(Decision.NONE, Reason.LOOP)
        await self._settle(State.ABORTED, replies.LOOP)
        return self._ended(replies.LOOP)

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
        if self._sending.is_gateway and refusal.kind == 5 and self._begun.copy is Copy.ACCEPTED:
            # the copy may be the cause: the server in front, which does not try again after a 5xx, is to do
            # so once, and then the mail goes without the copy
            return self._ended(replies.INTERNAL)
        return self._ended(self._for_client(refusal))

    # -- the data, the dot and the verdict

    async def _pass_on(self) -> Delivered:
        """A mail has one chunk in memory: what the upstream has taken is let go of before more is read."""
        # The beginning is let go of here, not at the end: a mail of 150 MB must not be held twice.
        piece, self._beginning = self._beginning, b""
        try:
            while not self._scanner.done:
                if self._transaction.early_verdict is not None:
                    return await self._refused_early(self._transaction.early_verdict)
                await self._for_others(self._transaction.write(piece))
                piece = b""
                piece = await self._next()
                self._body_digest.update(piece)
                if self._keeping is not None:
                    await self._keeping.take_in_time(piece)
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
        # From here on the client may be gone; its mail is seen through all the same. 451 or silence after the
        # dot makes clients send again, and people read the mail twice.
        if self._begun_row is None:
            self._open_row()
        earlier = self._relay.snapshot.earlier_answer(
            self._fingerprint
        )  # it may have come while the upstream spoke
        if earlier is not None:
            self._void_row()
            return self._repeated(earlier)
        if self._relay.under_way.was_given_up(self._fingerprint):
            return await self._join()
        delivery = self._delivery_key()
        if delivery is not None and self._relay.same_mails.is_loop(delivery, time.monotonic()):
            return await self._refuse_loop()
        # A client that gives up waiting sends the same bytes again, maybe to this relay: it joins this mail,
        # from here on and without a gap.
        delivered: Delivered | None = None
        mail_id = None if self._begun_row is None else self._record.id
        mail = self._relay.under_way.begin(self._fingerprint, mail_id, self._is_client_gone)
        try:
            # The dot waits for the disk: killed between dot and verdict, the row is `unknown` and not
            # nothing.
            self._is_begun = await self._relay.logbook.wait(self._begun_row)
            if self._transaction.early_verdict is not None:
                delivered = await self._refused_early(self._transaction.early_verdict)
            else:
                delivered = await self._send_dot(last)
        finally:
            is_known = delivered is not None and delivered.reply is not replies.UPSTREAM_LOST
            answer = (
                EarlierAnswer(self._record.id, delivered.reply.text()) if delivered and is_known else None
            )
            is_unheard = delivered is not None and delivered.reply.is_positive and self._is_client_gone()
            if answer is not None and is_unheard:
                self._relay.snapshot.remember_lost_reply(self._fingerprint, answer)
            self._relay.under_way.end(mail, answer)
        return replace(delivered, unheard=mail_id) if mail.is_noted or is_unheard else delivered

    async def _send_dot(self, last: bytes) -> Delivered:
        """The last bytes, the dot, and the verdict as it is recorded."""
        try:
            verdict = await self._for_others(self._transaction.finish(last))
        except DotNotSent:
            return await self._refused(None)
        except UpstreamLost:
            await self._settle(State.UNKNOWN, None)
            return self._ended(replies.UPSTREAM_LOST)
        if not verdict.is_positive:
            return await self._refused(verdict)
        # A yes to a mail is the only proof that the provider takes our sign-in and address again.
        self._relay.pool.note_yes()
        self._has_gone_with_copy = self._begun.copy is Copy.ACCEPTED
        if (delivery := self._delivery_key()) is not None:
            self._relay.same_mails.note_delivery(delivery, time.monotonic())
        await self._settle(self._record.state_when_accepted(), verdict)
        self._count_if_unknown()
        return self._ended(self._for_client(verdict), self._fingerprint)

    async def _join(self) -> Delivered:
        """The same bytes are under way already, from a client that gave up waiting: this one hears their
        answer, and nothing is delivered a second time. Where that answer does not become known, it is to come
        again."""
        self._transaction.drop()
        self._void_row()
        answer = await self._for_others(self._relay.under_way.answer(self._fingerprint, self._is_client_gone))
        if answer is not None:
            return self._repeated(answer)
        self._log("not repeated", replies.UPSTREAM_LOST)
        self._count(replies.UPSTREAM_LOST)
        return Delivered(replies.UPSTREAM_LOST)

    def _void_row(self) -> None:
        """The row that was begun stands for no mail."""
        if self._begun_row is not None:
            self._relay.logbook.note(Void(self._record.id))
            self._is_recorded = True

    def _open_row(self) -> None:
        """Begin to write the pending row, which is on disk before the dot is sent. A mail that has come whole
        is recognised by its bytes at once, and is written down while the upstream answers copy and data."""
        self._fingerprint = mail_fingerprint(
            self._person_id,
            self._transaction.sender,
            self._transaction.accepted,
            self._header_digest + self._body_digest.digest(),
        )
        if self._keeping is not None:
            self._keeping.end()
        is_repeated = self._relay.snapshot.earlier_answer(self._fingerprint) is not None
        if self._record.person is not None and not is_repeated:
            pending = self._record.row(self._record.person, State.PENDING, with_text=True)
            self._begun_row = self._relay.logbook.begin(pending)

    def _repeated(self, earlier: EarlierAnswer) -> Delivered:
        code, _, text = earlier.reply.partition(" ")
        reply = Reply(int(code), (text.encode(),)) if code.isdecimal() else replies.OK
        self._log("repeated", reply)
        self._count(reply)
        return Delivered(self._for_client(reply), earlier.mail_id, self._fingerprint, unheard=earlier.mail_id)

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
        if self._record.person is None:
            return
        key = self._copy_to_leave_out(state, verdict)
        if key is not None:
            self._relay.snapshot.remember_refused_copy(key)
        row = self._record.row(
            self._record.person,
            state,
            kept_in_record(verdict, self._record.copy_address, keeps_content=self._record.plan.keeps_content),
            key,
            with_text=not self._is_begun,
        )
        self._is_recorded = True
        await self._relay.logbook.end(row)

    def _copy_to_leave_out(self, state: State, verdict: Reply | None) -> bytes | None:
        """The key that recognises the next try of this mail, if the copy may be why it failed: that try goes
        without it."""
        begun = self._begun
        is_broken_by_copy = state is State.ABORTED and begun.reply is None and begun.copy is not Copy.NONE
        is_refused_with_copy = state is State.REFUSED and begun.copy is Copy.ACCEPTED
        if not is_broken_by_copy and not is_refused_with_copy:
            return None
        key = self._copy_refusal_key()
        if is_broken_by_copy or verdict is None or verdict.kind == 5 or blames_size(verdict):
            return key
        # greylisting must not cost the copy: another 4xx counts when it comes a second time
        return key if self._relay.snapshot.was_deferred_before(key) else None

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
        self._relay.count(MailSeen(self._record.reason, kind, self._begun.copy, seconds))

    def _log(self, outcome: str, verdict: Reply | None) -> None:
        logs.relayed(
            mail_id=self._record.id,
            recipients=len(self._transaction.accepted),
            copy=self._begun.copy,
            reason=self._record.reason,
            upstream=f"{verdict.bare()} {outcome}" if verdict is not None else outcome,
            seconds=time.monotonic() - self._started,
        )

    def _for_client(self, verdict: Reply) -> Reply:
        """The upstream's own code and text; faults of ours in words of ours, and never the copy's address."""
        if not self._sending.has_own_link and is_our_fault(verdict, Stage.DATA):
            self._relay.pool.note_refusal_of_us(verdict.code)
            return replies.MISCONFIGURED
        return without_copy_address(verdict, self._record.copy_address)

    def _ended(self, reply: Reply, fingerprint: bytes = b"") -> Delivered:
        if self._record.person is None:
            return Delivered(reply)
        return Delivered(reply, self._record.id, fingerprint)

    def _count_if_unknown(self) -> None:
        """A sender that is nobody's is counted, so that the admin sees whose address is missing."""
        author = self._record.message.author
        is_nobodys = self._record.person is None or self._record.plan.reason is Reason.NOT_OWN_ADDRESS
        if not is_nobodys or author is None:
            return
        key = address_key(author)
        if key not in self._sending.people.by_address:
            self._relay.logbook.note(UnknownSender(key, author, self._record.time))

    def _copy_refusal_key(self) -> bytes:
        return copy_refusal_key(
            self._person_id,
            self._transaction.sender,
            self._transaction.accepted,
            self._record.message.message_id,
        )

    @property
    def _person_id(self) -> int:
        return 0 if self._record.person is None else self._record.person.id
