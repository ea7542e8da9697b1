"""Everybody's settings as the relay holds them: read anew whenever their revision rises, and kept on disk.

With the database away the last ones stay in force; a relay that starts without it takes those from the state
directory, where they lie encrypted."""

import asyncio
import base64
import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from core import logs
from core.background import off_loop
from core.database.audit import settings_revision
from core.database.engine import Database, DatabaseUnavailable
from core.database.heartbeats import has_other_relays
from core.mail import texts as mail_texts
from core.mail.store import Unheard, copy_refusals, lost_replies, mails_of_others
from core.people.person import AppPassword, People, Person
from core.secrets import Box, Undecryptable
from core.settings.catalogue import Logging, SendAs
from core.settings.in_force import PersonSettings, policy_settings
from core.settings.store import people

SECONDS_BETWEEN_LOOKS = 1.0
REFUSED_COPIES_COUNT_FOR = timedelta(hours=1)
LOST_REPLIES_COUNT_FOR = timedelta(minutes=15)
_LONGEST_MAIL = timedelta(minutes=45)
"""From the beginning of its data to the verdict; a row's time is that of the beginning."""
_SECONDS_FOR_A_LOOK_NOW = 1.0


@dataclass(frozen=True, slots=True)
class EarlierAnswer:
    """A mail that was accepted before without its client hearing it, and what the upstream said to it."""

    mail_id: str
    reply: str


@dataclass(frozen=True)
class _Elsewhere:
    """What the database says of mails in other hands, as of the last look."""

    refused_copies: frozenset[bytes] = frozenset()
    mails: Mapping[int, int] = field(default_factory=dict)
    lost_replies: Mapping[bytes, Unheard] = field(default_factory=dict)
    has_relays: bool = False
    file_bytes: int = 0


