"""A relay between a client and an upstream that does what a script says."""

import asyncio

import pytest

from tests.doors.conftest import BCC, running
from tests.sandbox.sink import Script, Sink

COPY = f"RCPT TO:<{BCC}> NOTIFY=NEVER"


def run(coroutine):
    return asyncio.run(coroutine)


@pytest.fixture
def start(sqlite, tmp_path):
    """start(script) -> an async context with a relay in front of a sink."""
    return lambda script=None, **options: running(sqlite, tmp_path, Sink(script), **options)


def scripted(**replies):
    return Script(
        replies={
            key.replace("_", " "): value if isinstance(value, list) else [value]
            for key, value in replies.items()
        }
    )
