"""``vrfstore tree``: who brought what, as people and as machines read it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from support.bases import base_with
from support.commands import Command
from support.index import Index
from support.wheels import WheelSpec
from vrfstore.needs import Described, Need
from vrfstore.runner.tree import Branch, Package, grow

Asked = Callable[..., Path]


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    """Give a function that writes a file of requirements."""

    def write(*lines: str) -> Path:
        path = tmp_path / "requirements.vrf"
        path.write_text("".join(f"{line}\n" for line in lines))
        return path

    return write


def publish(index: Index, *specs: WheelSpec) -> None:
    for spec in specs:
        index.add(spec)


PIE = WheelSpec(name="pie", requires=["Apple>=1", "sugar ; python_version < '3'"])
APPLE = WheelSpec(name="apple", version="1.2", requires=["core"], extras={"jam": ["sugar>=2"]})
CORE = WheelSpec(name="core")
CAKE = WheelSpec(name="cake", requires=["apple[jam]<2"])
SUGAR = WheelSpec(name="sugar", version="2.5")


# --- what is shown


def test_each_package_stands_below_who_needs_it(index: Index, asked: Asked, command: Command) -> None:
    publish(index, PIE, APPLE, CORE)
    ended = command("tree", asked("pie"), "-q")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines() == [
        "pie 1.0",
        "└── apple 1.2 (>=1)",
        "    └── core 1.0",
    ]  # fmt: skip


def test_what_was_shown_is_not_shown_again(index: Index, asked: Asked, command: Command) -> None:
    publish(index, PIE, APPLE, CORE, CAKE, SUGAR)
    assert command("tree", asked("pie", "cake"), "-q").out.splitlines() == [
        "cake 1.0",
        "└── apple[jam] 1.2 (<2)",
        "    ├── core 1.0",
        "    └── sugar 2.5 (>=2)",
        "pie 1.0",
        "└── apple 1.2 (>=1) …",
    ]  # fmt: skip


def test_why_shows_it_the_other_way_round(index: Index, asked: Asked, command: Command) -> None:
    publish(index, PIE, APPLE, CORE, CAKE, SUGAR)
    path = asked("pie", "cake")
    assert command("tree", path, "-q", "--why", "Core").out.splitlines() == [
        "core 1.0",
        "└── apple 1.2",
        "    ├── cake 1.0 ([jam]<2)",
        "    └── pie 1.0 (>=1)",
    ]  # fmt: skip
    both = command("tree", path, "-q", "--why", "core,sugar").out.splitlines()
    assert [line for line in both if line[0].isalpha()] == ["core 1.0", "sugar 2.5"]


@pytest.mark.parametrize("name", ["ghost", "pie,ghost"])
def test_why_of_what_is_not_there_is_refused(index: Index, asked: Asked, command: Command, name: str) -> None:
    publish(index, PIE, APPLE, CORE)
    ended = command("tree", asked("pie"), "--why", name, "--json")
    assert (ended.code, ended.kind) == (2, "package-unknown")
    assert "ghost" in ended.document["error"]["message"]


def test_machines_get_all_of_it(index: Index, asked: Asked, command: Command) -> None:
    publish(index, CAKE, APPLE, CORE, SUGAR)
    document = command("tree", asked("cake"), "--json").document
    assert document["schema_version"] == 1
    assert os.path.isdir(document["environment"])
    packages = {package["name"]: package for package in document["packages"]}
    assert packages["cake"] == {
        "name": "cake",
        "version": "1.0",
        "origin": "environment",
        "needs": [{"name": "apple", "specifier": "<2", "extras": ["jam"]}],
    }
    assert [need["name"] for need in packages["apple"]["needs"]] == ["core", "sugar"]


def test_an_extra_that_the_file_asks_for_brings_what_it_brings(
    index: Index, asked: Asked, command: Command
) -> None:
    publish(index, APPLE, CORE, WheelSpec(name="sugar", version="2.0"))
    assert command("tree", asked("Apple[JAM]"), "-q").out.splitlines() == [
        "apple[jam] 1.2",
        "├── core 1.0",
        "└── sugar 2.0 (>=2)",
    ]


def test_what_the_base_has_is_marked(index: Index, asked: Asked, command: Command, tmp_path: Path) -> None:
    publish(index, PIE, APPLE)
    python = base_with(tmp_path / "base", CORE, WheelSpec(name="house", requires=["apple"]))
    path = asked("pie")
    assert command("tree", path, "-q", "--python", python).out.splitlines() == [
        "pie 1.0",
        "└── apple 1.2 (>=1)",
        "    └── core 1.0 (base)",
    ]  # fmt: skip
    why = command("tree", path, "-q", "--python", python, "--why", "apple").out.splitlines()
    assert why == ["apple 1.2", "├── house 1.0 (base)", "└── pie 1.0 (>=1)"]
    publish(index, CORE)
    document = command("tree", path, "--python", python, "--isolated", "--json").document
    assert {package["name"] for package in document["packages"]} == {"pie", "apple", "core"}


def test_what_is_not_there_is_marked(index: Index, asked: Asked, command: Command, tmp_path: Path) -> None:
    """As in a lock that somebody has cut down."""
    publish(index, PIE, APPLE, CORE)
    lock = tmp_path / "pylock.toml"
    command("lock", asked("pie"), "-o", lock)
    blocks = lock.read_text().split("[[packages]]")
    lock.write_text("[[packages]]".join(block for block in blocks if 'name = "core"' not in block))
    assert command("tree", lock, "-q").out.splitlines() == [
        "pie 1.0",
        "└── apple 1.2 (>=1)",
        "    └── core (missing)",
    ]  # fmt: skip


def test_an_environment_can_be_given(index: Index, asked: Asked, command: Command, tmp_path: Path) -> None:
    publish(index, PIE, APPLE, CORE)
    path = asked("pie")
    managed = command("link", path, "--json").document["environment"]
    command("link", path, "--into", tmp_path / "own")
    for place in (managed, tmp_path / "own"):
        assert command("tree", place).out.splitlines()[0] == "pie 1.0"
    index.requests.clear()
    assert command("tree", path, "--offline").out.splitlines()[0] == "pie 1.0"
    assert index.requests == []


def test_a_directory_that_is_no_environment_is_refused(command: Command, tmp_path: Path) -> None:
    assert command("tree", tmp_path).code == 2


def test_an_environment_of_nothing_has_no_tree(asked: Asked, command: Command) -> None:
    ended = command("tree", asked("# nothing"), "-q")
    assert (ended.code, ended.out) == (0, "")


def test_those_who_need_each_other_are_shown_beside_others(
    index: Index, asked: Asked, command: Command
) -> None:
    publish(index, WheelSpec(name="hen", requires=["egg"]), WheelSpec(name="egg", requires=["hen"]), CORE)
    assert command("tree", asked("hen", "core"), "-q").out.splitlines() == [
        "core 1.0",
        "egg 1.0",
        "└── hen 1.0",
        "    └── egg 1.0 …",
    ]  # fmt: skip


# --- how it grows


def package(name: str, *needed: str, origin: str = "environment") -> Package:
    needs = tuple(
        Need(owner=Described(name, "1", ()), name=other, written=other, specifier="", accepts=lambda _: True)
        for other in needed
    )
    return Package(name=name, version="1", origin=origin, needs=needs)  # type: ignore[arg-type]


def outline(branch: Branch) -> str:
    below = "".join(outline(each) for each in branch.branches)
    return f"{branch.package.name}{'…' if branch.shown else ''}{f'({below})' if below else ''}"


@pytest.mark.parametrize(
    ("packages", "outlines"),
    [
        ([], []),
        ([package("a")], ["a"]),
        ([package("a", "a")], ["a(a…)"]),
        ([package("a", "b"), package("b", "a")], ["a(b(a…))"]),
        ([package("a", "b", "c"), package("b", "c"), package("c")], ["a(b(c)c)"]),
        ([package("a", "b"), package("b", "a"), package("c"), package("d", "d")], ["c", "a(b(a…))", "d(d…)"]),
        ([package("a", "b"), package("b", "c"), package("c", "b")], ["a(b(c(b…)))"]),
        ([package("a"), package("b", "a", origin="base")], ["a"]),
        ([package("a", "b"), package("b", "c", origin="base"), package("c", origin="base")], ["a(b(c))"]),
    ],
)
def test_all_that_an_environment_has_is_somewhere_in_its_tree(
    packages: list[Package], outlines: list[str]
) -> None:
    found = {each.name: each for each in packages}
    branches = grow(found)
    assert [outline(branch) for branch in branches] == outlines
    assert all(name in "".join(outlines) for name, each in found.items() if each.origin == "environment")


def test_a_long_chain_is_shown_to_its_end() -> None:
    names = [f"p{number:04}" for number in range(400)]
    found = {name: package(name, *names[number + 1 : number + 2]) for number, name in enumerate(names)}
    (branch,) = grow(found)
    for _ in range(399):
        (branch,) = branch.branches
    assert branch.package.name == "p0399"
