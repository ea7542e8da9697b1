"""The Command Center and the card of the task sync, as a browser without JavaScript uses them; and the task commands."""

import json
import re
from datetime import UTC, date, datetime, timedelta

import pytest
from click.testing import CliRunner

from admin.commands import main as admin_main
from core.database.task_models import TaskRow, TaskSyncRow
from core.people import store as people_store
from core.settings.catalogue import Setting
from core.tasks import queue as task_queue
from core.tasks import store as task_store
from core.tasks.lists import Which
from core.tasks.task import TaskState, Values
from tests.doors.browser import PASSWORD, Browser
from tests.doors.task_bench import (
    TaskBench,
    org,  # noqa: F401
)

TODAY = datetime.now(UTC).date()


@pytest.fixture
def bench(sqlite, org, org_app, tmp_path):
    made = TaskBench(sqlite, org, org_app, tmp_path, None)
    made.set(Setting.TIME_ZONE, "UTC")
    return made


@pytest.fixture
def app(bench):
    from admin import create_app
    from admin.passwords import hashed

    with bench.database.writing() as session:
        people_store.set_password_hash(session, "anna@acme.test", hashed(PASSWORD), actor=None)
        people_store.add_person(
            session, "boss@acme.test", name="", is_admin=True, password_hash=hashed(PASSWORD), actor=None
        )
    app = create_app(bench.config)
    yield app
    app.extensions["blindcopy"].database.close()


@pytest.fixture
def anna(app):
    return Browser(app, "anna@acme.test")


@pytest.fixture
def boss(app):
    return Browser(app, "boss@acme.test")


def shown(page):
    """The subjects on the page, in their order."""
    return re.findall(r'<a class="fw-semibold[^>]*>([^<]*)</a>', page)


