"""Which installation a database belongs to, how far it has come, and whether it was restored from a backup.

The database counts a tick with every beat and before every write to Salesforce, and the marker in the state
directory remembers the highest tick, after the database has it and before the write goes out. A database
whose tick is below the marker's is older than what was done with it: it was restored. So is a copy that `core
backup` made, which carries the word itself. What was restored begins a new lineage; every lineage that a
database has known is listed in it, so that another machine's marker, which still names an older one, is not
taken for a second restore.

After a restore Salesforce may have what this database thinks is still to be written: waiting mails are looked
up before they are written (`restored_at`), and every task sync asks its person first."""

import contextlib
import threading
import uuid
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from core import logs
from core.config import ConfigurationError
from core.database.heartbeats import database_now
from core.database.models import InstallationRow, JournalRow
from core.journal.file import journals, may_hold_mails
from core.salesforce import late_commits
from core.state_directory import Marker, StateDirectory

_ONLY = 1


class StateDirectoryTaken(ConfigurationError):
    """The state directory belongs to another installation."""


class Installation:
    """This process's view of the installation: the database's row beside the state directory's marker."""

    def __init__(self, state: StateDirectory | None, *, is_used: bool) -> None:
        """`is_used`: this process works with what lies in the state directory, and keeps its marker. Web
        process and commands only look whether the marker, if it is theirs, knows of a restore."""
        self._state = state
        self._is_used = is_used
        self._lock = threading.Lock()
        self._known: Marker | None = None
        """The highest tick that is known to be committed."""

    @property
    def lineage(self) -> str | None:
        """Which course of the database this process works with; another one after a restore, be it under this
        process. None: the database has not been met yet."""
        known = self._known
        return None if known is None else known.lineage

    def was_restored(self, session: Session) -> bool:
        """Compare the database with the marker: whether it is older. Raises StateDirectoryTaken."""
        row = _row(session)
        is_older = self._is_older(row)
        if not is_older:
            self._remember_marker(_marker(row))
        return is_older

    def note_restore(self, session: Session) -> Marker:
        """Note in the database that it was restored, unless another process has done so meanwhile; `keep`
        what is returned once that is committed."""
        row = _row(session, is_locked=True)
        if self._is_older(row):
            _note_restore(session, row)
        return _marker(row)

    def advance(self, session: Session) -> Marker:
        """One more tick, within the transaction that notes what is about to be done; `keep` what is returned
        once that is committed. A tick that is not higher than one that was committed before shows that the
        database was restored under this process."""
        row = _row(session, is_locked=True)
        known = self._known
        row.tick += 1
        if row.is_copy or (
            known is not None and known.lineage == row.lineages[-1] and row.tick <= known.tick
        ):
            _note_restore(session, row)
        return _marker(row)

    def keep(self, marker: Marker) -> None:
        """What the database has come to, committed: known here, and to the state directory before anything
        goes to Salesforce.

        A directory that takes nothing stops no work; whoever looks at its health says so."""
        self._remember_marker(marker)
        if self._state is None or not self._is_used:
            return
        try:
            self._state.keep_marker(marker)
        except OSError as error:
            logs.marker_not_kept(str(error))

    def keep_known(self) -> None:
        """The same of what was read."""
        if self._known is not None:
            self.keep(self._known)

    def is_state_ours(self) -> bool:
        """Whether the state directory is this database's, as far as its marker tells."""
        marker = None if self._state is None else self._state.marker()
        return (
            marker is not None and self._known is not None and marker.installation == self._known.installation
        )

    def close(self) -> None:
        """Be no user of the state directory any more."""
        if self._state is not None:
            self._state.close()

    def _remember_marker(self, marker: Marker) -> None:
        """Threads may come out of order: the highest tick of a lineage counts."""
        with self._lock:
            known = self._known
            if known is None or known.lineage != marker.lineage or marker.tick > known.tick:
                self._known = marker

    def _is_older(self, row: InstallationRow) -> bool:
        marker = None if self._state is None else self._marker_of(self._state, row)
        if row.is_copy or marker is None:
            return row.is_copy
        is_of_this_lineage = marker.lineage == row.lineages[-1]
        return marker.lineage not in row.lineages or (is_of_this_lineage and marker.tick > row.tick)

    def _marker_of(self, state: StateDirectory, row: InstallationRow) -> Marker | None:
        """The marker, if it is this installation's. Raises StateDirectoryTaken.

        A database that was made anew takes over what another one has left, unless that other one is still at
        work, or has left mails there that only it can take."""
        if self._is_used:
            with contextlib.suppress(
                OSError
            ):  # what is wrong with the directory is shown by whoever looks at its health
                state.make()
                state.use(row.uuid)
        marker = state.marker()
        if marker is None or marker.installation == row.uuid:
            return marker
        if not self._is_used:
            return None
        if state.is_used_by(marker.installation) or any(
            may_hold_mails(path) for path in journals(state.path)
        ):
            problem = (
                f"BLINDCOPY_STATE_DIR: {state.path} belongs to another installation (another database); "
                f"name a directory of its "
                "own, or, if this database takes the other's place for good, stop that one and move its "
                "directory away"
            )
            raise StateDirectoryTaken([problem])
        logs.state_directory_taken_over(str(state.path))
        return None


def _row(session: Session, *, is_locked: bool = False) -> InstallationRow:
    row = session.get(InstallationRow, _ONLY, with_for_update=is_locked, populate_existing=True)
    if row is None:
        raise LookupError("the database has no row that names its installation")
    return row


def _marker(row: InstallationRow) -> Marker:
    return Marker(row.uuid, row.lineages[-1], row.tick)


def restored_at(session: Session) -> datetime | None:
    """When this database was last restored from a backup; None: never. What is older may be in Salesforce
    already."""
    return session.scalar(select(InstallationRow.restored_at).where(InstallationRow.id == _ONLY))


def loaded_up_to(session: Session, journal_id: str) -> int:
    """The number of the last entry of this journal that the database has; 0: none."""
    row = session.get(JournalRow, journal_id)
    return 0 if row is None else row.loaded


def _note_restore(session: Session, row: InstallationRow) -> None:
    from core.tasks import links as task_links  # noqa: PLC0415  tables that a relay does without
    from core.tasks import queue as task_queue  # noqa: PLC0415  tables that a relay does without

    now = database_now(session)
    row.lineages = [*row.lineages, str(uuid.uuid4())]
    row.tick, row.restored_at, row.is_copy = row.tick + 1, now, False
    task_queue.ask_after_a_restore(session)
    task_links.doubt_after_a_restore(session, now + late_commits.UNTIL_A_WRITE_SHOWS)
    logs.database_was_restored()


def mark_as_copy(session: Session) -> None:
    """For a backup: whoever opens it knows that it is one."""
    row = session.get(InstallationRow, _ONLY)
    if row is not None:
        row.is_copy = True
