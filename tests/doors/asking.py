"""Asking a probe."""

import urllib.error
import urllib.request

import pytest

from relay.meters import Meters


@pytest.fixture
def meters(tmp_path):
    made = Meters(tmp_path, "one")
    yield made
    made.stop()


@pytest.fixture(params=["127.0.0.1", "::1"])
def host(request):
    return request.param


def ask(monitor, path, method="GET"):
    request = urllib.request.Request(f"http://{monitor}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