class TestCommandCenter:
    def test_shows_what_is_open_and_due_today_or_tomorrow_and_counts_the_rest(self, anna, bench):
        day = timedelta(days=1)
        bench.add("tomorrow", due=TODAY + day)
        bench.add("today", due=TODAY)
        bench.add("today and urgent", due=TODAY, priority="High")
        for subject, due in (("overdue", TODAY - day), ("later", TODAY + 2 * day), ("undated", None)):
            bench.add(subject, due=due)
        bench.complete(bench.add("done", due=TODAY))
        bench.delete(bench.add("deleted", due=TODAY))
        assert shown(anna.get("/tasks").page) == ["today and urgent", "today", "tomorrow"]
        for which, subject in (
            ("overdue", "overdue"),
            ("later", "later"),
            ("without-date", "undated"),
            ("done", "done"),
            ("bin", "deleted"),
        ):
            assert shown(anna.get(f"/tasks?list={which}").page) == [subject]
            assert re.search(r'aria-current="page"[^>]*>[^<]*<span[^>]*>1</span>', anna.page)

    @pytest.mark.parametrize(("zone", "on_list"), [("Pacific/Kiritimati", 14), ("Etc/GMT+12", -12)])
    def test_today_is_the_persons_own(self, anna, bench, zone, on_list):
        bench.set(Setting.TIME_ZONE, zone)
        there = (datetime.now(UTC) + timedelta(hours=on_list)).date()
        for days in range(-2, 4):
            bench.add(str(days), due=there + timedelta(days=days))
        assert shown(anna.get("/tasks").page) == ["0", "1"]

    def test_a_task_is_added_edited_completed_undone_and_deleted(self, anna, bench):
        anna.get("/tasks").post(
            "/tasks",
            subject="Call Bob",
            due=TODAY.isoformat(),
            priority="High",
            comments="a\r\nb",
            reminder="2030-01-01T09:00",
        )
        assert "Added “Call Bob”." in anna.page
        [task] = bench.all()
        assert task.values == Values(
            "Call Bob", TODAY, priority="High", comments="a\nb", reminder=datetime(2030, 1, 1, 9, tzinfo=UTC)
        )
        anna.get(f"/tasks/{task.id}").post(f"/tasks/{task.id}", subject="Call Eve", due="", priority="Low",
                                           status="Completed", comments="a\r\nb", reminder="")  # fmt: skip
        assert "Saved." in anna.page
        after = bench.task(task.id).values
        assert (after.subject, after.due, after.priority, after.comments, after.status.is_open) == (
            "Call Eve",
            None,
            "Low",
            "a\nb",
            False,
        )
        anna.post(f"/tasks/{task.id}/reopen")
        anna.post(f"/tasks/{task.id}/complete")
        assert "Completed: Call Eve" in anna.page
        assert f'action="/tasks/{task.id}/reopen"' in anna.page
        anna.post(f"/tasks/{task.id}/reopen")
        assert bench.task(task.id).values.status.is_open
        anna.post(f"/tasks/{task.id}/delete")
        assert "In the bin for 15 days: Call Eve" in anna.page
        anna.post(f"/tasks/{task.id}/restore")
        assert "It is back." in anna.page
        assert bench.only().id == task.id

    def test_opening_and_saving_changes_nothing(self, anna, bench):
        odd = Values(
            " odd ",
            date(9999, 12, 31),
            priority="P7",
            comments="a\r\n\r\nb ",
            reminder=datetime(2030, 1, 1, 9, 0, 30, tzinfo=UTC),
        )
        with bench.database.writing() as session:
            task_id = task_store.add(session, bench.anna.id, odd, is_wanted=False)
        anna.get(f"/tasks/{task_id}")
        fields = dict(
            re.findall(r'<input[^>]*name="(subject|due|reminder|shown)"[^>]*value="([^"]*)"', anna.page)
        )
        anna.post(f"/tasks/{task_id}", **fields, priority="P7", status="Not Started", comments="a\r\n\r\nb ")
        assert "Saved." in anna.page
        assert (bench.task(task_id).values, bench.task(task_id).version) == (odd, 1)

    @pytest.mark.parametrize(
        ("field", "value", "says"),
        [
            ("subject", "  ", "A task needs a subject"),
            ("due", "soon", "is not a day; write it like 2026-12-31"),
            ("priority", "Urgent", "not one of the priorities: High, Normal, Low"),
            ("reminder", "0001-01-01T00:00", "in the year 1"),
            ("reminder", "later", "is not a time"),
        ],
    )
    def test_what_is_wrong_stands_beside_its_field_and_the_rest_stays_filled_in(
        self, anna, bench, field, value, says
    ):
        typed = {"subject": "Call Bob", "due": "2026-12-31", "comments": "kept"} | {field: value}
        anna.get("/tasks").post("/tasks", **typed)
        assert says in anna.page
        assert "kept" in anna.page
        assert bench.all() == []

    @pytest.mark.parametrize("subject", ["x" * 300, "😀" * 10, "<script>alert(1)</script>", "../{{ 7 * 7 }}"])
    def test_any_text_is_a_subject(self, anna, bench, subject):
        anna.get("/tasks").post("/tasks", subject=subject, due=TODAY.isoformat())
        assert bench.only().values.subject == subject
        assert "<script>alert" not in anna.get("/tasks").page

    def test_two_tabs(self, anna, bench):
        """Only what each has changed is changed; what both have is asked about."""
        task_id = bench.add("base", comments="base")
        shown = re.search(r'name="shown" value="([^"]+)"', anna.get(f"/tasks/{task_id}").page).group(1)
        bench.edit(task_id, subject="the other tab's", due=TODAY)
        anna.post(f"/tasks/{task_id}", shown=shown, subject="base", due="", comments="typed")
        assert "Saved." in anna.page
        assert bench.task(task_id).values == Values("the other tab's", TODAY, comments="typed")
        anna.get(f"/tasks/{task_id}").post(
            f"/tasks/{task_id}", shown=shown, subject="mine", due="", comments="base"
        )
        assert "This was changed meanwhile; it says now: “the other tab&#39;s”" in anna.page
        assert bench.task(task_id).values.subject == "the other tab's"
        shown = re.search(r'name="shown" value="([^"]+)"', anna.page).group(1)
        anna.post(f"/tasks/{task_id}", shown=shown, subject="mine", due=TODAY.isoformat(), comments="typed")
        assert bench.task(task_id).values == Values("mine", TODAY, comments="typed")

    def test_a_task_that_was_deleted_while_it_was_edited(self, anna, bench):
        task_id = bench.add("base")
        anna.get(f"/tasks/{task_id}")
        bench.delete(task_id)
        anna.post(f"/tasks/{task_id}", subject="what I typed")
        assert "This task was deleted meanwhile" in anna.page
        assert "what I typed" in anna.page
        anna.post("/tasks", subject="what I typed")
        assert bench.only().values.subject == "what I typed"

    def test_somebody_elses_task_does_not_exist(self, boss, bench):
        task_id = bench.add("mine")
        for path in (
            "",
            "/complete",
            "/delete",
            "/restore",
            "/send",
            "/seen",
            "/dismiss-reminder",
            "/history/1",
        ):
            boss.get("/tasks").post(f"/tasks/{task_id}{path}", subject="theirs")
            assert f"There is no task {task_id}" in boss.page, path
        boss.get(f"/tasks/{task_id}")
        assert f"There is no task {task_id}" in boss.page
        assert bench.task(task_id).version == 1

    def test_a_look_changes_nothing(self, app, bench):
        task_id = bench.add("mine")
        for path in ("complete", "delete", "restore", "send"):
            assert Browser(app, "anna@acme.test").client.get(f"/tasks/{task_id}/{path}").status_code == 405
        nobody = Browser(app)
        nobody.post(f"/tasks/{task_id}/delete")
        assert bench.only().id == task_id

    @pytest.mark.parametrize("number", [2**31, 2**63, 10**30])
    def test_what_no_database_counts_to_is_not_there(self, anna, bench, number):
        task_id = bench.add("x")
        assert anna.get(f"/tasks/{number}").status == 404
        for path in (f"/tasks/{number}/complete", f"/tasks/{task_id}/history/{number}"):
            assert anna.get("/tasks").post(path).status == 404
        assert anna.get(f"/tasks?completed={number}&from={number}").status == 200

    def test_the_longest_comments_can_be_typed(self, anna, bench):
        anna.get("/tasks").post("/tasks", subject="long", comments="😀" * 130_000)
        assert bench.only().values.comments == "😀" * 130_000
        anna.get("/tasks").post("/tasks", subject="longer", comments="x" * 130_001)
        assert "130001 characters; the most are 130000" in anna.page

    def test_the_order_and_the_pages_hold_for_many(self, anna, bench):
        for number in range(120):
            bench.add(f"normal {number}", due=TODAY)
        bench.add("odd", due=TODAY, priority="P7")
        bench.add("low", due=TODAY, priority="Low")
        bench.add("urgent", due=TODAY, priority="High")
        first = shown(anna.get("/tasks").page)
        assert (len(first), first[0]) == (100, "urgent")
        rest = shown(anna.get("/tasks?list=now&from=100").page)
        assert (len(rest), rest[-2:]) == (23, ["odd", "low"])

    def test_what_was_added_elsewhere_is_one_click_away(self, anna, bench):
        anna.get("/tasks").post("/tasks", subject="some day", due="")
        assert re.search(r'Added “some day”.*href="/tasks\?list=without-date"', anna.page, re.DOTALL)

    def test_what_is_undone_already_offers_no_undo(self, anna, bench):
        task_id = bench.add("x", due=TODAY)
        for what in ("completed", "deleted"):
            assert "Undo" not in anna.get(f"/tasks?{what}={task_id}").page

    def test_a_task_for_somebody_else_about_somebody(self, anna, boss, bench):
        with bench.database.reading() as session:
            other = people_store.person_by_email(session, "boss@acme.test")
        contact, deal = "0035g0000000001AAA", "0065g0000000001AAA"
        anna.get("/tasks").post("/tasks", subject="for the boss", due=TODAY.isoformat(), person=str(other.id),
                                about=f"https://acme.my.salesforce.com/{contact} {deal}")  # fmt: skip
        assert "Added “for the boss” for boss@acme.test." in anna.page
        assert shown(boss.get("/tasks").page) == ["for the boss"]
        assert contact in boss.page
        for wrong in ("Bob", f"{contact} 0035g0000000002AAA"):
            anna.get("/tasks").post("/tasks", subject="x", about=wrong)
            assert "Name one contact or lead" in anna.page
        anna.post("/tasks", subject="x", person="4711")
        assert "There is no person of this name" in anna.page

    def test_reminders_lead_back_to_where_one_was(self, anna, bench):
        past = datetime.now(UTC) - timedelta(minutes=1)
        ids = [bench.add(f"task {number}", reminder=past) for number in range(5)]
        assert "2 more reminders" in anna.get("/settings/account").page
        anna.post(f"/tasks/{ids[0]}/dismiss-reminder", next="/settings/account?")
        assert "Time zone" in anna.page
        anna.post(f"/tasks/{ids[1]}/dismiss-reminder", next="https://evil.example/")
        assert "Command Center</h1>" in anna.page

    def test_reminders_that_are_due_are_on_every_page(self, anna, bench):
        past = datetime.now(UTC) - timedelta(minutes=1)
        task_id = bench.add("Call Bob", reminder=past)
        bench.add("not yet", reminder=past + timedelta(days=1))
        for path in ("/activity", "/settings/salesforce", "/tasks"):
            assert "Reminder:" in anna.get(path).page
            assert "not yet" not in re.sub(r"(?s)<ul.*", "", anna.page.split("Reminder:")[1])
        anna.post(f"/tasks/{task_id}/dismiss-reminder")
        assert "Reminder:" not in anna.get("/activity").page
        assert bench.task(task_id).values.reminder is None

    def test_history_and_one_click(self, anna, bench):
        task_id = bench.add("first")
        bench.edit(task_id, subject="second", due=TODAY, reminder=datetime(2030, 1, 1, tzinfo=UTC))
        bench.edit(task_id, reminder=None)
        anna.get(f"/tasks/{task_id}")
        assert "Jan 1, 2030" in anna.page
        entry = next(one for one in bench.history(task_id) if one.value == "first")
        anna.post(f"/tasks/{task_id}/history/{entry.id}")
        assert bench.task(task_id).values.subject == "first"
        other = bench.add("other")
        anna.post(f"/tasks/{other}/history/{entry.id}")
        assert "There is no such entry" in anna.page


