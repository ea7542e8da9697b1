"""The environment: every mistake in one go, each with the variable's name and what would be right."""

from pathlib import Path

import pytest

from core.config import ConfigurationError, read_config
from core.endpoints import Listener, ListenerKind, TokenSource, Upstream, UpstreamLimits, UpstreamTls

RIGHT = {
    "BLINDCOPY_SECRET_KEY": "0123456789abcdef",
    "BLINDCOPY_UPSTREAM": "smtp+starttls://me%40acme.test:p%40ss@smtp.acme.test:587",
    "BLINDCOPY_HOSTNAME": "relay.acme.test",
}
NEEDS = ("BLINDCOPY_SECRET_KEY", "BLINDCOPY_UPSTREAM")


def problems(**changes):
    with pytest.raises(ConfigurationError) as caught:
        read_config(RIGHT | changes, needs=NEEDS)
    return caught.value.problems


def test_a_right_one():
    config = read_config(RIGHT, needs=NEEDS)
    assert config.upstream == Upstream(UpstreamTls.STARTTLS, "smtp.acme.test", 587, "me@acme.test", "p@ss")
    assert config.listeners == (Listener(ListenerKind.SUBMISSION, "127.0.0.1", 2587),)
    assert config.database_url.endswith("/.blindcopy/blindcopy.db")


def test_secrets_are_not_shown():
    assert "p@ss" not in repr(read_config(RIGHT)) + str(read_config(RIGHT).upstream)
    assert "0123456789abcdef" not in repr(read_config(RIGHT))


def test_three_mistakes_are_three_lines():
    found = problems(BLINDCOPY_LISTEN="submission://0.0.0.0:587", BLINDCOPY_UPSTREAM="", PORT="http")
    assert [line.partition(":")[0] for line in found] == ["BLINDCOPY_LISTEN", "BLINDCOPY_UPSTREAM", "PORT"]


WRONG = [
    ("BLINDCOPY_SECRET_KEY", "", "openssl rand"),
    ("BLINDCOPY_SECRET_KEY", "short", "32 or more"),
    ("BLINDCOPY_UPSTREAM", "", "smtps://"),
    ("BLINDCOPY_UPSTREAM", "http://x", "smtps://"),
    ("BLINDCOPY_UPSTREAM", "smtp://smtp.acme.test", "plain=yes"),
    ("BLINDCOPY_UPSTREAM", "smtps://smtp.acme.test:99999", "smtps://"),
    (
        "BLINDCOPY_UPSTREAM",
        "smtps://smtp.acme.test?colour=red",
        "there are: auth, cert, client_id, connections, key, plain",
    ),
    ("BLINDCOPY_UPSTREAM", "smtps://smtp.acme.test?cert=/etc/hostname", "both cert=PATH and key=PATH"),
    (
        "BLINDCOPY_UPSTREAM",
        "smtps://smtp.acme.test?cert=/etc/hostname&key=/no/such/file",
        "key: there is no file",
    ),
    ("BLINDCOPY_UPSTREAM", "smtp://127.0.0.1:25?cert=/etc/hostname&key=/etc/hostname", "over TLS only"),
    ("BLINDCOPY_UPSTREAM", "smtp://localhost:2587", "our own listeners"),
    ("BLINDCOPY_UPSTREAM", "smtp://127.0.0.1:2587", "our own listeners"),
    ("BLINDCOPY_UPSTREAM_CA_FILE", "/no/such/file", "PEM"),
    ("BLINDCOPY_LISTEN", "submission://0.0.0.0:587", "loopback"),
    ("BLINDCOPY_TRUSTED", "10.0.0.0/33", "10.1.0.0/16"),
    ("BLINDCOPY_LISTEN", "lmtp://127.0.0.1:24", "none of: submission, submissions, gateway"),
    ("BLINDCOPY_LISTEN", "submission://127.0.0.1:24 submission://127.0.0.1:24", "named twice"),
    ("BLINDCOPY_LISTEN", "submission://127.0.0.1:24?sise=1", "there are: size, recipients"),
    ("BLINDCOPY_LISTEN", "submission://127.0.0.1:24?size=big", "not a number"),
    ("BLINDCOPY_AUTH", "ldap", "app-password, upstream"),
    ("BLINDCOPY_TLS_CERT", "/no/such/file", "PEM"),
    ("DATABASE_URL", "postgresql://u:p@h:port/d", "port"),
    ("BLINDCOPY_LISTEN", "2587", "submission://127.0.0.1:2587"),
    ("BLINDCOPY_LISTEN", "submission://127.0.0.1", "submission://127.0.0.1:2587"),
    ("BLINDCOPY_HOSTNAME", "no spaces please", "relay.example.com"),
    ("DATABASE_URL", "mysql://x/y", "postgresql+psycopg://"),
    ("DATABASE_URL", "sqlite:///:memory:", "needs a file"),
    ("BLINDCOPY_PUBLIC_URL", "example.com", "https://"),
    ("PORT", "0", "65535"),
    ("BLINDCOPY_MONITOR", "9025", "127.0.0.1:9025"),
    ("BLINDCOPY_MONITOR", "*:9025", "or off"),
    ("BLINDCOPY_MONITOR", "256.1.1.1:80", "127.0.0.1:9025"),
    ("BLINDCOPY_MONITOR", "user@127.0.0.1:9025", "127.0.0.1:9025"),
    ("BLINDCOPY_MONITOR", "127.0.0.1:9025/metrics", "127.0.0.1:9025"),
]


