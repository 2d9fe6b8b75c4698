"""pip as a resolver: what it is given of what is to be kept, and how that is given up where it is in the way."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.bases import base_with, sdist
from support.commands import Command, Ended, commands
from support.index import Index
from support.wheels import WheelSpec, build_wheel
from vrfstore.requirements import by_pip, processes
from vrfstore.store.store import Store

FRUIT = ("apple", "pear", "plum", "fig", "quince")

Asked = Callable[..., Path]


@pytest.fixture
def command(store: Store, capsys: pytest.CaptureFixture[str]) -> Command:
    made = commands(store, capsys)

    def by_pip(*arguments: str | Path) -> Ended:
        return made(*arguments, "--resolver", "pip", "--json")

    return by_pip


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    """Give a function that writes a file of requirements."""

    def write(*lines: str) -> Path:
        path = tmp_path / "requirements.vrf"
        path.write_text("".join(f"{line}\n" for line in lines))
        return path

    return write


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The constraints that pip was given, one text for each time it was run to resolve."""
    found: list[str] = []
    run = processes.run

    def noted(words: Any, **options: Any) -> Any:
        if "--constraint" in words:
            found.append(Path(words[words.index("--constraint") + 1]).read_text())
        return run(words, **options)

    monkeypatch.setattr(processes, "run", noted)
    return found


def publish(index: Index, *specs: WheelSpec) -> None:
    for spec in specs:
        index.add(spec)


# --- what is kept


def test_what_is_kept_takes_one_round(
    index: Index, asked: Asked, command: Command, rounds: list[str]
) -> None:
    publish(index, *(WheelSpec(name=name) for name in FRUIT))
    path = asked(*FRUIT)
    command("link", path)
    publish(index, *(WheelSpec(name=name, version="2.0") for name in FRUIT))
    assert set(command("link", path, "--refresh").versions.values()) == {"1.0"}
    assert rounds == ["", "apple==1.0\nfig==1.0\npear==1.0\nplum==1.0\nquince==1.0\n"]


def test_what_is_in_the_way_is_given_up_and_nothing_else(
    index: Index, asked: Asked, command: Command, rounds: list[str], tmp_path: Path
) -> None:
    publish(index, *(WheelSpec(name=name) for name in FRUIT))
    lock = tmp_path / "pylock.toml"
    command("lock", asked(*FRUIT), "-o", lock)
    publish(index, *(WheelSpec(name=name, version="2.0") for name in FRUIT))
    publish(index, WheelSpec(name="jam", requires=["plum>=2"]))
    found = command("lock", asked(*FRUIT, "jam", "fig>=2"), "-o", lock).versions
    assert found == dict.fromkeys(FRUIT, "1.0") | {"plum": "2.0", "fig": "2.0", "jam": "1.0"}
    assert 2 <= len(rounds[1:]) <= 4


def test_a_version_that_is_gone_from_the_index_is_given_up(
    index: Index, asked: Asked, command: Command, rounds: list[str]
) -> None:
    publish(index, *(WheelSpec(name=name) for name in ("apple", "pear")))
    path = asked("apple", "pear")
    command("link", path)
    del index._files["pear-1.0-py3-none-any.whl"]
    publish(index, *(WheelSpec(name=name, version="2.0") for name in ("apple", "pear")))
    assert command("link", path, "--refresh").versions == {"apple": "1.0", "pear": "2.0"}
    assert rounds[1:] == ["apple==1.0\npear==1.0\n", "apple==1.0\n"]


