"""The relay's conversation, driven through whatever order things can happen in, without sockets, threads or
clocks: what it promises holds in each."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.endpoints import ListenerLimits
from core.mail.row import State
from core.settings.catalogue import Setting
from relay.conversation import Answer, Conversation, Patience
from relay.dataflow import NewlineMender
from tests.rules.offline import COPY, PASSWORD, Clock, Offline, gateway, people, submission
from tests.sandbox.dialogs import DIALOGS, read, said

HEADER = b"From: Anna <anna@acme.test>\r\nTo: bob@client.test\r\nSubject: Our offer\r\n\r\n"
BODIES = (b"Hello\r\n", b"", b"..\r\n.. dots\r\n", b"x" * 3000 + b"\r\n", b"a\r\n..\r\nb\r\n")
USUAL = {
    "MAIL": b"250 2.1.0 Ok",
    "RCPT": b"250 2.1.5 Ok",
    "DATA": b"354 Go on",
    "dot": b"250 2.0.0 Ok: queued",
    "RSET": b"250 Ok",
}


def usual(verb):
    return USUAL[verb]


def mail(number, body=b"Hello\r\n", recipients=1):
    """The envelope and the data of one mail, as a client sends them."""
    data = HEADER.replace(b"Our offer", b"Offer %d" % number) + body
    rcpts = b"".join(b"RCPT TO:<r%d@client.test>\r\n" % one for one in range(recipients))
    return b"MAIL FROM:<anna@acme.test>\r\n" + rcpts + b"DATA\r\n", data


@pytest.fixture
def clock():
    with Clock().running() as clock:
        yield clock


def replies(heard):
    """The final lines of what the client has heard."""
    return [line for line in heard.split(b"\r\n") if line[3:4] == b" "]


class TestOneMail:
    def test_goes_through_with_its_copy(self, clock):
        offline = Offline(clock, usual)
        envelope, data = mail(1)
        for part in (b"EHLO client.test\r\n", envelope, data + b".\r\n", b"QUIT\r\n"):
            offline.client_says(part)
            offline.deliver_all()
        [(envelope, taken, _)] = offline.taken
        assert taken == data
        assert (
            envelope[-2:] == (f"RCPT TO:<{COPY}>".encode(), b"DATA")
            or envelope[-1] == f"RCPT TO:<{COPY}>".encode()
        )
        assert [line[:3] for line in replies(offline.heard)] == [
            b"220",
            b"250",
            b"250",
            b"250",
            b"354",
            b"250",
            b"221",
        ]
        [ended] = offline.logbook.ended.values()
        assert ended.state is State.COPIED

    def test_is_not_sent_off_before_it_is_on_the_disk(self, clock):
        offline = Offline(clock, usual)
        envelope, data = mail(1)
        offline.client_says(b"EHLO client.test\r\n" + envelope)
        offline.deliver_all()
        offline.client_says(data + b".\r\n")
        while any(upstream.deliver() for upstream in offline.links.upstreams):
            clock.settle()
        assert offline.taken == [], "the journal has not answered"
        offline.deliver_all()
        assert len(offline.taken) == 1

    def test_whose_client_has_gone_is_remembered_before_it_can_be_sent_again(self, clock):
        offline, known = Offline(clock, usual), []
        offline.relay.under_way.end = lambda mail, answer: known.append(dict(offline.snapshot.lost))
        envelope, data = mail(1)
        offline.client_says(b"EHLO client.test\r\n" + envelope)
        offline.deliver_all()
        offline.client_says(data + b".\r\n")
        offline.client_goes(breaks=True)
        offline.deliver_all()
        [lost] = known
        assert [answer.reply for answer in lost.values()] == ["250 2.0.0 Ok: queued"]

    @pytest.mark.parametrize(("seconds", "is_over"), [(599, False), (601, True)])
    def test_waits_ten_minutes_for_its_verdict(self, clock, seconds, is_over):
        offline = Offline(clock, lambda verb: b"" if verb == "dot" else USUAL[verb])
        envelope, data = mail(1)
        offline.client_says(b"EHLO client.test\r\n" + envelope)
        offline.deliver_all()
        offline.client_says(data + b".\r\n")
        offline.deliver_all()
        clock.pass_until(clock.time() + seconds)
        offline.deliver_all()
        assert (replies(offline.heard)[-1][:9] == b"451 4.4.2") is is_over
        assert [row.state for row in offline.logbook.ended.values()] == ([State.UNKNOWN] if is_over else [])

    @pytest.mark.parametrize("cut", range(1, 140))
    def test_is_the_same_wherever_the_network_cuts_it(self, clock, cut):
        offline = Offline(clock, usual)
        envelope, data = mail(1, b"a\r\n..\r\nb\r\n")
        said = b"EHLO client.test\r\n" + envelope + data + b".\r\nQUIT\r\n"
        for part in (said[:cut], said[cut:]):
            offline.client_says(part)
            offline.deliver_all()
        assert [taken for _, taken, _ in offline.taken] == [data]
        assert [line[:3] for line in replies(offline.heard)] == [
            b"220",
            b"250",
            b"250",
            b"250",
            b"354",
            b"250",
            b"221",
        ]


class TestRecipientsThatAreSentOn:
    def test_go_upstream_in_one_go_and_each_hears_its_own_verdict(self, clock):
        verdicts = iter([b"250 2.1.5 Ok", b"550 5.1.1 No"] * 40)
        offline = Offline(clock, lambda verb: next(verdicts) if verb == "RCPT" else USUAL[verb])
        offline.client_says(b"EHLO client.test\r\nMAIL FROM:<anna@acme.test>\r\n")
        offline.deliver_all()
        offline.client_says(b"".join(b"RCPT TO:<r%d@client.test>\r\n" % number for number in range(80)))
        [upstream] = offline.links.upstreams
        assert upstream.wire.written.count(b"RCPT TO:") == 80, "before the first was answered"
        offline.deliver_all()
        assert [line[:3] for line in replies(offline.heard)[3:]] == [b"250", b"550"] * 40

    def test_go_one_by_one_to_a_provider_that_takes_no_more(self, clock):
        offline = Offline(clock, usual, extensions={})
        offline.client_says(b"EHLO client.test\r\nMAIL FROM:<anna@acme.test>\r\n")
        offline.deliver_all()
        offline.client_says(b"RCPT TO:<a@client.test>\r\nRCPT TO:<b@client.test>\r\n")
        [upstream] = offline.links.upstreams
        assert upstream.wire.written.count(b"RCPT TO:") == 1

    def test_that_are_no_addresses_are_refused_in_their_place(self, clock):
        offline = Offline(clock, usual)
        offline.client_says(b"EHLO client.test\r\nMAIL FROM:<anna@acme.test>\r\n")
        offline.deliver_all()
        offline.client_says(
            b"RCPT TO:<a@client.test>\r\nRCPT TO:nonsense\r\nRCPT TO:<b@client.test>\r\nNOOP\r\n"
        )
        offline.deliver_all()
        assert [line[:9] for line in replies(offline.heard)[3:]] == [
            b"250 2.1.5", b"501 5.1.3", b"250 2.1.5", b"250 2.0.0",
        ]  # fmt: skip

    def test_hear_451_each_where_the_provider_is_lost_meanwhile(self, clock):
        answers = iter([b"250 2.1.5 Ok", None, b"250 2.1.5 Ok"])
        offline = Offline(clock, lambda verb: next(answers) if verb == "RCPT" else USUAL[verb])
        offline.client_says(b"EHLO client.test\r\nMAIL FROM:<anna@acme.test>\r\n")
        offline.deliver_all()
        offline.client_says(b"".join(b"RCPT TO:<r%d@client.test>\r\n" % number for number in range(3)))
        offline.deliver_all()
        assert [line[:9] for line in replies(offline.heard)[3:]] == [b"250 2.1.5", b"451 4.4.2", b"451 4.4.2"]


class TestWhatTheProviderSaysInUtf8:
    SAID = "550 5.1.1 Empfänger für „große“ Post unbekannt: 收件人".encode()

    def heard(self, clock, parameter):
        offline = Offline(
            clock,
            lambda verb: self.SAID if verb == "RCPT" else USUAL[verb],
            extensions={"smtputf8": "", "8bitmime": ""},
        )
        offline.client_says(b"EHLO client.test\r\nMAIL FROM:<anna@acme.test>" + parameter + b"\r\n")
        offline.deliver_all()
        offline.client_says(b"RCPT TO:<b@client.test>\r\n")
        offline.deliver_all()
        return replies(offline.heard)[-1]

    def test_reaches_a_client_that_uses_smtputf8_whole(self, clock):
        assert self.heard(clock, b" SMTPUTF8") == self.SAID

    def test_is_said_to_others_as_well_as_ascii_can(self, clock):
        assert self.heard(clock, b"") == b"550 5.1.1 Empfanger fur ?grosse? Post unbekannt: ???"

    def test_smtputf8_is_not_offered_without_8bitmime(self, clock):
        """RFC 6531 section 3.1; Postfix would send 8 bits where only SMTPUTF8 was offered."""
        offline = Offline(clock, USUAL.get, extensions={"smtputf8": "", "dsn": ""})
        offline.client_says(b"EHLO client.test\r\n")
        offline.deliver_all()
        assert b"DSN" in offline.heard
        assert b"SMTPUTF8" not in offline.heard

    def test_are_counted_when_they_are_accepted(self, clock):
        answers = iter([b"550 5.1.1 No"] * 3 + [b"250 2.1.5 Ok"] * 9)
        offline = Offline(
            clock,
            lambda verb: next(answers) if verb == "RCPT" else USUAL[verb],
            entrance=gateway(limits=ListenerLimits(recipients=3)),
        )
        offline.client_says(b"EHLO client.test\r\nMAIL FROM:<anna@acme.test>\r\n")
        offline.deliver_all()
        offline.client_says(b"".join(b"RCPT TO:<r%d@client.test>\r\n" % number for number in range(7)))
        offline.deliver_all()
        assert [line[:3] for line in replies(offline.heard)[3:]] == [b"550"] * 3 + [b"250"] * 3 + [b"452"]


class TestAnUpstreamThatIsOutOfStep:
    def test_has_still_said_what_it_said_before(self, clock):
        offline = Offline(clock, usual)
        envelope, data = mail(1)
        offline.client_says(b"EHLO client.test\r\n" + envelope)
        offline.deliver_all()
        offline.client_says(data + b".\r\n")
        while offline.logbook.deliver():
            clock.settle()
        [upstream] = offline.links.upstreams
        while len(upstream.taken) < 1:
            offline.deliver()
        upstream.waiting.clear()
        upstream.link.data_received(b"250 2.0.0 Ok: queued\r\nrubbish\r\n")
        offline.deliver_all()
        assert replies(offline.heard)[-1] == b"250 2.0.0 Ok: queued"
        assert upstream.link.is_lost


class TestANewSession:
    def test_is_sent_away_while_the_journal_is_slower_than_the_mails(self, clock):
        offline = Offline(clock, usual, is_behind=True)
        assert offline.heard.startswith(b"421 4.3.2")
        assert offline.wire.is_closed


ANSWERS = {
    "MAIL": [b"250 2.1.0 Ok"] * 4 + [b"550 5.1.0 No", b"451 4.1.0 Later", b"421 4.3.2 Bye", None, b"", b"nonsense"],
    "RCPT": [b"250 2.1.5 Ok"] * 5 + [b"550 5.1.1 No", b"450 4.2.0 Later", b"421 4.3.2 Bye", None, b""],
    "DATA": [b"354 Go on"] * 5 + [b"554 5.5.1 No", b"451 4.3.0 Later", b"421 4.3.2 Bye", None, b"", b"250 What"],
    "dot": [b"250 2.0.0 Ok: queued"] * 4 + [b"550 5.7.1 Spam", b"452 4.5.3 Full", b"421 4.3.2 Bye", None, b"", b"354 What", b"550 5.1.1 <" + COPY.encode() + b"> unknown"],
    "RSET": [b"250 Ok", None, b"421 Bye"],
}  # fmt: skip


def run(draw):
    """A client's session of a few mails, its bytes cut anywhere, answers in any order, until everything is
    over."""
    said = {verb: draw(st.lists(st.sampled_from(answers), max_size=6)) for verb, answers in ANSWERS.items()}

    def say(verb):
        return said[verb].pop(0) if said[verb] else USUAL[verb]

    extensions = draw(st.sampled_from([{"pipelining": ""}, {}, {"pipelining": "", "dsn": ""}]))
    clock = Clock()
    with clock.running():
        offline = Offline(clock, say, extensions=extensions)
        mails = [
            mail(number, draw(st.sampled_from(BODIES)), draw(st.integers(1, 3)))
            for number in range(draw(st.integers(1, 3)))
        ]
        script = b"EHLO client.test\r\n" + b"".join(envelope + data + b".\r\n" for envelope, data in mails)
        script += draw(st.sampled_from([b"QUIT\r\n", b"", b"RSET\r\nNOOP\r\n"]))
        cuts = sorted(draw(st.lists(st.integers(1, len(script)), max_size=8)))
        parts = [
            script[start:end]
            for start, end in zip([0, *cuts], [*cuts, len(script)], strict=True)
            if start < end
        ]
        goes_after = draw(st.one_of(st.none(), st.integers(0, 30)))
        events = 0
        while parts or offline.logbook.owed or any(upstream.waiting for upstream in offline.links.upstreams):
            events += 1
            if goes_after is not None and events > goes_after and not offline.wire.is_closed:
                offline.client_goes(breaks=draw(st.booleans()))
                parts = []
            elif parts and not offline.wire.is_closed and draw(st.booleans()):
                offline.client_says(parts.pop(0))
            elif not offline.deliver(draw(st.integers(0, 3)), in_time=draw(st.integers(0, 9)) > 0):
                if not parts or offline.wire.is_closed:
                    break
                offline.client_says(parts.pop(0))
        offline.end()
    return offline, [data for _, data in mails]


class TestWhateverHappens:
    @given(st.data())
    @settings(max_examples=300, deadline=None)
    def test_what_was_promised_holds(self, data):
        offline, sent = run(data.draw)
        assert offline.clock.troubles == []
        assert offline.session.is_over, "every conversation comes to its end"
        assert offline.links.in_hand == 0, "no link is left in anybody's hands"
        whole = [taken for _, taken, _ in offline.taken]
        assert all(taken in sent for taken in whole), "byte for byte"
        assert len(whole) == len(set(whole)), "no mail is delivered twice"
        yes = [taken for _, taken, answer in offline.taken if answer is not None and answer[:1] == b"2"]
        told = replies(offline.heard)
        heard = sum(one[:1] == b"2" and before[:3] == b"354" for before, one in pairwise(told))
        assert heard <= len(yes), "no client hears of a mail that the provider does not have"
        log = offline.logbook
        assert log.begun.keys() <= log.ended.keys() | log.void, "what was begun is ended"
        for mail_id, row in log.ended.items():
            is_accepted = row.state in {State.COPIED, State.NOT_LOGGED}
            assert not is_accepted or len(yes) > 0, mail_id
        accepted = [
            row
            for row in log.ended.values()
            if row.state in {State.COPIED, State.NOT_LOGGED, State.COPY_REFUSED}
        ]
        assert len(accepted) >= heard, "and each has its row"
        assert COPY.encode() not in offline.heard, "nobody hears of the copy's address"

    @given(st.data())
    @settings(max_examples=100, deadline=None)
    def test_no_dot_goes_out_before_the_journal_has_answered(self, data):
        offline, _ = run(data.draw)
        assert all(answered > number for number, answered in enumerate(offline.dots))


OVER_SOCKETS_ONLY = ("beyond", "settings away")
"""They are about encryption, and about a database."""


def offline_of(clock, setup):
    """A relay as a dialog's `#` lines want it."""
    say, extensions, most, policy, gate = dict(USUAL), None, {}, {}, None
    for line in setup:
        kind, _, rest = line.partition(" ")
        if kind == "upstream":
            verb, _, reply = rest.partition(": ")
            say["dot" if verb == "dot" else verb[:4]] = None if reply == "close" else reply.encode()
        elif kind == "extensions":
            extensions = {one.lower(): "" for one in rest.split()}
        elif kind == "listener":
            name, _, number = rest.partition("=")
            most[name] = int(number)
        elif kind == "policy":
            name, _, value = rest.partition(": ")
            policy[name.replace("-", "_")] = Setting(name).definition.kind.read(value)
        elif kind == "entrance":
            gate = rest.split()[-1] if " from " in rest else "127.0.0.0/8" if rest == "gateway" else None
    limits = ListenerLimits(**most)
    return Offline(
        clock,
        say.__getitem__,
        extensions=extensions
        or {"pipelining": "", "8bitmime": "", "smtputf8": "", "size": "52428800", "dsn": ""},
        entrance=submission(limits) if gate is None else gateway(gate, limits),
        settings=people(**policy),
        is_stopping="stopping" in setup,
    )