@pytest.mark.parametrize(("name", "value", "said"), WRONG)
def test_a_mistake_names_the_variable_and_what_would_be_right(name, value, said):
    changes = {name: value}
    if name == "BLINDCOPY_UPSTREAM_CA_FILE":
        changes["BLINDCOPY_UPSTREAM"] = "smtps://smtp.acme.test"
    found = problems(**changes)
    assert len(found) == 1
    assert found[0].startswith(f"{name}: ")
    assert said in found[0]


@pytest.mark.parametrize("url", ["smpt://me:s3cret@smtp.acme.test", "smtps://me:ab/s3cret+x@smtp.acme.test"])
def test_a_password_in_a_broken_upstream_is_not_shown(url):
    assert "s3cret" not in problems(BLINDCOPY_UPSTREAM=url)[0]


def test_a_gateway_needs_to_know_whom_it_may_trust():
    assert problems(BLINDCOPY_LISTEN="gateway://127.0.0.1:25")[0].startswith("BLINDCOPY_TRUSTED: ")


def test_a_listener_beyond_this_machine_needs_a_certificate():
    assert problems(BLINDCOPY_LISTEN="submissions://127.0.0.1:465")[0].startswith("BLINDCOPY_TLS_CERT: ")


def test_an_upstream_by_token():
    url = "smtp+starttls://sales%40acme.test:s3cret@smtp.office365.com:587?auth=xoauth2&token_url=https%3A%2F%2Flogin.test%2Ft&scope=a+b"
    upstream = read_config({"BLINDCOPY_UPSTREAM": url}).upstream
    assert upstream.token == TokenSource("https://login.test/t", "a b", "sales@acme.test")
    assert "https" in problems(BLINDCOPY_UPSTREAM="smtps://a:b@c.test?auth=xoauth2")[0]
    by_owner = read_config({"BLINDCOPY_UPSTREAM": f"{url}&client_id=app&refresh_token=0.A%2Bb"}).upstream
    assert by_owner.token == TokenSource("https://login.test/t", "a b", "app", "0.A+b")
    assert "0.A+b" not in repr(by_owner)
    assert "client_id" in problems(BLINDCOPY_UPSTREAM=f"{url}&refresh_token=x")[0]
    assert "auth=xoauth2" in problems(BLINDCOPY_UPSTREAM="smtps://a:b@c.test?refresh_token=x")[0]


