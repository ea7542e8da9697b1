"""What goes to Salesforce of a mail, on which records, and when it is tried again."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.mail.progress import EMAIL_MESSAGE, TASK, Target, Trace, Where, from_json, to_json
from core.mail.reasons import Reason
from core.mail.row import Decision, Row, State
from core.mail.subject import TemplateError, checked_template, task_subject
from core.retry import FIRST_SECONDS, LONGEST_SECONDS, seconds_until_next
from core.settings.catalogue import BY_NAME
from core.settings.in_force import rules
from core.settings.kinds import SettingError
from sync.mail.choose import Choice, PersonRecord, RelatedRecord, people_to_look_for
from sync.mail.content import NOT_READABLE, read_content
from sync.mail.fields import Author, Draft, Features, fields, targets

NOW = datetime(2026, 11, 22, tzinfo=UTC)
RULES = rules({}, {})


def contact(number):
    return PersonRecord(f"003{number:012d}", "", "", NOW)


def lead(number):
    return PersonRecord(f"00Q{number:012d}", "", "", NOW)


@st.composite
def choices(draw):
    contacts = [contact(n) for n in range(draw(st.integers(0, 120)))]
    leads = [lead(n) for n in range(draw(st.integers(0, 5)))]
    related = [
        RelatedRecord(
            f"006{n:012d}", "", draw(st.sampled_from([one.id for one in contacts] or [""])), is_deal=True
        )
        for n in range(draw(st.integers(0, 8)))
    ]
    return Choice(tuple(contacts), tuple(leads), tuple(related))


@settings(max_examples=60)
@given(choices(), st.sampled_from([TASK, EMAIL_MESSAGE]), st.booleans())
def test_every_record_is_stood_on_exactly_once_and_no_lead_shares(choice, kind, shares):
    made = targets(choice, kind, shares_activities=shares)
    on = [one for target in made for one in target.on]
    wanted = [one.id for one in (*choice.contacts, *choice.leads, *choice.related)]
    assert sorted(on) == sorted(wanted)
    for target in made:
        assert len(target.who) <= (50 if kind == EMAIL_MESSAGE or shares else 1)
        if any(one.startswith("00Q") for one in target.who):
            assert (len(target.who), target.what) == (1, None)


def test_a_key_is_of_the_mail_and_the_records_whatever_their_order():
    one, other = Target(TASK, ("a", "b"), "c"), Target(TASK, ("b", "a"), "c", id="x", is_tried=True)
    assert one.key("m") == other.key("m")
    assert len(one.key("m")) == 64
    assert one.key("m") not in {one.key("n"), Target(TASK, ("a",), "c").key("m")}
    assert from_json(to_json((one, other))) == (one, other)


@pytest.mark.parametrize(
    ("recipients", "to", "cc", "blind", "looked_up"),
    [
        (["B@c.test"], ["b@c.test"], [], False, {"b@c.test": Where.TO}),
        (["b@c.test"], [], ["b@c.test"], False, {"b@c.test": Where.CC}),
        (["b@c.test"], [], [], False, {}),
        (["b@c.test"], [], [], True, {"b@c.test": Where.BCC}),
        (["carl@acme.test", "postmaster", "x@never.test", "i@ignored.test"], [], [], True, {}),
    ],
)
def test_who_is_looked_up(recipients, to, cc, blind, looked_up):
    found = people_to_look_for(
        recipients,
        to,
        cc,
        internal=("acme.test", "never.test"),
        ignored={"ignored.test"},
        with_blind_copied=blind,
    )
    assert found.looked_up == looked_up


@given(st.binary(max_size=400))
def test_nothing_makes_reading_a_mail_raise(raw):
    content = read_content(raw)
    for text in (content.text, content.html, content.name):
        if text is not None:
            text.encode()
            assert "\0" not in text


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"Content-Type: text/plain; charset=iso-8859-1\r\n\r\nGr\xfc\xdfe", "Grüße"),
        (b"Content-Type: text/plain; charset=no-such\r\n\r\nGr\xc3\xbc\xc3\x9fe", "Grüße"),
        (b"Content-Transfer-Encoding: base64\r\n\r\nR3LDvMOfZQ==", "Grüße"),
        (b"Content-Transfer-Encoding: base64\r\n\r\nR3LDvMOfZ", "Grüß"),
        (b"Content-Type: text/html\r\n\r\n<style>x</style><p>a&amp;b</p><p>c</p><script>d</script>", "a&b\n\nc"),
        (b"\r\n..dot\r\n.. .", ".dot\n. ."),
        ((b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Disposition: "
         b"attachment\r\n\r\nno\r\n--b\r\n\r\nyes\r\n--b--"), "yes"),
        ((b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: "
         b"message/rfc822\r\n\r\nSubject: x\r\n\r\ninner\r\n--b--"), None),
        (b"\r\n-----BEGIN PGP MESSAGE-----\r\nxxx", NOT_READABLE),
        (b"Content-Type: application/pkcs7-mime; smime-type=signed-data\r\n\r\nMIAG", NOT_READABLE),
        ((b'Content-Type: multipart/signed; protocol="application/pkcs7-signature"; '
         b"boundary=b\r\n\r\n--b\r\n\r\nyes\r\n--b\r\nContent-Type: application/pkcs7-signature; "
         b"name=smime.p7s\r\n\r\nMIAG\r\n--b--"), "yes"),
        (b"Content-Type: image/png\r\n\r\nxxx", None),
        (b"", ""),
    ],
)  # fmt: skip
def test_the_text_of_a_mail(raw, text):
    assert read_content(raw).text == text


def row(**more):
    return replace(
        Row("id", NOW, "p", 1, "anna@acme.test", 1, ("b@c.test",), "Our offer", "<1@x>", "api", Decision.API, Reason.API, State.WAITING),
        **more,
    )  # fmt: skip


FEATURES = Features(
    has_email_messages=False, email_fields={}, closed_status="Done", has_task_key=True,
    task_fields={"Subject": 255, "Description": 1000, "WhoId": 0, "Status": 40, "OwnerId": 0, "ActivityDate": 0, "Blindcopy_Key__c": 64},
)  # fmt: skip


def test_a_task_has_what_the_user_may_write_and_no_more():
    raw = b"To: b@c.test\r\n\r\n" + "ü".encode() * 5000
    draft = Draft(
        row(), read_content(raw), Target(TASK, ("003x",), "006x"), RULES, FEATURES, Author("005x", "2026-11-22"), Trace()
    )  # fmt: skip
    done = fields(draft)
    made = done.values
    assert set(made) == {
        "Subject",
        "Description",
        "WhoId",
        "Status",
        "OwnerId",
        "ActivityDate",
        "Blindcopy_Key__c",
    }
    assert made["Description"].endswith("ü…\n\n[Cut here: Salesforce takes no more]\n\nMessage-ID: <1@x>")
    assert len(made["Description"]) == 1000
    assert done.cut == {"text"}
    assert made["Status"] == "Done"


@pytest.mark.parametrize(
    ("template", "subject", "expected"),
    [
        ("{{activity_type}}: {{activity_subject}}", "Our offer", "Email: Our offer"),
        ("{{Activity_Type}} {{ACTIVITY_SUBJECT}}", "x", "Email x"),
        ("{{ activity_subject }}!", "", "!"),
        ("{{activity_subject}}", "a\nb", "a b"),
        ("{{activity_subject}}", "📨" * 300, "📨" * 300),
    ],
)
def test_a_template_is_filled(template, subject, expected):
    assert task_subject(checked_template(template), subject) == expected


@pytest.mark.parametrize(
    "bad", ["", "  ", "{{call_outcome}}", "{{activity_subject}", "x }}", "{{}}", "x" * 1001]
)
def test_what_is_no_template_says_so(bad):
    with pytest.raises(TemplateError):
        checked_template(bad)


@pytest.mark.parametrize(
    ("name", "text", "stored"),
    [
        ("log-on", "leads, Contacts", "contacts,leads"),
        ("log-on", "", None),
        ("log-on", "contacts,nonsense", None),
        ("receipt-after", "0", "0"),
        ("api-reserve", "101", None),
        ("retention-days", "0", None),
        ("logging", "bcc+receipt", "bcc+receipt"),
        ("keep", "all", None),
    ],
)
def test_the_settings_of_the_api(name, text, stored):
    if stored is None:
        with pytest.raises(SettingError):
            BY_NAME[name].check(text)
    else:
        assert BY_NAME[name].check(text) == stored


def test_tries_come_ever_later_and_never_together():
    waits = [seconds_until_next(attempts, 1.0) for attempts in range(1, 30)]
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (FIRST_SECONDS, LONGEST_SECONDS)
    assert seconds_until_next(3, 0.0) == seconds_until_next(3, 1.0) / 2
