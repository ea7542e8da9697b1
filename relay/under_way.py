"""Mails whose dot has gone upstream and whose verdict is not there yet: what a client sends again meanwhile,
because it gave up waiting, joins the wait and hears the same answer. It is never delivered a second time.

Another relay of the machine sees it by a file in the state directory, named by the mail's fingerprint and
locked for as long as the mail is under way. Files are touched off the event loop only, and looked at twice a
second. A relay of another machine sees it by the mail's row, which is given its fingerprint as soon as its
client has gone; a mail that is nobody's has no row, and is known on its machine only."""

import asyncio
import contextlib
import fcntl
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from core import logs
from core.background import off_loop
from core.journal.entries import Entry, LostReply, ReplyHeard
from relay.snapshot import EarlierAnswer, Snapshot

SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_UNTIL_AN_ANSWER_IS_KNOWN_HERE = 5.0
"""From the end of a mail in another relay: its journal is loaded, and the database looked at, each within a
second."""
SECONDS_THAT_A_RELAY_WAITS = 660.0
"""For the verdict (ten minutes), and until we have heard of its end; a database that is away says nothing."""


@dataclass
class MailUnderWay:
    """`mail_id`: of its row; None where it has none. `answer`: what the client would have heard; None where
    that is not known."""

    fingerprint: bytes
    mail_id: str | None
    is_client_gone: Callable[[], bool]
    answer: "asyncio.Future[EarlierAnswer | None]"
    lock: int | None = None
    is_noted: bool = False
    is_over: bool = False


@dataclass
class UnderWay:
    """Of one relay process. `directory` is made when it is needed first."""

    directory: Path
    snapshot: Snapshot
    note: Callable[[Entry], None]
    """Into the journal, and from there to the relays of other machines."""
    is_stopping: bool = False
    """Whoever waits here has nothing upstream, and is to come again."""
    _mails: dict[bytes, MailUnderWay] = field(default_factory=dict)
    _elsewhere: frozenset[str] = frozenset()

    def begin(
        self, fingerprint: bytes, mail_id: str | None, is_client_gone: Callable[[], bool]
    ) -> MailUnderWay:
        """The dot of this mail is about to be sent. Of two clients that send the same at once, the first
        counts."""
        answer = asyncio.get_running_loop().create_future()
        mail = MailUnderWay(fingerprint, mail_id, is_client_gone, answer)
        self._mails.setdefault(fingerprint, mail)
        return mail

    def end(self, mail: MailUnderWay, answer: EarlierAnswer | None) -> None:
        """The verdict is there, or will never be."""
        mail.is_over = True
        if self._mails.get(mail.fingerprint) is mail:
            del self._mails[mail.fingerprint]
        if not mail.answer.done():
            mail.answer.set_result(answer)
        if mail.is_noted and mail.mail_id is not None and not (answer and answer.reply.startswith("2")):
            # what was refused, or ended nobody knows how, is to be tried again
            self.snapshot.forget_lost_reply(mail.fingerprint, mail.mail_id)
            self.note(ReplyHeard(mail.mail_id))
        if mail.lock is not None:
            # a daemon: a disk that hangs must not keep the relay from stopping
            threading.Thread(target=self._unmark, args=(mail.fingerprint, mail.lock), daemon=True).start()

    def was_given_up(self, fingerprint: bytes) -> bool:
        """Whether the same mail is under way and its client has gone."""
        mail = self._mails.get(fingerprint)
        if mail is not None:
            return mail.is_client_gone()
        return self._is_elsewhere(fingerprint)

    def _is_elsewhere(self, fingerprint: bytes) -> bool:
        return fingerprint.hex() in self._elsewhere or self.snapshot.is_under_way_elsewhere(fingerprint)

    async def answer(self, fingerprint: bytes, is_pointless: Callable[[], bool]) -> EarlierAnswer | None:
        """Wait for the answer to that mail; as long as its relay waits for the verdict, which is bounded.
        None: it is not known. `is_pointless`: nobody waits for it any more."""
        return await asyncio.ensure_future(self._answer(fingerprint, is_pointless))

    async def _answer(self, fingerprint: bytes, is_pointless: Callable[[], bool]) -> EarlierAnswer | None:
        mail = self._mails.get(fingerprint)
        while mail is not None and not mail.answer.done():
            await asyncio.wait([mail.answer], timeout=SECONDS_BETWEEN_LOOKS)
            if is_pointless() or self.is_stopping:
                return None
        if mail is not None:
            return mail.answer.result()
        loop = asyncio.get_running_loop()
        until = loop.time() + SECONDS_THAT_A_RELAY_WAITS
        while self._is_elsewhere(fingerprint) and loop.time() < until:
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
            if is_pointless() or self.is_stopping:
                return None
        until = loop.time() + SECONDS_UNTIL_AN_ANSWER_IS_KNOWN_HERE
        while (found := self.snapshot.earlier_answer(fingerprint)) is None and loop.time() < until:
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
            await self.snapshot.look_at_once()
        return found

    async def watch(self) -> None:
        """For ever: tell other relays of mails whose clients have gone, and learn of theirs."""
        while True:
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
            try:
                await self._look()
            except Exception:  # noqa: BLE001  whatever it was, the next look may fare better
                logs.failed_unexpectedly("telling other relays of mails under way")

    async def _look(self) -> None:
        # Without a pause in between: a mail that has ended meanwhile may have been heard, and must not be
        # noted.
        gone = [(key, mail) for key, mail in self._mails.items() if mail.is_client_gone()]
        for fingerprint, mail in gone:
            if mail.mail_id is not None and not mail.is_noted:
                self.note(LostReply(mail.mail_id, fingerprint))
                mail.is_noted = True
        for fingerprint, mail in gone:
            if mail.lock is None and fingerprint in self._mails:
                mail.lock = await off_loop(partial(self._mark, fingerprint))
                if mail.is_over and mail.lock is not None:
                    await off_loop(partial(self._unmark, fingerprint, mail.lock))
        own = frozenset(fingerprint.hex() for fingerprint in self._mails)
        self._elsewhere = await off_loop(partial(self._marked_elsewhere, own))

    def _mark(self, fingerprint: bytes) -> int | None:
        try:
            self.directory.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(
                self.directory / fingerprint.hex(), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600
            )
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # another relay may have taken the file for a dead one's, and removed it, before it was locked
            is_there = os.path.samestat(os.fstat(descriptor), (self.directory / fingerprint.hex()).stat())
        except OSError:
            is_there = False
        if is_there:
            return descriptor
        os.close(descriptor)
        return None

    def _unmark(self, fingerprint: bytes, lock: int) -> None:
        with contextlib.suppress(OSError):
            (self.directory / fingerprint.hex()).unlink()
        os.close(lock)

    def _marked_elsewhere(self, own: frozenset[str]) -> frozenset[str]:
        """Those that another living relay holds; what a relay that died has left is removed: its mail's end
        is unknown, and is shown as such."""
        try:
            names = [path.name for path in self.directory.iterdir()]
        except OSError:
            return frozenset()
        return frozenset(name for name in names if name not in own and self._is_held(name))

    def _is_held(self, name: str) -> bool:
        try:
            descriptor = os.open(self.directory / name, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            (self.directory / name).unlink()
        except OSError:
            return True
        else:
            return False
        finally:
            os.close(descriptor)
