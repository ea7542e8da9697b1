"""The org's Email to Salesforce: a mail that comes to a user's private address becomes a task on whom it was sent to.

As help has it: To and Cc only, the first fifty addresses; open opportunities by contact role; no match: an open task
among the user's unresolved items; mail from a sender who is not acceptable is dropped."""

import json
import re
import threading
import urllib.request
from collections.abc import Iterable
from email import message_from_bytes
from email.policy import SMTP
from email.utils import getaddresses

from tests.sandbox.org.records import Org

_MOST_ADDRESSES = 50
_RCPT = re.compile(r"RCPT TO:<([^>]*)>", re.IGNORECASE)


def receive(org: Org, raw: bytes, recipients: Iterable[str]) -> list[str]:
    """The ids of the tasks that a mail to these envelope recipients became."""
    made = []
    for recipient in recipients:
        with org.lock:
            for row in org.rows["emailservicesaddress"].values():
                address = f"{row['LocalPart']}@{row['EmailDomainName']}"
                if row["IsActive"] and address.lower() == recipient.lower():
                    made += _log(org, raw, row)
    return made


def _log(org: Org, raw: bytes, address: dict) -> list[str]:
    mail = message_from_bytes(raw.replace(b"\r\n..", b"\r\n."), policy=SMTP)
    senders = re.split(r"[\s,;]+", (address["AuthorizedSenders"] or "").lower())
    author = getaddresses([str(mail.get("From", ""))])[0][1].lower()
    if any(senders) and author not in senders and author.rpartition("@")[2] not in senders:
        return []
    to = [one.lower() for _, one in getaddresses([str(mail.get("To", "")), str(mail.get("Cc", ""))]) if one]
    wanted = set(list(dict.fromkeys(to))[:_MOST_ADDRESSES])
    people = [
        row for name in ("contact", "lead") for row in org.rows[name].values()
        if (row.get("Email") or "").lower() in wanted and not row["IsDeleted"] and not row.get("IsConverted")
    ]  # fmt: skip
    subject = f"Email: {mail.get('Subject', '')}"[:255]
    body = mail.get_body(("plain", "html"))
    common = {
        "Subject": subject, "Description": (body.get_content() if body is not None else "")[:32_000],
        "OwnerId": address["RunAsUserId"], "CreatedById": address["RunAsUserId"], "TaskSubtype": "Email", "Type": "Email",
        "ActivityDate": org.clock().date(),
    }  # fmt: skip
    if not people:
        return [org.put("Task", Status="Not Started", **common)]
    made = []
    for person in people:
        deals = [
            role["OpportunityId"] for role in org.rows["opportunitycontactrole"].values()
            if role["ContactId"] == person["Id"] and not org.row(role["OpportunityId"])["IsClosed"]
        ]  # fmt: skip
        made += [
            org.put("Task", Status="Completed", WhoId=person["Id"], WhatId=deal, **common)
            for deal in deals or [None]
        ]
    return made


class Postman:
    """Carries to the org what arrives in a mail sink, until it is stopped."""

    def __init__(self, org: Org, sink: str) -> None:
        self._org, self._sink = org, sink
        self._carried = 0
        self._stop = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._go, name="postman", daemon=True).start()

    def stop(self) -> None:
        self._stop.set()

    def _go(self) -> None:
        while not self._stop.wait(0.5):
            try:
                with urllib.request.urlopen(f"{self._sink}/mails.json", timeout=5) as answer:
                    mails = json.load(answer)
            except OSError:
                continue
            for mail in mails[self._carried :]:
                recipients = [found.group(1) for rcpt in mail["rcpts"] if (found := _RCPT.search(rcpt))]
                receive(self._org, mail["data"].encode("latin-1"), recipients)
            self._carried = len(mails)