def test_where_it_takes_too_many_rounds_all_are_given_up(
    index: Index, asked: Asked, command: Command, rounds: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(by_pip, "_named", lambda _words: {"fig"})
    publish(index, *(WheelSpec(name=name) for name in FRUIT))
    path = asked(*FRUIT)
    command("link", path)
    del index._files["pear-1.0-py3-none-any.whl"]
    publish(index, *(WheelSpec(name=name, version="2.0") for name in FRUIT))
    assert set(command("link", path, "--refresh").versions.values()) == {"2.0"}
    # Everything, without what was named, and then nothing.
    assert [text.count("\n") for text in rounds[1:]] == [5, 4, 0]


def test_an_index_that_does_not_answer_is_no_version_in_the_way(
    index: Index, asked: Asked, command: Command, rounds: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_RETRIES", "0")
    publish(index, WheelSpec(name="pear"))
    path = asked("pear")
    command("link", path)
    index.status["/simple/"] = 503
    assert command("link", path, "--refresh").code == 14
    assert len(rounds) <= 3


def test_what_cannot_be_is_told_without_what_was_only_preferred(
    index: Index, asked: Asked, command: Command, tmp_path: Path
) -> None:
    publish(index, WheelSpec(name="pear"), WheelSpec(name="jam", requires=["pear>=2"]))
    lock = tmp_path / "pylock.toml"
    command("lock", asked("pear"), "-o", lock)
    ended = command("lock", asked("pear", "jam"), "-o", lock)
    assert ended.code == 11
    assert "constraint" not in ended.document["error"]["message"]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("ERROR: No matching distribution found for Some.Fruit==1.0\n", {"some-fruit"}),
        (
            """The conflict is caused by:
    jam 1.0 depends on pear>=2
    The user requested (constraint) pear==1.0
""",
            {"pear"},
        ),
        (
            "The conflict is caused by:\n    The user requested plum==1\n    jam 1.0 depends on plum==2\n",
            set(),
        ),
        ("", set()),
    ],
)
def test_those_in_the_way_are_read_off_what_pip_says(words: str, names: set[str]) -> None:
    assert by_pip._named(words) == names


# --- the base


def test_what_shadows_the_base_is_kept_as_well(
    index: Index, asked: Asked, command: Command, tmp_path: Path
) -> None:
    publish(index, *(WheelSpec(name="pear", version=version) for version in ("1.0", "2.0")))
    path, python = asked("pear>=2"), base_with(tmp_path / "base", WheelSpec(name="pear"))
    assert command("link", path, "--python", python).versions == {"pear": "2.0"}
    publish(index, WheelSpec(name="pear", version="3.0"))
    assert command("link", path, "--python", python, "--refresh").versions == {"pear": "2.0"}
    assert command("link", path, "--python", python, "--upgrade").versions == {"pear": "3.0"}


def test_what_the_base_has_comes_before_what_is_kept(
    index: Index, asked: Asked, command: Command, tmp_path: Path
) -> None:
    publish(index, *(WheelSpec(name="pear", version=version) for version in ("1.0", "2.0", "3.0")))
    python, lock = base_with(tmp_path / "base", WheelSpec(name="pear")), tmp_path / "pylock.toml"
    assert command("lock", asked("pear==2.0"), "-o", lock, "--python", python).versions == {"pear": "2.0"}
    assert command("lock", asked("pear"), "-o", lock, "--python", python).versions == {}


# --- what is configured, and what is built


def test_relative_paths_are_relative_to_where_the_command_runs(
    index: Index, asked: Asked, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(index, WheelSpec(name="pear"))
    (tmp_path / "wheels").mkdir()
    for version in ("2.0", "3.0"):
        build_wheel(WheelSpec(name="pear", version=version), tmp_path / "wheels")
    (tmp_path / "limits.txt").write_text("pear<3\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIP_FIND_LINKS", "./wheels")
    monkeypatch.setenv("PIP_CONSTRAINT", "limits.txt")
    assert command("link", asked("pear")).versions == {"pear": "2.0"}


def test_a_source_is_no_wheel_even_where_pip_would_take_it(
    index: Index, asked: Asked, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.add(*sdist("pear"))
    monkeypatch.setenv("PIP_NO_BINARY", ":all:")
    ended = command("link", asked("pear"))
    assert (ended.code, ended.kind) == (11, "no-wheel")


def test_what_pip_said_is_kept_where_it_failed(index: Index, asked: Asked, command: Command) -> None:
    publish(index, WheelSpec(name="pear"))
    ended = command("link", asked("pear>=2"))
    log = json.loads(ended.out)["error"]["log"]
    assert "No matching distribution found for pear>=2" in Path(log).read_text()


def test_it_leaves_nothing_behind(index: Index, asked: Asked, command: Command, store: Store) -> None:
    publish(index, WheelSpec(name="pear"))
    command("link", asked("pear"))
    command("link", asked("pear>=2"))
    assert os.listdir(store.layout.of("tmp")) == []
