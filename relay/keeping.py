"""What is kept of one mail for the worker while it passes through: texts in its row, files in the journal."""

import time
from collections import deque

from core import logs
from core.mail.kept import FileChunk, Left
from relay.logbook import Written
from relay.parts import FilePiece, Parts
from relay.process import Relay
from relay.record import MailRecord

_MOST_IN_MEMORY = 4
"""Pieces of a file that wait for the journal's disk."""
_MOST_SECONDS = 0.25
"""Which the mail waits for that disk, in all. Past them its files are only named."""


class Keeping:
    """Used by one mail whose person logs through the API. Never raises: whatever the bytes are, the mail goes
    on."""

    def __init__(self, relay: Relay, record: MailRecord, header: bytes) -> None:
        self._relay = relay
        self._record = record
        self._waiting: deque[Written] = deque()
        self._seconds_left = _MOST_SECONDS
        record.text = header
        try:
            self._parts = self._wanted(header)
        except Exception:  # noqa: BLE001  the edge of what is kept: of this mail it is the header
            self._give_up()

    def _wanted(self, header: bytes) -> Parts | None:
        """None: nothing but the header."""
        person, people = self._record.person, self._relay.snapshot.people
        if person is None or people is None or not person.settings.keeps_text:
            return None
        most = 0
        if person.settings.keeps_files and self._relay.snapshot.has_room_for_files():
            most = people.policy.attachments_mb << 20
        without_files = Left.NO_ROOM if person.settings.keeps_files else Left.NOT_WANTED
        return Parts(header, most, without_files)

    def take(self, piece: bytes) -> None:
        """More of the body."""
        if self._parts is None:
            return
        try:
            self._keep(self._parts.feed(piece))
        except Exception:  # noqa: BLE001  as above
            self._give_up()

    async def take_in_time(self, piece: bytes) -> None:
        """The same; the client waits where the journal's disk is slower than it, within bounds."""
        self.take(piece)
        while len(self._waiting) > _MOST_IN_MEMORY:
            began = time.monotonic()
            is_written = self._seconds_left > 0 and await self._relay.logbook.wait(self._waiting.popleft())
            self._seconds_left -= time.monotonic() - began
            if not is_written:
                self._give_up_files()

    def end(self) -> None:
        """All of the mail is read."""
        if self._parts is None:
            return
        try:
            self._record.text, last = self._parts.end()
            self._keep(last)
        except Exception:  # noqa: BLE001  as above
            self._give_up()
        self._parts = None

    def _keep(self, pieces: list[FilePiece]) -> None:
        for one in pieces:
            written = self._relay.logbook.keep_file(
                FileChunk(self._record.id, one.file, one.number, one.data)
            )
            if written is None:
                self._give_up_files()
                return
            self._waiting.append(written)

    def _give_up_files(self) -> None:
        self._waiting.clear()
        if self._parts is not None:
            self._parts.give_up_files()

    def _give_up(self) -> None:
        logs.failed_unexpectedly("telling a mail's parts apart")
        self._parts = None
