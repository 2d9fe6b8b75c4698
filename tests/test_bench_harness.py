"""The comparison itself, on three small wheels, with vrfstore and uv as they are installed here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

import compare
from comparison import toolbox
from comparison.ground import remove, scratch_directory
from comparison.machine import machine
from comparison.model import Run, Series
from comparison.planning import Job
from comparison.processes import Command, CommandError, spawner
from comparison.report import markdown
from comparison.tools import BARE
from comparison.workloads import Set, Wheels, described, pins_of
from support.wheels import WheelSpec, build_wheel

OFF = "vrfstore --compile off"


@pytest.fixture
def wheels(tmp_path: Path) -> Wheels:
    """Two wheels, and one that is added."""
    directory = tmp_path / "wheels"
    directory.mkdir()
    files = [build_wheel(WheelSpec(name=name), directory) for name in ("apple", "pear")]
    added = build_wheel(WheelSpec(name="quince"), directory)
    return Wheels(set=Set(name="fruit", imports=("apple", "pear")), files=tuple(files), added=added)


def measure(
    jobs: Sequence[Job], wheels: Wheels, scratch: Path, seconds: float | None = None
) -> tuple[list[Series], list[str]]:
    """Measure, without waiting for what else is written on the machine: times are of no interest here."""
    return compare.measure(
        jobs,
        {"fruit": wheels},
        toolbox.own(),
        scratch,
        seconds=seconds,
        say=lambda _: None,
        calm=lambda: None,
    )


def measured(wheels: Wheels, scratch: Path, *jobs: Job) -> dict[tuple[str, str], Series]:
    found, left_out = measure(jobs, wheels, scratch)
    assert left_out == []
    assert {(each.key.tool, each.failure) for each in found if each.failure} == set()
    return {(each.key.scenario, each.key.tool): each for each in found}


def job(scenario: str, *tools: str, sizes: tuple[int, ...] = (), rounds: int = 2) -> Job:
    return Job(scenario=scenario, workload="fruit", tools=tools, rounds=rounds, sizes=sizes)


def test_environments_are_made_imported_and_counted(wheels: Wheels, tmp_path: Path) -> None:
    with scratch_directory(tmp_path) as scratch:
        found = measured(
            wheels,
            scratch,
            job("hit", BARE, "vrfstore", "uv"),
            job("install-warm", "vrfstore", "uv"),
            job("install-cold", OFF, "uv", rounds=1),
            job("install-incremental", "vrfstore", "uv", rounds=1),
            job("first-import-warm", "vrfstore", "uv", rounds=1),
            job("at-once", "vrfstore", "uv", sizes=(2,), rounds=1),
            job("disk", OFF, "uv", sizes=(1, 2), rounds=1),
            job("delete", "vrfstore", "uv", rounds=1),
        )
        about = machine(scratch)

    warm = found["install-warm", "uv"]
    assert sorted(warm.rounds) == [0, 1]
    for figures in warm.rounds.values():
        assert figures["wall"] == pytest.approx(figures["venv"] + figures["install"])
        assert figures["processor"] > 0
        assert 1e6 < figures["peak"] < 1e9
    assert {"first", "second", "install"} <= found["first-import-warm", "vrfstore"].rounds[0].keys()
    assert found["at-once-2", "uv"].values("wall")[0] > 0
    disk = {tool: found["disk", tool].rounds[0] for tool in (OFF, "uv")}
    for figures in disk.values():
        assert figures["inodes each"] == figures["inodes of 2"] - figures["inodes of 1"]
    assert described(wheels.files).wheels == 2

    run = Run(
        name="tried", effort="quick", began="", seconds=1.0, commit={"id": "", "dirty": False}, machine=about,
        tools={}, workloads={}, series=tuple(found.values()),
    )  # fmt: skip
    compare.write(run, tmp_path / "results", pictures=None)
    written = json.loads((tmp_path / "results/tried.json").read_text())
    assert Run.from_json(written) == run
    assert (tmp_path / "results/tried.md").read_text() == markdown(run)


def test_a_tool_that_is_not_there_fails_and_the_others_go_on(wheels: Wheels, tmp_path: Path) -> None:
    with scratch_directory(tmp_path) as scratch:
        found, _ = measure([job("install-cold", OFF, "pex --venv", rounds=1)], wheels, scratch)
    assert [(each.key.tool, len(each.rounds), bool(each.failure)) for each in found] == [
        (OFF, 1, False),
        ("pex --venv", 0, True),
    ]


def test_what_there_is_no_time_for_is_said(wheels: Wheels, tmp_path: Path) -> None:
    with scratch_directory(tmp_path) as scratch:
        found, left_out = measure([job("install-cold", OFF)], wheels, scratch, seconds=0.0)
    assert found == []
    assert left_out == ["install-cold on fruit: the time was up"]


def command(tmp_path: Path, program: str) -> Command:
    return Command(
        words=("/bin/sh", "-c", program), variables={"PATH": "/bin:/usr/bin"}, directory=str(tmp_path)
    )


def test_commands_are_measured_as_whole_trees(tmp_path: Path) -> None:
    with spawner() as spawning:
        two = spawning.run(command(tmp_path, "sleep 0.2"), command(tmp_path, "sleep 0.2; echo said"))
        assert 0.2 <= two.wall < 0.4
        busy = "i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done"
        assert spawning.run(command(tmp_path, f"/bin/sh -c '{busy}'; true")).processor > 0
        left = spawning.run(command(tmp_path, "sleep 0.3 & true"), after="wait")
        assert left.wall < 0.3 <= left.wall + left.after
        killed = spawning.run(command(tmp_path, "(sleep 60; true) & true"), after="kill")
        assert killed.wall + killed.after < 30
        with pytest.raises(CommandError) as caught:
            spawning.run(command(tmp_path, "echo first; echo last >&2; exit 3"))
        assert caught.value.line == "last"
        with pytest.raises(CommandError, match="exit code 1") as caught:
            spawning.run(command(tmp_path, "echo 'error: no such thing'; echo '  hint: another'; exit 1"))
        assert caught.value.line == "error: no such thing"
        # It is there for the next one all the same.
        assert spawning.run(command(tmp_path, "echo here")).output == "here\n"


def test_sealed_trees_are_removed(tmp_path: Path) -> None:
    sealed = tmp_path / "sealed"
    (sealed / "inner").mkdir(parents=True)
    (sealed / "inner/file").write_text("")
    (sealed / "inner").chmod(0o555)
    remove([sealed], pause=False)
    assert not sealed.exists()


def test_pins_are_those_of_the_wheels(wheels: Wheels) -> None:
    assert pins_of(wheels.files) == ["apple==1.0", "pear==1.0"]
