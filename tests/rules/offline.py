"""A conversation of the relay without sockets, threads or clocks: what the client, the upstream and the
journal do, and when, is up to the test, and a minute takes no time."""

import asyncio
import heapq
import itertools
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_network

from core.endpoints import Listener, ListenerKind, ListenerLimits
from core.journal.entries import Ended, Void
from core.people.person import AppPassword, People, Person, app_password_digest
from core.settings.catalogue import Logging
from core.settings.in_force import PersonSettings, policy_settings
from relay.conversation import Answer
from relay.entrance import Entrance
from relay.limits import FailedSignIns
from relay.link import UpstreamLink
from relay.process import Relay
from relay.session import Session
from relay.under_way import MailUnderWay
from relay.usual_sources import UsualSources

PASSWORD = "correct"
COPY = "emailtosalesforce@x.le.salesforce.com"


class Clock(asyncio.AbstractEventLoop):
    """As much of an event loop as conversations see; time passes when the test says so."""

    def __init__(self):
        self.now = 1000.0
        self._timers = []
        self._order = itertools.count()
        self.troubles = []
        self.offline = []

    def time(self):
        return self.now

    def get_debug(self):
        return False

    def is_running(self):
        return True

    def call_at(self, when, callback, *arguments, context=None):
        timer = asyncio.TimerHandle(when, callback, arguments, self, context)
        heapq.heappush(self._timers, (when, next(self._order), timer))
        return timer

    def call_later(self, delay, callback, *arguments, context=None):
        return self.call_at(self.now + delay, callback, *arguments, context=context)

    def call_soon(self, callback, *arguments, context=None):
        return self.call_at(self.now, callback, *arguments, context=context)

    def create_future(self):
        return asyncio.Future(loop=self)

    def create_task(self, coroutine, *, name=None, context=None):
        return asyncio.Task(coroutine, loop=self, name=name)

    def call_exception_handler(self, context):
        self.troubles.append(context)

    def _timer_handle_cancelled(self, timer):
        """A part of asyncio's own interface; what is cancelled is passed by."""

    def pass_until(self, moment):
        """Everything that is due by then happens, in its order."""
        while self._timers and self._timers[0][0] <= moment:
            when, _, timer = heapq.heappop(self._timers)
            self.now = max(self.now, when)
            if not timer.cancelled():
                timer._run()  # noqa: SLF001  as a loop does
        self.now = max(self.now, moment)

    def settle(self):
        """What is due now."""
        self.pass_until(self.now)

    @contextmanager
    def running(self):
        asyncio._set_running_loop(self)  # noqa: SLF001  there is no other way to be taken for one
        try:
            yield self
        finally:
            for one in self.offline:
                one.end()
            asyncio._set_running_loop(None)  # noqa: SLF001


class Wire:
    """A transport that keeps what was written."""

    def __init__(self, on_write=lambda _: None):
        self.written = bytearray()
        self.is_closed = False
        self.protocol = None
        self._on_write = on_write

    def write(self, data):
        if not self.is_closed:
            self.written += data
            self._on_write(data)

    def set_protocol(self, protocol):
        self.protocol = protocol

    def get_extra_info(self, name, default=None):
        return ("127.0.0.1", 1234) if name == "peername" else default

    def get_write_buffer_size(self):
        return 0

    def is_closing(self):
        return self.is_closed

    def close(self):
        if not self.is_closed:
            self.is_closed = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    abort = close

    def pause_reading(self):
        """The client waits."""

    resume_reading = pause_reading


