"""The other half of the conversation: links to the upstream, and one mail's way over them.

A link is our own protocol on a transport that core/smtp connected: it can pipeline, streams what it is given,
and reads replies as bytes. A transaction keeps the rules: what is retried, and where a lost link leaves a mail."""

import asyncio
from collections import deque
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from core import logs
from core.mail import Copy
from core.smtp import Credentials, RefusesUs, Route, Unavailable
from relay import replies
from relay.envelope import BadCommand, Path
from relay.replies import Garbage, Reply, ReplyReader

SECONDS_FOR_A_COMMAND = 60.0
SECONDS_FOR_THE_COPY = 5.0
SECONDS_FOR_THE_VERDICT = 85.0
"""Must end before the client's own patience does (facts of clients: 90 s and more)."""

_SECONDS_TO_WRITE = 180.0
_SECONDS_FOR_A_PLACE = 5.0
_SECONDS_IDLE = 20.0
_SECONDS_OF_LIFE = 300.0
_MAILS_PER_LINK = 100
_MOST_LINKS = 250
_SECONDS_BETWEEN_PROBES = 15.0
_SECONDS_BETWEEN_LOOKS = 1.0
_LACKING = {"8bitmime": replies.NEEDS_8BITMIME, "smtputf8": replies.NEEDS_SMTPUTF8_UPSTREAM}


class UpstreamLost(Exception):
    """The connection is gone, silent for too long, or talks nonsense."""


class DotNotSent(UpstreamLost):
    """The connection was gone before the dot: the upstream has discarded the mail."""


class SignInAgain(Exception):
    """The link that belonged to this client alone is gone."""


class UpstreamBusy(Exception):
    """All connections that we allow ourselves are in use."""


class UpstreamLink(asyncio.Protocol):
    """One connection, greeted and signed in. Commands may be sent ahead; replies come in their order."""

    def __init__(self, transport: asyncio.Transport, extensions: Mapping[str, str], now: float) -> None:
        self.extensions = extensions
        self.born_at = now
        self.idle_since = now
        self.mails = 0
        self._transport = transport
        self._reader = ReplyReader()
        self._awaited: deque[asyncio.Future[Reply]] = deque()
        self._loop = asyncio.get_running_loop()
        self._can_write = asyncio.Event()
        self._can_write.set()
        self.is_lost = False
        transport.set_protocol(self)

    def data_received(self, data: bytes) -> None:
        try:
            for reply in self._reader.feed(data):
                self._take_in(reply)
        except Garbage:
            self.abort()

    def _take_in(self, reply: Reply) -> None:
        """A reply that nobody waits for is the upstream's farewell: 421 before it closes."""
        if not self._awaited:
            self.abort()
            return
        future = self._awaited.popleft()
        if not future.done():
            future.set_result(reply)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        self._can_write.set()
        while self._awaited:
            future = self._awaited.popleft()
            if not future.done():
                future.set_exception(UpstreamLost())
                future.exception()  # some are awaited by nobody any more

    def pause_writing(self) -> None:
        self._can_write.clear()

    def resume_writing(self) -> None:
        self._can_write.set()

    def expect(self) -> asyncio.Future[Reply]:
        """The next reply that is not spoken for."""
        future = self._loop.create_future()
        if self.is_lost:
            future.set_exception(UpstreamLost())
            future.exception()
        else:
            self._awaited.append(future)
        return future

    def send(self, *lines: bytes) -> list[asyncio.Future[Reply]]:
        """Commands in one write; a future for the reply to each."""
        if not self.is_lost:
            self._transport.write(b"\r\n".join([*lines, b""]))
        return [self.expect() for _ in lines]

    async def command(self, line: bytes, seconds: float = SECONDS_FOR_A_COMMAND) -> Reply:
        """One command and its reply. Raises UpstreamLost; the link is then closed."""
        return await self.reply(self.send(line)[0], seconds)

    async def reply(self, future: asyncio.Future[Reply], seconds: float) -> Reply:
        """Wait for a reply. Raises UpstreamLost; the link is then closed."""
        try:
            async with asyncio.timeout(seconds):
                return await future
        except TimeoutError as error:
            self.abort()
            raise UpstreamLost from error

    async def write(self, data: bytes) -> None:
        """Pass bytes of a mail on, no faster than the upstream takes them. Raises UpstreamLost."""
        if self.is_lost:
            raise UpstreamLost
        self._transport.write(data)
        if self._can_write.is_set():
            return
        try:
            async with asyncio.timeout(_SECONDS_TO_WRITE):
                await self._can_write.wait()
        except TimeoutError as error:
            self.abort()
            raise UpstreamLost from error
        if self.is_lost:
            raise UpstreamLost

    def is_reusable(self, now: float) -> bool:
        """Whether the next mail may use it."""
        return (
            not self.is_lost
            and not self._awaited
            and self.mails < _MAILS_PER_LINK
            and now - self.idle_since < _SECONDS_IDLE
            and now - self.born_at < _SECONDS_OF_LIFE
        )

    def abort(self) -> None:
        """Close at once, without a word: a mail that is under way is discarded by the upstream."""
        self.is_lost = True
        self._transport.abort()

    def quit(self) -> None:
        """Close in good manners, without waiting for the answer."""
        if not self.is_lost:
            self._transport.write(b"QUIT\r\n")
            self._transport.close()
        self.is_lost = True


