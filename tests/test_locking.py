"""When a request is resolved: never again where it is pinned or known, again where it is stale, and not offline."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support.commands import Command, in_process_of_its_own, with_resolver
from support.crash import base, wheel_digest
from support.index import Index
from support.wheels import WheelSpec, build_wheel
from vrfstore.errors import CapError, NotPermittedError, PackageIndexError, ResolutionError
from vrfstore.model import LockFile, Requirement, Requirements, nobody
from vrfstore.requirements import processes
from vrfstore.requirements.budget import Budget, Caps
from vrfstore.requirements.policy import Policy
from vrfstore.requirements.request import Request, is_pinned
from vrfstore.runner.clock import Clock
from vrfstore.runner.locking import Locked, Locker
from vrfstore.store.store import Store

PEARS = [WheelSpec(name="pear", version=version) for version in ("1.0", "2.0", "3.0")]
DAY = 86400.0

Asked = Callable[..., Path]


@pytest.fixture
def command(command: Command, resolver: str) -> Command:
    return with_resolver(command, resolver)


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    """Give a function that writes a file of requirements."""

    def write(*lines: str, name: str = "requirements.vrf") -> Path:
        path = tmp_path / name
        path.write_text("".join(f"{line}\n" for line in lines))
        return path

    return write


def publish(index: Index, *specs: WheelSpec) -> None:
    for spec in specs:
        index.add(spec)


def wanting(*texts: str, locks: tuple[LockFile, ...] = ()) -> Requirements:
    items = tuple(Requirement(name=text.split("=")[0].split(">")[0], text=text, line=1) for text in texts)
    return Requirements(path="requirements.vrf", items=items, locks=locks)


@contextmanager
def locker(
    store: Store,
    requirements: Requirements,
    policy: Policy,
    *,
    now: float = 1e9,
    caps: Caps = Caps(),  # noqa: B008 - frozen
) -> Iterator[Locker]:
    with store.session() as session:
        yield Locker(
            store=store,
            session=session,
            request=Request(requirements=requirements, interpreter=replace(base(), base=())),
            policy=policy,
            budget=Budget(caps),
            clock=Clock(),
            watch=nobody,
            now=lambda: now,
        )


def locked(store: Store, *texts: str, policy: Policy, now: float = 1e9) -> Locked:
    with locker(store, wanting(*texts), policy, now=now) as ready:
        return ready.lock()


def versions(found: Locked) -> dict[str, str]:
    return {wheel.name: wheel.version for wheel in found.lock.wheels}


# --- what goes stale


@pytest.mark.parametrize(
    ("texts", "pinned"),
    [
        ((), True),
        (("pear==1.0",), True),
        (("pear===1.0",), True),
        (("pear[ripe]==1.0 ; python_version >= '3'",), True),
        (("pear>=1,==1.0",), True),
        (("pear==1.0 --hash=sha256:" + "0" * 64,), True),
        (("pear @ https://index.example/pear-1.0-py3-none-any.whl",), True),
        (("pear==1.*",), False),
        (("pear",), False),
        (("pear>=1",), False),
        (("pear~=1.0",), False),
        (("pear<=1.0",), False),
        (("pear==1.0", "plum"), False),
    ],
)
def test_pinned_is_what_can_be_one_version_only(texts: tuple[str, ...], pinned: bool) -> None:
    assert is_pinned(wanting(*texts)) is pinned


def test_what_is_stale_is_resolved_again_and_keeps_what_fits(
    index: Index, store: Store, resolver: str
) -> None:
    publish(index, PEARS[0])
    policy = Policy(resolver="pip" if resolver == "pip" else "uv", stale_after=DAY)
    first = locked(store, "pear", policy=policy)
    assert (first.resolved.resolved_at, first.resolved.until) == (10**9, 10**9 + 86400)
    index.requests.clear()
    # Until then nobody is asked.
    assert locked(store, "pear", policy=policy, now=1e9 + DAY - 1) == first
    assert index.requests == []
    publish(index, PEARS[1])
    again = locked(store, "pear", policy=policy, now=1e9 + DAY)
    assert (versions(again), again.resolved.resolved_at) == ({"pear": "1.0"}, 10**9 + 86400)
    assert index.requests != []


def test_what_is_stale_and_does_not_fit_any_more_is_what_the_index_has_now(
    index: Index, store: Store, resolver: str
) -> None:
    """Whatever a resolver remembers of its pages."""
    publish(index, PEARS[0])
    policy = Policy(resolver="pip" if resolver == "pip" else "uv", stale_after=DAY)
    locked(store, "pear", policy=policy)
    del index._files["pear-1.0-py3-none-any.whl"]
    publish(index, PEARS[1])
    assert versions(locked(store, "pear", policy=policy, now=1e9 + DAY)) == {"pear": "2.0"}


def test_what_is_resolved_again_is_looked_up_again(
    index: Index, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that uv remembers may be ten minutes old."""
    asked: list[bool] = []
    run = processes.run

    def noted(words: Any, **options: Any) -> Any:
        asked.append("--refresh" in words)
        return run(words, **options)

    monkeypatch.setattr(processes, "run", noted)
    publish(index, PEARS[0])
    policy = Policy(resolver="uv", stale_after=DAY)
    locked(store, "pear", policy=policy)
    locked(store, "pear", policy=policy, now=1e9 + DAY)
    assert asked == [False, True]