@pytest.mark.parametrize(
    "path",
    [path for path in DIALOGS if not any(word in path.read_text() for word in OVER_SOCKETS_ONLY)],
    ids=lambda path: path.stem,
)
def test_dialog(path, clock, monkeypatch):
    setup, lines = read(path)
    if "421-idle" in path.stem or "too-many-sessions" in path.stem or "unreachable" in path.stem:
        pytest.skip(
            "what it is about is not part of the conversation: the server's watch, the door to the provider"
        )
    offline = offline_of(clock, setup)
    told = 0
    for who, line in lines:
        if who == "C":
            offline.client_says(said(line, PASSWORD))
            offline.deliver_all()
        elif line == "(closed)":
            assert offline.wire.is_closed
        else:
            if len(whole_replies(offline.heard)) == told:
                clock.pass_until(clock.time() + 60)  # a wrong password is answered slowly
                offline.deliver_all()
            heard = whole_replies(offline.heard)
            assert len(heard) > told, f"expected {line!r}, heard nothing"
            assert heard[told].startswith(line), f"expected {line!r}, heard {heard[told]!r}"
            told += 1


def whole_replies(heard):
    """Each reply as one text, all its lines."""
    found, lines = [], []
    for line in heard.decode().split("\r\n")[:-1]:
        lines.append(line)
        if line[3:4] != "-":
            found.append("\n".join(lines))
            lines = []
    return found