class Links(Protocol):
    """Where a transaction has its link from, and gives it back to."""

    async def take(self) -> UpstreamLink: ...
    async def take_new(self) -> UpstreamLink: ...
    def give_back(self, link: UpstreamLink) -> None: ...
    def give_back_after_reset(self, link: UpstreamLink) -> None: ...
    def drop(self, link: UpstreamLink) -> None: ...


class OwnLink:
    """The one link that a client signed in on with its own password; it is nobody else's, and not replaced.

    The password is not kept, so when the link is gone the client must sign in again: `SignInAgain`."""

    def __init__(self, link: UpstreamLink) -> None:
        self._link = link
        self._is_taken = False
        self._resetting: asyncio.Future[Reply] | None = None

    async def take(self) -> UpstreamLink:
        if self._resetting is not None:
            await self._link.reply(self._resetting, SECONDS_FOR_THE_COPY)
            self._resetting = None
        if self._link.is_lost or self._is_taken:
            raise SignInAgain
        self._is_taken = True
        return self._link

    async def take_new(self) -> UpstreamLink:
        raise SignInAgain

    def give_back(self, link: UpstreamLink) -> None:
        self._is_taken = False

    def give_back_after_reset(self, link: UpstreamLink) -> None:
        """The RSET is on its way; its answer is waited for by the next mail."""
        self._is_taken = False
        self._resetting = link.send(b"RSET")[0]

    def drop(self, link: UpstreamLink) -> None:
        self._is_taken = False
        link.abort()

    def close(self) -> None:
        self._link.quit()


