"""Where links come from: a pool for the relay's own credential, or the one link that a client signed in on
itself."""

import asyncio
import math
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from core import logs
from core.background import off_loop
from core.smtp import (
    Credentials,
    RefusesUs,
    Route,
    UpstreamCrowded,
    UpstreamUnavailable,
    WrongCredentials,
)
from relay.conversation import Answer
from relay.limits import Pace
from relay.link import UpstreamLink, UpstreamLost
from relay.offers import Offers
from relay.places import MachinePlaces, NoPlace, Places
from relay.replies import Reply

_SECONDS_FOR_A_RESET = 5.0
SECONDS_FOR_A_PLACE = 5.0
_SECONDS_TO_BELIEVE = 3600.0
_FEWEST_RECIPIENTS = 10
_SECONDS_OF_A_CROWD = 60.0
_SECONDS_UNTIL_THE_NEXT_TRY = 1.0
_SECONDS_IDLE_WHERE_SHARED = 1.0
_SECONDS_OF_LIFE_WHERE_SHARED = 2.0
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
    def note_crowded(self) -> None: ...

    @property
    def may_replace(self) -> bool:
        """Whether another link can be had in the place of one that is gone."""
        ...


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

    def note_crowded(self) -> None:
        """It is the client's own affair."""

    @property
    def may_replace(self) -> bool:
        return False

    def close(self) -> None:
        self._link.quit()


@dataclass(frozen=True)
class Share:
    """The pool as one sender uses it. `who`: a person's id, None for a mail server in front of us;
    `patience`: for so many seconds a mail may wait for its turn."""

    pool: "Pool"
    who: int | None
    patience: float

    async def take(self) -> UpstreamLink:
        """A link for one mail. Raises UpstreamUnavailable, RefusesUs, UpstreamBusy."""
        waited = await self.pool.keep_rate(self.patience)
        return await self.pool.take(self.who, self.patience - waited)

    async def take_new(self) -> UpstreamLink:
        """The same on a connection of its own."""
        return await self.pool.take(self.who, self.patience, is_new=True)

    def give_back(self, link: UpstreamLink) -> None:
        self.pool.give_back(link)

    def give_back_after_reset(self, link: UpstreamLink) -> None:
        self.pool.give_back_after_reset(link)

    def drop(self, link: UpstreamLink) -> None:
        self.pool.drop(link)

    def note_crowded(self) -> None:
        self.pool.note_crowded()

    @property
    def may_replace(self) -> bool:
        return True


