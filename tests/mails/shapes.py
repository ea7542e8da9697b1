"""Thirty mails as clients and servers write them, each with what its record must say.

`python -m tests.mails.shapes` shows the table."""

import base64
from dataclasses import dataclass

from tests.rules.tnef_bytes import CODE_PAGE, attribute, file, tnef


@dataclass(frozen=True)
class Shape:
    """`text`: of the record, without the list of attachments; `files`: the names in that list. `page`:
    whether the record has the page as well."""

    name: str
    raw: bytes
    text: str | None
    files: tuple[str, ...] = ()
    page: bool = False
    forwarded: str = ""


def mail(name, head, body, text, *files, page=False, forwarded=""):
    start = "From: Anna A <anna@acme.test>\r\nTo: bob@client.test\r\nSubject: x\r\nMIME-Version: 1.0\r\n"
    raw = (start + head + "\r\n" + body).replace("\r\n", "\n").replace("\n", "\r\n") + "\r\n"
    return Shape(name, raw.encode(), text, files, page, forwarded)


def multi(kind, *parts, boundary="b", more=""):
    return f'Content-Type: multipart/{kind}; boundary="{boundary}"{more}\r\n', "".join(
        f"\r\n--{boundary}\r\n{one}" for one in parts
    ) + f"\r\n--{boundary}--\r\n"


def nested(kind, *parts, boundary):
    return "\r\n".join(multi(kind, *parts, boundary=boundary))


def packed(data):
    return base64.encodebytes(data).decode()


def part(kind, body, *more):
    return "\r\n".join([f"Content-Type: {kind}", *more, "", body])


def attached(name, kind="application/pdf", data=b"%PDF-1.4 words", disposition="attachment", *more):
    return part(
        kind,
        packed(data),
        f'Content-Disposition: {disposition}; filename="{name}"',
        "Content-Transfer-Encoding: base64",
        *more,
    )


PLAIN = part("text/plain; charset=utf-8", "The price is 25.00")
PAGE = part("text/html; charset=utf-8", "<html><body><p>The price is <b>25.00</b></p></body></html>")
LOGO = attached("logo.png", "image/png", b"\x89PNG" * 500, "inline", "Content-ID: <logo@acme>")
SHOT = attached("screenshot.png", "image/png", b"\x89PNG" * 40_000, "inline", "Content-ID: <shot@acme>")
FORWARDED = (
    "From: Bob <bob@client.test>\r\nDate: Mon, 2 Nov 2026 10:00:00 +0100\r\nSubject: "
    "=?utf-8?q?Gr=C3=B6=C3=9Fe?=\r\n"
)
INVITATION = (
    "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nMETHOD:REQUEST\r\nBEGIN:VEVENT\r\nUID:1\r\nSUMMARY:Demo\r\n"
    "DTSTART:20261203T090000Z\r\nDTEND:20261203T100000Z\r\nLOCATION:Berlin\r\nEND:VEVENT\r\nEND:VCALENDAR"
)
WINMAIL = tnef(CODE_PAGE, attribute(0x800C, b"The price is 25.00\0"), file("offer.pdf"))
PRICE = "The price is 25.00"