class Pool:
    """The links to one upstream, all with the same credential; those that are idle are used again."""

    def __init__(self, route: Route) -> None:
        self.extensions: Mapping[str, str] = {}
        """What the upstream offered last."""
        self._route = route
        self._idle: list[UpstreamLink] = []
        self._places = asyncio.Semaphore(_MOST_LINKS)
        self._loop = asyncio.get_running_loop()
        self._errands: set[asyncio.Task[None]] = set()
        self._is_known = False

    def __str__(self) -> str:
        return str(self._route)

    async def sign_in(self, credentials: Credentials) -> OwnLink:
        """A link of a client's own, by its own name and password. Raises Unavailable, RefusesUs, WrongCredentials."""
        connected = await self._route.connect(credentials)
        self.extensions = connected.extensions
        return OwnLink(UpstreamLink(connected.transport, connected.extensions, self._loop.time()))

    async def take(self) -> UpstreamLink:
        """A link for one mail. Raises Unavailable, RefusesUs, UpstreamBusy."""
        await self._take_place()
        while self._idle:
            link = self._idle.pop()
            if link.is_reusable(self._loop.time()):
                return link
            link.quit()
        return await self._connect_or_free_place()

    async def take_new(self) -> UpstreamLink:
        """The same on a connection of its own."""
        await self._take_place()
        return await self._connect_or_free_place()

    def give_back(self, link: UpstreamLink) -> None:
        """The mail on this link is done; whether the link lives on is decided here."""
        self._places.release()
        link.idle_since = self._loop.time()
        if link.is_reusable(link.idle_since):
            self._idle.append(link)
        else:
            link.quit()

    def give_back_after_reset(self, link: UpstreamLink) -> None:
        """The mail on this link was given up before its data."""
        self._run(self._reset(link))

    def drop(self, link: UpstreamLink) -> None:
        """Nobody knows what this link is at."""
        self._places.release()
        link.abort()

    async def learn(self) -> None:
        """Ask what the upstream offers; one that is down is asked again later."""
        try:
            self.give_back(await self.take_new())
        except (Unavailable, RefusesUs, UpstreamBusy):
            return

    async def tidy(self) -> None:
        """For ever: let go of links that have been idle for too long, and ask until the upstream has answered once."""
        while True:
            await asyncio.sleep(_SECONDS_BETWEEN_LOOKS if self._is_known else _SECONDS_BETWEEN_PROBES)
            if not self._is_known:
                await self.learn()
            self._let_idle_go()

    async def close(self) -> None:
        for link in self._idle:
            link.quit()
        self._idle.clear()
        for errand in self._errands:
            errand.cancel()

    def _let_idle_go(self) -> None:
        now = self._loop.time()
        stale = [link for link in self._idle if not link.is_reusable(now)]
        self._idle = [link for link in self._idle if link.is_reusable(now)]
        for link in stale:
            link.quit()

    async def _take_place(self) -> None:
        try:
            async with asyncio.timeout(_SECONDS_FOR_A_PLACE):
                await self._places.acquire()
        except TimeoutError as error:
            raise UpstreamBusy from error

    async def _connect_or_free_place(self) -> UpstreamLink:
        try:
            connected = await self._route.connect()
        except BaseException as error:
            self._places.release()
            if isinstance(error, Unavailable | RefusesUs):
                logs.upstream_unavailable(str(self), str(error))
            raise
        self.extensions = connected.extensions
        self._is_known = True
        return UpstreamLink(connected.transport, connected.extensions, self._loop.time())

    async def _reset(self, link: UpstreamLink) -> None:
        try:
            reply = await link.command(b"RSET", SECONDS_FOR_THE_COPY)
        except UpstreamLost:
            self.drop(link)
            return
        if reply.is_positive:
            self.give_back(link)
        else:
            self.drop(link)

    def _run(self, errand: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(errand)
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)


@dataclass(frozen=True, slots=True)
class DataBegun:
    """What the upstream said to DATA (None: it was lost before it said so), and to the copy's RCPT before it."""

    reply: Reply | None
    copy: Copy = Copy.NONE
    copy_reply: Reply | None = None

    @property
    def may_stream(self) -> bool:
        return self.reply is not None and self.reply.code == replies.SEND_DATA.code


