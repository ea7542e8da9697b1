"""How many connections to the upstream there may be, and whose turn it is to have one.

Turns go round between people: somebody who sends five hundred mails at once delays nobody's single mail by
more than one. No signed-in person holds more than a quarter of the places, one at least."""

import asyncio
import fcntl
import os
from collections import Counter, OrderedDict, deque
from pathlib import Path

from core import logs
from core.background import off_loop
from relay.conversation import Answer

_SECONDS_BETWEEN_TRIES = 0.1


class NoPlace(Exception):
    """None came free in time."""


class Places:
    """The places of this process. `who` is a person's id; None is a mail server in front of us, which speaks
    for many."""

    def __init__(self, number: int) -> None:
        self.free = number
        self._all = number
        self._held: Counter[int | None] = Counter()
        self._waiting: OrderedDict[int | None, deque[Answer[bool]]] = OrderedDict()

    @property
    def taken(self) -> int:
        return self._held.total()

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return sum(map(len, self._waiting.values()))

    async def take(self, who: int | None, seconds: float) -> None:
        """A place, or NoPlace after so long."""
        if self.free > 0 and not self._has_its_share(who):
            self._give_to(who)
            return
        turn: Answer[bool] = Answer()
        self._waiting.setdefault(who, deque()).append(turn)
        patience = asyncio.get_running_loop().call_later(seconds, turn.give, False)
        try:
            is_ours = await turn
        except BaseException:  # the start of a relay waits for so long only
            self._forget(who, turn)
            if turn.is_there and turn.result():
                self.give_back(who)
            raise
        finally:
            patience.cancel()
        if not is_ours:
            self._forget(who, turn)
            raise NoPlace

    def give_back(self, who: int | None) -> None:
        """To the next person in turn who waits and may have one."""
        self._held[who] -= 1
        if self._held[who] <= 0:
            del self._held[who]
        self.free += 1
        self._serve()

    def set_number(self, number: int) -> None:
        """There are so many places from now on; those that are taken beyond that are given back in their
        time."""
        self.free += number - self._all
        self._all = number
        self._serve()

    def _serve(self) -> None:
        """All who may have one of the free places. Nobody goes on before all of them have theirs: who does
        may give a place back at once."""
        served = []
        while self.free > 0 and (turn := self._next_turn()) is not None:
            served.append(turn)
        for turn in served:
            turn.give(True)

    def _next_turn(self) -> Answer[bool] | None:
        for who in list(self._waiting):
            turns = self._waiting[who]
            while turns and turns[0].is_there:
                turns.popleft()
            if not turns:
                del self._waiting[who]
            elif not self._has_its_share(who):
                self._waiting.move_to_end(who)
                turn = turns.popleft()
                if not turns:
                    del self._waiting[who]
                self._give_to(who)
                return turn
        return None

    def _give_to(self, who: int | None) -> None:
        self.free -= 1
        self._held[who] += 1

    def _has_its_share(self, who: int | None) -> bool:
        return who is not None and self._held[who] >= max(1, self._all // 4)

    def _forget(self, who: int | None, turn: Answer[bool]) -> None:
        turns = self._waiting.get(who)
        if turns is not None and turn in turns:
            turns.remove(turn)
            if not turns:
                del self._waiting[who]


class MachinePlaces:
    """The places that all relays of a machine share: a file for each, locked by whoever has it. A relay that
    is killed gives its places back by that."""

    def __init__(self, directory: Path, number: int) -> None:
        self._directory = directory
        self._number = number

    async def take(self, seconds: float) -> int | None:
        """A place, to be given back as what this returns; None where the directory cannot be used, which
        stops no mail. Raises NoPlace after so long."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while True:
            try:
                place = await off_loop(self._try)
            except OSError:
                logs.failed_unexpectedly("sharing the connections to the mail provider with other relays")
                return None
            if place is not None:
                return place
            if loop.time() > until:
                raise NoPlace
            await asyncio.sleep(_SECONDS_BETWEEN_TRIES)

    def give_back(self, place: int) -> None:
        os.close(place)

    def _try(self) -> int | None:
        """The descriptor of a locked file; None where all are locked. Raises OSError where none can be
        made."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for number in range(self._number):
            descriptor = os.open(self._directory / str(number), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
            else:
                return descriptor
        return None
