"""Signing in with the password or token that the upstream knows."""

import asyncio
import base64
import contextlib
import hmac
from dataclasses import replace
from urllib.parse import parse_qsl

import pytest

from core.config import read_config
from core.diagnostics import look_at_upstream
from core.endpoints import Listener, ListenerKind, SignIn, TokenSource, Upstream, UpstreamTls
from core.findings import Light
from core.mail.row import State
from core.smtp import RefusesUs, Route, UpstreamUnavailable
from core.upstream_tokens import kept_refresh_token
from relay.entrance import Entrance
from tests.doors.conftest import mail, until
from tests.doors.entrance_bench import (
    NoHttp,
    RotatingEndpoint,
    TokenEndpoint,
    authority,  # noqa: F401
    run,
    start,  # noqa: F401
    start_tls,
    tls,  # noqa: F401
    token,
    trusting,  # noqa: F401
)
from tests.sandbox.sink import Script, Sink


class TestSigningInAtTheUpstream:
    ENTRANCE = Entrance(Listener(ListenerKind.SUBMISSION, "127.0.0.1", 0), SignIn.UPSTREAM)
    EXTENSIONS = ("PIPELINING", "AUTH PLAIN LOGIN", "DSN")

    def script(self, **replies):
        return Script(
            extensions=list(self.EXTENSIONS), replies={key: list(value) for key, value in replies.items()}
        )

    def test_uses_the_clients_own_password_once_on_a_link_of_its_own(self, start):
        async def claim():
            async with start(self.script(), entrance=self.ENTRANCE) as relay:
                before = relay.sink.connections
                client = await relay.connect(sign_in=False)
                assert (await client.command(f"AUTH PLAIN {token(relay, 'mail password')}")).startswith("235")
                assert relay.sink.connections == before + 1
                said = base64.b64encode(b"\0anna@acme.test\0mail password").decode()
                assert [command for command in relay.sink.commands if command.startswith("AUTH")] == [
                    f"AUTH PLAIN {said}"
                ]
                for number in range(3):
                    assert (await client.mail(mail(message_id=f"<{number}@x>"))).startswith("250")
                await client.command("MAIL FROM:<anna@acme.test>")
                await client.command("RSET")
                assert (await client.mail(mail(message_id="<4@x>"))).startswith("250")
                assert relay.sink.connections == before + 1
                assert {row.state for row in await relay.all_rows()} == {State.COPIED}
                assert relay.pool.idle_links == [] or all(
                    link.mails == 0 for link in relay.pool.idle_links
                ), "never pooled"
                client.close()
                await until(lambda: relay.sink.commands[-1] == "QUIT")

        run(claim())

    def test_refused_there_is_refused_here_after_one_try(self, start):
        async def claim():
            async with start(self.script(AUTH=["535 5.7.8 No"]), entrance=self.ENTRANCE) as relay:
                client = await relay.connect(sign_in=False)
                assert (await client.command(f"AUTH PLAIN {token(relay, 'wrong')}")).startswith("535 5.7.8")
                assert len([command for command in relay.sink.commands if command.startswith("AUTH")]) == 1

        run(claim())

    @pytest.mark.parametrize(
        "replies", [{"AUTH": ["454 4.7.0 Later"]}, {"greeting": ["", "421 4.3.2 Busy"]}, {"AUTH": ["close"]}]
    )
    def test_that_cannot_be_tried_is_454_never_535(self, start, replies):
        async def claim():
            async with start(self.script(**replies), entrance=self.ENTRANCE) as relay:
                client = await relay.connect(sign_in=False)
                assert (await client.command(f"AUTH PLAIN {token(relay, 'x')}")).startswith("454 4.7.0")

        run(claim())

    @pytest.mark.parametrize("said", ["500 5.5.2 What?", "503 5.5.1 Not now", "530 5.7.0 No"])
    def test_an_upstream_that_is_confused_has_not_said_that_the_password_is_wrong(self, start, said):
        async def claim():
            async with start(self.script(AUTH=[said]), entrance=self.ENTRANCE) as relay:
                client = await relay.connect(sign_in=False)
                assert (await client.command(f"AUTH PLAIN {token(relay, 'x')}")).startswith("454 4.7.0")

        run(claim())

    def test_a_password_in_latin_1_goes_as_it_came_and_is_refused_as_one(self, start):
        async def claim():
            async with start(self.script(AUTH=["535 5.7.8 No"]), entrance=self.ENTRANCE) as relay:
                client = await relay.connect(sign_in=False)
                said = base64.b64encode("\0anna@acme.test\0Schlüssel".encode("latin-1")).decode()
                assert (await client.command(f"AUTH PLAIN {said}")).startswith("535 5.7.8")
                assert [one for one in relay.sink.commands if one.startswith("AUTH")] == [
                    f"AUTH PLAIN {said}"
                ]

        run(claim())

    @pytest.mark.parametrize("how", ["421 4.3.2 Closing", "close"])
    def test_a_copy_that_breaks_the_own_link_costs_one_retry(self, start, how):
        async def claim():
            async with start(self.script(**{"RCPT TO:<email": [how]}), entrance=self.ENTRANCE) as relay:
                for expected in ("451 4.4.2", "250"):
                    client = await relay.connect(sign_in=False)
                    await client.command(f"AUTH PLAIN {token(relay, 'x')}")
                    assert (await client.mail(mail())).startswith(expected)
                assert [taken.rcpts for taken in relay.sink.taken] == [["RCPT TO:<bob@client.test>"]]

        run(claim())

    @pytest.mark.parametrize("how", ["close", "550 5.5.1 No"])
    def test_a_reset_that_fails_ends_the_sign_in(self, start, how):
        async def claim():
            async with start(self.script(RSET=[how]), entrance=self.ENTRANCE) as relay:
                client = await relay.connect(sign_in=False)
                await client.command(f"AUTH PLAIN {token(relay, 'x')}")
                await client.command("MAIL FROM:<anna@acme.test>")
                await client.command("RSET")
                assert (await client.command("MAIL FROM:<anna@acme.test>")).startswith("421 4.4.2")

        run(claim())

    def test_ends_with_its_link(self, start):
        async def claim():
            async with start(self.script(), entrance=self.ENTRANCE) as relay:
                client = await relay.connect(sign_in=False)
                await client.command(f"AUTH PLAIN {token(relay, 'x')}")
                relay.sink.cut_all()
                await asyncio.sleep(0.1)
                assert (await client.command("MAIL FROM:<anna@acme.test>")).startswith("421 4.4.2")
                assert await client.reader.read() == b""

        run(claim())

    def test_ends_with_starttls(self, start, tls, trusting):
        """What was said in clear counts for nothing afterwards (RFC 3207 section 4.2), nor does its link."""

        async def claim():
            entrance = replace(self.ENTRANCE, tls=tls)
            async with start(self.script(), entrance=entrance) as relay:
                client = await relay.connect(sign_in=False)
                assert (await client.command(f"AUTH PLAIN {token(relay, 'x')}")).startswith("235")
                await start_tls(client, trusting)
                await client.command("EHLO again")
                assert (await client.command("MAIL FROM:<anna@acme.test>")).startswith("530 5.7.0")
                await until(lambda: relay.sink.commands[-1] == "QUIT")
                assert (await client.command(f"AUTH PLAIN {token(relay, 'x')}")).startswith("235")
                assert (await client.mail(mail())).startswith("250")

        run(claim())

    def test_somebody_whom_we_do_not_know_is_not_logged(self, start):
        async def claim():
            async with start(self.script(), entrance=self.ENTRANCE) as relay:
                client = await relay.connect(sign_in=False)
                stranger = base64.b64encode(b"\0carl@acme.test\0x").decode()
                assert (await client.command(f"AUTH PLAIN {stranger}")).startswith("235")
                assert (await client.mail(mail())).startswith("250")
                assert [len(taken.rcpts) for taken in relay.sink.taken] == [1], "Anna's From is not Carl's"
                assert await relay.all_rows() == []

        run(claim())