class TestTheState:
    def test_says_when_it_was_synchronised_and_syncs_on_request(self, anna, bench):
        assert "Tasks are not synchronised with Salesforce." in anna.get("/tasks").page
        bench.on()
        assert "The first sync is under way: 0 tasks brought in so far." in anna.get("/tasks").page
        task_id = bench.add("Call Bob", due=TODAY)
        assert "Waiting" in anna.get("/tasks").page
        bench.once()
        assert re.search(r"Last synchronised \d seconds? ago, every 60\u00a0s", anna.get("/tasks").page)
        assert "In sync" in anna.page
        anna.post("/settings/salesforce/tasks/now")
        assert "Salesforce is asked within seconds." in anna.page
        assert bench.sync().due_at <= datetime.now(UTC)
        assert bench.task(task_id).state is TaskState.IN_SYNC

    def test_looking_quickens_the_pace(self, anna, bench):
        bench.on()
        bench.once()
        long_ago = datetime.now(UTC) - timedelta(minutes=9)
        with bench.database.writing() as session:
            session.query(TaskSyncRow).update(
                {
                    "succeeded_at": long_ago,
                    "enabled_at": long_ago,
                    "changed_at": long_ago,
                    "due_at": datetime.now(UTC) + timedelta(hours=1),
                }
            )
        anna.get("/activity")
        assert bench.sync().due_at > datetime.now(UTC)
        anna.get("/tasks")
        assert bench.sync().due_at <= datetime.now(UTC)

    def test_a_conflict_is_shown_until_it_is_seen(self, anna, bench):
        bench.on()
        bench.once()
        task_id = bench.add("base", due=TODAY)
        bench.once()
        bench.edit(task_id, subject="ours")
        bench.change(bench.task(task_id).salesforce_id, Subject="theirs")
        bench.once()
        assert "Conflict" in anna.get("/tasks").page
        assert "The later change won" in anna.get(f"/tasks/{task_id}").page
        anna.post(f"/tasks/{task_id}/seen")
        assert bench.task(task_id).state is TaskState.IN_SYNC

    def test_a_failure_says_why_and_is_sent_again(self, anna, bench):
        bench.on()
        bench.once()
        task_id = bench.add("base", due=TODAY)
        bench.once()
        with bench.database.writing() as session:
            row = session.get(TaskRow, task_id)
            row.trouble_code, row.trouble_detail = "FIELD_CUSTOM_VALIDATION_EXCEPTION", "No calls on Mondays"
        anna.get("/tasks")
        assert "A validation rule of your organisation refuses the record." in anna.page
        assert "Salesforce said: No calls on Mondays" in anna.page
        anna.post(f"/tasks/{task_id}/send")
        assert bench.task(task_id).state is TaskState.WAITING

    def test_a_plan_waits_for_a_word(self, anna, bench):
        bench.policy(Setting.CONFIRM_FIRST_SYNC, "yes")
        for number in range(3):
            bench.there(f"task {number}")
        bench.on()
        bench.once()
        assert (
            "would bring in 3, pair 0 and delete 0 tasks here. Nothing that is here would be sent."
            in anna.get("/tasks").page
        )
        anna.post("/settings/salesforce/tasks/confirm")
        assert "It is done within seconds." in anna.page
        bench.once()
        assert len(bench.all()) == 3
        anna.get("/tasks").post("/settings/salesforce/tasks/confirm")
        assert "nothing is halted" in anna.page

    def test_no_brings_back_what_was_deleted_here(self, anna, bench):
        bench.on()
        for number in range(7):
            bench.there(f"task {number}")
        bench.once()
        for one in bench.all()[:5]:
            bench.delete(one.id)
        bench.once()
        assert "5 of your 7 synchronised tasks were deleted here at once" in anna.get("/tasks").page
        anna.post("/settings/salesforce/tasks/reconsider")
        assert "5 tasks are back." in anna.page
        assert bench.once()
        assert (len(bench.all()), len(bench.records())) == (7, 7)

    def test_no_looks_at_salesforce_again(self, anna, bench):
        bench.on()
        ids = [bench.there(f"task {number}") for number in range(7)]
        bench.once()
        for one in ids[:5]:
            bench.remove(one)
        bench.once()
        assert "5 of your 7 synchronised tasks are gone from Salesforce" in anna.get("/tasks").page
        for one in ids[:5]:
            bench.record(one)["IsDeleted"] = False
        anna.post("/settings/salesforce/tasks/reconsider")
        assert bench.once()
        assert (len(bench.all()), bench.sync().plan) == (7, None)


