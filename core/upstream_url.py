"""Reads BLINDCOPY_UPSTREAM: the mail provider as a URL, its options as the query. Text in, an upstream and
complaints out; files that it names are looked for."""

import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qsl, unquote

from core.endpoints import (
    Listener,
    TlsFiles,
    TokenSource,
    Upstream,
    UpstreamAuth,
    UpstreamLimits,
    UpstreamTls,
    host_and_port,
    is_loopback,
)
from core.listen_urls import Complain, split_url

UPSTREAM_EXAMPLE = (
    "write it like smtp+starttls://user:secret@smtp.example.com:587, smtps://user:secret@smtp.example.com "
    "or smtp://127.0.0.1:2526"
)
_NAME = "BLINDCOPY_UPSTREAM"
_HOST = re.compile(r"[a-z0-9_.:-]+")
_PORTS = {UpstreamTls.NONE: 25, UpstreamTls.STARTTLS: 587, UpstreamTls.IMPLICIT: 465}
_NUMBERS = ("connections", "rate", "recipients")
_OPTIONS = frozenset(
    {"plain", "auth", "token_url", "scope", "client_id", "refresh_token", "cert", "key", *_NUMBERS}
)


def read_upstream(
    text: str,
    complain: Complain,
    *,
    listeners: tuple[Listener, ...],
    ca_file: Path | None,
    directory: Path,
) -> Upstream | None:
    """The upstream; None where the text names none. `directory`: to which its paths are relative."""
    url, port = split_url(text, default_port=0)
    schemes = {tls.value: tls for tls in UpstreamTls}
    is_whole = url is not None and _HOST.fullmatch(url.hostname or "") and not url.fragment
    if (
        url is None
        or port is None
        or url.scheme not in schemes
        or not url.hostname
        or not is_whole
        or url.path.strip("/")
    ):
        complain(
            _NAME,
            f"“{_without_secrets(text)}” is not an SMTP server; {UPSTREAM_EXAMPLE} (a / in the password is "
            f"written %2F)",
        )
        return None
    tls = schemes[url.scheme]
    options = dict(parse_qsl(url.query, keep_blank_values=True))
    upstream = Upstream(
        tls=tls,
        host=url.hostname,
        port=port or _PORTS[tls],
        user=unquote(url.username) if url.username else None,
        password=unquote(url.password or "") if url.username else None,
        ca_file=ca_file,
        token=_token_source(options, unquote(url.username or ""), complain),
        client_certificate=_client_certificate(options, tls, directory, complain),
        limits=_limits(options, complain),
    )
    if unknown := sorted(set(options) - _OPTIONS):
        # without a value it may be the second half of a secret whose & is not percent-encoded
        named = f"“{unknown[0]}”" if options[unknown[0]] else "something without a value"
        complain(_NAME, f"{named} is not an option; there are: {', '.join(sorted(_OPTIONS))}")
    if tls is UpstreamTls.NONE and not is_loopback(upstream.host) and options.get("plain") != "yes":
        complain(
            _NAME,
            f"mail to {upstream.host} would travel in clear; "
            "write smtp+starttls:// or smtps://, or add ?plain=yes if that is meant",
        )
    if any(_is_same_place(upstream, listener) for listener in listeners):
        complain(
            _NAME,
            f"{host_and_port(upstream.host, upstream.port)} is one of our own listeners, mail would "
            f"run in circles; name your mail provider's server",
        )
    return upstream


def _limits(options: Mapping[str, str], complain: Complain) -> UpstreamLimits:
    """`connections=N` at once, `rate=N` mails a minute, `recipients=N` of one mail."""
    chosen: dict[str, int] = {}
    for name in _NUMBERS:
        text = options.get(name)
        if text is None:
            continue
        if not text.isdecimal() or int(text) < 1:
            complain(_NAME, f"“{text}” is not a number for {name}; write one from 1")
        else:
            chosen[name] = int(text)
    return UpstreamLimits(**chosen)


def _client_certificate(
    options: Mapping[str, str], tls: UpstreamTls, directory: Path, complain: Complain
) -> TlsFiles | None:
    """`cert=PATH&key=PATH`: what we show to the provider, as a connector of Exchange Online wants it."""
    paths = {one: directory / options[one] for one in ("cert", "key") if options.get(one)}
    if not paths:
        return None
    if len(paths) < 2:
        complain(_NAME, "a client certificate needs both cert=PATH and key=PATH")
        return None
    if tls is UpstreamTls.NONE:
        complain(_NAME, "a client certificate is shown over TLS only; write smtps:// or smtp+starttls://")
    for one, path in paths.items():
        if not path.is_file():
            complain(_NAME, f"{one}: there is no file {path}; name a PEM file")
    return TlsFiles(paths["cert"], paths["key"])


def _token_source(options: Mapping[str, str], user: str, complain: Complain) -> TokenSource | None:
    """`auth=xoauth2`: name is the mailbox, password the client secret, `client_id` else the name is the
    client. `refresh_token`: what the mailbox's owner has agreed to; a public client has no secret then."""
    auth = options.get("auth", UpstreamAuth.PASSWORD)
    if auth not in set(UpstreamAuth):
        complain(_NAME, f"“{auth}” is none of: {', '.join(UpstreamAuth)}")
    if auth != UpstreamAuth.XOAUTH2:
        if "refresh_token" in options:
            complain(_NAME, "refresh_token= goes with auth=xoauth2")
        return None
    url, _ = split_url(options.get("token_url", ""), default_port=0)
    is_secure = url is not None and (
        url.scheme == "https" or (url.scheme == "http" and is_loopback(url.hostname or ""))
    )
    if not is_secure:
        complain(_NAME, "auth=xoauth2 needs token_url=https://…, percent-encoded, where tokens are issued")
    if not user:
        complain(
            _NAME, "auth=xoauth2 needs a name, the mailbox that sends, and a password, the client secret"
        )
    refresh_token = options.get("refresh_token") or None
    if refresh_token and not options.get("client_id"):
        complain(_NAME, "refresh_token= needs client_id=, the app that the mailbox's owner has agreed to")
    return TokenSource(
        options.get("token_url", ""),
        options.get("scope", ""),
        options.get("client_id") or user,
        refresh_token,
    )


def _without_secrets(text: str) -> str:
    """What may be shown of a text that is no proper URL: what can be nothing but a host behind the last
    `@`."""
    before, _, shown = text.rpartition("@")
    host = re.match(r"[A-Za-z0-9.:\[\]-]*", shown)
    is_certain = bool(before) and "?" not in before and host is not None
    return host.group() if is_certain and host is not None else "…"


def _is_same_place(upstream: Upstream, listener: Listener) -> bool:
    """Any name of loopback with a port that we listen on there, or everywhere, is the listener."""
    is_here = listener.is_loopback or listener.is_everywhere
    same_host = (is_loopback(upstream.host) and is_here) or upstream.host == listener.host
    return same_host and upstream.port == listener.port
