"""A minute of what `python -m tests.chaos` does for half an hour, on both databases."""

import pytest

from relay.record import new_mail_id
from tests.chaos import storm


@pytest.mark.parametrize(("kind", "has_key"), [("sqlite", False), ("postgresql", True)])
def test_accepted_is_recorded_and_nothing_is_missing_or_double(request, tmp_path, kind, has_key):
    url = None
    if kind == "postgresql":
        server = request.getfixturevalue("postgresql")
        name = "t" + new_mail_id().replace("-", "")
        server.psql(f"CREATE DATABASE {name};")
        uri = server.get_uri(database=name)
        url = "postgresql+psycopg" + uri[uri.index("://") :]
    found = storm(tmp_path, url, seconds=60, seed=f"{kind} {has_key}", has_key=has_key)
    assert found["mails accepted"] > 100
    assert found["looks"] >= 1
    assert found["pages read"] > 20