class TestTheCard:
    def test_off_is_the_default_and_saving_starts_it(self, anna, bench):
        assert re.search(r'value="off" checked', anna.get("/settings/salesforce").page)
        anna.post("/settings/salesforce/tasks", task_sync="both-ways")
        assert "The sync has begun in the background." in anna.page
        assert bench.sync().is_on
        anna.post("/settings/salesforce/tasks", task_sync="off")
        assert "nothing was deleted" in anna.page
        assert not bench.sync().is_on

    def test_it_needs_a_connection_with_api_access(self, boss, bench):
        boss.get("/settings/salesforce").post("/settings/salesforce/tasks", task_sync="both-ways")
        assert "Salesforce is not connected. Connect Salesforce first" in boss.page
        with bench.database.reading() as session:
            account = people_store.person_by_email(session, "boss@acme.test")
            assert task_queue.task_sync(session, account.id) is None

    def test_a_policy_that_changes_nothing_for_a_person_starts_nothing_anew(self, boss, bench):
        bench.on()
        fields = {
            "task_sync": "both-ways",
            "lock-task-sync": "on",
            "sync_interval": "60",
            "first_sync_hours": "24",
            "api_share": "30",
        }
        boss.get("/settings/salesforce").post("/settings/policy/tasks", **fields)
        bench.once()
        before = bench.sync().enabled_at
        del fields["lock-task-sync"]
        boss.get("/settings/salesforce").post("/settings/policy/tasks", **(fields | {"task_sync": "off"}))
        assert (bench.sync().enabled_at, bench.sync().is_first, bench.sync().is_on) == (before, False, True)

    def test_rubbish_is_refused(self, anna, bench):
        anna.get("/settings/salesforce").post("/settings/salesforce/tasks", task_sync="sideways")
        assert bench.sync() is None
        assert anna.get("/settings/salesforce/tasks").status == 200

    def test_the_policy_reaches_everybody_and_is_an_admins(self, anna, boss, bench):
        fields = {"task_sync": "both-ways", "lock-task-sync": "on", "confirm_first_sync": "y", "sync_interval": "30", "first_sync_hours": "48",
                  "api_share": "20"}  # fmt: skip
        assert anna.get("/tasks").post("/settings/policy/tasks", **fields).status == 403
        boss.get("/settings/salesforce").post("/settings/policy/tasks", **(fields | {"sync_interval": "1"}))
        assert "not a whole number from 5 to 86400" in boss.page
        assert bench.sync() is None
        boss.post("/settings/policy/tasks", **fields)
        assert bench.sync().is_on
        anna.get("/settings/salesforce").post("/settings/salesforce/tasks", task_sync="off")
        assert "fixed by the organisation" in anna.page
        assert bench.sync().is_on


