"""The other half of the conversation: one mail's way over a link, from MAIL to the verdict.

A transaction keeps the rules: what is said again on another link, and where a link that is lost leaves the
mail."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from core.mail.row import Copy
from core.smtp import RefusesUs, UpstreamUnavailable, asks_for_patience
from relay import replies
from relay.conversation import Answer
from relay.envelope import BadCommand, Path
from relay.link import SECONDS_FOR_A_COMMAND, UpstreamLink, UpstreamLost
from relay.pool import Links, SignInAgain, UpstreamBusy
from relay.replies import Reply

SECONDS_FOR_THE_COPY = 5.0
SECONDS_FOR_THE_VERDICT = 600.0
"""RFC 5321 section 4.5.3.2.6. A client may give up before; the mail goes on without it."""
SECONDS_FOR_A_USED_LINK = 60.0
"""For MAIL on a link that had a mail before: a firewall may have dropped it without a word, and a new link is
tried then, before the client gives up."""
_SECONDS_FOR_DATA = 120.0
"""RFC 5321 section 4.5.3.2.4."""
"""Must end before the client's own patience does (facts of clients: 90 s and more)."""


class DotNotSent(UpstreamLost):
    """The connection was gone before the dot: the upstream has discarded the mail."""


_NO_LINK = (UpstreamUnavailable, RefusesUs, UpstreamBusy, UpstreamLost, SignInAgain, BadCommand)
"""Why a mail cannot be begun again."""


@dataclass(frozen=True, slots=True)
class DataBegun:
    """What the upstream said to DATA (None: it was lost before it said so), and to the copy's RCPT before
    it."""

    reply: Reply | None
    copy: Copy = Copy.NONE
    copy_reply: Reply | None = None

    @property
    def may_stream(self) -> bool:
        return self.reply is not None and self.reply.code == replies.SEND_DATA.code


