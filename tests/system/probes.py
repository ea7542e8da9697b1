"""Asking the probes of a process."""

import re
import urllib.error
import urllib.request

import pytest

from tests.system.mail_servers import free_port


@pytest.fixture
def monitor(installation):
    installation.env["BLINDCOPY_MONITOR"] = f"127.0.0.1:{free_port()}"
    return f"http://{installation.env['BLINDCOPY_MONITOR']}"


def get(url):
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def figure(monitor, name):
    text = get(f"{monitor}/metrics")[1]
    found = re.search(rf"^{re.escape(name)} (.+)$", text, re.MULTILINE)
    return float(found.group(1)) if found else None


COPIED = 'blindcopy_mails_total{reason="copy",verdict="2xx"}'
