"""`make demo` and the pages in a real browser."""

import json
import re
import signal
import ssl
import subprocess
import sys
import urllib.request

import pytest

from tests.conftest import needs
from tests.system.conftest import CHECKOUT, until


class RunningDemo:
    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.sandbox.demo"], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True
        )
        self.said = ""
        for line in self.process.stdout:
            self.said += line
            if "Ctrl-C" in line:
                break
        assert "Ctrl-C" in self.said, self.said
        self.admin, self.email, self.password = re.search(
            r"(http://\S+)\s+sign in as (\S+) with (\S+)", self.said
        ).groups()
        self.sink = re.search(r"Mail sink\s+(http://\S+)", self.said).group(1)
        self.org = re.search(r"Salesforce\s+(https://\S+)", self.said).group(1)

    def mails(self):
        with urllib.request.urlopen(f"{self.sink}/mails.json", timeout=10) as response:
            return json.load(response)

    def records(self):
        """The pretend org's page."""
        with urllib.request.urlopen(
            self.org,
            timeout=10,
            context=ssl._create_unverified_context(),  # noqa: SLF001  the standard library's own way
        ) as response:
            return response.read().decode()

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        status = self.process.wait(60)
        self.process.stdout.close()
        return status


@pytest.fixture(scope="module")
def demo():
    running = RunningDemo()
    yield running
    running.stop()


def test_a_first_mail_has_gone_through(demo):
    copied, logged = demo.mails()[:2]
    assert [rcpt.partition(">")[0] for rcpt in copied["rcpts"]] == [
        "RCPT TO:<bob@customer.example", "RCPT TO:<emailtosalesforce@demo.na1.le.salesforce.com",
    ]  # fmt: skip
    assert len(logged["rcpts"]) == 1
    with urllib.request.urlopen(demo.sink, timeout=10) as response:
        assert "Our offer" in response.read().decode()


def test_the_blind_copy_is_logged_on_contact_and_opportunity(demo):
    until(lambda: "Our offer" in demo.records())
    [row] = re.findall(r"<tr[^>]*>(?:(?!</tr>).)*Email: Our offer.*?</tr>", demo.records(), re.DOTALL)
    assert "Bob Buyer" in row
    assert "Five hundred chairs" in row


def test_the_second_mail_is_logged_through_the_api_and_says_why(demo, page):
    until(lambda: "Our second offer" in demo.records())
    [row] = re.findall(r"<tr[^>]*id=\"02s(?:(?!</tr>).)*Our second offer.*?</tr>", demo.records(), re.DOTALL)
    assert "Bob Buyer" in row
    assert "Five hundred chairs" in row
    until(lambda: page.goto(f"{demo.admin}/activity") and page.get_by_text("Logged", exact=True).count() > 1)
    page.locator("summary", has_text="Why?").first.click()
    assert page.get_by_text(
        "By your rules the mail belongs to: Bob Buyer (contact), Five hundred chairs (opportunity)."
    ).first.is_visible()
    assert page.get_by_role("link", name="E-mail on Bob Buyer, Five hundred chairs").first.is_visible()


def test_a_second_one_starts_beside_it_and_ends_cleanly(demo):
    second = RunningDemo()
    assert second.admin != demo.admin
    assert len(second.mails()) == 2
    assert second.stop() == 0
    demo_is_alive = demo.process.poll() is None
    assert demo_is_alive


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    chromium = needs("chromium")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=chromium,
            args=["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
                  "--disable-component-update", "--disable-sync"],
        )  # fmt: skip
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def signed_in(browser, demo):
    """The cookies of a sign-in by keyboard; one, as sign-ins are throttled."""
    context = browser.new_context(java_script_enabled=False)
    opened = context.new_page()
    opened.goto(demo.admin)
    opened.get_by_label("E-mail address").focus()
    opened.keyboard.type(demo.email)
    opened.keyboard.press("Tab")
    opened.keyboard.type(demo.password)
    with opened.expect_navigation():
        opened.keyboard.press("Enter")
    opened.get_by_role("heading", name="Activity").wait_for()
    yield context.storage_state()
    context.close()


@pytest.fixture
def page(browser, demo, signed_in):
    """A page without JavaScript, signed in; anything that fails to load, or that the policy blocks, counts."""
    context = browser.new_context(
        java_script_enabled=False, ignore_https_errors=True, storage_state=signed_in
    )
    opened = context.new_page()
    troubles = []
    opened.on("console", lambda message: troubles.append(message.text))
    opened.on("response", lambda response: troubles.append(response.url) if response.status >= 400 else None)
    opened.goto(f"{demo.admin}/activity")
    opened.get_by_role("heading", name="Activity").wait_for()
    yield opened
    assert troubles == []
    context.close()


def press_enter(page, element):
    element.focus()
    with page.expect_navigation():
        page.keyboard.press("Enter")


def test_the_activity_page_answers_why(page):
    page.locator("li", has_text="Our offer").locator("summary", has_text="Why?").last.click()
    assert page.get_by_text("the mail provider took it").last.is_visible()