class TestTokens:
    def connect(self, script, endpoint, times=1):
        async def connecting():
            sink = Sink(script)
            port = await sink.start()
            source = TokenSource(endpoint.url, "https://outlook.test/.default", "client-1")
            route = Route(
                Upstream(UpstreamTls.NONE, "127.0.0.1", port, "sales@acme.test", "s3cret", token=source),
                "relay.test",
            )
            try:
                for _ in range(times):
                    (await route.connect()).transport.close()
            finally:
                await sink.stop()
                endpoint.close()
                await asyncio.sleep(0.05)
            return sink

        return run(connecting())

    def test_long_ones_go_in_two_steps_and_are_asked_for_once(self):
        endpoint = TokenEndpoint()
        sink = self.connect(
            Script(replies={"AUTH XOAUTH2": ["334 "], "dXNl": ["235 2.7.0 Ok"]}), endpoint, times=2
        )
        said = base64.b64encode(b"user=sales@acme.test\x01auth=Bearer " + b"t" * 3000 + b"\x01\x01").decode()
        assert [command for command in sink.commands if command != "EHLO relay.test"] == [
            "AUTH XOAUTH2",
            said,
        ] * 2
        assert len(endpoint.asked) == 1
        assert dict(parse_qsl(endpoint.asked[0])) == {
            "grant_type": "client_credentials",
            "client_id": "client-1",
            "client_secret": "s3cret",
            "scope": "https://outlook.test/.default",
        }

    def test_refused_are_asked_for_anew(self):
        endpoint = TokenEndpoint()
        script = Script(replies={"AUTH XOAUTH2": ["334 "], "dXNl": ["535 5.7.3 No", "235 2.7.0 Ok"]})
        with pytest.raises(RefusesUs):
            self.connect(script, endpoint)
        assert len(endpoint.asked) == 1

    def test_refused_are_answered_with_an_empty_line_and_ours_to_mend(self):
        endpoint = TokenEndpoint()
        replies = {"AUTH XOAUTH2": ["334 "], "dXNl": ["334 eyJzdGF0dXMiOiI0MDAifQ=="], "": ["535 5.7.3 No"]}
        replies = {"EHLO": [""], "greeting": [""]} | replies
        with pytest.raises(RefusesUs):
            self.connect(Script(replies=replies), endpoint)

    @pytest.mark.parametrize(
        ("status", "answer", "trouble"),
        [
            (401, {"error": "x"}, RefusesUs),
            (400, {"error": "temporarily_unavailable"}, UpstreamUnavailable),
            (429, {"error": "x"}, UpstreamUnavailable),
            (200, ["no"], RefusesUs),
            (200, {"a": 1}, RefusesUs),
            (503, {"a": 1}, UpstreamUnavailable),
            (200, {"access_token": None}, RefusesUs),
        ],
    )
    def test_that_are_not_given_are_ours_to_mend_or_to_wait_for(self, status, answer, trouble):
        with pytest.raises(trouble):
            self.connect(Script(), TokenEndpoint(status, answer))

    def test_of_an_endpoint_that_speaks_no_http_are_to_wait_for(self):
        with contextlib.closing(NoHttp()) as endpoint, pytest.raises(UpstreamUnavailable):
            self.connect(Script(), endpoint)


