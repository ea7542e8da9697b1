"""What the upstream offers, as it was last seen: kept in the state directory, so that a relay that starts
while the provider is down offers its clients what the provider will take."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from core import logs

FILE = "upstream-offers.json"


class Offers:
    """The extensions of one upstream. Written off the event loop; a file that cannot be read says nothing."""

    def __init__(self, directory: Path, upstream: str) -> None:
        """`upstream`: its address; what another one offered does not count."""
        self._path = directory / FILE
        self._upstream = upstream

    def known(self) -> dict[str, str] | None:
        """EHLO keywords in lower case with their parameters; None where nothing is known."""
        try:
            plain = json.loads(self._path.read_text("utf-8"))
            if plain["upstream"] != self._upstream:
                return None
            return {str(name): str(value) for name, value in plain["extensions"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def keep(self, extensions: Mapping[str, str]) -> None:
        """Replaced as a whole, so that a crash leaves the old one or the new one."""
        temporary = self._path.with_name(f"{FILE}.{os.getpid()}")
        try:
            temporary.write_text(
                json.dumps({"upstream": self._upstream, "extensions": dict(extensions)}), "utf-8"
            )
            temporary.replace(self._path)
        except OSError:
            logs.failed_unexpectedly("keeping what the mail provider offers")