def test_every_page_can_be_reached_from_the_gear_by_keyboard(page, demo):
    page.get_by_title("Settings").focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/settings/salesforce")
    page.locator("h1").wait_for()
    names = page.locator("nav[aria-label=Settings] a").all_text_contents()
    for name in names:
        press_enter(page, page.get_by_role("link", name=name, exact=True))
        assert page.locator("h1").count() == 1
    assert "Admin Settings" in page.content()
    assert len(names) == 6


def test_the_copy_is_switched_on_and_off_by_keyboard(page):
    page.goto(page.url.replace("/activity", "/settings/salesforce"))
    buttons = {"Activate": "Active: your sales mails are copied", "Deactivate": "Not active any more"}
    for name, said in buttons.items():
        press_enter(page, page.get_by_role("button", name=name, exact=True))
        page.get_by_text(said).wait_for()


def test_a_test_mail_shows_the_verdict(page, demo):
    before = len(demo.mails())
    page.goto(page.url.replace("/activity", "/settings/mail-client"))
    page.get_by_role("button", name="Send a test mail").click()
    assert page.get_by_text("250 2.0.0 Ok: queued as").is_visible()
    until(lambda: len(demo.mails()) == before + 1)
    assert len(demo.mails()[-1]["rcpts"]) == 1, "a mail to oneself is internal"


def open_salesforce_page(page, name):
    page.goto(page.url.replace("/activity", "/settings/salesforce"))
    press_enter(page, page.get_by_role("link", name=name, exact=True))


def test_salesforce_is_disconnected_denied_and_connected_by_keyboard(page, demo):
    open_salesforce_page(page, "Connections & Customizations")
    press_enter(page, page.get_by_role("button", name="Disconnect"))
    page.get_by_text("Salesforce has been told").wait_for()
    for choice, said in (("Deny", "You pressed Deny"), ("Allow", f"Connected as {demo.email}")):
        press_enter(page, page.get_by_role("button", name="Connect", exact=True))
        page.get_by_role("heading", name="Allow access?").wait_for()
        press_enter(page, page.get_by_role("button", name=choice))
        page.get_by_text(said).first.wait_for()
    press_enter(page, page.get_by_role("button", name="Check again"))
    page.get_by_text("The connection works.").wait_for()


def test_check_set_up_is_green_where_the_demo_is(page):
    open_salesforce_page(page, "Diagnostics")
    press_enter(page, page.get_by_role("button", name="Check set-up"))
    page.get_by_label("What was found").wait_for()
    assert page.get_by_text("Red", exact=True).count() == 0
    assert page.get_by_text("Green", exact=True).count() >= 10


def test_the_command_center_is_worked_by_keyboard_alone(page, demo):
    """From the address to the bin and back, with Tab, Enter and letters; what is done here is done in Salesforce."""

    def tab_to(name):
        for _ in range(80):
            page.keyboard.press("Tab")
            focused = page.locator(":focus")
            if not focused.count():
                continue  # the button of a date's calendar is in the browser's own part of the page
            label = focused.get_attribute("aria-label") or focused.inner_text() or ""
            if label.strip().startswith(name) or focused.get_attribute("id") == name:
                return
        raise AssertionError(f"{name} is not reached by Tab")

    def enter():
        with page.expect_navigation():
            page.keyboard.press("Enter")

    tab_to("Command Center")
    enter()
    page.get_by_role("heading", name="Command Center").wait_for()
    assert page.locator("ul.tasks li").count() >= 2, "what came from Salesforce at first"
    tab_to("new-subject")
    page.keyboard.type("Buy a cake")
    enter()
    page.get_by_text("Added “Buy a cake”.").wait_for()
    tab_to("Buy a cake")
    enter()
    page.get_by_role("heading", name="Buy a cake").wait_for()
    tab_to("comments")
    page.keyboard.type("chocolate")
    tab_to("Save")
    enter()
    page.get_by_text("Saved.").wait_for()
    until(lambda: "chocolate" in demo.records())
    tab_to("Complete: Buy a cake")
    enter()
    page.get_by_text("Completed: Buy a cake").wait_for()
    tab_to("Undo")
    enter()
    page.get_by_text("It is open again.").wait_for()
    tab_to("Delete: Buy a cake")
    enter()
    page.get_by_text("In the bin for 15 days: Buy a cake").wait_for()
    tab_to("Bin")
    enter()
    tab_to("Restore: Buy a cake")
    enter()
    page.get_by_text("It is back.").wait_for()


def test_task_sync_is_switched_off_and_on_by_keyboard(page):
    page.goto(page.url.replace("/activity", "/settings/salesforce"))
    for key, said in (
        ("ArrowUp", "Tasks are no longer synchronised"),
        ("ArrowDown", "The sync has begun in the background."),
    ):
        page.locator("#tasks input[type=radio]:checked").focus()
        page.keyboard.press(key)
        page.keyboard.press("Tab")
        with page.expect_navigation():
            page.keyboard.press("Enter")
        page.get_by_text(said).first.wait_for()
