"""How many mails a person may send in a day, and what is told of mails that a limit kept back."""

import asyncio
from datetime import UTC, datetime, timedelta

from core.journal.entries import LimitRefused
from core.mail.limits import ONE_DAY, count, refusals
from core.mail.row import State
from core.settings import store as settings_store
from core.settings.catalogue import Setting
from relay.daily import DailyMails
from tests.doors.browser import (
    Browser,
    app,  # noqa: F401
)
from tests.doors.conftest import add_anna, mail, running, until
from tests.doors.rows import row, write


class TestMailsADay:
    def limited(self, sqlite, most):
        with sqlite.writing() as session:
            settings_store.set_policy(session, Setting.MAILS_PER_DAY, str(most), actor=None)

    def test_above_the_limit_are_refused_alarmed_and_counted(self, sqlite, tmp_path, caplog):
        async def claim():
            async with running(sqlite, tmp_path) as relay:
                self.limited(sqlite, 2)
                await relay.snapshot.look()
                client = await relay.connect()
                for number in range(2):
                    assert (await client.mail(mail(message_id=f"<{number}@x>"))).startswith("250")
                for _ in range(3):
                    assert (await client.command("MAIL FROM:<anna@acme.test>")).startswith(
                        "450 4.7.1 Too many mails in a day"
                    )
                assert caplog.text.count("has sent 2 mails within a day") == 1

                def kept_back():
                    with sqlite.reading() as session:
                        return [
                            (one.person, one.limit, one.mails)
                            for one in refusals(session, datetime.now(UTC) - ONE_DAY)
                        ]

                await until(lambda: kept_back() == [("anna@acme.test", "day", 3)])

        asyncio.run(claim())

    def test_that_other_relays_have_passed_on_count_too(self, sqlite, tmp_path):
        async def claim():
            async with running(sqlite, tmp_path) as relay:
                write(sqlite, *(row(1, state=State.COPIED) for _ in range(3)))
                self.limited(sqlite, 3)
                await relay.snapshot.look()
                relay.server._relay.daily = DailyMails(sqlite)  # noqa: SLF001  as it is in a process of its own
                client = await relay.connect()
                assert (await client.command("MAIL FROM:<anna@acme.test>")).startswith("250"), (
                    "nobody waits for the look"
                )
                await client.command("RSET")
                for _ in range(100):
                    if (await client.command("MAIL FROM:<anna@acme.test>")).startswith("450"):
                        break
                    await client.command("RSET")
                    await asyncio.sleep(0.02)
                else:
                    raise AssertionError("the logbook's mails do not count")

        asyncio.run(claim())

    def test_a_day_later_the_count_begins_anew(self, database):
        add_anna(database)
        now = datetime.now(UTC)
        for time in (now - timedelta(days=3), now - timedelta(hours=2), now):
            with database.writing() as session:
                count(session, [LimitRefused(1, "minute", time)])
        with database.reading() as session:
            [found] = refusals(session, now - ONE_DAY)
        assert (found.mails, found.first_seen) == (2, now - timedelta(hours=2))


class TestWhatAPersonSees:
    def test_is_how_many_mails_a_limit_kept_back(self, app, sqlite):
        with sqlite.writing() as session:
            count(
                session,
                [LimitRefused(2, "minute", datetime.now(UTC)), LimitRefused(1, "day", datetime.now(UTC))],
            )
        anna, boss = Browser(app, "anna@acme.test").get("/activity").page, Browser(app, "boss@acme.test")
        assert "1 mail of anna@acme.test was asked to come again" in anna
        assert "boss@acme.test was refused" not in anna
        assert "1 mail of boss@acme.test was refused" in boss.get("/activity").page
        assert "within a day were sent by boss@acme.test" in boss.get("/health").page