@dataclass
class Transaction:
    """One mail on its way upstream, from MAIL to the verdict; the link is held for just that long."""

    links: Links
    sender: Path
    link: UpstreamLink | None = None
    accepted: list[Path] = field(default_factory=list)
    _verdict: asyncio.Future[Reply] | None = None
    _copy_verdict: tuple[Copy, Reply | None] = (Copy.NONE, None)

    async def mail(self) -> Reply:
        """Say MAIL. A link that died of idleness is replaced once; nothing had been accepted on it.

        Raises Unavailable, RefusesUs, UpstreamBusy, UpstreamLost, BadCommand."""
        self.link = await self.links.take()
        was_used = self.link.mails > 0
        try:
            reply = await self._say_mail()
            if reply.code != replies.SHUTTING_DOWN.code or not was_used:
                return reply
        except UpstreamLost:
            if not was_used:
                raise
        self.drop()
        self.link = await self.links.take_new()
        return await self._say_mail()

    async def rcpt(self, path: Path) -> Reply:
        """Say RCPT, and remember the recipient if the upstream takes it. Raises UpstreamLost."""
        reply = await self._live_link().command(path.line(b"RCPT TO:"))
        if reply.is_positive:
            self.accepted.append(path)
        return reply

    async def begin_data(self, bcc: bytes | None) -> DataBegun:
        """Offer the copy as the last recipient, then say DATA. Never raises: a link that is lost on the copy is
        replaced, and the mail goes on without it."""
        if bcc is None:
            return DataBegun(await self._say_data())
        begun = await self._begin_with_copy(bcc)
        if begun is not None:
            return begun
        copy, copy_reply = self._copy_verdict
        self.drop()
        again = await self._begin_again()
        if copy is Copy.ACCEPTED:  # on a link that is gone; what goes out now has no copy
            copy, copy_reply = Copy.UNANSWERED, None
        return DataBegun(again, copy, copy_reply)

    @property
    def early_verdict(self) -> Reply | None:
        """What the upstream said before the mail was through, if it did."""
        if self._verdict is None or not self._verdict.done() or self._verdict.exception() is not None:
            return None
        return self._verdict.result()

    async def write(self, data: bytes) -> None:
        """Pass on bytes of the mail. Raises UpstreamLost."""
        await self._live_link().write(data)

    async def finish(self, last: bytes) -> Reply:
        """Write the last bytes and the dot, and wait for the verdict.

        Raises DotNotSent; and UpstreamLost: nobody knows whether the mail was taken."""
        link = self._live_link()
        if self._verdict is None or link.is_lost:
            raise DotNotSent
        await link.write(last + b".\r\n")
        reply = await link.reply(self._verdict, SECONDS_FOR_THE_VERDICT)
        self._verdict = None
        link.mails += 1
        if reply.kind not in {2, 4, 5}:
            self.drop()
            raise UpstreamLost
        if reply.code == replies.SHUTTING_DOWN.code:
            self.drop()
        else:
            self._let_go()
        return reply

    def give_up(self) -> None:
        """The client wants this mail no longer, before its data."""
        if self.link is not None and self._verdict is None and not self.link.is_lost:
            link, self.link = self.link, None
            link.mails += 1
            self.links.give_back_after_reset(link)
        else:
            self.drop()

    def drop(self) -> None:
        """Close the link without the dot: what was sent of the mail is discarded upstream."""
        self._verdict = None
        if self.link is not None:
            link, self.link = self.link, None
            self.links.drop(link)

    async def _begin_with_copy(self, bcc: bytes) -> DataBegun | None:
        """None: the link was lost, or the upstream said 421, before it was ready for the data."""
        link = self._live_link()
        rcpt = b"RCPT TO:<" + bcc + b">" + (b" NOTIFY=NEVER" if "dsn" in link.extensions else b"")
        self._copy_verdict = (Copy.UNANSWERED, None)
        try:
            if "pipelining" in link.extensions:
                copy_future, data_future = link.send(rcpt, b"DATA")
            else:
                copy_future, data_future = link.send(rcpt)[0], None
            copy_reply = await link.reply(copy_future, SECONDS_FOR_THE_COPY)
            self._copy_verdict = (Copy.ACCEPTED if copy_reply.is_positive else Copy.REFUSED, copy_reply)
            if copy_reply.code == replies.SHUTTING_DOWN.code:
                return None
            data_future = data_future or link.send(b"DATA")[0]
            reply = await link.reply(data_future, SECONDS_FOR_A_COMMAND)
        except UpstreamLost:
            return None
        if reply.code == replies.SHUTTING_DOWN.code:
            return None
        return DataBegun(self._ready_for_data(reply), *self._copy_verdict)

    async def _begin_again(self) -> Reply | None:
        """The same MAIL and accepted RCPTs on a new link; None where a verdict is not what it was."""
        try:
            self.link = await self.links.take_new()
            verdicts = [await self._say_mail()]
            verdicts += [await self.link.command(path.line(b"RCPT TO:")) for path in self.accepted]
        except (Unavailable, RefusesUs, UpstreamBusy, UpstreamLost, SignInAgain, BadCommand):
            return None
        if not all(verdict.is_positive for verdict in verdicts):
            return None
        return await self._say_data()

    async def _say_mail(self) -> Reply:
        """What this link does not offer is refused, not dropped: it may offer less than the one before."""
        for extension in sorted(self.sender.extensions - self._live_link().extensions.keys()):
            raise BadCommand(_LACKING.get(extension, replies.UNKNOWN_PARAMETER))
        return await self._live_link().command(self.sender.line(b"MAIL FROM:"))

    async def _say_data(self) -> Reply | None:
        try:
            return self._ready_for_data(await self._live_link().command(b"DATA"))
        except UpstreamLost:
            return None

    def _ready_for_data(self, reply: Reply) -> Reply | None:
        """After 354 the next reply is the verdict, whenever it comes; 2xx or another 3xx here is nonsense."""
        if reply.code == replies.SEND_DATA.code:
            self._verdict = self._live_link().expect()
            return reply
        return reply if reply.kind in {4, 5} else None

    def _live_link(self) -> UpstreamLink:
        if self.link is None:
            raise UpstreamLost
        return self.link

    def _let_go(self) -> None:
        if self.link is not None:
            link, self.link = self.link, None
            self.links.give_back(link)