class TestRefreshTokens:
    """A mailbox whose owner has agreed."""

    @contextlib.asynccontextmanager
    async def upstream(self, endpoint, given="refresh-0", secret="s3cret"):
        replies = {"AUTH XOAUTH2": ["334 "], "dXNl": ["235 2.7.0 Ok"]}
        sink = Sink(Script(replies=replies))
        source = TokenSource(endpoint.url, "", "client-1", given)
        try:
            yield Upstream(
                UpstreamTls.NONE, "127.0.0.1", await sink.start(), "sales@acme.test", secret, token=source
            )
        finally:
            await sink.stop()

    def route(self, upstream, directory, keys=("key",)):
        return Route(upstream, "relay.test", kept=kept_refresh_token(upstream, directory, keys))

    @pytest.fixture
    def endpoint(self):
        with contextlib.closing(RotatingEndpoint()) as endpoint:
            yield endpoint

    def test_the_newest_is_kept_for_the_next_relay_and_lies_there_encrypted(self, endpoint, tmp_path):
        async def claim():
            async with self.upstream(endpoint) as upstream:
                for _ in range(3):  # each a relay of its own
                    (await self.route(upstream, tmp_path).connect()).transport.close()
            assert endpoint.uses == ["refresh-0", "refresh-1", "refresh-2"]
            kept = (tmp_path / "upstream-token.json").read_text()
            assert "refresh-3" not in kept
            assert (tmp_path / "upstream-token.json").stat().st_mode & 0o077 == 0

        run(claim())

    def test_relays_of_a_machine_ask_one_after_the_other(self, endpoint, tmp_path):
        async def claim():
            async with self.upstream(endpoint) as upstream:
                routes = [self.route(upstream, tmp_path) for _ in range(5)]
                for connected in await asyncio.gather(*(route.connect() for route in routes)):
                    connected.transport.close()
            assert endpoint.uses == [f"refresh-{number}" for number in range(5)]

        run(claim())

    def test_one_that_the_operator_gives_anew_takes_the_place_of_what_was_kept(self, endpoint, tmp_path):
        async def claim():
            async with self.upstream(endpoint) as upstream:
                (await self.route(upstream, tmp_path).connect()).transport.close()
            endpoint.good = "another"
            async with self.upstream(endpoint, given="another") as upstream:
                (await self.route(upstream, tmp_path).connect()).transport.close()
            assert endpoint.uses == ["refresh-0", "another"]

        run(claim())

    def test_that_is_refused_is_ours_to_mend_with_the_providers_words(self, endpoint, tmp_path):
        async def claim():
            async with self.upstream(endpoint, given="too old") as upstream:
                with pytest.raises(RefusesUs, match="invalid_grant: The token was used"):
                    await self.route(upstream, tmp_path).connect()

        run(claim())

    def test_a_public_client_shows_no_secret(self, endpoint, tmp_path):
        async def claim():
            async with self.upstream(endpoint, secret="") as upstream:
                (await self.route(upstream, tmp_path).connect()).transport.close()
            assert "client_secret" not in endpoint.asked[0]
            assert "client_id=client-1" in endpoint.asked[0]

        run(claim())

    def test_a_directory_that_takes_nothing_stops_no_mail_of_this_relay(self, endpoint, tmp_path):
        async def claim():
            async with self.upstream(endpoint) as upstream:
                route = self.route(upstream, tmp_path)
                (await route.connect()).transport.close()
                (tmp_path / "upstream-token.new").mkdir()
                for _ in range(3):
                    (await route.connect()).transport.close()
                (tmp_path / "upstream-token.new").rmdir()
                (await route.connect()).transport.close()
                (await self.route(upstream, tmp_path).connect()).transport.close()
            assert endpoint.uses == [f"refresh-{number}" for number in range(6)]

        run(claim())

    @pytest.mark.parametrize("how", ["another key", "a directory"])
    def test_what_was_kept_and_cannot_be_read_is_waited_for_and_nothing_used_is_sent(
        self, endpoint, tmp_path, how
    ):
        async def claim():
            async with self.upstream(endpoint) as upstream:
                (await self.route(upstream, tmp_path).connect()).transport.close()
                if how == "a directory":
                    (tmp_path / "upstream-token.json").unlink()
                    (tmp_path / "upstream-token.json").mkdir()
                with pytest.raises(UpstreamUnavailable):
                    await self.route(upstream, tmp_path, keys=("new",)).connect()
            assert endpoint.uses == ["refresh-0"]

        run(claim())

    @pytest.mark.parametrize(
        "odd",
        [{"expires_in": "soon"}, {"expires_in": float("inf")}, {"error": ["x"]}, {"error": ""}],
        ids=str,
    )
    def test_a_new_one_is_kept_however_odd_the_rest_of_the_answer_is(self, tmp_path, odd):
        answer = {"access_token": "t", "refresh_token": "the next", "expires_in": 30} | odd
        with contextlib.closing(TokenEndpoint(200, answer)) as endpoint:

            async def claim():
                async with self.upstream(endpoint) as upstream:
                    for _ in range(2):
                        with contextlib.suppress(RefusesUs):
                            (await self.route(upstream, tmp_path).connect()).transport.close()

            run(claim())
            assert dict(parse_qsl(endpoint.asked[-1]))["refresh_token"] == "the next"

    def test_secrets_follow_no_redirect_and_stand_in_no_message(self, tmp_path):
        said = {"error": "invalid_grant", "error_description": "refresh-0 of s3cret is bad"}
        with contextlib.closing(TokenEndpoint(400, said)) as endpoint:

            async def claim():
                async with self.upstream(endpoint) as upstream:
                    with pytest.raises(RefusesUs) as refused:
                        await self.route(upstream, tmp_path).connect()
                    assert "refresh-0" not in str(refused.value)
                    assert "s3cret" not in str(refused.value)

            run(claim())
        with contextlib.closing(TokenEndpoint()) as other:
            with contextlib.closing(TokenEndpoint(307, {}, location=other.url)) as endpoint:

                async def redirected():
                    async with self.upstream(endpoint) as upstream:
                        with pytest.raises(RefusesUs):
                            await self.route(upstream, tmp_path).connect()

                run(redirected())
            assert other.asked == []

    def test_a_look_at_the_set_up_uses_none_up(self, endpoint, tmp_path):
        async def upstream_of():
            async with self.upstream(endpoint) as upstream:
                return upstream

        upstream = run(upstream_of())
        config = read_config({"BLINDCOPY_STATE_DIR": str(tmp_path), "BLINDCOPY_SECRET_KEY": "0" * 32})
        [finding] = look_at_upstream(replace(config, upstream=upstream))
        assert finding.light is Light.YELLOW
        assert endpoint.uses == []

    @pytest.mark.parametrize("damaged", ["", "[]", "{}", '{"origin": 1}'])
    def test_a_damaged_file_gives_way_to_what_the_operator_gave(self, endpoint, tmp_path, damaged):
        async def claim():
            (tmp_path / "upstream-token.json").write_text(damaged)
            async with self.upstream(endpoint) as upstream:
                (await self.route(upstream, tmp_path).connect()).transport.close()
            assert endpoint.uses == ["refresh-0"]

        run(claim())


