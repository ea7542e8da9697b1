"""Where links come from: a pool for the relay's own credential, or the one link that a client signed in on
itself."""

import asyncio
from collections import deque
from collections.abc import Coroutine, Mapping
from functools import partial
from typing import Protocol

from core import logs
from core.background import off_loop
from core.smtp import Credentials, RefusesUs, Route, UpstreamUnavailable, WrongCredentials
from relay.conversation import Answer
from relay.link import UpstreamLink, UpstreamLost
from relay.offers import Offers
from relay.replies import Reply

_SECONDS_FOR_A_RESET = 5.0
_SECONDS_FOR_A_PLACE = 5.0
_MOST_LINKS = 250
_SECONDS_BETWEEN_PROBES = 15.0
_SECONDS_BETWEEN_LOOKS = 1.0
_SECONDS_OF_SILENCE = 60.0


class SignInAgain(Exception):
    """The link that belonged to this client alone is gone."""


class UpstreamBusy(Exception):
    """All connections that we allow ourselves are in use."""


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
        self._resetting: Answer[Reply] | None = None

    async def take(self) -> UpstreamLink:
        resetting, self._resetting = self._resetting, None
        if resetting is not None:
            try:
                reply = await self._link.reply(resetting, _SECONDS_FOR_A_RESET)
            except UpstreamLost as error:
                raise SignInAgain from error
            if not reply.is_positive:
                self._link.abort()
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


class Places:
    """How many connections we may have at once; who finds none free waits in line for a while."""

    def __init__(self, number: int) -> None:
        self.free = number
        self._line: deque[Answer[bool]] = deque()

    async def take(self) -> None:
        """Raises UpstreamBusy."""
        if self.free:
            self.free -= 1
            return
        turn: Answer[bool] = Answer()
        self._line.append(turn)
        patience = asyncio.get_running_loop().call_later(_SECONDS_FOR_A_PLACE, turn.give, False)
        is_ours = await turn
        patience.cancel()
        if not is_ours:
            raise UpstreamBusy

    def give_back(self) -> None:
        """To whoever has waited longest."""
        while self._line:
            turn = self._line.popleft()
            if not turn.is_there:
                turn.give(True)
                return
        self.free += 1