class TestCommands:
    @pytest.fixture
    def command(self, bench, tmp_path, monkeypatch):
        monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/blindcopy.db")
        monkeypatch.setenv("BLINDCOPY_SECRET_KEY", "0123456789abcdef")

        def run(*arguments):
            result = CliRunner().invoke(admin_main, ["task", *arguments], catch_exceptions=False)
            return result.exit_code, result.stdout, result.stderr

        return run

    def test_add_list_edit_complete_reopen_delete_restore(self, command, bench):
        status, out, _ = command(
            "add",
            "anna@acme.test",
            "Call Bob",
            "--due",
            TODAY.isoformat(),
            "--priority",
            "high",
            "--comments",
            "x",
        )
        assert (status, re.fullmatch(r"\d+\n", out) is not None) == (0, True)
        task_id = out.strip()
        command("add", "anna@acme.test", "later", "--due", "2999-01-01")
        expected = {"id": int(task_id), "salesforce_id": None, "subject": "Call Bob", "due": TODAY.isoformat(), "status": "Not Started",
                    "open": True, "priority": "High", "comments": "x", "state": "local"}  # fmt: skip
        assert json.loads(command("list", "anna@acme.test", "--json")[1]) == expected
        assert len(command("list", "anna@acme.test", "--all", "--json")[1].splitlines()) == 2
        assert (
            command(
                "edit",
                "anna@acme.test",
                task_id,
                "--due",
                "",
                "--comments",
                "",
                "--priority",
                "",
                "--subject",
                "Call Eve",
            )[0]
            == 0
        )
        assert bench.task(int(task_id)).values == Values("Call Eve")
        for verb, is_open in (("complete", False), ("reopen", True)):
            assert command(verb, "anna@acme.test", task_id) == (0, "", "")
            assert bench.task(int(task_id)).values.status.is_open is is_open
        assert command("delete", "anna@acme.test", task_id)[0] == 0
        assert json.loads(command("list", "anna@acme.test", "--bin", "--json")[1])["state"] == "bin"
        assert "Call Eve" in command("list", "anna@acme.test", "--bin")[1]
        assert command("restore", "anna@acme.test", task_id)[0] == 0
        assert bench.task(int(task_id)).state is TaskState.LOCAL

    @pytest.mark.parametrize(
        ("arguments", "status", "says"),
        [
            (("complete", "anna@acme.test", "4711"), 1, "There is no task 4711"),
            (("complete", "anna@acme.test", "x"), 2, "not the id of a task"),
            (("add", "nobody@acme.test", "x"), 1, "nobody@acme.test"),
            (("add", "anna@acme.test", ""), 1, "needs a subject"),
            (("add", "anna@acme.test", "x", "--due", "soon"), 1, "like 2026-12-31"),
            (("add", "anna@acme.test", "x", "--priority", "urgent"), 1, "High, Normal, Low"),
            (("confirm", "anna@acme.test"), 1, "nothing is halted"),
            (("list", "anna@acme.test", "--all", "--bin"), 2, "Choose"),
        ],
    )
    def test_what_is_wrong_is_one_sentence(self, command, arguments, status, says):
        code, out, err = command(*arguments)
        assert (code, out, len(err.splitlines())) == (status, "", 1)
        assert says in err

    def test_send_and_confirm(self, command, bench):
        task_id = str(bench.add("old"))
        assert command("send", "anna@acme.test", task_id)[0] == 1
        bench.on()
        bench.once()
        assert command("send", "anna@acme.test", task_id)[0] == 0
        assert bench.once()
        assert bench.task(int(task_id)).state is TaskState.IN_SYNC
        ids = [bench.there(f"t{number}") for number in range(7)]
        bench.once()
        for one in ids:
            bench.remove(one)
        bench.once()
        assert command("confirm", "anna@acme.test")[0] == 0
        bench.once()
        assert len(bench.all(Which.BIN)) == 7

    def test_a_task_of_the_bin_cannot_be_edited(self, command, bench):
        task_id = bench.add("x")
        bench.delete(task_id)
        for arguments in (
            ("edit", "anna@acme.test", str(task_id), "--subject", "y"),
            ("complete", "anna@acme.test", str(task_id)),
        ):
            status, _, err = command(*arguments)
            assert (status, "in the bin" in err) == (1, True)
        bench.do(task_store.restore, task_id, is_wanted=False)
        assert command("restore", "anna@acme.test", str(task_id))[0] == 1
