"""The gate: without leave, only what is there is served; and each answer is written down."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from support.commands import Command, commands
from support.index import Index
from support.wheels import WheelSpec
from vrfstore.cli import quick
from vrfstore.gc import sweep
from vrfstore.gc.policy import Policy
from vrfstore.store.store import Store


@pytest.fixture
def command(store: Store, capsys: pytest.CaptureFixture[str]) -> Command:
    return commands(store, capsys)


@pytest.fixture
def requirements(index: Index, tmp_path: Path) -> Path:
    index.add(WheelSpec(name="pear", requires=["plum"]))
    index.add(WheelSpec(name="plum"))
    path = tmp_path / "requirements.vrf"
    path.write_text("pear\n")
    return path


@pytest.fixture
def denied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A deployment whose gate is closed."""
    path = tmp_path / "site.toml"
    path.write_text('[link]\ninstall = "deny"\n')
    monkeypatch.setenv("VRFSTORE_CONFIG", str(path))


def audited(store: Store) -> list[dict[str, Any]]:
    try:
        text = Path(store.layout.audit).read_text()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.splitlines()]


def test_what_is_not_there_is_refused_with_12_and_nobody_is_asked(
    command: Command, index: Index, store: Store, requirements: Path
) -> None:
    ended = command("link", requirements, "--json", "--no-install")
    assert (ended.code, ended.kind) == (12, "not-permitted")
    assert "--install" in ended.document["error"]["hint"]
    assert index.requests == []
    (line,) = audited(store)
    assert (line["decision"], line["status"], line["environment"]) == ("refused", "not-permitted", None)
    assert (line["uid"], line["pid"], line["parent"]) == (os.getuid(), os.getpid(), os.getppid())
    assert [file["path"] for file in line["files"]] == [str(requirements)]


def test_what_is_there_is_served_as_a_hit_or_linked_anew_and_written_down(
    command: Command, index: Index, store: Store, requirements: Path
) -> None:
    first = command("link", requirements, "--json")
    index.requests.clear()
    hit = command("link", requirements, "--json", "--no-install")
    assert (hit.document["status"], hit.document["python"]) == ("hit", first.document["python"])
    linked = command("link", requirements, "--json", "--no-install", "--prompt", "other")
    assert linked.document["status"] == "linked"
    assert index.requests == []
    assert [(line["decision"], line["status"], line["environment"]) for line in audited(store)] == [
        ("served", "hit", hit.document["environment"]),
        ("served", "linked", linked.document["environment"]),
    ]


def test_what_is_known_but_gone_is_refused(
    command: Command, index: Index, store: Store, requirements: Path
) -> None:
    command("link", requirements)
    sweep.collect(store, Policy(max_age=0, grace=0))
    requirements.write_text("pear\nplum\n")
    command("lock", requirements)
    index.requests.clear()
    ended = command("link", requirements, "--json", "--no-install")
    assert (ended.code, ended.kind) == (12, "not-permitted")
    assert index.requests == []


@pytest.mark.parametrize("option", ["--refresh", "--upgrade", "--allow-builds"])
def test_to_want_more_and_have_no_leave_is_a_contradiction(
    command: Command, requirements: Path, option: str
) -> None:
    ended = command("link", requirements, "--json", "--no-install", option)
    assert (ended.code, ended.kind) == (2, "options-conflict")


def test_a_deployment_that_denies_is_opened_by_install_only(
    command: Command, index: Index, store: Store, requirements: Path, denied: None
) -> None:
    assert command("link", requirements, "--json").kind == "not-permitted"
    assert command("link", requirements, "--json", "--refresh").kind == "not-permitted"
    assert command("run", requirements, "--", "true").code == 12
    assert command("lock", requirements).code == 12
    assert index.requests == []
    assert command("link", requirements, "--json", "--install").document["status"] == "built"
    assert command("link", requirements, "--json").document["status"] == "hit"
    assert [(line["decision"], line["status"]) for line in audited(store)] == [
        ("refused", "not-permitted"), ("refused", "not-permitted"), ("refused", "not-permitted"), ("served", "hit"),
    ]  # fmt: skip


def test_where_a_deployment_denies_no_short_way_gets_around_the_audit(
    command: Command, store: Store, requirements: Path, denied: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VRFSTORE_HOME", store.root)
    command("link", requirements, "--install")
    assert command("link", requirements).code == 0
    assert quick(["link", str(requirements)]) is None
    assert len(audited(store)) == 1


def test_a_memo_of_before_a_deployment_denied_does_not_get_around_it_either(
    command: Command,
    store: Store,
    requirements: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VRFSTORE_HOME", store.root)
    command("link", requirements)
    assert quick(["link", str(requirements)]) is not None
    place = Path(os.environ["HOME"], ".config/vrfstore/vrfstore.toml")
    place.parent.mkdir(parents=True)
    place.write_text('[link]\ninstall = "deny"\n')
    assert quick(["link", str(requirements)]) is None
    assert command("link", requirements).code == 0
    assert len(audited(store)) == 1


def test_where_no_line_can_be_written_what_is_there_is_served_with_a_warning(
    command: Command, store: Store, requirements: Path
) -> None:
    command("link", requirements)
    os.symlink("/dev/null", store.layout.audit)
    ended = command("link", requirements, "--json", "--no-install")
    assert ended.document["status"] == "hit"
    assert "audit" in ended.warnings[0]


def test_gc_keeps_the_log_of_audits_and_puts_it_aside_when_it_is_large(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, before = Path(store.layout.audit), Path(store.layout.audit_before)
    log.write_text("new\n")
    before.write_text("old\n")
    for path in (log, before):
        os.utime(path, (0, 0))
    sweep.collect(store, Policy(max_age=0, grace=0))
    assert (log.read_text(), before.read_text()) == ("new\n", "old\n")
    monkeypatch.setattr("vrfstore.gc.sweep._AUDIT_SIZE", 3)
    planned = sweep.preview(store, Policy(max_age=0, grace=0))
    report = sweep.collect(store, Policy(max_age=0, grace=0))
    assert (planned.records, planned.freed) == (report.records, report.freed)
    assert not log.exists()
    assert before.read_text() == "new\n"


def test_who_links_with_leave_leaves_no_line(command: Command, store: Store, requirements: Path) -> None:
    command("link", requirements)
    command("link", requirements, "--install")
    assert audited(store) == []