class Pool:
    """The links to one upstream, all with the same credential; those that are idle are used again."""

    def __init__(self, route: Route, offers: Offers | None = None) -> None:
        """`offers`: where it is kept what the upstream offers."""
        known = None if offers is None else offers.known()
        self._offers = offers
        self.extensions: Mapping[str, str] = known or {}
        """What the upstream offered last."""
        self.is_known = known is not None
        """Whether that is known, from now or from before the start."""
        self.route = route
        self.idle_links: list[UpstreamLink] = []
        self.places = Places(_MOST_LINKS)
        self._loop = asyncio.get_running_loop()
        self.errands: set[asyncio.Task[None]] = set()
        self._unreachable: str | None = None
        self._refuses_us: str | None = None
        self._has_reached = False
        self._heard_at = 0.0

    @property
    def trouble(self) -> str | None:
        """What is wrong between us and the upstream, as far as the last mails told; None: nothing."""
        return self._refuses_us or self._unreachable

    @property
    def unreachable(self) -> str | None:
        """Why the upstream could not be reached at the last try; None: it was. It is asked again by
        itself."""
        return self._unreachable

    @property
    def refusal(self) -> str | None:
        """That the upstream refuses us, not a mail of a client's; None: it does not. Its next yes ends
        that."""
        return self._refuses_us

    @property
    def busy(self) -> int:
        """How many links have a mail."""
        return _MOST_LINKS - self.places.free

    @property
    def idle(self) -> int:
        """How many links wait for one."""
        return len(self.idle_links)

    def note_refusal_of_us(self, code: int) -> None:
        """The upstream refuses us, not the mail: that is alarming, and said to nobody but us."""
        self._refuses_us = f"it does not accept us, and answers {code}"
        logs.upstream_misconfigured(str(self), code)

    def note_yes(self) -> None:
        """The upstream has taken a mail of ours."""
        self._refuses_us = None

    def __str__(self) -> str:
        return str(self.route)

    async def sign_in(self, credentials: Credentials) -> OwnLink:
        """A link of a client's own, by its own name and password. Raises UpstreamUnavailable, RefusesUs,
        WrongCredentials."""
        try:
            connected = await asyncio.ensure_future(self.route.connect(credentials))
        except (UpstreamUnavailable, RefusesUs) as error:
            if not isinstance(error, WrongCredentials):
                self.note_unreachable(error)
            raise
        self._note_reached(connected.extensions)
        return OwnLink(UpstreamLink(connected.transport, connected.extensions, self._loop.time()))

    async def take(self) -> UpstreamLink:
        """A link for one mail. Raises UpstreamUnavailable, RefusesUs, UpstreamBusy."""
        await self.places.take()
        while self.idle_links:
            link = self.idle_links.pop()
            if link.is_reusable(self._loop.time()):
                return link
            link.quit()
        return await self._connect_or_free_place()

    async def take_new(self) -> UpstreamLink:
        """The same on a connection of its own."""
        await self.places.take()
        return await self._connect_or_free_place()

    def give_back(self, link: UpstreamLink) -> None:
        """The mail on this link is done; whether the link lives on is decided here."""
        self.places.give_back()
        link.idle_since = self._heard_at = self._loop.time()
        if link.is_reusable(link.idle_since):
            self.idle_links.append(link)
        else:
            link.quit()

    def give_back_after_reset(self, link: UpstreamLink) -> None:
        """The mail on this link was given up before its data."""
        self._run(self._reset(link))

    def drop(self, link: UpstreamLink) -> None:
        """Nobody knows what this link is at."""
        self.places.give_back()
        link.abort()

    async def learn(self) -> None:
        """Ask what the upstream offers; one that is down is asked again later."""
        try:
            self.give_back(await self.take_new())
        except (UpstreamUnavailable, RefusesUs, UpstreamBusy):
            return

    async def tidy(self) -> None:
        """For ever: let go of links that have been idle for too long, and ask the upstream how it is when no
        mail does."""
        asked_at = self._loop.time()
        while True:
            await asyncio.sleep(_SECONDS_BETWEEN_LOOKS)
            try:
                now = self._loop.time()
                patience = (
                    _SECONDS_BETWEEN_PROBES if self.trouble or not self._has_reached else _SECONDS_OF_SILENCE
                )
                if now - max(asked_at, self._heard_at) > patience:
                    asked_at = now
                    await self.learn()
                self._let_idle_go()
            except Exception:  # noqa: BLE001  whatever it was, the next look may fare better
                logs.failed_unexpectedly("looking after the links")

    async def close(self) -> None:
        for link in self.idle_links:
            link.quit()
        self.idle_links.clear()
        for errand in self.errands:
            errand.cancel()

    def _let_idle_go(self) -> None:
        now = self._loop.time()
        stale = [link for link in self.idle_links if not link.is_reusable(now)]
        self.idle_links = [link for link in self.idle_links if link.is_reusable(now)]
        for link in stale:
            link.quit()

    async def _connect_or_free_place(self) -> UpstreamLink:
        try:
            connected = await asyncio.ensure_future(self.route.connect())
        except BaseException as error:
            self.places.give_back()
            if isinstance(error, UpstreamUnavailable | RefusesUs):
                self.note_unreachable(error)
            raise
        self._note_reached(connected.extensions)
        return UpstreamLink(connected.transport, connected.extensions, self._loop.time())

    def note_unreachable(self, error: Exception) -> None:
        self._unreachable = str(error)
        logs.upstream_unavailable(str(self), str(error))

    def _note_reached(self, extensions: Mapping[str, str]) -> None:
        if self._offers is not None and (extensions != self.extensions or not self.is_known):
            self._run(off_loop(partial(self._offers.keep, extensions)))
        self.extensions = extensions
        self._unreachable = None
        self.is_known = self._has_reached = True
        self._heard_at = self._loop.time()

    async def _reset(self, link: UpstreamLink) -> None:
        try:
            reply = await link.command(b"RSET", _SECONDS_FOR_A_RESET)
        except UpstreamLost:
            self.drop(link)
            return
        if reply.is_positive:
            self.give_back(link)
        else:
            self.drop(link)

    def _run(self, errand: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(errand)
        self.errands.add(task)
        task.add_done_callback(self.errands.discard)