@dataclass
class Transaction:
    """One mail on its way upstream, from MAIL to the verdict; the link is held for just that long."""

    links: Links
    sender: Path
    link: UpstreamLink | None = None
    accepted: list[Path] = field(default_factory=list)
    _verdict: Answer[Reply] | None = None
    _copy_verdict: tuple[Copy, Reply | None] = (Copy.NONE, None)
    _is_paused: bool = False

    async def mail(self) -> Reply:
        """Say MAIL. A link that died of idleness is replaced once; nothing had been accepted on it. So is one
        to a node of the provider that offers less than what the client was offered.

        Raises UpstreamUnavailable, RefusesUs, UpstreamBusy, UpstreamLost, BadCommand."""
        self.link = await self.links.take()
        if self._is_lacking(self.link):
            self._let_go()
            self.link = await self.links.take_new()
            if self._is_lacking(self.link):
                raise BadCommand(replies.UPSTREAM_LACKS)
            return await self._say_mail()
        was_used = self.link.mails > 0
        try:
            reply = await self._say_mail(SECONDS_FOR_A_USED_LINK if was_used else SECONDS_FOR_A_COMMAND)
            is_crowded = not reply.is_positive and asks_for_patience(reply.code, reply.text())
            if is_crowded and self.links.may_replace:
                return await self._mail_when_there_is_room()
            if reply.code != replies.SHUTTING_DOWN.code or not was_used:
                return reply
        except UpstreamLost:
            if not was_used:
                raise
        self.drop()
        self.link = await self.links.take_new()
        if self._is_lacking(self.link):
            raise BadCommand(replies.UPSTREAM_LACKS)
        return await self._say_mail()

    async def _mail_when_there_is_room(self) -> Reply:
        """The upstream says that there is too much of us: there is one connection less from now on, and the
        mail waits its turn among the others, as long as its client does."""
        self.links.note_crowded()
        self.drop()
        self.link = await self.links.take_new()
        if self._is_lacking(self.link):
            raise BadCommand(replies.UPSTREAM_LACKS)
        reply = await self._say_mail()
        is_still = not reply.is_positive and asks_for_patience(reply.code, reply.text())
        return replies.UPSTREAM_BUSY if is_still else reply

    async def send_rcpts(self, paths: Sequence[Path]) -> list[Answer[Reply]]:
        """Say several RCPTs at once (RFC 2920), to an upstream that offers that; what it answers to each.
        Raises UpstreamLost."""
        await self._resume()
        return self._live_link().send(*(path.line(b"RCPT TO:") for path in paths))

    async def verdict_on(self, path: Path, answer: Answer[Reply]) -> Reply:
        """The upstream's answer; the recipient is remembered if it is taken. Raises UpstreamLost."""
        reply = await self._live_link().reply(answer, SECONDS_FOR_A_COMMAND)
        if reply.is_positive:
            self.accepted.append(path)
        return reply

    @property
    def takes_several_at_once(self) -> bool:
        return self.link is not None and "pipelining" in self.link.extensions

    async def begin_data(self, bcc: bytes | None) -> DataBegun:
        """Offer the copy as the last recipient, then say DATA. Never raises: a link that is lost on the copy
        is replaced, and the mail goes on without it."""
        try:
            await self._resume()
        except _NO_LINK:
            return DataBegun(None)
        if bcc is None:
            return DataBegun(await self._say_data())
        begun = await self._begin_with_copy(bcc)
        if begun is not None:
            return begun
        copy, copy_reply = self._copy_verdict
        self.drop()
        again = await self._begin_again()
        # Some servers close the connection when they refuse a recipient: the mail goes out again without it.
        if copy is Copy.ACCEPTED:  # on a link that is gone; what goes out now has no copy
            copy, copy_reply = Copy.UNANSWERED, None
        return DataBegun(again, copy, copy_reply)

    @property
    def early_verdict(self) -> Reply | None:
        """What the upstream said before the mail was through, if it did."""
        if self._verdict is None or not self._verdict.is_there or self._verdict.has_failed:
            return None
        return self._verdict.result()

    async def write(self, data: bytes) -> None:
        """Pass on bytes of the mail. Raises UpstreamLost."""
        await self._live_link().write(data)

    async def finish(self, last: bytes) -> Reply:
        """Write the last bytes and the dot, and wait for the verdict.

        Raises DotNotSent; and UpstreamLost: nobody knows whether the mail was taken."""
        link = self._live_link()
        if self._verdict is None or link.is_lost:
            raise DotNotSent
        await link.write(last + b".\r\n")
        # Nothing is tried again after this line: without a verdict the provider may have the mail or not.
        reply = await link.reply(self._verdict, SECONDS_FOR_THE_VERDICT)
        self._verdict = None
        link.mails += 1
        # A server that answers the dot with 1xx or 3xx is out of step; which mail its next reply is about
        # cannot be known.
        if reply.kind not in {2, 4, 5}:
            self.drop()
            raise UpstreamLost
        if reply.code == replies.SHUTTING_DOWN.code:
            self.drop()
        else:
            self._let_go()
        return reply

    def give_up(self) -> None:
        """The client wants this mail no longer, before its data."""
        if self.link is not None and self._verdict is None and not self.link.is_lost:
            link, self.link = self.link, None
            link.mails += 1
            self.links.give_back_after_reset(link)
        else:
            self.drop()

    def pause(self) -> None:
        """The client says nothing more about this mail for now: its link serves other mails meanwhile."""
        if self.link is not None and self._verdict is None:
            self.give_up()
            self._is_paused = True

    async def _resume(self) -> None:
        """The same MAIL and accepted RCPTs again, after a pause. Raises what `mail` raises, and UpstreamLost
        where a verdict is not what it was."""
        if not self._is_paused:
            return
        self._is_paused = False
        self.link = await self.links.take()
        if self._is_lacking(self.link):
            self.drop()
            raise UpstreamLost
        verdicts = [await self._say_mail()]
        verdicts += [await self.link.command(path.line(b"RCPT TO:")) for path in self.accepted]
        if not all(verdict.is_positive for verdict in verdicts):
            self.drop()
            raise UpstreamLost

    def drop(self) -> None:
        """Close the link without the dot: what was sent of the mail is discarded upstream."""
        self._verdict = None
        if self.link is not None:
            link, self.link = self.link, None
            self.links.drop(link)

    async def _begin_with_copy(self, bcc: bytes) -> DataBegun | None:
        """None: the link was lost, or the upstream said 421, before it was ready for the data."""
        self._copy_verdict = (Copy.UNANSWERED, None)
        try:
            link = self._live_link()
            rcpt = b"RCPT TO:<" + bcc + b">" + (b" NOTIFY=NEVER" if "dsn" in link.extensions else b"")
            # One round trip less for each mail, where the provider allows it (RFC 2920).
            if "pipelining" in link.extensions:
                copy_answer, data_answer = link.send(rcpt, b"DATA")
            else:
                copy_answer, data_answer = link.send(rcpt)[0], None
            copy_reply = await link.reply(copy_answer, SECONDS_FOR_THE_COPY)
            self._copy_verdict = (Copy.ACCEPTED if copy_reply.is_positive else Copy.REFUSED, copy_reply)
            if copy_reply.code == replies.SHUTTING_DOWN.code:
                return None
            data_answer = data_answer or link.send(b"DATA")[0]
            reply = await link.reply(data_answer, _SECONDS_FOR_DATA)
        except UpstreamLost:
            return None
        if reply.code == replies.SHUTTING_DOWN.code:
            return None
        return DataBegun(self._ready_for_data(reply), *self._copy_verdict)

    async def _begin_again(self) -> Reply | None:
        """The same MAIL and accepted RCPTs on a new link; None where a verdict is not what it was."""
        try:
            self.link = await self.links.take_new()
            if self._is_lacking(self.link):
                return None
            verdicts = [await self._say_mail()]
            verdicts += [await self.link.command(path.line(b"RCPT TO:")) for path in self.accepted]
        except _NO_LINK:
            return None
        if not all(verdict.is_positive for verdict in verdicts):
            return None
        return await self._say_data()

    def _is_lacking(self, link: UpstreamLink) -> bool:
        """Whether this node of the provider does not take such a mail."""
        return not self.sender.needed <= link.extensions.keys()

    async def _say_mail(self, seconds: float = SECONDS_FOR_A_COMMAND) -> Reply:
        link = self._live_link()
        return await link.command(self.sender.line(b"MAIL FROM:", link.extensions), seconds)

    async def _say_data(self) -> Reply | None:
        try:
            return self._ready_for_data(await self._live_link().command(b"DATA", _SECONDS_FOR_DATA))
        except UpstreamLost:
            return None

    def _ready_for_data(self, reply: Reply) -> Reply | None:
        """After 354 the next reply is the verdict, whenever it comes; 2xx or another 3xx here is nonsense."""
        if reply.code == replies.SEND_DATA.code:
            self._verdict = self._live_link().expect()
            return reply
        return reply if reply.kind in {4, 5} else None

    def _live_link(self) -> UpstreamLink:
        if self.link is None:
            raise UpstreamLost
        return self.link

    def _let_go(self) -> None:
        if self.link is not None:
            link, self.link = self.link, None
            self.links.give_back(link)