class Snapshot:
    """The settings in force in this process, and what is to be known of earlier mails.

    `people` is None while the settings are not known. What happened in this relay is known at once; what
    happened in another one is known once that relay's loader has brought it into the database and we have
    looked, after some two seconds where all is well (`seconds_old` tells how long ago the last look was)."""

    def __init__(self, database: Database, directory: Path, box: Box, process_id: str) -> None:
        self.people: People | None = None
        self._elsewhere = _Elsewhere()
        self._looked_at = float("-inf")
        self._refused_here: dict[bytes, float] = {}
        self._deferred_here: dict[bytes, float] = {}
        self._lost_here: dict[bytes, tuple[EarlierAnswer, float]] = {}
        self._heard_here: dict[bytes, tuple[str, float]] = {}
        """Which mail it was that the client has heard of by now, and since when."""
        self.database = database
        self._path = directory / "settings.snapshot"
        self._box = box
        self._process_id = process_id
        self._look: asyncio.Task[bool] | None = None

    async def start(self) -> None:
        """Take the settings from the database, else from the state directory."""
        if not await self.look_at_once():
            self.people = self._from_disk()
            if self.people is None:
                logs.settings_missing()
            else:
                logs.settings_from_snapshot(self.people.revision)

    @property
    def knows_refused_copies(self) -> bool:
        """Whether there are any, so that a mail need not be recognised otherwise."""
        return bool(self._refused_elsewhere or self._refused_here)

    @property
    def _refused_elsewhere(self) -> frozenset[bytes]:
        """Nothing once the last look is so long ago that all of it is over."""
        is_over = self.seconds_old() > REFUSED_COPIES_COUNT_FOR.total_seconds()
        return frozenset() if is_over else self._elsewhere.refused_copies

    def copy_was_refused(self, key: bytes) -> bool:
        """Whether the mail that this recognises was refused at the dot with a copy within the last hour."""
        return key in self._refused_elsewhere or key in self._refused_here

    def remember_refused_copy(self, key: bytes) -> None:
        """Known here at once, whatever the database is at."""
        now = time.monotonic()
        oldest = now - REFUSED_COPIES_COUNT_FOR.total_seconds()
        self._refused_here = {known: since for known, since in self._refused_here.items() if since > oldest}
        self._refused_here[key] = now

    def was_deferred_before(self, key: bytes) -> bool:
        """Whether the mail that this recognises was answered 4xx with a copy within the last hour; from now
        on it was."""
        now = time.monotonic()
        oldest = now - REFUSED_COPIES_COUNT_FOR.total_seconds()
        self._deferred_here = {known: since for known, since in self._deferred_here.items() if since > oldest}
        was_deferred = key in self._deferred_here
        self._deferred_here[key] = now
        return was_deferred

    def earlier_answer(self, fingerprint: bytes) -> EarlierAnswer | None:
        """What was said to a mail of these bytes and this envelope within the last 15 minutes, if its client
        did not hear it."""
        oldest = time.monotonic() - LOST_REPLIES_COUNT_FOR.total_seconds()
        if fingerprint in self._lost_here:
            answer, since = self._lost_here[fingerprint]
            return answer if since > oldest else None
        found = self._unheard_elsewhere(fingerprint)
        return None if found is None or found.reply is None else EarlierAnswer(found.mail_id, found.reply)

    def _unheard_elsewhere(self, fingerprint: bytes) -> Unheard | None:
        """What the database says of it, unless it is known here to be over."""
        found = self._elsewhere.lost_replies.get(fingerprint)
        if found is None or datetime.now(UTC) - found.time > _LONGEST_MAIL + LOST_REPLIES_COUNT_FOR:
            return None
        heard = self._heard_here.get(fingerprint)
        return None if heard is not None and heard[0] == found.mail_id else found

    @property
    def knows_unheard_mails(self) -> bool:
        """Whether the database has any mail whose client has gone without hearing the verdict."""
        return bool(self._elsewhere.lost_replies)

    def is_under_way_elsewhere(self, fingerprint: bytes) -> bool:
        """Whether a relay, here or on another machine, waits for the verdict on a mail of these bytes and
        this envelope whose client has gone."""
        if self.earlier_answer(fingerprint) is not None:
            return False
        found = self._unheard_elsewhere(fingerprint)
        return found is not None and found.reply is None

    def remember_lost_reply(self, fingerprint: bytes, answer: EarlierAnswer) -> None:
        """The client may not have heard this answer."""
        now = time.monotonic()
        oldest = now - LOST_REPLIES_COUNT_FOR.total_seconds()
        self._lost_here = {key: known for key, known in self._lost_here.items() if known[1] > oldest}
        self._heard_here.pop(fingerprint, None)
        self._lost_here[fingerprint] = (answer, now)

    def forget_lost_reply(self, fingerprint: bytes, mail_id: str) -> None:
        """The client has heard of this mail by now, or is to try again; a next mail of the same bytes is
        meant as such."""
        now = time.monotonic()
        oldest = now - (_LONGEST_MAIL + LOST_REPLIES_COUNT_FOR).total_seconds()
        self._heard_here = {key: heard for key, heard in self._heard_here.items() if heard[1] > oldest}
        self._lost_here.pop(fingerprint, None)
        self._heard_here[fingerprint] = (mail_id, now)

    def seconds_old(self) -> float:
        """How long ago the database was last looked at; from any thread."""
        return time.monotonic() - self._looked_at

    @property
    def has_other_relays(self) -> bool:
        """Whether other relays run on this database, here or on other machines."""
        return self._elsewhere.has_relays

    def has_room_for_files(self) -> bool:
        """Whether the files of mails that wait to be logged take less room than the policy gives them, as of
        the last look."""
        most = self.people.policy.attachments_waiting_mb if self.people is not None else 0
        return self._elsewhere.file_bytes < most << 20

    def mails_elsewhere(self, person: int) -> int:
        """How many mails of this person other relays have passed on in the last minute."""
        return self._elsewhere.mails.get(person, 0)

    async def keep_fresh(self) -> None:
        """Look for new settings for ever."""
        while True:
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
            await self.look()

    async def look(self) -> bool:
        """Look now; whether the database could be asked. Who comes while somebody looks shares that look."""
        if self._look is None or self._look.done():
            self._look = asyncio.ensure_future(self._read())
        return await asyncio.shield(self._look)

    async def look_at_once(self) -> bool:
        """The same for somebody who waits: a database that does not answer soon counts as away."""
        try:
            async with asyncio.timeout(_SECONDS_FOR_A_LOOK_NOW):
                return await self.look()
        except TimeoutError:
            return False

    async def _read(self) -> bool:
        # The revision is one row; everybody's settings are read only when it has moved.
        known = self.people.revision if self.people is not None else None
        try:
            fresh, self._elsewhere = await off_loop(lambda: self._from_database(known))
        except DatabaseUnavailable as error:
            logs.database_unavailable(str(error))
            return False
        except Exception:  # noqa: BLE001  an odd database must not stop the relay from looking again
            logs.failed_unexpectedly("reading the settings")
            return False
        self._looked_at = time.monotonic()
        if fresh is not None:
            self.people = fresh
            await off_loop(lambda: self._to_disk(fresh))
        return True

    def _from_database(self, known: int | None) -> tuple[People | None, _Elsewhere]:
        """The settings, None where they are those of the known revision; and what other relays have lately
        done."""
        now = datetime.now(UTC)
        with self.database.reading() as session:
            elsewhere = _Elsewhere(
                copy_refusals(session, now - REFUSED_COPIES_COUNT_FOR),
                mails_of_others(session, self._process_id, now - timedelta(minutes=1)),
                lost_replies(session, now - _LONGEST_MAIL - LOST_REPLIES_COUNT_FOR),
                has_other_relays(session, self._process_id),
                mail_texts.file_bytes(session),
            )
            is_known = known is not None and settings_revision(session) == known
            return None if is_known else people(session), elsewhere

    def _to_disk(self, fresh: People) -> None:
        """Replaced as a whole, so that a crash leaves the old one or the new one."""
        temporary = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        try:
            with os.fdopen(os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "wb") as file:
                file.write(self._box.closed(json.dumps(_plain(fresh)).encode()))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
        except OSError:
            logs.failed_unexpectedly("writing the settings snapshot")

    def _from_disk(self) -> People | None:
        try:
            return _people(json.loads(self._box.opened(self._path.read_bytes())))
        except (OSError, Undecryptable, ValueError, KeyError, TypeError, AttributeError):
            return None


