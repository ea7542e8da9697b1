"""Figures of several processes as one."""

from hypothesis import given, settings
from hypothesis import strategies as st

from relay.figures import counters_only, summed

ONE = b"""# HELP blindcopy_mails_total Mails.
# TYPE blindcopy_mails_total counter
blindcopy_mails_total{reason="copy",verdict="2xx"} 3.0
# HELP blindcopy_sessions Clients.
# TYPE blindcopy_sessions gauge
blindcopy_sessions 2.0
# HELP blindcopy_added_seconds Added.
# TYPE blindcopy_added_seconds histogram
blindcopy_added_seconds_bucket{le="0.1"} 1.0
blindcopy_added_seconds_bucket{le="+Inf"} 3.0
blindcopy_added_seconds_count 3.0
blindcopy_added_seconds_sum 0.5
"""


def figures(text):
    return dict(line.rsplit(" ", 1) for line in text.decode().splitlines() if not line.startswith("#"))


def test_figures_of_the_same_labels_add_up():
    other = ONE.replace(b'"copy"', b'"api"')
    assert figures(summed([ONE, ONE, other, b""])) == {
        'blindcopy_mails_total{reason="copy",verdict="2xx"}': "6.0",
        'blindcopy_mails_total{reason="api",verdict="2xx"}': "3.0",
        "blindcopy_sessions": "6.0",
        'blindcopy_added_seconds_bucket{le="0.1"}': "3.0",
        'blindcopy_added_seconds_bucket{le="+Inf"}': "9.0",
        "blindcopy_added_seconds_count": "9.0",
        "blindcopy_added_seconds_sum": "1.5",
    }


def test_of_a_process_that_is_gone_only_counts_stay():
    assert figures(counters_only(ONE)).keys() == figures(ONE).keys() - {"blindcopy_sessions"}


@settings(max_examples=20)
@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=5))
def test_the_sum_is_a_text_of_the_same_kind(counts):
    texts = [f"# HELP x_total X.\n# TYPE x_total counter\nx_total {count}.0\n".encode() for count in counts]
    assert float(figures(summed([summed(texts[:2]), *texts[2:]]))["x_total"]) == sum(counts)