@pytest.mark.parametrize("stale_after", [0.0, 1.0, DAY])
def test_what_is_pinned_is_never_stale(
    index: Index, store: Store, stale_after: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(index, PEARS[0])
    policy = Policy(resolver="uv", stale_after=stale_after)
    assert locked(store, "pear==1.0", policy=policy).resolved.until == 0
    index.requests.clear()
    locked(store, "pear==1.0", policy=policy, now=9e9)
    assert index.requests == []


def test_without_a_limit_nothing_is_stale(index: Index, store: Store) -> None:
    publish(index, PEARS[0])
    policy = Policy(resolver="uv")
    locked(store, "pear", policy=policy)
    index.requests.clear()
    assert locked(store, "pear", policy=policy, now=9e9).resolved.until == 0
    assert index.requests == []


def test_how_long_it_holds_is_for_each_call_to_say(index: Index, store: Store) -> None:
    publish(index, PEARS[0])
    locked(store, "pear", policy=Policy(resolver="uv"))
    index.requests.clear()
    week = Policy(resolver="uv", stale_after=7 * DAY)
    assert locked(store, "pear", policy=week, now=1e9 + DAY).resolved.until == 10**9 + 7 * 86400
    assert index.requests == []
    locked(store, "pear", policy=Policy(resolver="uv", stale_after=3600.0), now=1e9 + DAY)
    assert index.requests != []


@pytest.mark.parametrize("seconds", ["0", "0s"])
def test_to_call_it_stale_at_once_is_no_hit_of_those_who_do_not(
    index: Index, asked: Asked, command: Command, seconds: str
) -> None:
    publish(index, PEARS[0])
    path = asked("pear")
    command("link", path)
    index.requests.clear()
    assert command("link", path, "--stale-after", seconds).versions == {"pear": "1.0"}
    assert index.requests != []
    index.requests.clear()
    assert command("link", path).document["status"] == "hit"
    assert index.requests == []


# --- asked anew


def test_refresh_keeps_and_upgrade_does_not(index: Index, asked: Asked, command: Command) -> None:
    publish(index, PEARS[0])
    path = asked("pear")
    command("link", path)
    publish(index, PEARS[1])
    assert command("link", path).versions == {"pear": "1.0"}
    assert command("link", path, "--refresh").versions == {"pear": "1.0"}
    assert command("link", path, "--upgrade").versions == {"pear": "2.0"}
    assert command("link", path).versions == {"pear": "2.0"}
    publish(index, PEARS[2])
    assert command("link", path, "--refresh", "--upgrade").versions == {"pear": "3.0"}


def test_refresh_gives_up_what_does_not_fit_and_keeps_the_rest(
    index: Index, asked: Asked, command: Command
) -> None:
    plums = [WheelSpec(name="plum", version=version) for version in ("1.0", "2.0")]
    publish(index, PEARS[0], plums[0])
    path = asked("pear", "plum")
    command("link", path)
    del index._files["pear-1.0-py3-none-any.whl"]
    publish(index, PEARS[1], plums[1])
    assert command("link", path, "--refresh").versions == {"pear": "2.0", "plum": "1.0"}


def test_a_dependency_is_kept_too(index: Index, asked: Asked, command: Command) -> None:
    publish(index, PEARS[0], WheelSpec(name="apple", requires=["pear"]))
    path = asked("apple")
    command("link", path)
    publish(index, PEARS[1], WheelSpec(name="apple", version="2.0", requires=["pear"]))
    assert command("link", path, "--refresh").versions == {"apple": "1.0", "pear": "1.0"}


# --- the index does not answer


def test_an_older_lock_serves_where_that_is_fine_and_is_said_to(
    index: Index, asked: Asked, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_RETRIES", "0")
    publish(index, PEARS[0])
    path = asked("pear")
    command("link", path)
    index.status["/"] = 503
    for again in ("--refresh", "--upgrade", "--stale-after=0"):
        assert command("link", path, again).code in {11, 14}
        for _ in range(2):
            found = command("link", path, again, "--stale-ok")
            assert found.versions == {"pear": "1.0"}
            assert len(found.warnings) == 1
            assert "what it resolved to before is used" in found.warnings[0]
    # Nobody has been told that it was resolved again.
    assert command("link", path, "--stale-after=0").code in {11, 14}


def test_an_older_lock_serves_where_there_is_no_version_any_more(
    index: Index, asked: Asked, command: Command
) -> None:
    publish(index, PEARS[0])
    path = asked("pear")
    command("link", path)
    index._files.clear()
    assert command("link", path, "--refresh").code == 11
    found = command("link", path, "--refresh", "--stale-ok")
    assert (found.versions, len(found.warnings)) == ({"pear": "1.0"}, 1)


def test_without_an_older_lock_there_is_nothing_to_serve(
    index: Index, asked: Asked, command: Command
) -> None:
    assert command("link", asked("pear"), "--stale-ok").code == 11


def test_an_older_lock_does_not_serve_where_the_time_is_over(
    index: Index, asked: Asked, command: Command
) -> None:
    publish(index, PEARS[0])
    path = asked("pear")
    command("link", path)
    assert command("link", path, "--refresh", "--stale-ok", "--timeout", "0").code == 13


# --- offline


def test_offline_what_is_known_and_there_is_linked(index: Index, asked: Asked, command: Command) -> None:
    publish(index, PEARS[0])
    command("link", asked("pear"))
    index.requests.clear()
    assert command("link", asked("pear"), "--offline").document["status"] == "hit"
    # The same request, otherwise written: a memo of the request and no memo of the input.
    assert command("link", asked("# again", "Pear"), "--offline").versions == {"pear": "1.0"}
    assert command("link", asked("pear"), "--offline", "--prompt", "new").document["status"] == "linked"
    assert index.requests == []


def test_offline_what_is_stale_is_known(index: Index, asked: Asked, command: Command) -> None:
    publish(index, PEARS[0])
    command("link", asked("pear"))
    index.requests.clear()
    assert command("link", asked("pear"), "--offline", "--stale-after", "0").versions == {"pear": "1.0"}
    assert index.requests == []


def test_offline_what_is_not_known_is_not_found_out(index: Index, asked: Asked, command: Command) -> None:
    publish(index, PEARS[0])
    ended = command("link", asked("pear"), "--offline")
    assert (ended.code, ended.kind) == (12, "offline")
    command("link", asked("pear"))
    index.requests.clear()
    # Nor what only would be the same.
    assert command("link", asked("pear>=0"), "--offline").code == 12
    assert index.requests == []


def test_offline_what_is_known_and_not_there_is_named(index: Index, asked: Asked, command: Command) -> None:
    publish(index, PEARS[0])
    command("lock", asked("pear"))
    index.requests.clear()
    ended = command("link", asked("pear"), "--offline")
    assert (ended.code, ended.kind) == (12, "offline")
    assert "pear 1.0" in ended.document["error"]["message"]
    assert index.requests == []


def test_offline_a_lock_needs_nobody_as_long_as_its_wheels_are_there(
    index: Index, asked: Asked, command: Command, tmp_path: Path
) -> None:
    publish(index, PEARS[0])
    lock = tmp_path / "pylock.toml"
    command("lock", asked("pear"), "-o", lock)
    assert command("link", lock, "--offline").code == 12
    command("link", asked("pear"))
    index.requests.clear()
    assert command("link", lock, "--offline").versions == {"pear": "1.0"}
    assert command("link", lock, asked("plum", name="more.vrf"), "--offline").code == 12
    assert index.requests == []


@pytest.mark.parametrize("again", ["--refresh", "--upgrade"])
def test_offline_and_again_contradict_each_other(
    index: Index, asked: Asked, command: Command, again: str
) -> None:
    ended = command("link", asked("pear"), "--offline", again)
    assert (ended.code, ended.kind) == (2, "options-conflict")


def test_offline_the_base_alone_is_enough(index: Index, asked: Asked, command: Command) -> None:
    assert command("link", asked("# nothing"), "--offline").versions == {}
    assert index.requests == []


# --- what a memo may not be served to


def test_a_request_that_is_for_other_pythons_is_refused_though_the_rest_of_it_is_known(
    index: Index, asked: Asked, command: Command, tmp_path: Path
) -> None:
    publish(index, PEARS[0])
    command("link", asked("pear"))
    project = tmp_path / "pyproject.toml"
    project.write_text(
        '[project]\nname = "x"\nversion = "1"\nrequires-python = ">=99"\ndependencies = ["pear"]\n'
    )
    script = tmp_path / "script.py"
    script.write_text('# /// script\n# requires-python = ">=99"\n# dependencies = ["pear"]\n# ///\n')
    for path in (project, script):
        ended = command("link", path)
        assert (ended.code, ended.kind) == (11, "requires-python"), path
        assert command("link", path, "--offline").code == 11


def test_a_project_that_needs_nothing_says_for_which_pythons_too(
    index: Index, command: Command, tmp_path: Path
) -> None:
    project = tmp_path / "pyproject.toml"
    project.write_text('[project]\nname = "x"\nversion = "1"\nrequires-python = ">=99"\n')
    assert command("link", project).code == 11


def test_a_lock_with_paths_means_other_files_elsewhere(
    index: Index, command: Command, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        wheel = build_wheel(PEARS[0], tmp_path / name)
    lock = (
        'lock-version = "1.0"\ncreated-by = "somebody"\n[[packages]]\nname = "pear"\nversion = "1.0"\n'
        f'wheels = [{{path = "{wheel.name}", hashes = {{sha256 = "{wheel_digest(wheel)}"}}}}]\n'
    )
    for name in ("one", "two"):
        (tmp_path / name / "pylock.toml").write_text(lock)
    command("lock", tmp_path / "one/pylock.toml")
    (tmp_path / "one" / wheel.name).unlink()
    assert command("link", tmp_path / "two/pylock.toml").versions == {"pear": "1.0"}


def test_equal_bytes_under_a_name_that_means_something_else_are_no_hit(
    index: Index, asked: Asked, store: Store, command: Command
) -> None:
    publish(index, PEARS[0])
    command("link", asked("pear"))
    for name in ("script.py", "pyproject.toml", "pylock.toml", "pylock.other.toml"):
        path = asked("pear", name=name)
        assert command("link", path).code == 10, name
        assert in_process_of_its_own(store, "link", path).code == 10, name


def test_fewer_packages_than_a_hit_has_are_no_hit(index: Index, asked: Asked, command: Command) -> None:
    publish(index, PEARS[0], WheelSpec(name="apple", requires=["pear"]))
    path = asked("apple")
    assert command("link", path, "--max-packages", "1").code == 13
    command("link", path)
    ended = command("link", path, "--max-packages", "1")
    assert (ended.code, ended.kind) == (13, "max-packages")
    assert command("link", path, "--max-packages", "2").versions == {"apple": "1.0", "pear": "1.0"}


@pytest.mark.parametrize(
    "options", [("--allow-builds",), ("--index-url", "INDEX"), ("--isolated",), ("--protect", "pear")]
)
def test_whoever_asks_on_other_terms_is_answered_anew(
    index: Index, asked: Asked, command: Command, options: tuple[str, ...]
) -> None:
    publish(index, PEARS[0])
    command("link", asked("pear"))
    publish(index, PEARS[1])
    given = [index.url if word == "INDEX" else word for word in options]
    index.requests.clear()
    command("link", asked("pear"), *given)
    # What is not in the base is not protected: only that is the same request.
    assert bool(index.requests) is (options[0] != "--protect")


def test_changed_configuration_is_another_request(
    index: Index, asked: Asked, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(index, *PEARS)
    configuration, limits = tmp_path / "pip.conf", tmp_path / "limits.txt"
    limits.write_text("pear<3\n")
    configuration.write_text("[global]\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(configuration))
    monkeypatch.setenv("PIP_CONSTRAINT", str(limits))
    assert command("link", asked("pear")).versions == {"pear": "2.0"}
    limits.write_text("pear<2\n")
    assert command("link", asked("pear")).versions == {"pear": "1.0"}
    monkeypatch.delenv("PIP_CONSTRAINT")
    assert command("link", asked("pear")).versions == {"pear": "3.0"}
    with Index([WheelSpec(name="pear", version="7.0")]) as other:
        monkeypatch.delenv("PIP_INDEX_URL")
        configuration.write_text(f"[global]\nindex-url = {other.url}\n")
        assert command("link", asked("pear")).versions == {"pear": "7.0"}


# --- errors as they are raised


def test_the_errors_of_a_locker(index: Index, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(NotPermittedError), locker(store, wanting("pear"), Policy(offline=True)) as ready:
        ready.lock()
    with pytest.raises(ResolutionError), locker(store, wanting("pear"), Policy(resolver="pip")) as ready:
        ready.lock()
    index.status["/"] = 500
    with pytest.raises(PackageIndexError), locker(store, wanting("pear"), Policy(resolver="pip")) as ready:
        ready.lock()
    with (
        pytest.raises(CapError),
        locker(store, wanting("pear"), Policy(resolver="pip"), caps=Caps(seconds=0.0)) as ready,
    ):
        ready.lock()
    assert os.listdir(store.layout.of("requests")) == []


def test_what_was_resolved_while_we_waited_is_as_good(index: Index, store: Store) -> None:
    """Somebody else has the hold of the request, and is done with it when we get it."""
    publish(index, PEARS[0])
    policy = Policy(resolver="uv", refresh=True)
    with locker(store, wanting("pear"), policy, now=2e9) as other:
        digest = other.request.digest(os.environ)
        times = iter([1e9, 1e9])
        with locker(store, wanting("pear"), policy) as ready:
            waiting = replace(ready, now=lambda: next(times, 3e9))
            first = other.lock()
            index.requests.clear()
            assert waiting.lock().resolved.lock == first.resolved.lock
            assert index.requests == []
            assert digest == waiting.request.digest(os.environ)
