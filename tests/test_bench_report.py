"""What is said of a run of the comparison: figures, ratios, floors, tables, and what is planned; all of it pure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comparison import micro
from comparison.figures import Spread, ratio, spread
from comparison.floors import FLOORS, Floor, judge
from comparison.model import FORMAT, Key, Run, Series, Workload
from comparison.planning import EFFORTS, plan, seconds_for
from comparison.processes import CommandError
from comparison.report import markdown, seconds, size
from comparison.rounds import Contender, take_turns
from comparison.scenarios import SCENARIOS
from comparison.tools import BARE, FROM_LOCK, IN_PROCESS, NODE, TOOLS
from comparison.workloads import LOCKS, SETS, without

TIMES = st.lists(st.floats(0.001, 1000), min_size=1, max_size=20)
FASTER = Floor(
    what="a link", against="uv", wanted="5 times faster", factor=5.0,
    scenario="install-warm", workload="flask", ours="vrfstore", theirs="uv",
)  # fmt: skip


def key(tool: str, scenario: str = "install-warm", workload: str = "flask") -> Key:
    return Key(scenario=scenario, workload=workload, tool=tool)


def series(tool: str, *walls: float, failure: str = "", scenario: str = "install-warm") -> Series:
    rounds = {number: {"wall": wall, "processor": wall / 2, "peak": 2e7} for number, wall in enumerate(walls)}
    return Series(key=key(tool, scenario), rounds=rounds, failure=failure)


def run(*every: Series, left_out: Sequence[str] = (), dirty: bool = False) -> Run:
    return Run(
        name="tried",
        effort="quick",
        began="2026-01-01T00:00:00+00:00",
        seconds=90.0,
        commit={"id": "0123456789abcdef", "dirty": dirty},
        machine={
            "kernel": "6.1", "file_system": "ext4", "processors": 2, "processor": "Some Model", "memory": 8_000_000_000,
            "load": [0.1, 0.2, 0.3],
        },
        tools={"uv": "uv 1.0"},
        workloads={"flask": Workload(wheels=7, packed=640_000, files=182, unpacked=2_200_000)},
        series=every,
        left_out=tuple(left_out),
    )  # fmt: skip


def row(text: str, begin: str) -> str:
    """The row of a table that begins so, the first of them."""
    return next(line for line in text.splitlines() if line.startswith(f"| {begin} |"))


@given(TIMES)
def test_a_median_lies_between_its_quartiles_and_these_between_the_extremes(times: list[float]) -> None:
    found = spread(times)
    assert found is not None
    assert min(times) <= found.low <= found.median <= found.high <= max(times)
    assert found.count == len(times)


def test_nothing_has_no_median_and_one_value_has_no_spread() -> None:
    assert spread([]) is None
    assert spread([2.0]) == Spread(low=2.0, median=2.0, high=2.0, count=1)


@given(TIMES)
def test_what_takes_twice_as_long_in_every_round_takes_twice_as_long(times: list[float]) -> None:
    found = ratio(series("vrfstore", *times), series("uv", *(2 * time for time in times)), "wall")
    assert found is not None
    assert found.median == pytest.approx(2)
    assert (found.low, found.high) == pytest.approx((2, 2))


def test_ratios_are_pair_by_pair_and_only_of_rounds_that_both_have() -> None:
    ours = Series(key=key("vrfstore"), rounds={0: {"wall": 1.0}, 1: {"wall": 10.0}, 3: {"wall": 1.0}})
    theirs = Series(key=key("uv"), rounds={0: {"wall": 4.0}, 1: {"wall": 20.0}, 2: {"wall": 9.0}})
    # The ratio of the medians would be 9: round 2 has no partner, and a slow round is slow for both.
    assert ratio(ours, theirs, "wall") == Spread(low=2.5, median=3.0, high=3.5, count=2)
    assert ratio(ours, theirs, "inodes") is None


def test_a_run_survives_json() -> None:
    found = run(series("vrfstore", 1.0, 2.0), series("pex --venv", failure="no"), left_out=["a"])
    assert Run.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_results_of_another_format_are_refused() -> None:
    value = run().to_json() | {"format": FORMAT + 1}
    with pytest.raises(ValueError, match="format"):
        Run.from_json(value)


@pytest.mark.parametrize(
    ("theirs", "met"), [((5.0, 5.0, 5.0), True), ((4.9, 4.9, 4.9), False), ((1.0, 6.0, 6.0), True)]
)
def test_a_floor_is_met_by_the_median_of_the_ratios(theirs: Sequence[float], met: bool) -> None:
    (judged,) = judge(run(series("vrfstore", 1.0, 1.0, 1.0), series("uv", *theirs)), [FASTER])
    assert judged.met is met


def test_a_floor_says_why_it_could_not_be_judged() -> None:
    assert [each.why for each in judge(run(series("vrfstore", 1.0)), [FASTER])] == ["not measured"]
    failed = run(series("vrfstore", 1.0), series("uv", failure="error: no"))
    (judged,) = judge(failed, [FASTER])
    assert (judged.met, judged.why) == (None, "uv failed")


def test_the_table_of_floors_says_which_are_not_met() -> None:
    found = run(series("vrfstore", 1.0), series("uv", 4.0))
    assert row(markdown(found, floors=[FASTER]), "a link").endswith("| 4.00 times less | **not met** |")
    lost = run(series("vrfstore", 1.0), series("uv", 0.5))
    assert "| 2.00 times more | **not met** |" in row(markdown(lost, floors=[FASTER]), "a link")


def test_the_table_says_what_is_won_and_what_is_lost() -> None:
    text = markdown(run(series("vrfstore", 1.0), series("uv", 4.0), series("uv, symlinks", 0.5)))
    assert "4.00 times faster" in row(text, "uv")
    assert "**2.00 times slower**" in row(text, "uv, symlinks")
    assert row(text, "vrfstore").startswith("| vrfstore | 1.00 s | 1.00 s to 1.00 s | 1 |  |")


def test_the_spread_of_what_is_lost_is_said_from_the_same_side() -> None:
    text = markdown(run(series("vrfstore", 1.0, 1.0, 1.0), series("uv", 0.2, 0.25, 0.5)))
    assert "**4.00 times slower** (2.67 to 4.44)" in row(text, "uv")


def test_floors_of_sets_that_are_left_out_are_only_counted() -> None:
    text = markdown(run(series("vrfstore", 1.0)))
    about_flask = [floor for floor in FLOORS if floor.workload == "flask"]
    assert f"{len(FLOORS) - len(about_flask)} floors are about sets" in text
    assert text.count("| not measured |") == len(about_flask)


def test_what_compiles_is_compared_with_what_compiles() -> None:
    cold = "install-cold"
    text = markdown(
        run(
            series("vrfstore --compile off", 1.0, scenario=cold),
            series("vrfstore --compile eager", 4.0, scenario=cold),
            series("uv", 2.0, scenario=cold),
            series("uv --compile-bytecode", 2.0, scenario=cold),
        )
    )
    assert "2.00 times faster" in row(text, "uv")
    assert "**2.00 times slower**, eager" in row(text, "uv --compile-bytecode")


def test_a_tool_that_failed_is_shown_with_its_last_line() -> None:
    text = markdown(run(series("vrfstore", 1.0), series("pex --venv", failure="error: a|b")))
    assert row(text, "pex --venv").startswith("| pex --venv | failed: error: a¦b |")
    later = markdown(run(series("vrfstore", 1.0, 1.0), series("uv", 2.0, failure="error: late")))
    assert "| uv (then failed: error: late) | 2.00 s |" in later


def test_figures_of_the_disk_are_numbers_and_bytes_and_smaller_is_better() -> None:
    both = [
        Series(key=key(tool, "disk"), rounds={0: {"bytes of 1": bytes_, "inodes of 1": inodes}})
        for tool, bytes_, inodes in (("vrfstore --compile off", 1e6, 2_500.0), ("uv", 3e6, 25_000.0))
    ]
    text = markdown(run(*both))
    assert "| uv | 3.00 MB | 3.00 MB to 3.00 MB | 1 | 3.00 times smaller | 25,000 |" in text


def test_all_rows_of_a_table_have_as_many_cells_as_its_head() -> None:
    found = run(
        series("vrfstore", 1.0, 1.5),
        series("uv", 2.0),
        series("pex --venv", failure="no"),
        series("uv", 1.0, scenario="at-once-8"),
        left_out=["gc on trio: the time was up"],
    )
    text = markdown(found, drawings=["tried-hit.svg"])
    for block in text.split("\n\n"):
        if block.startswith("|"):
            assert len({line.count("|") for line in block.splitlines()}) == 1
    assert "at-once: 8 side by side" in text
    assert "- gc on trio: the time was up" in text
    assert "![tried-hit](tried-hit.svg)" in text


def test_the_report_names_the_commit_and_what_it_ran_on() -> None:
    text = markdown(run(dirty=True))
    assert "commit 0123456789ab, with changes that are not committed" in text
    assert "kernel 6.1, ext4, 2 processors (Some Model), 8.00 GB of memory, load 0.1 0.2 0.3" in text
    assert "flask: 7 wheels of 640 kB, 182 files of 2.20 MB" in text


@pytest.mark.parametrize(
    ("value", "text"), [(0.0000005, "0.50 µs"), (0.0123, "12.3 ms"), (0.9, "900 ms"), (64.0, "64.0 s")]
)
def test_times_are_written_with_three_digits(value: float, text: str) -> None:
    assert seconds(value) == text


@pytest.mark.parametrize(("value", "text"), [(12, "12.0 B"), (25_300, "25.3 kB"), (4.2e9, "4.20 GB")])
def test_sizes_are_written_with_three_digits(value: float, text: str) -> None:
    assert size(value) == text


@pytest.mark.parametrize("effort", EFFORTS)
def test_a_plan_measures_nothing_twice_and_knows_all_its_words(effort: str) -> None:
    jobs = plan(effort)
    keys = [(job.scenario, job.workload, tool) for job in jobs for tool in job.tools]
    assert len(set(keys)) == len(keys)
    assert {job.scenario for job in jobs} <= SCENARIOS.keys()
    assert {job.workload for job in jobs} <= SETS.keys()
    assert {tool for job in jobs for tool in job.tools} <= {*TOOLS, BARE, FROM_LOCK, IN_PROCESS, NODE}
    assert all(job.sizes for job in jobs if job.scenario in {"at-once", "disk", "store-size"})


def test_the_usual_plan_and_the_full_one_measure_what_every_floor_needs() -> None:
    for effort in ("usual", "full"):
        planned = {(job.scenario, job.workload, tool) for job in plan(effort) for tool in job.tools}
        for floor in FLOORS:
            assert {(floor.scenario, floor.workload, tool) for tool in (floor.ours, floor.theirs)} <= planned
    assert seconds_for("full") is None


def test_every_workload_has_a_lock_with_hashes() -> None:
    for name in SETS:
        text = (LOCKS / f"{name}.txt").read_text()
        assert text.count("==") > 5
        assert text.count("==") <= text.count("--hash=sha256:")


@given(st.integers(2, 40), st.integers(0, 200))
def test_sets_that_share_most_packages_lack_one_or_two(count: int, number: int) -> None:
    pins = [f"p{place}==1" for place in range(count)]
    found = without(pins, number)
    assert set(found) < set(pins)
    assert count - 2 <= len(found) < count


def test_as_many_sets_as_there_are_pairs_of_pins_are_different() -> None:
    pins = [f"p{place}==1" for place in range(20)]
    assert len({tuple(without(pins, number)) for number in range(100)}) == 100


def contender(tool: str, turns: list[str], *, rounds: int | None = None, fails_in: int = -1) -> Contender:
    def take(number: int) -> Mapping[str, float]:
        turns.append(f"{tool}{number}")
        if number == fails_in:
            raise CommandError(("tool",), 1, "first\nlast line\n", "/scratch")
        return {"wall": 1.0}

    return Contender(key=key(tool), run=take, rounds=rounds)


def turns_of(
    *rounds: int | None, fails_in: int = -1, until: float = math.inf, tick: float = 0.0
) -> tuple[str, list[Series]]:
    turns: list[str] = []
    time = iter(range(1000))
    contenders = [
        contender(tool, turns, rounds=each, fails_in=fails_in if tool == "a" else -1)
        for tool, each in zip("abc", rounds, strict=False)
    ]
    found = take_turns(contenders, 3, until=until, calm=lambda: None, clock=lambda: tick * next(time))
    return " ".join(turns), found


def test_turns_alternate_and_the_order_is_reversed_from_round_to_round() -> None:
    turns, found = turns_of(None, None)
    assert turns == "a0 b0 b1 a1 a2 b2"
    assert [sorted(each.rounds) for each in found] == [[0, 1, 2], [0, 1, 2]]


def test_slow_tools_take_part_in_fewer_rounds() -> None:
    assert turns_of(None, 1)[0] == "a0 b0 a1 a2"


def test_what_fails_is_not_asked_again_and_does_not_end_the_run() -> None:
    turns, found = turns_of(None, None, fails_in=1)
    assert turns == "a0 b0 b1 a1 b2"
    assert [(each.failure, len(each.rounds)) for each in found] == [("last line", 1), ("", 3)]


def test_when_the_time_is_up_no_further_round_is_begun_but_there_is_one() -> None:
    assert turns_of(None, until=0.0)[0] == "a0"
    assert turns_of(None, until=1.0, tick=1.0)[0] == "a0 a1"


def kept(least: float) -> dict[str, object]:
    found = {
        "machine_info": {"release": "6.1", "python_version": "3.11.7"},
        "benchmarks": [{"name": "test_the_plan", "stats": {"min": least, "median": 2 * least, "rounds": 5}}],
    }
    return micro.kept_of(found, {"id": "abc", "dirty": False})


def test_a_micro_benchmark_that_has_become_slower_is_named() -> None:
    text, slower = micro.compared(kept(0.2), kept(0.1), 1.5)
    assert slower == ["the_plan"]
    assert row(text, "the plan") == "| the plan | 200 ms | 400 ms | 100 ms | **2.00, slower** |"
    assert micro.compared(kept(0.14), kept(0.1), 1.5)[1] == []
    assert micro.compared(kept(0.2), None, 1.5)[1] == []
