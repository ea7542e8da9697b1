"""Odd mails of our own making: more than two hundred, each dot-stuffed and ending in CRLF, as they go over the wire."""

import base64
import itertools

FROM = b"From: Anna <anna@acme.test>\r\n"
CHARSETS = [
    "utf-8",
    "iso-8859-1",
    "iso-8859-15",
    "windows-1252",
    "koi8-r",
    "iso-2022-jp",
    "shift_jis",
    "gb18030",
    "big5",
    "euc-kr",
    "utf-16",
    "utf-7",
]
TEXTS = {
    "utf-8": "Grüße 📨",
    "koi8-r": "Привет",
    "iso-2022-jp": "日本",
    "shift_jis": "日本",
    "gb18030": "中文",
    "big5": "中文",
    "euc-kr": "한국",
}


def stuffed(body):
    """The body with a dot before each dot at a line's beginning."""
    return b"\r\n".join(b"." + line if line.startswith(b".") else line for line in body.split(b"\r\n"))


def simple(header=b"", body=b"Hello\r\n"):
    return FROM + header + b"\r\n" + stuffed(body)


def in_charsets():
    for charset, encoding in itertools.product(CHARSETS, ["8bit", "base64", "none"]):
        text = TEXTS.get(charset, "Grüße").encode(charset, "replace")
        subject = b"=?%s?b?%s?=" % (charset.encode(), base64.b64encode(text))
        raw = base64.b64encode(text) if encoding == "base64" else text
        if charset == "utf-16" and encoding != "base64":
            continue  # holds NUL
        header = (
            b"Subject: " + subject + b"\r\nContent-Type: text/plain; charset=" + charset.encode() + b"\r\n"
        )
        yield simple(
            header
            + (b"Content-Transfer-Encoding: %s\r\n" % encoding.encode() if encoding != "none" else b""),
            raw + b"\r\n",
        )


def with_odd_headers():
    yield b"\r\nno header\r\n"
    yield b""
    yield b"\r\n"
    yield FROM
    yield b"Subject: no author\r\n\r\nHello\r\n"
    yield FROM + FROM + b"\r\nTwo authors\r\n"
    yield b"not a header line\r\n" + simple()
    yield b" folded from the start\r\n" + simple()
    for value in (
        b"",
        b" ",
        b"\t",
        b"x" * 997,
        b"x" * 5000,
        b"=?utf-8?b?broken",
        b"=?utf-8?q?=ZZ?=",
        b"=?x-unknown?q?a?=",
        b"\xff\xfe",
        "ünïcode".encode(),
    ):
        yield simple(b"Subject:" + value + b"\r\n")
        yield simple(b"X-Odd:" + value + b"\r\n\tfolded\r\n")
    for name in (
        b"X" * 500,
        b"X-\xe4",
        b"A B",
        b"a",
        b"X-Tab\t",
        b"From-Me",
        b"DKIM-Signature",
        b"Bcc",
        b"Resent-Bcc",
        b"Return-Path",
        b"Received",
    ):
        yield simple(name + b": bob@client.test\r\n")
    for count in (10, 50, 100):
        yield simple(b"Received: from a by b; Sat, 21 Nov 2026 09:30:00 +0000\r\n" * count)
    yield simple(b"X-Long: " + b"y" * 65_536 + b"\r\n")
    yield simple(b"X-Long: z\r\n" * 30_000)
    for author in (
        b"a@b, c@d",
        b'"anna@acme.test" <carl@acme.test>',
        b"anna@acme.test (comment (nested))",
        b"undisclosed:;",
        b"<>",
        b"=?utf-8?q?anna=40acme.test?=",
    ):
        yield b"From: " + author + b"\r\nSubject: author\r\n\r\nHello\r\n"


def with_odd_bodies():
    for body in (
        b"", b"\r\n", b"\r\n\r\n", b".", b".\r\n", b"..\r\n", b"...\r\n.\r\n", b".hidden\r\n", b"line\r\n.\r\nline\r\n", b"no end of line",
        b"\t \t\r\n", b" \r\n", b"trailing blanks   \r\n", b"From here\r\n", b">From there\r\n", b"\x01\x02\x1b[31m\r\n", b"\x7f\r\n", b"\x0c\x0b\r\n",
        bytes(range(14, 256)) + b"\r\n", b"a" * 998 + b"\r\n", b"a" * 999 + b"\r\n", b"a" * 1001 + b"\r\n", b"a" * 100_000 + b"\r\n",
        b"a" * 1_000_000 + b"\r\n", b"x\r\n" * 100_000, b"\r\n" * 50_000, b".\r\n" * 10_000, b"=20=\r\n=3D\r\n", b"QUIT\r\nRSET\r\n",
        b"MAIL FROM:<evil@x.test>\r\n", b"\xef\xbb\xbfBOM\r\n", b"\xc3\x28 bad utf-8\r\n", b"begin 644 x\r\n`\r\nend\r\n",
    ):  # fmt: skip
        body = body if not body or body.endswith(b"\r\n") else body + b"\r\n"  # noqa: PLW2901
        yield simple(b"Subject: body\r\n", body)
        yield simple(b"Subject: body\r\nContent-Type: text/html; charset=utf-8\r\n", b"<p>\r\n" + body)


def multiparts():
    for kind, boundary in itertools.product(
        (
            b"mixed",
            b"alternative",
            b"related",
            b"signed",
            b"encrypted",
            b"report; report-type=delivery-status",
            b"digest",
            b"form-data",
            b"unheard-of",
        ),
        (b"b", b"----=_Part_1", b"with blanks ", b"(odd)'+_,-./:=?", b"x" * 70),
    ):
        part = b"--" + boundary + b"\r\nContent-Type: text/plain\r\n\r\nHello\r\n"
        header = (
            b"MIME-Version: 1.0\r\nContent-Type: multipart/" + kind + b'; boundary="' + boundary + b'"\r\n'
        )
        yield simple(header, part * 2 + b"--" + boundary + b"--\r\n")
        yield simple(header, part)
    for disposition in (
        b"attachment",
        b'attachment; filename="a.pdf"',
        b"attachment; filename*=utf-8''%e4.pdf",
        b"inline",
    ):
        data = base64.encodebytes(bytes(range(256)) * 40).replace(b"\n", b"\r\n")
        header = (
            b"Content-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\nContent-Disposition: "
            + disposition
            + b"\r\n"
        )
        yield simple(header, data)
    yield simple(b"Content-Type: text/calendar; method=REQUEST\r\n", b"BEGIN:VCALENDAR\r\nEND:VCALENDAR\r\n")
    yield simple(b"Content-Type: application/ms-tnef\r\n", b"\x78\x9f\x3e\x22\r\n")
    yield simple(b"Content-Type: message/rfc822\r\n", simple())


def odd_mails():
    """All of them."""
    return [*in_charsets(), *with_odd_headers(), *with_odd_bodies(), *multiparts()]
