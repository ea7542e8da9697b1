"""Whose fault a refusal of the upstream is: the mail's, which its sender must hear, or that of our own
relationship with the upstream, about which the sender can do nothing.

The code decides where it can. Where one code means both, a short table of providers' texts does. What is in
neither passes as it is.

Pure: replies in, a bool out."""

import re
from enum import Enum

from relay.replies import Reply


class Stage(Enum):
    """What the upstream refused."""

    ENVELOPE = "envelope"
    """MAIL or RCPT."""
    DATA = "data"
    """DATA, or the mail at its dot."""


_CODES = frozenset({530, 534, 535, 538})
"""Sign in first, mechanism too weak, credentials invalid, encryption required (RFC 4954 section 6)."""
_TEXTS = (
    b"5.7.64",  # Exchange Online: "5.7.64 TenantAttribution; Relay Access Denied"
    b"tenantattribution",
    b"relay access denied",  # Postfix, smtpd_relay_restrictions
    b"relaying denied",  # Sendmail
    b"relay denied",
    b"unable to relay",  # Exchange: "550 5.7.54 SMTP; Unable to relay recipient in non-accepted domain"
    b"relay not permitted",  # Exim
    b"not permitted to relay",
    b"invalid credentials for relay",  # Google: "550-5.7.1 Invalid credentials for relay [IP]"
    b"client host rejected",  # Postfix, smtpd_client_restrictions
)
"""Refusals of us whatever we send."""
_ENVELOPE_TEXTS = (
    b"helo command rejected",  # Postfix, smtpd_helo_restrictions
    # Postfix and others, a block list: "554 5.7.1 Client host [IP] blocked using zen.spamhaus.org"
    b"blocked using",
)
"""Refusals of us where they come before the mail; at the dot the same words speak of what is in it."""
_SENDERS = (
    b"5.7.60",  # Exchange Online: "5.7.60 Client does not have permissions to send as this sender"
)


def is_our_fault(reply: Reply, stage: Stage) -> bool:
    """Whether the upstream refuses *us*: it would refuse every mail."""
    if reply.is_positive:
        return False
    said = b" ".join(reply.lines).lower()
    if any(text in said for text in _SENDERS):
        return False
    if reply.code in _CODES:
        return True
    texts = _TEXTS + _ENVELOPE_TEXTS if stage is Stage.ENVELOPE else _TEXTS
    return reply.kind == 5 and any(text in said for text in texts)


_SIZE_CODES = frozenset({452, 552})
_OF_THE_SYSTEM_OR_ITS_LIMITS = re.compile(rb"[45]\.\d{1,3}\.3(?=\s|$)")


def says_too_many_recipients(reply: Reply) -> bool:
    """Whether the upstream takes no more recipients for this mail (RFC 5321 section 4.5.3.1.10, RFC 3463:
    x.5.3)."""
    said = b" ".join(reply.lines).lower()
    return reply.kind in {4, 5} and (said[1:5] == b".5.3" or b"too many recipients" in said)


def blames_size(reply: Reply) -> bool:
    """Whether a refusal is about how much there is: too many recipients, too large, no room (RFC 5321
    section 4.2.3; RFC 3463 section 3.4 and 3.6, detail 3). One recipient less may help then."""
    first = reply.lines[0] if reply.lines else b""
    return reply.code in _SIZE_CODES or _OF_THE_SYSTEM_OR_ITS_LIMITS.match(first) is not None
