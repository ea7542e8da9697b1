"""What Salesforce's refusals mean."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.salesforce.troubles import _TABLE, Mender, TroubleKind, trouble


@pytest.mark.parametrize("code", sorted(_TABLE))
def test_every_trouble_says_why_and_what_to_do(code):
    found = trouble(code, "said")
    assert found.code == code
    assert found.cause.endswith(".")
    assert found.remedy.endswith(".")
    assert found.detail == "said"


@pytest.mark.parametrize(
    ("code", "message", "status", "kind"),
    [
        ("UNABLE_TO_LOCK_ROW", "", 400, TroubleKind.TRANSIENT),
        ("REQUEST_LIMIT_EXCEEDED", "", 403, TroubleKind.LIMIT),
        ("INVALID_SESSION_ID", "", 401, TroubleKind.SESSION),
        ("", "", 401, TroubleKind.SESSION),
        ("", "", 503, TroubleKind.TRANSIENT),
        ("", "", 410, TroubleKind.PERMANENT),
        ("NEVER_HEARD_OF", "", 400, TroubleKind.PERMANENT),
        ("NEVER_HEARD_OF", "", 500, TroubleKind.TRANSIENT),
        ("invalid_grant", "expired access/refresh token", 400, TroubleKind.CONNECTION),
        ("API_DISABLED_FOR_ORG", "", 403, TroubleKind.NO_API),
        (
            "CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY",
            "trigger: INVALID_SESSION_ID: Session expired",
            400,
            TroubleKind.SESSION,
        ),
        ("INVALID_FIELD", "Read timed out: Timeout", 400, TroubleKind.TRANSIENT),
        ("INVALID_FIELD", "No such column 'X__c'", 400, TroubleKind.PERMANENT),
    ],
)
def test_what_follows(code, message, status, kind):
    assert trouble(code, message, status).kind is kind


def test_of_a_trouble_that_passes_nobody_needs_to_know():
    assert all(
        mender is Mender.TIME
        for kind, mender, _, _ in _TABLE.values()
        if kind in {TroubleKind.TRANSIENT, TroubleKind.SESSION}
    )


@settings(max_examples=20)
@given(st.sampled_from([*sorted(_TABLE), "", "x"]), st.text(max_size=600), st.integers(0, 600))
def test_nothing_makes_it_raise(code, message, status):
    assert len(trouble(code, message, status).detail) <= 500
