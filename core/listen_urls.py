"""Reads BLINDCOPY_LISTEN: a URL for each listener, its options as the query. Text in, listeners and
complaints out."""

import ipaddress
from collections.abc import Callable
from dataclasses import fields
from urllib.parse import SplitResult, parse_qsl, urlsplit

from core.endpoints import Listener, ListenerKind, ListenerLimits, Network, host_and_port

DEFAULT_LISTEN = "submission://127.0.0.1:2587"
_NAME = "BLINDCOPY_LISTEN"
_EXAMPLE = f"write it like {DEFAULT_LISTEN}, submissions://0.0.0.0:465 or gateway://10.1.0.5:25"
_LIMITS = {entry.name.replace("_", "-"): entry.name for entry in fields(ListenerLimits)}
_OPTIONS = (*_LIMITS, "trusted", "proxy", "bare-newline")

Complain = Callable[[str, str], None]
"""Told of a mistake: the variable's name, and what is wrong and what would be right."""


def read_listeners(
    text: str, trusted: tuple[Network, ...], complain: Complain, *, has_tls: bool
) -> tuple[Listener, ...]:
    """The listeners. `trusted`: the networks of BLINDCOPY_TRUSTED, for gateways that name none of their
    own."""
    entries = (text or DEFAULT_LISTEN).split()
    listeners = tuple(one for entry in entries if (one := _listener(entry, trusted, complain)) is not None)
    for place in {(one.host, one.port) for one in listeners if one.port}:
        if [(one.host, one.port) for one in listeners].count(place) > 1:
            complain(_NAME, f"{host_and_port(*place)} is named twice; give each listener a port of its own")
    for listener in listeners:
        if not has_tls and listener.kind is ListenerKind.SUBMISSIONS:
            complain(
                "BLINDCOPY_TLS_CERT",
                f"is needed by {listener}; name a PEM file, and its key in BLINDCOPY_TLS_KEY",
            )
        elif not has_tls and not listener.is_loopback:
            complain(
                _NAME,
                f"{listener.host} is not a loopback address, and mail would cross the network in clear; "
                f"set BLINDCOPY_TLS_CERT and BLINDCOPY_TLS_KEY, or write {DEFAULT_LISTEN}",
            )
        if not listener.trusted and listener.kind is ListenerKind.GATEWAY:
            complain(
                "BLINDCOPY_TRUSTED",
                f"is needed by {listener}; name the networks that may use it, like 10.1.0.0/16",
            )
    return listeners


def networks(text: str, name: str, complain: Complain) -> tuple[Network, ...]:
    """The networks that a variable or an option names."""
    found = []
    for entry in text.replace(",", " ").split():
        try:
            found.append(ipaddress.ip_network(entry))
        except ValueError:
            complain(name, f"“{entry}” is not a network; write networks like 10.1.0.0/16 2001:db8::/32")
    return tuple(found)


def split_url(text: str, default_port: int | None = None) -> tuple[SplitResult | None, int | None]:
    """A URL and its port; None for what is none."""
    try:
        url = urlsplit(text)
        return url, url.port if url.port is not None else default_port
    except ValueError:
        return None, None


def _listener(entry: str, trusted: tuple[Network, ...], complain: Complain) -> Listener | None:
    url, port = split_url(entry)
    if url is None or port is None or not url.hostname or url.path:
        complain(_NAME, f"“{entry}” is not a listener; {_EXAMPLE}")
        return None
    if url.scheme not in set(ListenerKind):
        complain(_NAME, f"“{url.scheme}” is none of: {', '.join(ListenerKind)}; {_EXAMPLE}")
        return None
    kind, limits, options = ListenerKind(url.scheme), dict[str, int](), dict[str, str]()
    for option, value in parse_qsl(url.query, keep_blank_values=True):
        if option not in _OPTIONS:
            complain(_NAME, f"“{option}” is not an option; there are: {', '.join(_OPTIONS)}")
        elif option not in _LIMITS:
            options[option] = value
        elif not value.isdecimal() or int(value) < 1:
            complain(_NAME, f"“{value}” is not a number for {option}; write one from 1")
        else:
            limits[_LIMITS[option]] = int(value)
    if options.get("bare-newline", "fix") != "fix":
        complain(_NAME, f"“{options['bare-newline']}” is not a way for bare-newline; write bare-newline=fix")
    if "trusted" in options and kind is not ListenerKind.GATEWAY:
        complain(_NAME, f"trusted is for gateways; people sign in at {kind}")
    return Listener(
        kind,
        url.hostname,
        port,
        ListenerLimits(**limits),
        trusted=networks(options.get("trusted", ""), _NAME, complain)
        or (trusted if kind is ListenerKind.GATEWAY else ()),
        proxies=networks(options.get("proxy", ""), _NAME, complain),
        fixes_bare_newlines="bare-newline" in options,
    )
