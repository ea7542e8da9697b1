"""Which mail a transaction carries."""

import pytest

from relay.identity import delivery_key, identity_with_body, named_identity
from relay.message import read_message

DATE = "Thu, 26 Nov 2026 09:30:00 +0100"


def message(**fields):
    given = {"From": "Anna <anna@acme.test>", "Message-ID": "<1@acme.test>", "Date": DATE} | fields
    return read_message(
        "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in given.items() if value).encode()
    )


def identity(subject="Offer", **fields):
    return named_identity(message(**fields), subject)


class TestTheSameMail:
    @pytest.mark.parametrize(
        "fields",
        [
            {"From": "ANNA@acme.test"},
            {"From": '"Anna of Acme" <anna@acme.test>'},
            {"Message-ID": " <1@acme.test> (by a mail server)"},
            {"Message-ID": "\r\n\t<1@acme.test>"},
            {"Message-ID": "1@acme.test"},
            {"Date": "Thu, 26 Nov 2026\r\n 09:30:00 +0100"},
            {"Content-Type": "text/plain"},
            {"To": "somebody else"},
        ],
        ids=str,
    )
    def test_whatever_a_server_in_front_makes_of_its_header(self, fields):
        assert identity(**fields) == identity() is not None

    @pytest.mark.parametrize(
        "fields",
        [
            {"From": "carl@acme.test"},
            {"Message-ID": "<2@acme.test>"},
            {"Date": "Thu, 26 Nov 2026 09:30:01 +0100"},
        ],
        ids=str,
    )
    def test_is_not_another_authors_nor_of_another_id_or_time(self, fields):
        assert identity(**fields) not in {identity(), None}

    def test_is_not_one_with_another_subject_as_a_scanner_gives_one_id_to_all(self):
        assert identity("Scan 1") != identity("Scan 2")


class TestAMailThatItsHeaderDoesNotTell:
    @pytest.mark.parametrize(
        "fields",
        [
            {"Message-ID": ""},
            {"Message-ID": "<scanner>"},
            {"Message-ID": "<>"},
        ],
        ids=str,
    )
    def test_is_known_by_its_body(self, fields):
        assert identity(**fields) is None
        one = message(**fields)
        assert identity_with_body(one, "Scan", b"1") == identity_with_body(one, "Scan", b"1") is not None
        assert identity_with_body(one, "Scan", b"1") != identity_with_body(one, "Scan", b"2")

    @pytest.mark.parametrize(
        "fields",
        [
            {"Date": ""},
            {"Date": "Thu, 1 Jan 1970 00:00:00 +0000"},
            {"Date": "yesterday"},
            {"From": ""},
            {"From": "a@b.test, c@d.test"},
        ],
        ids=str,
    )
    def test_is_not_known_at_all_without_author_or_date(self, fields):
        assert identity(**fields) is None
        assert identity_with_body(message(**fields), "Scan", b"1") is None

    def test_a_very_long_id_is_one(self):
        long = "<" + "x" * 2000 + "@acme.test>"
        assert identity(**{"Message-ID": long}) not in {identity(), None}


def test_a_delivery_is_known_by_body_and_recipients_in_any_order():
    one = delivery_key(b"i" * 32, b"b", ["a@x.test", "b@x.test"])
    assert one == delivery_key(b"i" * 32, b"b", ["b@x.test", "a@x.test"])
    assert one != delivery_key(b"i" * 32, b"c", ["a@x.test", "b@x.test"])
    assert one != delivery_key(b"i" * 32, b"b", ["a@x.test"])