class OfflineUpstream:
    """The provider on one link. `say(verb, number)` is asked for its answer to each command, `dot` included:
    bytes without the line end, "" for silence, None where the connection breaks."""

    def __init__(self, say, extensions):
        self.wire = Wire(self._take)
        self.taken = []
        """(envelope lines, data, the answer to the dot) of each mail whose dot has come."""
        self.waiting = []
        """Answers that are under way."""
        self._say = say
        self._input = b""
        self._envelope = []
        self._is_data = False
        self.link = UpstreamLink(self.wire, extensions, asyncio.get_running_loop().time())

    def _take(self, data):
        self._input += data
        while True:
            if self._is_data:
                head, dot, rest = (b"\r\n" + self._input).partition(b"\r\n.\r\n")
                if not dot:
                    return
                self._is_data, self._input = False, rest
                answer = self._answer("dot")
                self.taken.append((tuple(self._envelope), (head + b"\r\n")[2:], answer))
                self._envelope = []
                continue
            line, end, rest = self._input.partition(b"\r\n")
            if not end:
                return
            self._input = rest
            verb = line[:4].upper().decode()
            if verb == "QUIT":
                return
            answer = self._answer(verb)
            if answer is not None and answer[:3] == b"421":
                self.waiting.append(None)  # it says so, and closes
            if verb == "RSET":
                self._envelope = []
            elif answer is not None and answer[:1] == b"2":
                self._envelope.append(line)
            if verb == "DATA" and answer is not None and answer[:3] == b"354":
                self._is_data = True

    def _answer(self, verb):
        answer = self._say(verb)
        if answer != b"":
            self.waiting.append(answer)
        return answer

    def deliver(self):
        """The next answer arrives; whether there was one."""
        if not self.waiting or self.link.is_lost:
            self.waiting.clear()
            return False
        answer = self.waiting.pop(0)
        if answer is None:
            self.waiting.clear()
            self.wire.is_closed = True
            self.link.connection_lost(None)
        else:
            self.link.data_received(answer + b"\r\n")
        return True


class OfflineLinks:
    """The pool: links to such upstreams, used again where they were given back."""

    def __init__(self, say, extensions, reachable=lambda: True):
        self.extensions = extensions
        self.is_known = True
        self.most_recipients = self.most_recipients_said = None
        self._say = say
        self._reachable = reachable
        self.upstreams = []
        self.idle = []
        self.in_hand = 0

    async def take(self, who=None, patience=0, *, is_new=False):
        self.in_hand += 1
        while self.idle and not is_new:
            link = self.idle.pop()
            if link.is_reusable(asyncio.get_running_loop().time()):
                return link
        return self._new()

    def _new(self):
        self.upstreams.append(OfflineUpstream(self._say, self.extensions))
        return self.upstreams[-1].link

    def give_back(self, link):
        self.in_hand -= 1
        if link.is_reusable(asyncio.get_running_loop().time()):
            self.idle.append(link)

    def give_back_after_reset(self, link):
        self.drop(link)

    def drop(self, link):
        self.in_hand -= 1
        link.abort()

    async def keep_rate(self, patience):
        """The provider bears everything."""
        return 0.0

    def note_crowded(self):
        """There is one connection less."""

    def note_too_many_recipients(self, taken):
        """Copies are left out."""

    def note_refusal_of_us(self, code):
        """Health says so."""

    def note_yes(self):
        """And takes it back."""


class OfflineLogbook:
    """The journal: what has begun and ended in it, and the answers that it owes."""

    def __init__(self):
        self.is_behind = False
        self.begun, self.ended, self.void = {}, {}, set()
        self.owed = []
        self.answered = 0
        """How many beginnings were answered, in time or not."""

    def begin(self, row):
        answer = Answer()
        self.begun[row.id] = row
        self.owed.append((row.id, answer))
        return answer

    async def end(self, row):
        assert row.id not in self.ended, "a row has one end"
        self.ended[row.id] = row
        answer = Answer()
        self.owed.append((row.id, answer))
        await self.wait(answer)

    async def wait(self, written):
        if written is None:
            return False
        try:
            await written
        except TimeoutError:
            return False
        return True

    def note(self, entry):
        if isinstance(entry, Void):
            self.void.add(entry.mail_id)
        elif isinstance(entry, Ended):
            self.ended[entry.row.id] = entry.row

    def deliver(self, *, in_time=True):
        if not self.owed:
            return False
        mail_id, answer = self.owed.pop(0)
        self.answered += mail_id not in self.ended
        answer.give(None) if in_time else answer.fail(TimeoutError())
        return True


class OfflineSnapshot:
    """The settings, and what is known of mails whose replies were lost."""

    def __init__(self, people):
        self.people = people
        self.knows_refused_copies = True
        self.refused, self.deferred, self.lost = set(), set(), {}

    def copy_was_refused(self, key):
        return key in self.refused

    def remember_refused_copy(self, key):
        self.refused.add(key)

    def was_deferred_before(self, key):
        was = key in self.deferred
        self.deferred.add(key)
        return was

    def earlier_answer(self, fingerprint):
        return self.lost.get(fingerprint)

    def remember_lost_reply(self, fingerprint, answer):
        self.lost[fingerprint] = answer

    def forget_lost_reply(self, fingerprint, mail_id):
        self.lost.pop(fingerprint, None)

    async def look_at_once(self):
        return True

    def mails_elsewhere(self, person):
        return 0