SHAPES = [
    mail("Thunderbird, plain", "Content-Type: text/plain; charset=UTF-8; format=flowed\r\n", PRICE, PRICE),
    mail("mutt, no MIME fields at all", "", PRICE, PRICE),
    mail("Thunderbird, both kinds of text", *multi("alternative", PLAIN, PAGE), PRICE),
    mail("Outlook, with a logo", *multi("related", nested("alternative", PLAIN, PAGE, boundary="c"), LOGO), PRICE),
    mail("Outlook, with a logo and a file",
         *multi("mixed", nested("related", nested("alternative", PLAIN, PAGE, boundary="d"), LOGO, boundary="c"), attached("offer.pdf")),
         PRICE, "offer.pdf"),
    mail("Outlook, a screenshot in the text", *multi("related", nested("alternative", PLAIN, PAGE, boundary="c"), SHOT), PRICE, "screenshot.png"),
    mail("Gmail, page only", "Content-Type: text/html; "
                             "charset=UTF-8\r\n", "<div dir=ltr>The price is 25.00</div>", PRICE),
    mail("Apple Mail, a file between two texts",
         *multi("mixed", PLAIN, attached("offer.pdf", disposition="inline"), part("text/plain", "and the terms")),
         f"{PRICE}\n\nand the terms", "offer.pdf"),
    mail("Apple Mail, the file first", *multi("mixed", attached("offer.pdf", disposition="inline"), PLAIN), PRICE, "offer.pdf"),
    mail("a scanner: nothing but a file", 'Content-Type: application/pdf; '
                                          'name="scan.pdf"\r\nContent-Transfer-Encoding: base64\r\n',
         packed(b"%PDF" * 90), None, "scan.pdf"),
    mail("a large file before the text", *multi("mixed", attached("film.mp4", "video/mp4", bytes(600_000)), PLAIN), PRICE, "film.mp4"),
    mail("Exchange, winmail.dat only", "Content-Type: application/ms-tnef; "
                                       "name=winmail.dat\r\nContent-Transfer-Encoding: base64\r\n",
         packed(WINMAIL), PRICE, "offer.pdf"),
    mail("Outlook, winmail.dat beside the text", *multi("mixed", PLAIN, attached("winmail.dat", "application/ms-tnef", WINMAIL)), PRICE, "offer.pdf"),
    mail("forwarded as an attachment", *multi("mixed", part("text/plain", "See below"), part("message/rfc822", FORWARDED + "\r\n" + PRICE)),
         "See below", forwarded=PRICE),
    mail("forwarded, with its own file",
         *multi("mixed", part("text/plain", "See below"),
                part("message/rfc822", FORWARDED + nested("mixed", PLAIN, attached("offer.pdf"), boundary="c"))),
         "See below", "offer.pdf", forwarded=PRICE),
    mail("an invitation of Outlook", *multi("alternative", PLAIN, part("text/calendar; method=REQUEST", INVITATION)),
         f"Invitation: Demo\nWhen: 2026-12-03 09:00 to 10:00 (UTC)\nWhere: Berlin\n\n{PRICE}"),
    mail("an invitation of Google",
         *multi("mixed", nested("alternative", PLAIN, PAGE, part("text/calendar; method=REQUEST", INVITATION), boundary="c"),
                attached("invite.ics", "application/ics", INVITATION.encode())),
         f"Invitation: Demo\nWhen: 2026-12-03 09:00 to 10:00 (UTC)\nWhere: Berlin\n\n{PRICE}", "invite.ics"),
    mail("S/MIME, signed", *multi("signed", PLAIN, attached("smime.p7s", "application/pkcs7-signature")), PRICE),
    mail("S/MIME, encrypted", "Content-Type: application/pkcs7-mime; "
                              "smime-type=enveloped-data\r\n", packed(b"x" * 99),
         "[encrypted, not readable here]"),
    mail("PGP, encrypted", *multi("encrypted", part("application/pgp-encrypted", "Version: 1"), attached("encrypted.asc", "application/octet-stream")),
         "[encrypted, not readable here]"),
    mail("PGP in the text", "", "-----BEGIN PGP MESSAGE-----\r\nabc\r\n-----END PGP "
                                "MESSAGE-----", "[encrypted, not readable here]"),
    mail("quoted-printable, Latin-1", "Content-Type: text/plain; "
                                      "charset=iso-8859-1\r\nContent-Transfer-Encoding: quoted-printable\r\n",
         "Gr=FC=DFe aus =\r\nBerlin", "Grüße aus Berlin"),
    mail("GB 18030 in base64", "Content-Type: text/plain; charset=gb18030\r\nContent-Transfer-Encoding: "
                               "base64\r\n",
         packed("价格是25.00。".encode("gb18030")), "价格是25.00。"),
    mail("a table of prices", "Content-Type: text/html\r\n", "<table><tr><td>Licences "
                                                             "10</td><td>25.00</td></tr></table>", "Licences 10  25.00"),
    mail("a hidden preheader", "Content-Type: text/html\r\n", '<div style="display:none">Open '
                                                              'me</div><p>The price is 25.00</p>', PRICE),
    mail("a page that says more than its text", *multi("alternative", part("text/plain", "Your client shows no pages"), PAGE),
         "Your client shows no pages", page=True),
    mail("names of files in all spellings",
         *multi("mixed", PLAIN,
                part("application/pdf", "x", "Content-Disposition: attachment; "
                                             "filename*=UTF-8''Angebot%20Gr%C3%B6%C3%9Fe.pdf"),
                part("application/pdf; "
                     "name==?utf-8?b?5oql5Lu3LnBkZg==?=", "x", "Content-Disposition: attachment"),
                part("application/zip", "x")),
         PRICE, "Angebot Größe.pdf", "报价.pdf", "attachment.zip"),
    mail("a text as a file", *multi("mixed", PLAIN, attached("list.txt", "text/plain", b"one, two")), PRICE, "list.txt"),
    mail("lines that begin with dots", "", ".. The price\r\n..\r\nis 25.00", ". The price\n.\nis 25.00"),
    mail("a mailing list's footer", *multi("mixed", PLAIN, part("text/plain", "-- \r\nThe list")), f"{PRICE}\n\n-- \nThe list"),
]  # fmt: skip


def main():
    from sync.mail.content import read_content
    from tests.rules.keeping import keep

    print("| mail | the record's text | attachments | page too |\n| --- | --- | --- | --- |")
    for shape in SHAPES:
        content = read_content(keep(shape.raw)[0])
        text = " / ".join(filter(None, [content.text, content.forwarded])).replace("\n", "⏎")
        print(
            f"| {shape.name} | {text} | {', '.join(one.name for one in content.attachments)} | "
            f"{'yes' if content.html else ''} |"
        )


if __name__ == "__main__":
    main()
