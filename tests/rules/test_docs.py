"""The documentation: its links lead somewhere, its commands exist, and its table of settings is the catalogue's."""

import re
from pathlib import Path

import pytest

from core.mail.reasons import Reason
from core.mail.row import State
from core.settings.catalogue import Level, Setting

CHECKOUT = Path(__file__).resolve().parents[2]
PAGES = sorted([*CHECKOUT.glob("*.md"), *(CHECKOUT / "docs").glob("*.md")])
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"`((?:relay|admin|sync|core|tests|docs)/[\w/.-]+)`")
MODULE = re.compile(r"python -m ((?:relay|admin|sync|core|tests)[\w.]*)")
WHO = {
    Level.PERSON: "each person; the policy gives the default, and may lock it",
    Level.POLICY: "the policy",
    Level.PERSON_ONLY: "each person",
}


def anchors(page):
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    for link in LINK.findall(page.read_text()):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} links to {link}"
        if anchor:
            assert anchor in anchors(target), f"{page.name} links to {link}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_and_module_that_is_named_is_there(page):
    if page.name == "CHANGELOG.md":
        return
    for name in CODE.findall(page.read_text()):
        assert (CHECKOUT / name).exists(), f"{page.name} names {name}"
    for module in MODULE.findall(page.read_text()):
        path = CHECKOUT / module.rstrip(".").replace(".", "/")
        assert path.is_dir() or path.with_suffix(".py").exists(), f"{page.name} names {module}"


def test_every_make_target_that_is_named_is_there():
    targets = set(re.findall(r"^([a-z]+):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        named = set(re.findall(r"^make ([a-z]+)|`make ([a-z]+)`", page.read_text(), re.MULTILINE))
        assert {one or other for one, other in named} <= targets, page.name


def test_the_readme_can_be_read_in_one_sitting():
    assert len((CHECKOUT / "README.md").read_text().splitlines()) <= 120


def settings_table():
    rows = ["| name | default | values | who chooses | |", "| --- | --- | --- | --- | --- |"]
    for setting in Setting:
        about = setting.definition
        labels = getattr(about.kind, "labels", None) or (
            {"no": "", "yes": ""} if about.kind.shape == "flag" else {}
        )
        values = " ".join(f"`{one}`" for one in labels)
        if about.kind.shape == "number":
            values = f"{about.kind.least} to {about.kind.most}"
        elif about.kind.shape == "some-of":
            values += ", comma-separated"
        default = f"`{about.default}`" if about.default else ""
        text = ". ".join(part.rstrip(".") for part in (about.label, about.help) if part)
        rows.append(f"| `{setting}` | {default} | {values} | {WHO[about.level]} | {text} |")
    return "\n".join(rows)


def test_the_table_of_settings_is_the_catalogues():
    assert settings_table() in (CHECKOUT / "docs/settings.md").read_text()


def test_every_reason_and_every_state_is_explained():
    text = (CHECKOUT / "docs/smtp.md").read_text()
    for word in (*Reason, *State):
        assert f"`{word}`" in text, word