class OfflineSameMails:
    """Each mail is a new one."""

    async def claim_copy(self, identity, mail_id, date, *, is_gateway):
        return None

    def settle_copy(self, identity, mail_id, *, has_gone):
        """Nobody else wants it."""

    def is_loop(self, delivery, now):
        return False

    def note_delivery(self, delivery, now):
        """It goes nowhere again."""


class OfflineUnderWay:
    """Nobody else sends the same."""

    def begin(self, fingerprint, mail_id, is_client_gone):
        return MailUnderWay(fingerprint, mail_id, is_client_gone, None)

    def end(self, mail, answer):
        """Nobody asks."""

    def was_given_up(self, fingerprint):
        return False


class _Registry:
    is_stopping = is_overloaded = False

    def enter(self, connection):
        """It is there."""

    def leave(self, connection):
        """It is gone."""


def people(**policy):
    """Anna, whose mail is copied, and who signs in with PASSWORD."""
    anna = Person(
        1,
        "anna@acme.test",
        frozenset({"anna@acme.test"}),
        (AppPassword(1, app_password_digest(PASSWORD)),),
        PersonSettings(Logging.BCC, COPY),
    )
    return People(7, replace(policy_settings({}), own_domains=("acme.test",), **policy), (anna,))


def gateway(network="127.0.0.0/8", limits=None):
    listener = Listener(ListenerKind.GATEWAY, "127.0.0.1", 0, limits or ListenerLimits())
    return Entrance(listener, trusted=(ip_network(network),))


def submission(limits=None):
    return Entrance(Listener(ListenerKind.SUBMISSION, "127.0.0.1", 0, limits or ListenerLimits()))


class Offline:
    """One client at a gateway, the provider behind it, and the journal."""

    def __init__(
        self, clock, say, *, extensions=None, entrance=None, settings=None, is_stopping=False, is_behind=False
    ):
        self.clock = clock
        clock.offline.append(self)
        self.dots = []
        """For each dot that went out: how many beginnings the journal had answered by then."""

        def noted(verb):
            if verb == "dot":
                self.dots.append(self.logbook.answered)
            return say(verb)

        self.links = OfflineLinks(
            noted, {"pipelining": "", "8bitmime": ""} if extensions is None else extensions
        )
        self.logbook = OfflineLogbook()
        self.logbook.is_behind = is_behind
        self.snapshot = OfflineSnapshot(settings or people())
        self.relay = Relay(
            "relay.test",
            "process",
            self.links,
            self.logbook,
            self.snapshot,
            OfflineUnderWay(),
            FailedSignIns(UsualSources(None, ["key"])),
            OfflineSameMails(),
        )
        self.registry = _Registry()
        self.registry.is_stopping = is_stopping
        self.session = Session(self.relay, entrance or gateway(), self.registry)
        self.wire = Wire()
        self.wire.set_protocol(self.session)
        self.session.connection_made(self.wire)
        self.clock.settle()

    @property
    def heard(self):
        return bytes(self.wire.written)

    def client_says(self, data):
        self.session.data_received(data)
        self.clock.settle()

    def client_goes(self, *, breaks=False):
        self.wire.is_closed = True
        self.session.connection_lost(ConnectionResetError() if breaks else None)
        self.clock.settle()

    def deliver(self, which=0, *, in_time=True):
        """One thing that is under way arrives: an answer of an upstream, or of the journal; whether there was
        one."""
        ways = [*(upstream.deliver for upstream in self.links.upstreams if upstream.waiting)]
        if self.logbook.owed:
            ways.append(lambda: self.logbook.deliver(in_time=in_time))
        if not ways:
            return False
        ways[which % len(ways)]()
        self.clock.settle()
        return True

    def end(self):
        """The client goes, and every patience comes to its end."""
        for _ in range(3):
            if not self.wire.is_closed:
                self.client_goes()
            self.clock.pass_until(self.clock.time() + 3 * 3600)
            self.deliver_all()

    def deliver_all(self):
        while self.deliver():
            pass

    @property
    def taken(self):
        """What all upstreams have taken, with the answers they gave."""
        return [mail for upstream in self.links.upstreams for mail in upstream.taken]
