"""The SMTP verbs, thin: each asks the upstream; DATA hands over to a delivery.

The verdicts that a client hears on MAIL, RCPT and the data are the upstream's. A session's task is never
cancelled, by a client that hangs up, by a timer or by a shutdown: it finds out at its next read, so that what
happens between the final dot and the reply always comes to its end."""

import asyncio
import base64
import math
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import ClassVar

from core import logs
from core.journal.entries import LimitRefused, LostReply, ReplyHeard
from core.people.addresses import matches
from core.people.person import People
from core.smtp import RefusesUs, UpstreamUnavailable
from relay import replies, sign_in
from relay.blame import Stage, is_our_fault, says_too_many_recipients
from relay.buffer import LineTooLong
from relay.connection import SECONDS_FOR_A_CHUNK, ClientConnection, Registry
from relay.conversation import Answer
from relay.dataflow import NewlineMender
from relay.delivery import ClientGone, Delivered, Delivery, Sending
from relay.entrance import Entrance
from relay.envelope import BadCommand, Path, parse_mail, parse_rcpt
from relay.limits import MOST_SECONDS_TO_WAIT, MOST_SECONDS_TO_WAIT_AT_A_GATEWAY
from relay.link import UpstreamLost
from relay.message import recipient_key
from relay.pool import Links, Share, SignInAgain, UpstreamBusy
from relay.process import Relay
from relay.replies import Reply
from relay.sign_in import SignedIn
from relay.snapshot import EarlierAnswer
from relay.upstream import Transaction

SECONDS_IDLE = 300.0  # RFC 5321 section 4.5.3.2.7
SECONDS_UNTIL_THE_SIGN_IN = 300.0
"""In all: a person may be fetching an app password."""
SECONDS_OF_SILENCE_BEFORE_THE_SIGN_IN = 60.0
SECONDS_FOR_THE_DATA = 1800.0
SECONDS_FOR_A_SESSION = 6 * 3600.0
SECONDS_OF_SILENCE_ABOUT_A_MAIL = 60.0
"""After that an unfinished mail holds no upstream link, whatever else the client says."""
SECONDS_TO_HEAR_A_RESET = 0.3
_SECONDS_BETWEEN_LOOKS = 0.5
_MOST_ERRORS = 20
_COMMANDS_IN_A_ROW = 20
_MOST_RCPTS_AT_ONCE = 100
_UPSTREAM_EXTENSIONS = ("8bitmime", "smtputf8", "dsn", "enhancedstatuscodes")


_TROUBLES: Mapping[type[Exception], Reply] = {
    UpstreamUnavailable: replies.UPSTREAM_UNREACHABLE,
    RefusesUs: replies.MISCONFIGURED,
    UpstreamBusy: replies.UPSTREAM_BUSY,
    UpstreamLost: replies.UPSTREAM_LOST,
    SignInAgain: replies.SIGN_IN_AGAIN,
}
"""What the client hears of a trouble between us and the upstream."""


_MAY_BE_OFFERED_AGAIN = frozenset({"8bitmime", "smtputf8"})
"""Of these a mail server may be in need, whatever it was offered. What we know of the provider is how it was
a moment ago: nothing is refused for good by that."""


class AlreadyAnswered(Exception):
    """There is nothing more to say to this command."""