class TestAConversation:
    def test_goes_on_in_the_same_turn_in_which_its_answer_is_given(self, clock):
        answer, heard = Answer(), []

        async def wait():
            heard.append(await answer)

        Conversation(wait(), "a test")
        answer.give(1)
        assert heard == [1]

    def test_that_wakes_another_one_goes_first(self, clock):
        first, second, order = Answer(), Answer(), []

        async def one():
            await first
            second.give(None)
            order.append("first")

        async def other():
            await second
            order.append("second")

        Conversation(one(), "a test")
        Conversation(other(), "a test")
        first.give(None)
        assert order == ["first", "second"]

    def test_a_chain_of_many_is_no_deep_stack(self, clock):
        answers, done = [Answer() for _ in range(5000)], []

        async def link(number):
            await answers[number]
            done.append(number)
            if number + 1 < len(answers):
                answers[number + 1].give(None)

        for number in range(len(answers)):
            Conversation(link(number), "a test")
        answers[0].give(None)
        assert len(done) == 5000

    def test_a_second_answer_is_ignored(self, clock):
        answer = Answer()
        answer.give(1)
        answer.give(2)
        answer.fail(OSError())
        assert answer.result() == 1

    def test_an_error_is_raised_where_it_is_waited_for(self, clock):
        answer, caught = Answer(), []

        async def wait():
            try:
                await answer
            except OSError as error:
                caught.append(error)

        Conversation(wait(), "a test")
        answer.fail(OSError("gone"))
        assert str(caught[0]) == "gone"

    def test_one_that_fails_is_said_and_ended_and_disturbs_no_other(self, clock, caplog):
        answer, ended = Answer(), []

        async def odd():
            await answer
            raise ZeroDivisionError

        Conversation(odd(), "an odd one", lambda: ended.append(True))
        answer.give(None)
        assert ended == [True]
        assert "an odd one" in caplog.text


