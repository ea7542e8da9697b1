"""The listener that a client came in by, and who may send there."""

import ssl
from dataclasses import dataclass
from functools import cached_property

from core.endpoints import Listener, ListenerKind, Network, SignIn
from core.people.addresses import address_key, matches
from core.people.person import People
from relay import replies
from relay.envelope import BadCommand, Path
from relay.limits import is_trusted
from relay.sign_in import SignedIn


@dataclass(frozen=True)
class Entrance:
    """The listener that a client came in by, and what holds there."""

    listener: Listener
    sign_in: SignIn = SignIn.APP_PASSWORD
    tls: ssl.SSLContext | None = None
    trusted: tuple[Network, ...] = ()

    @cached_property
    def is_gateway(self) -> bool:
        return self.listener.kind is ListenerKind.GATEWAY

    def lets_sign_in(self, *, encrypted: bool) -> bool:
        """Passwords travel encrypted, or not beyond this machine."""
        return not self.is_gateway and (encrypted or self.listener.is_loopback)

    def trusts(self, source: str) -> bool:
        """Whether a client of this address may send without signing in; asked once a session."""
        return self.is_gateway and is_trusted(source, self.trusted)

    def refuse_strangers(
        self, signed_in: SignedIn | None, people: People, *, trusted: bool, encrypted: bool
    ) -> None:
        """Who may send at all: whoever signed in, or, at a gateway, whoever comes from a trusted network.

        Raises BadCommand."""
        if self.is_gateway:
            if not trusted:
                raise BadCommand(replies.NOT_PERMITTED)
        elif signed_in is None or not signed_in.still_may(people):
            raise BadCommand(
                replies.SIGN_IN_FIRST if self.lets_sign_in(encrypted=encrypted) else replies.START_TLS_FIRST
            )

    def refuse_sender(self, path: Path, people: People) -> None:
        """A gateway takes mail from our own domains only, as big providers' networks are everybody's; the
        null sender has none. A mail that is said to be too big is not begun. Raises BadCommand."""
        sender = address_key(path.address.decode("utf-8", "replace"))
        if self.is_gateway and sender and not matches(sender, people.policy.own_domains):
            raise BadCommand(replies.NOT_PERMITTED)
        if path.declared_size is not None and path.declared_size > self.listener.limits.size:
            raise BadCommand(replies.TOO_BIG)