class Session(ClientConnection):
    """What one client says, and what it is answered."""

    def __init__(self, relay: Relay, entrance: Entrance, registry: Registry, source: str = "") -> None:
        super().__init__(registry, source)
        self._relay = relay
        self._entrance = entrance
        self._has_said_hello = False
        self._offered: frozenset[str] = frozenset()
        """The upstream's extensions as this client was told."""
        self._signed_in: SignedIn | None = None
        self._transaction: Transaction | None = None
        self._unconfirmed: Delivered | None = None
        self._about_mail_at = math.inf
        """When the client last said something about the mail that it has begun; never once its data comes."""
        self._received_before_reply = 0
        self._errors = 0
        self._lacked = 0
        """How often the upstream could not do what the client asked for."""
        self._commands = 0
        self._is_counted = False
        self._is_trusted = False
        self._data_ends_at = 0.0
        self._mender = NewlineMender()
        self._must_sign_in_by = self._now() + SECONDS_UNTIL_THE_SIGN_IN
        self._must_end_by = self._now() + SECONDS_FOR_A_SESSION

    @property
    def is_between_mails(self) -> bool:
        return super().is_between_mails and self._transaction is None

    async def _converse(self) -> None:
        """The whole session. The edge of a client: nothing that goes wrong here reaches another one."""
        try:
            await self._greet()
            while not self._is_closing and (line := await self._next_line()) is not None:
                self._confirm_if_heard()
                await self._answer(line)
                await self._send_away_if_stopping()
        except Exception:  # noqa: BLE001  said to nobody but our log
            logs.failed_unexpectedly("a session")
        finally:
            await self._end()

    async def _greet(self) -> None:
        is_too_much = self._registry.is_overloaded or self._relay.logbook.is_behind
        refusal = replies.OVERLOADED if is_too_much else None
        if not self._relay.pool.is_known:
            # without knowing what the provider takes, a mail that it would take would be refused for good
            refusal = replies.UPSTREAM_UNKNOWN
        if not self._relay.sessions.may_enter(self.source, self._entrance.listener.limits):
            refusal = replies.TOO_MANY_SESSIONS
        if refusal is not None:
            await self._say(refusal)
            return
        self._relay.sessions.enter(self.source)
        self._is_counted = True
        self._is_trusted = self._entrance.trusts(self.source)
        await self._say(Reply(220, (f"{self._relay.hostname} ESMTP".encode(),)))
        await self._send_away_if_stopping()

    async def _send_away_if_stopping(self) -> None:
        # Between mails only: a mail that has begun is seen through, however long the stop takes.
        if self._registry.is_stopping and self._transaction is None and not self._is_closing:
            await self._say(replies.SHUTTING_DOWN)

    async def _end(self) -> None:
        self._give_up()
        await self._note_if_unheard()
        self._close()
        if self._is_counted:
            self._relay.sessions.leave(self.source)
        self._sign_out()

    async def _next_line(self) -> bytes | None:
        is_known = self._signed_in is not None or self._entrance.is_gateway
        before_sign_in = min(self._now() + SECONDS_OF_SILENCE_BEFORE_THE_SIGN_IN, self._must_sign_in_by)
        self.deadline = self._patience_ends_at() if is_known else before_sign_in
        try:
            return await self.buffer.line()
        except LineTooLong:
            return b"\0"  # no command begins so; it is answered as what it is
        finally:
            self.deadline = None

    def _patience_ends_at(self) -> float:
        """A mail that has begun is let through; between two mails a session that has lasted long enough
        ends."""
        idle_until = self._now() + SECONDS_IDLE
        return idle_until if self._transaction is not None else min(idle_until, self._must_end_by)

    async def _next_chunk(self) -> bytes:
        self.deadline = min(self._now() + SECONDS_FOR_A_CHUNK, self._data_ends_at)
        try:
            return await self.buffer.chunk()
        finally:
            self.deadline = None

    async def _mended_chunk(self) -> bytes:
        """On a listener that mends what old devices send, before anything else looks at it."""
        return self._mender.feed(await self._next_chunk())

    # -- commands

    async def _answer(self, line: bytes) -> None:
        verb, _, arguments = line.strip().partition(b" ")
        self._commands += 1
        # A client that pipelines without end is answered from its buffer, and would keep the loop to itself.
        if self._commands % _COMMANDS_IN_A_ROW == 0:
            await asyncio.sleep(0)  # who sends without waiting must not keep the others waiting
        handler = self._VERBS.get(verb.upper())
        try:
            reply = await handler(self, arguments.strip()) if handler is not None else _unknown(line)
        except BadCommand as error:
            reply = error.reply
        except (UpstreamUnavailable, RefusesUs, UpstreamBusy, UpstreamLost, SignInAgain) as trouble:
            reply = next(reply for kind, reply in _TROUBLES.items() if isinstance(trouble, kind))
        except (ClientGone, AlreadyAnswered):
            return
        except Exception:  # noqa: BLE001  the edge of a mail: the client may try again, our log has the detail
            logs.failed_unexpectedly(f"the command {verb[:10]!r}")
            self._give_up()
            reply = replies.INTERNAL
        await self._say_and_count(reply)

    async def _say_and_count(self, reply: Reply) -> None:
        await self._say(reply)
        if reply is replies.UPSTREAM_LACKS:
            self._lacked += 1
            if self._lacked > 1 and self._offered != _for_clients(self._relay.pool.extensions):
                # A mail server that keeps its connections asks for the same again and again: it says EHLO,
                # and hears what is offered now, on a new connection only.
                await self._say(replies.OFFERS_HAVE_CHANGED)
                return
        if reply in replies.CLIENT_ERRORS:
            self._errors += 1
            if self._errors >= _MOST_ERRORS:
                await self._say(replies.TOO_MANY_ERRORS)

    async def _ehlo(self, arguments: bytes) -> Reply:
        if not arguments:
            return replies.BAD_ARGUMENTS
        self._give_up()
        self._has_said_hello = True
        self._offered = _for_clients(self._relay.pool.extensions)
        lines = [self._relay.hostname, "PIPELINING"]
        if (size := self._size_offered()) is not None:
            lines.append(f"SIZE {size}")
        lines += [name.upper() for name in _UPSTREAM_EXTENSIONS if name in self._offered]
        if self._entrance.tls is not None and not self._is_encrypted:
            lines.append("STARTTLS")
        if self._entrance.lets_sign_in(encrypted=self._is_encrypted):
            lines.append("AUTH PLAIN LOGIN")
        return Reply(250, tuple(line.encode() for line in lines))

    def _size_offered(self) -> int | None:
        """The smaller of ours and the upstream's, whose 0 means no limit (RFC 1870 section 4)."""
        theirs = self._relay.pool.extensions.get("size")
        if theirs is None or not (theirs == "" or (theirs.isascii() and theirs.isdigit())):
            return None
        ours = self._entrance.listener.limits.size
        return min(ours, int(theirs or 0) or ours)

    async def _helo(self, arguments: bytes) -> Reply:
        if not arguments:
            return replies.BAD_ARGUMENTS
        self._give_up()
        self._has_said_hello = True
        self._offered = _for_clients(self._relay.pool.extensions)
        return Reply(250, (self._relay.hostname.encode(),))

    async def _mail(self, arguments: bytes) -> Reply:
        if not self._has_said_hello:
            return replies.SAY_HELLO_FIRST
        if self._transaction is not None:
            return replies.NESTED_MAIL
        # Settings are looked at for each mail, not for each session: an app password that is revoked stops
        # the session that is open with it.
        people = self._relay.snapshot.people
        if people is None:
            return replies.INTERNAL
        if self._signed_in is not None and not self._signed_in.still_may(people):
            self._sign_out()
        self._refuse_strangers(people)
        path = parse_mail(arguments)
        self._takes_utf8 = "smtputf8" in path.extensions
        if lacking := path.needed - self._offered:
            is_for_now = lacking <= _MAY_BE_OFFERED_AGAIN
            raise BadCommand(replies.UPSTREAM_LACKS if is_for_now else replies.UNKNOWN_PARAMETER)
        # Before a link is taken: strangers must not cost the provider a connection.
        self._entrance.refuse_sender(path, people)
        began = self._now()
        await self._keep_pace(people)
        transaction = Transaction(self._links(people, waited=self._now() - began), path)
        try:
            reply = await transaction.mail()
        except BaseException:
            # The link is in nobody's hands yet; without this its place would be lost for good.
            transaction.give_up()
            raise
        if reply.is_positive:
            self._transaction, self._about_mail_at = transaction, self._now()
        else:
            transaction.give_up()
        return self._verdict(reply)

    def release_upstream_if_silent(self, now: float) -> None:
        """A mail that is begun and not gone on with must not keep a link that others need; a link that is the
        client's own may wait."""
        is_silent = self.deadline is not None and now - self._about_mail_at > SECONDS_OF_SILENCE_ABOUT_A_MAIL
        if is_silent and self._transaction is not None and not self._has_own_link:
            self._transaction.pause()
            self._about_mail_at = math.inf

    def _refuse_strangers(self, people: People) -> None:
        self._entrance.refuse_strangers(
            self._signed_in, people, trusted=self._is_trusted, encrypted=self._is_encrypted
        )

    async def _keep_pace(self, people: People) -> None:
        """So many mails a minute and a day a person may send, by all relays together; above the first MAIL
        waits its turn.

        Raises BadCommand where that would take too long, above the second, and where the relay is to stop."""
        person = self._signed_in.person(people) if self._signed_in is not None else None
        if person is None:
            return
        elsewhere = self._relay.snapshot.mails_elsewhere(person.id)
        most = people.policy.mails_per_minute
        seconds = self._relay.pace.wait(person.id, most, elsewhere, self._now())
        most_today = people.policy.mails_per_day
        is_too_much_today = seconds is not None and self._relay.daily.is_over(person.id, most_today)
        if seconds is None or is_too_much_today:
            limit = "day" if is_too_much_today else "minute"
            self._relay.logbook.note(LimitRefused(person.id, limit, datetime.now(UTC)))
            raise BadCommand(replies.TOO_MANY_TODAY if is_too_much_today else replies.TOO_MANY_MAILS)
        until = self._now() + seconds
        while (left := until - self._now()) > 0:
            await asyncio.sleep(min(left, _SECONDS_BETWEEN_LOOKS))
            if self._registry.is_stopping:
                raise BadCommand(replies.SHUTTING_DOWN)
            if self._is_gone:
                raise BadCommand(replies.TOO_MANY_MAILS)

    def _links(self, people: People, *, waited: float) -> Links:
        """The client's own link, or its share of the pool; so long it has waited at this MAIL already."""
        if self._signed_in is None:
            return Share(self._relay.pool, None, MOST_SECONDS_TO_WAIT_AT_A_GATEWAY - waited)
        if self._signed_in.own_link is not None:
            return self._signed_in.own_link
        person = self._signed_in.person(people)
        who = None if person is None else person.id
        return Share(self._relay.pool, who, max(1.0, MOST_SECONDS_TO_WAIT - waited))

    async def _rcpt(self, arguments: bytes) -> Reply:
        """With all RCPTs that the client has sent on without waiting: they go upstream in one go, and each
        hears its own verdict. Over a line of 50 ms two hundred of them would else take ten seconds."""
        transaction = self._transaction
        if transaction is None:
            return replies.MAIL_FIRST
        most = self._entrance.listener.limits.recipients
        if (provider := self._relay.pool.most_recipients_said) is not None:
            most = min(most, provider)
        room = most - len(transaction.accepted)
        if room <= 0:
            return replies.TOO_MANY_RECIPIENTS
        asked = [arguments]
        # no more than there is room for: how many of these are accepted is known only after their verdicts
        while transaction.takes_several_at_once and len(asked) < min(room, _MOST_RCPTS_AT_ONCE):
            line = self.buffer.line_ahead(b"RCPT ")
            if line is None:
                break
            asked.append(line[5:].strip())
            self._commands += 1
        read = [self._unless_blocked(_read_rcpt(one, transaction), transaction) for one in asked]
        paths = [one for one in read if isinstance(one, Path)]
        answers = iter(await transaction.send_rcpts(paths) if paths else [])
        said = []
        for one in read:
            said.append(await self._verdict_on(transaction, one, answers) if isinstance(one, Path) else one)
            if len(said) < len(read):
                await self._say_and_count(said[-1])
            if self._is_closing:
                raise AlreadyAnswered
        self._about_mail_at = self._now()
        return said[-1]

    def _unless_blocked(self, path: Path | Reply, transaction: Transaction) -> Path | Reply:
        """The recipient, unless nobody may send to its domain; who tried is counted."""
        people = self._relay.snapshot.people
        if not isinstance(path, Path) or people is None or not people.policy.blocked_domains:
            return path
        if not matches(recipient_key(path.address), people.policy.blocked_domains):
            return path
        signed_in = self._signed_in.person(people) if self._signed_in is not None else None
        person = signed_in or people.by_address.get(recipient_key(transaction.sender.address))
        if person is not None:
            self._relay.logbook.note(LimitRefused(person.id, "blocked-domain", datetime.now(UTC)))
        return replies.BLOCKED_DOMAIN

    async def _verdict_on(
        self, transaction: Transaction, path: Path, answers: Iterator[Answer[Reply]]
    ) -> Reply:
        accepted = len(transaction.accepted)
        try:
            reply = await transaction.verdict_on(path, next(answers))
        except UpstreamLost:
            return replies.UPSTREAM_LOST
        if not self._has_own_link and says_too_many_recipients(reply):
            self._relay.pool.note_too_many_recipients(accepted)
        return self._verdict(reply)

    async def _data(self, arguments: bytes) -> Reply:
        transaction, people = self._transaction, self._relay.snapshot.people
        if transaction is None:
            return replies.MAIL_FIRST
        if arguments:
            return replies.BAD_ARGUMENTS
        if not transaction.accepted:
            return replies.NO_RECIPIENTS
        if people is None:
            return replies.INTERNAL
        self._refuse_strangers(people)
        self._about_mail_at = math.inf
        await self._say(replies.SEND_DATA)
        self._data_ends_at = self._now() + SECONDS_FOR_THE_DATA
        self._mender = NewlineMender()
        signed_in = self._signed_in.person(people) if self._signed_in is not None else None
        sending = Sending(
            people, signed_in, is_gateway=self._entrance.is_gateway, has_own_link=self._has_own_link
        )
        delivery = Delivery(
            self._relay,
            sending,
            transaction,
            self._mended_chunk if self._entrance.listener.fixes_bare_newlines else self._next_chunk,
            self._entrance.listener.limits.size,
            lambda: self._is_gone or self.buffer.has_ended,
        )
        try:
            delivered = await delivery.run()
        finally:
            # What came behind the dot is the next command; what came of a mail that broke off is no command
            # at all.
            self._transaction = None
            self.buffer.give_back(delivery.rest)
            self._is_closing = self._is_closing or not delivery.has_read_all
        if delivered.reply.is_positive and delivered.mail_id:
            self._unconfirmed = delivered
            self._received_before_reply = self._received
        return delivered.reply

    async def _rset(self, arguments: bytes) -> Reply:
        self._give_up()
        return replies.OK

    async def _noop(self, arguments: bytes) -> Reply:
        return replies.OK

    async def _vrfy(self, arguments: bytes) -> Reply:
        return replies.CANNOT_VERIFY

    async def _quit(self, arguments: bytes) -> Reply:
        self._is_closing = True
        return replies.BYE

    async def _not_offered(self, arguments: bytes) -> Reply:
        return replies.NOT_OFFERED

    def _give_up(self) -> None:
        if self._transaction is not None:
            self._transaction.give_up()
            self._transaction = None

    @property
    def _has_own_link(self) -> bool:
        """What the upstream refuses there it refuses to the client, not to us."""
        return self._signed_in is not None and self._signed_in.own_link is not None

    def _verdict(self, reply: Reply) -> Reply:
        """The upstream's own reply, unless it speaks of us."""
        if self._has_own_link or not is_our_fault(reply, Stage.ENVELOPE):
            return reply
        self._relay.pool.note_refusal_of_us(reply.code)
        return replies.MISCONFIGURED

    # -- whether the client has heard the last 250

    def _confirm_if_heard(self) -> None:
        """A client that speaks on after our 250 has heard it; what it had sent ahead says nothing."""
        if self._unconfirmed is None or self._received == self._received_before_reply:
            return
        self._note_heard(self._unconfirmed)
        self._unconfirmed = None

    def _note_heard(self, delivered: Delivered) -> None:
        """A next mail of the same bytes is meant as such."""
        if delivered.unheard is not None:
            self._relay.snapshot.forget_lost_reply(delivered.fingerprint, delivered.unheard)
            self._relay.logbook.note(ReplyHeard(delivered.unheard))

    async def _note_if_unheard(self) -> None:
        """A client that had closed its connection answers our 250 with a reset, within a round trip."""
        if self._unconfirmed is None:
            return
        if not self._is_gone:
            await asyncio.sleep(SECONDS_TO_HEAR_A_RESET)
        if self._is_unsaid or self._has_broken or self._was_reset():
            lost = self._unconfirmed
            self._relay.snapshot.remember_lost_reply(
                lost.fingerprint, EarlierAnswer(lost.mail_id, lost.reply.text())
            )
            self._relay.logbook.note(LostReply(lost.mail_id, lost.fingerprint))
        elif self._unconfirmed.unheard == self._unconfirmed.mail_id and self._has_been_heard():
            # it had shut its own side only, and has heard us since
            self._note_heard(self._unconfirmed)
        self._unconfirmed = None

    # -- signing in

    async def _auth(self, arguments: bytes) -> Reply:
        if (refusal := self._reason_not_to_sign_in()) is not None:
            return refusal
        mechanism, _, initial = arguments.partition(b" ")
        given = await sign_in.credentials(mechanism, initial.strip(), self._challenge)
        self._signed_in = await sign_in.sign_in(self._relay, self._entrance.sign_in, self.source, given)
        return replies.SIGNED_IN

    def _reason_not_to_sign_in(self) -> Reply | None:
        reasons = {
            replies.SAY_HELLO_FIRST: not self._has_said_hello,
            replies.NOT_OFFERED: self._entrance.is_gateway,
            replies.NEEDS_ENCRYPTION: not self._entrance.lets_sign_in(encrypted=self._is_encrypted),
            replies.ALREADY_SIGNED_IN: self._signed_in is not None,
            replies.NOT_DURING_MAIL: self._transaction is not None,
        }
        return next((reply for reply, applies in reasons.items() if applies), None)

    async def _challenge(self, question: bytes) -> bytes:
        await self._say(Reply(334, (base64.b64encode(question),)))
        line = await self._next_line()
        if line is None:
            raise ClientGone
        if line.strip() == b"*":
            raise BadCommand(replies.AUTH_CANCELLED)
        return line.strip()

    def _sign_out(self) -> None:
        if self._signed_in is not None and self._signed_in.own_link is not None:
            self._signed_in.own_link.close()
        self._signed_in = None

    # -- encryption

    async def _starttls(self, arguments: bytes) -> Reply:
        """RFC 3207. What was sent ahead in clear is not taken for encrypted: the session ends."""
        if self._entrance.tls is None or self._is_encrypted:
            return replies.NOT_OFFERED
        if arguments:
            return replies.NO_PARAMETERS
        if self._transaction is not None:
            return replies.NOT_DURING_MAIL
        # Commands that were injected in clear before the handshake would be answered as if they had come
        # encrypted (CVE-2011-0411).
        if self.buffer.has_more():
            self._is_closing = True
            return replies.PIPELINED_STARTTLS
        await self._say(replies.GO_AHEAD)
        if self.buffer.has_more():  # sent while our reply waited to be taken
            self._is_closing = True
            raise AlreadyAnswered
        try:
            await self._encrypt(self._entrance.tls)
        except (OSError, TimeoutError) as error:
            logs.handshake_failed(self.source, str(error))
            self._is_closing = True
            raise ClientGone from error
        # RFC 3207 section 4.2: what was said before the handshake is forgotten, the sign-in too.
        self._has_said_hello = False
        self._sign_out()
        raise AlreadyAnswered

    _VERBS: ClassVar[Mapping[bytes, Callable[["Session", bytes], Awaitable[Reply]]]] = {
        b"EHLO": _ehlo,
        b"HELO": _helo,
        b"MAIL": _mail,
        b"RCPT": _rcpt,
        b"DATA": _data,
        b"RSET": _rset,
        b"NOOP": _noop,
        b"VRFY": _vrfy,
        b"QUIT": _quit,
        b"AUTH": _auth,
        b"STARTTLS": _starttls,
        b"BDAT": _not_offered,
        b"EXPN": _not_offered,
        b"HELP": _not_offered,
    }


def _for_clients(extensions: Mapping[str, str]) -> frozenset[str]:
    """What a client may ask for. SMTPUTF8 goes with 8BITMIME only (RFC 6531 section 3.1): Postfix takes the
    one for the other."""
    offered = frozenset(extensions)
    return offered if "8bitmime" in offered else offered - {"smtputf8"}


def _unknown(line: bytes) -> Reply:
    return replies.LINE_TOO_LONG if line == b"\0" else replies.UNKNOWN_COMMAND


def _read_rcpt(arguments: bytes, transaction: Transaction) -> Path | Reply:
    """The recipient, or why it is not asked for."""
    try:
        return parse_rcpt(arguments, smtputf8="smtputf8" in transaction.sender.extensions)
    except BadCommand as error:
        return error.reply