_LATER = frozenset(
    {
        "derived_domains",
        "mails_per_day",
        "attachments_mb",
        "attachments_waiting_mb",
        "blocked_domains",
        "send_as",
    }
)
"""What applies to everybody's mail and the first release did not know."""


def _plain(snapshot: People) -> dict[str, Any]:
    return {
        "revision": snapshot.revision,
        "policy": {name: value for name, value in asdict(snapshot.policy).items() if name not in _LATER},
        # beside the policy, as the first release reads this too
        **{name: value for name, value in asdict(snapshot.policy).items() if name in _LATER},
        "persons": [
            {
                "id": person.id,
                "email": person.email,
                "addresses": sorted(person.addresses),
                "logging": person.settings.logging,
                "bcc_address": person.settings.bcc_address,
                "keeps_text": person.settings.keeps_text,
                "log_bulk": person.settings.log_bulk,
                "keeps_files": person.settings.keeps_files,
                "is_connected": person.is_connected,
                "calls_are_scarce": person.calls_are_scarce,
                "app_passwords": [
                    [
                        known.id,
                        base64.b64encode(known.digest).decode(),
                        known.expires_at and known.expires_at.isoformat(),
                    ]
                    for known in person.app_passwords
                ],
            }
            for person in snapshot.persons
        ],
    }


def _people(plain: dict[str, Any]) -> People:
    policy: dict[str, Any] = plain["policy"]
    policy["derived_domains"] = plain.get("derived_domains", ())
    policy |= {name: plain[name] for name in _LATER & plain.keys()}
    for name in ("own_domains", "never_log", "derived_domains", "blocked_domains"):
        policy[name] = tuple(policy.get(name, ()))
    policy["send_as"] = SendAs(policy.get("send_as", SendAs.ANYBODY))
    return People(
        revision=plain["revision"],
        policy=replace(policy_settings({}), **policy),
        persons=tuple(_person(one) for one in plain["persons"]),
    )


def _person(plain: dict[str, Any]) -> Person:
    return Person(
        id=plain["id"],
        email=plain["email"],
        addresses=frozenset(plain["addresses"]),
        app_passwords=tuple(
            AppPassword(key, base64.b64decode(digest), datetime.fromisoformat(expires) if expires else None)
            for key, digest, expires in plain["app_passwords"]
        ),
        settings=PersonSettings(
            Logging(plain["logging"]),
            plain["bcc_address"],
            plain["keeps_text"],
            # the release before knew no such things
            log_bulk=plain.get("log_bulk", False),
            keeps_files=plain.get("keeps_files", False),
        ),
        is_connected=plain["is_connected"],
        calls_are_scarce=plain["calls_are_scarce"],
    )