class Pool:
    """The links to one upstream, all with the same credential; those that are idle are used again."""

    def __init__(
        self, route: Route, offers: Offers | None = None, places: MachinePlaces | None = None
    ) -> None:
        """`offers`: where it is kept what the upstream offers; `places`: that the relays of this machine
        share, where the upstream bears only so many connections."""
        known = None if offers is None else offers.known()
        self._offers = offers
        self.extensions: Mapping[str, str] = known or {}
        """What the upstream offered last."""
        self.is_known = known is not None
        """Whether that is known, from now or from before the start."""
        self.route = route
        self.idle_links: list[UpstreamLink] = []
        self._limits = route.upstream.limits
        self.places = Places(self._limits.connections or _MOST_LINKS)
        self._machine = places
        self._pace = Pace()
        self._recipients: tuple[int, float] | None = None
        """How many recipients a mail may have, as a refusal has told, and until when that is believed."""
        self._crowded_until = 0.0
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
        return self.places.taken

    @property
    def waiting(self) -> int:
        """How many mails wait for a link."""
        return self.places.waiting

    @property
    def most_recipients_said(self) -> int | None:
        """Of one mail, as the operator says; what is only learnt refuses no recipient."""
        return self._limits.recipients

    @property
    def most_recipients(self) -> int | None:
        """Of one mail, its copy included, as far as that is known."""
        learnt = self._recipients
        is_believed = learnt is not None and learnt[1] > self._loop.time()
        known = [self._limits.recipients, learnt[0] if learnt is not None and is_believed else None]
        return min((one for one in known if one is not None), default=None)

    def note_too_many_recipients(self, taken: int) -> None:
        """The upstream takes no more than these for one mail; believed for an hour. Of very few it speaks of
        something else: of one domain, or of one recipient's mailbox."""
        if taken < _FEWEST_RECIPIENTS:
            return
        self._recipients = (taken, self._loop.time() + _SECONDS_TO_BELIEVE)

    def note_crowded(self) -> None:
        """The upstream says that we have too many connections, or are too fast: one connection less than now,
        for a while."""
        self.places.set_number(max(1, self.places.taken - 1))
        self._crowded_until = self._loop.time() + _SECONDS_OF_A_CROWD

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

    async def take(
        self, who: int | None = None, patience: float = SECONDS_FOR_A_PLACE, *, is_new: bool = False
    ) -> UpstreamLink:
        """A link for one mail of this person, one that was used before where there is one; `is_new`: on a
        connection of its own. A mail waits for its turn for so long, whatever it has to wait for.

        Raises UpstreamUnavailable, RefusesUs, UpstreamBusy."""
        until = self._loop.time() + patience
        while True:
            try:
                await self.places.take(who, until - self._loop.time())
            except NoPlace as error:
                raise UpstreamBusy from error
            # The last one given back first: it is the least likely to have been closed by a firewall
            # meanwhile.
            while self.idle_links and not is_new:
                link = self.idle_links.pop()
                if link.is_reusable(self._loop.time()):
                    link.holder = who
                    return link
                link.quit()
            if self._machine is not None and self.idle_links:
                self.idle_links.pop(0).quit()  # its place is needed: an idle connection counts too
            try:
                return await self._connect(who, until)
            except UpstreamCrowded:
                self.note_crowded()
                if self._loop.time() + _SECONDS_UNTIL_THE_NEXT_TRY > until:
                    raise
                await asyncio.sleep(_SECONDS_UNTIL_THE_NEXT_TRY)

    async def keep_rate(self, patience: float) -> float:
        """One more mail: it waits until the provider bears it; for how many seconds. Raises UpstreamBusy
        where that takes too long."""
        if self._limits.rate is None:
            return 0.0
        seconds = self._pace.wait(0, self._limits.rate, 0, self._loop.time(), patience)
        if seconds is None:
            raise UpstreamBusy
        await asyncio.sleep(seconds)
        return seconds

    def give_back(self, link: UpstreamLink) -> None:
        """The mail on this link is done; whether the link lives on is decided here."""
        holder, link.holder = link.holder, None
        link.idle_since = self._heard_at = self._loop.time()
        # where relays share few connections, one that was used for a while is for the others
        is_for_others = (
            self._machine is not None and link.idle_since - link.born_at > _SECONDS_OF_LIFE_WHERE_SHARED
        )
        if link.is_reusable(link.idle_since) and not is_for_others:
            self.idle_links.append(link)
        else:
            link.quit()
        # last: whoever waits for the place goes on at once, and is to find the link
        self.places.give_back(holder)

    def give_back_after_reset(self, link: UpstreamLink) -> None:
        """The mail on this link was given up before its data."""
        self._run(self._reset(link))

    def drop(self, link: UpstreamLink) -> None:
        """Nobody knows what this link is at."""
        holder, link.holder = link.holder, None
        link.abort()
        self.places.give_back(holder)

    async def learn(self) -> None:
        """Ask what the upstream offers; one that is down is asked again later."""
        try:
            self.give_back(await self.take(is_new=True))
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
                if self._crowded_until and now > self._crowded_until:
                    self._crowded_until = 0.0
                    self.places.set_number(self._limits.connections or _MOST_LINKS)
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
        # where relays share few connections, one that is not used is for the others
        longest = _SECONDS_IDLE_WHERE_SHARED if self._machine is not None else math.inf
        kept = [one for one in self.idle_links if one.is_reusable(now) and now - one.idle_since < longest]
        stale = [one for one in self.idle_links if one not in kept]
        self.idle_links = kept
        for link in stale:
            link.quit()

    async def _connect(self, who: int | None, until: float) -> UpstreamLink:
        """A new link in a place that was taken; the place is given back where there will be none. Raises
        UpstreamUnavailable, UpstreamCrowded, RefusesUs, UpstreamBusy."""
        place: int | None = None
        try:
            # The file's lock is taken before the connection is made: two relays must not both be the third
            # one.
            if self._machine is not None:
                place = await self._machine.take(until - self._loop.time())
            connected = await asyncio.ensure_future(self.route.connect())
        except BaseException as error:
            self.places.give_back(who)
            if self._machine is not None and place is not None:
                self._machine.give_back(place)
            if isinstance(error, NoPlace):
                raise UpstreamBusy from error
            if isinstance(error, UpstreamUnavailable | RefusesUs) and not isinstance(error, UpstreamCrowded):
                self.note_unreachable(error)
            raise
        # What this node offers counts for clients that say EHLO from now on.
        self._note_reached(connected.extensions)
        link = UpstreamLink(connected.transport, connected.extensions, self._loop.time())
        link.holder = who
        if self._machine is not None and place is not None:
            link.on_end = partial(self._machine.give_back, place)
        return link

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