class TestPatience:
    def test_ends_what_comes_too_late_and_nothing_else(self, clock):
        ended = []
        patience = Patience(clock, lambda: ended.append(clock.time()))
        patience.begin(5)
        patience.end()
        patience.begin(60)
        clock.pass_until(1050.0)
        assert ended == []
        clock.pass_until(1100.0)
        assert ended == [1060.0]

    def test_a_shorter_wait_after_a_longer_one_is_kept(self, clock):
        ended = []
        patience = Patience(clock, lambda: ended.append(clock.time()))
        patience.begin(300)
        patience.end()
        patience.begin(5)
        clock.pass_until(1006.0)
        assert ended == [1005.0]

    def test_sets_one_timer_for_many_waits(self, clock):
        patience = Patience(clock, lambda: None)
        for _ in range(100):
            patience.begin(60)
            patience.end()
        assert len(clock._timers) == 1  # noqa: SLF001  of the test's own clock


class TestMendedLineEnds:
    @given(st.lists(st.sampled_from([b"a", b"\r", b"\n", b"\r\n", b"."]), max_size=20), st.data())
    def test_are_the_same_wherever_the_network_cuts_them(self, parts, data):
        whole = b"".join(parts)
        cut = data.draw(st.integers(0, len(whole)))
        mender = NewlineMender()
        mended = mender.feed(whole[:cut]) + mender.feed(whole[cut:])
        assert mended == NewlineMender().feed(whole)
        assert b"\n" not in mended.replace(b"\r\n", b"")
        assert mended.replace(b"\r\n", b"\n") == whole.replace(b"\r\n", b"\n")
