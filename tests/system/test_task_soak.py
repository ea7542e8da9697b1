"""A minute of what `python -m tests.soak` does for half an hour."""

import pytest

from tests.soak import Soak


@pytest.mark.parametrize("has_key", [False, True])
def test_two_programs_and_a_worker_that_is_killed_end_with_every_pair_equal(tmp_path, has_key):
    soak = Soak(tmp_path, seed=20261122 + has_key, has_key=has_key, until_it_shows=6)
    try:
        found = soak.run(15 if has_key else 30)
    finally:
        soak.close()
    assert found["linked and alive"] > 3
    assert found["values written here"] > 10