@pytest.mark.parametrize(
    "text",
    [
        "smtps:/user:SECRET@host?refresh_token=SECRET",
        "smtps:/host?refresh_token=a@SECRET",
        "smtp+ssl://u:p?SECRET@host",
        "host?client=SECRET",
        "smtps://u:SECRET@host:465&auth=xoauth2&refresh_token=SECRET",
        "smtps://u:p@host:465;refresh_token=SECRET",
        "smtps://u:p@host:465/refresh_token=SECRET",
        "smtp+starttls://user:SECRET",
        "smtps://u:p@host&refresh_token=SECRET",
        "smtps://u:p@host?auth=xoauth2&refresh_token=a&SECRET",
        "smtps://u:p@host?refresh_token=a#SECRET",
    ],
)
def test_a_mistyped_upstream_shows_no_secret(text):
    assert "SECRET" not in "".join(problems(BLINDCOPY_UPSTREAM=text))


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", "127.0.0.1:9025"),
        ("0.0.0.0:80", "0.0.0.0:80"),
        ("[::1]:0", "[::1]:0"),
        ("Off", "None"),
        ("off", "None"),
    ],
)
def test_where_the_monitor_answers(text, place):
    assert str(read_config({"BLINDCOPY_MONITOR": text}).monitor) == place


def test_other_spellings_of_postgresql():
    for scheme in ("postgres", "postgresql", "postgresql+psycopg"):
        assert read_config({"DATABASE_URL": f"{scheme}://u@h/d"}).database_url == "postgresql+psycopg://u@h/d"


def test_paths_are_relative_to_the_checkout():
    checkout = Path(__file__).resolve().parents[2]
    assert read_config({}).state_dir == checkout / ".blindcopy"
    assert read_config({"BLINDCOPY_STATE_DIR": "/var/lib/blindcopy"}).state_dir == Path("/var/lib/blindcopy")


def test_what_a_listener_may_say_of_itself():
    config = read_config(
        {
            **RIGHT,
            "BLINDCOPY_LISTEN": "gateway://127.0.0.1:25?trusted=10.1.0.0/16,10.2.0.0/16&proxy=127.0.0.0/8&size=1000 "
            "submission://127.0.0.1:587?bare-newline=fix",
        }
    )
    gateway, submission = config.listeners
    assert [str(one) for one in gateway.trusted] == ["10.1.0.0/16", "10.2.0.0/16"]
    assert [str(one) for one in gateway.proxies] == ["127.0.0.0/8"]
    assert (gateway.limits.size, gateway.fixes_bare_newlines) == (1000, False)
    assert (submission.trusted, submission.proxies, submission.fixes_bare_newlines) == ((), (), True)


def test_what_the_provider_bears():
    url = "smtps://smtp.acme.test?connections=3&rate=30&recipients=500"
    assert read_config({**RIGHT, "BLINDCOPY_UPSTREAM": url}).upstream.limits == UpstreamLimits(3, 30, 500)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("BLINDCOPY_LISTEN", "submission://127.0.0.1:587?bare-newline=keep", "write bare-newline=fix"),
        ("BLINDCOPY_LISTEN", "submission://127.0.0.1:587?proxy=balancer", "“balancer” is not a network"),
        ("BLINDCOPY_LISTEN", "submission://127.0.0.1:587?trusted=10.0.0.0/8", "trusted is for gateways"),
        ("BLINDCOPY_UPSTREAM", "smtps://smtp.acme.test?connections=0", "“0” is not a number for connections"),
        ("BLINDCOPY_UPSTREAM", "smtps://smtp.acme.test?rate=fast", "“fast” is not a number for rate"),
    ],
)
def test_a_wrong_option_is_named_with_what_would_be_right(name, value, said):
    assert said in problems(**{name: value})[0]