class TestTheWaysToSignInUpstream:
    """By the relay's own name and password, at servers that are particular."""

    USER, PASSWORD = base64.b64encode(b"sales@acme.test").decode(), base64.b64encode(b"s3cret").decode()

    def connect(self, *mechanisms, **replies):
        """What the server was told."""

        async def connecting():
            script = Script(
                extensions=["PIPELINING", f"AUTH {' '.join(mechanisms)}"],
                replies={key.replace("_", " "): list(value) for key, value in replies.items()},
            )
            sink = Sink(script)
            upstream = Upstream(
                UpstreamTls.NONE, "127.0.0.1", await sink.start(), "sales@acme.test", "s3cret"
            )
            try:
                (await Route(upstream, "relay.test").connect()).transport.close()
            finally:
                await sink.stop()
            return [command for command in sink.commands if command != "EHLO relay.test"]

        return run(connecting())

    def test_login_waits_for_each_question(self):
        assert self.connect("LOGIN") == ["AUTH LOGIN", self.USER, self.PASSWORD]

    def test_plain_that_is_offered_and_not_known_gives_way_to_login(self):
        told = self.connect("PLAIN", "LOGIN", AUTH_PLAIN=["504 5.5.4 Unrecognized authentication type"])
        assert told[1:] == ["AUTH LOGIN", self.USER, self.PASSWORD]
        assert told[0].startswith("AUTH PLAIN ")

    def test_a_wrong_password_is_tried_by_one_way_only(self):
        with pytest.raises(RefusesUs, match="535"):
            self.connect("PLAIN", "LOGIN", AUTH_PLAIN=["535 5.7.8 No"])

    def test_cram_md5_where_there_is_nothing_else(self):
        challenge, answer = self.connect("CRAM-MD5")
        digest = hmac.new(b"s3cret", b"<1.2@sink.test>", "md5").hexdigest()
        assert challenge == "AUTH CRAM-MD5"
        assert base64.b64decode(answer).decode() == f"sales@acme.test {digest}"

    def test_none_that_we_know_is_said(self):
        with pytest.raises(RefusesUs, match="neither AUTH PLAIN nor LOGIN nor CRAM-MD5"):
            self.connect("GSSAPI")

    def test_oauthbearer_where_only_that_is_offered(self):
        endpoint = TokenEndpoint()

        async def connecting():
            replies = {"AUTH OAUTHBEARER": ["334 "], "bixh": ["235 2.7.0 Ok"]}
            sink = Sink(Script(extensions=["AUTH OAUTHBEARER"], replies=replies))
            port = await sink.start()
            source = TokenSource(endpoint.url, "https://outlook.office365.com/.default", "client-1")
            upstream = Upstream(
                UpstreamTls.NONE, "127.0.0.1", port, "sales@acme.test", "s3cret", token=source
            )
            try:
                (await Route(upstream, "relay.test").connect()).transport.close()
            finally:
                await sink.stop()
                endpoint.close()
            return port, sink.commands[-1]

        port, said = run(connecting())
        head = f"n,a=sales@acme.test,\x01host=127.0.0.1\x01port={port}\x01auth=Bearer "
        assert base64.b64decode(said).decode().startswith(head)
