"""pip and uv find the same for a table of small sets; the tool that compares real ones finds what differs."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import pytest

import resolvers
from resolvers import Answer, Outcome, RequirementSet, Summary, Wheel
from support.index import Index
from support.wheels import WheelSpec, build_wheel
from vrfstore.interpreter import default_executable
from vrfstore.model import LinkOptions
from vrfstore.requirements.policy import Policy
from vrfstore.requirements.solution import ResolverName
from vrfstore.runner.lock import lock
from vrfstore.store.store import Store


def spec(name: str, version: str = "1.0", *requires: str, **rest: str) -> WheelSpec:
    return WheelSpec(name=name, version=version, requires=requires, **rest)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is asked for, what the index and the base have, and the file names of what a resolver is to find."""

    asked: Sequence[str]
    index: Sequence[WheelSpec]
    base: Sequence[WheelSpec] = ()
    found: Sequence[str]


PEARS = (spec("pear"), spec("pear", "2.0"))
BETA = (spec("pear"), spec("pear", "2.0b1"), spec("plum", "1.0", "pear>=1.0b1"))
EXCLUSIVE = (
    spec("pear", "1.0", "fig"), spec("pear", "2.0", "fig<2"),
    spec("plum", "1.0", "fig"), spec("plum", "2.0", "fig>=2"),
    spec("fig", "1.0"), spec("fig", "2.0"),
)  # fmt: skip

ALIKE = {
    "the newest": Case(asked=["pear"], index=PEARS, found=["pear-2.0"]),
    "an upper bound": Case(asked=["pear<2"], index=PEARS, found=["pear-1.0"]),
    "a lower bound of Python": Case(
        asked=["pear"], index=[spec("pear"), spec("pear", "2.0", requires_python=">=3.99")], found=["pear-1.0"]
    ),
    "sets that exclude each other": Case(
        asked=["pear", "plum"], index=EXCLUSIVE, found=["fig-1.0", "pear-2.0", "plum-1.0"]
    ),
    "the highest build tag": Case(
        asked=["pear"],
        index=[spec("pear"), spec("pear", build="2"), spec("pear", build="10a"), spec("pear", build="9")],
        found=["pear-1.0-10a"],
    ),
    "a local version": Case(asked=["pear==1.0"], index=[*PEARS, spec("pear", "1.0+cpu")], found=["pear-1.0+cpu"]),
    "no pre-release": Case(asked=["pear"], index=BETA, found=["pear-1.0"]),
    "a pre-release as lower bound": Case(asked=["pear>=1.0b1"], index=BETA, found=["pear-2.0b1"]),
    "a pre-release as upper bound": Case(asked=["pear<2.1b1"], index=BETA, found=["pear-2.0b1"]),
    "a pre-release excluded": Case(asked=["pear!=1.0b1"], index=BETA, found=["pear-1.0"]),
    "a pre-release for others": Case(
        asked=["pear", "pear>=1.0b1; python_version < '3'"], index=BETA, found=["pear-1.0"]
    ),
    "a pre-release asked for twice": Case(
        asked=["plum", "pear>=1.0b1"], index=BETA, found=["pear-2.0b1", "plum-1.0"]
    ),
    "nothing but pre-releases": Case(
        asked=["plum"], index=[spec("pear", "1.0b1"), spec("plum", "1.0", "pear")], found=["pear-1.0b1", "plum-1.0"]
    ),
    "the base fits": Case(asked=["pear"], index=PEARS, base=[spec("pear")], found=[]),
    "the base does not fit": Case(asked=["pear>1"], index=PEARS, base=[spec("pear")], found=["pear-2.0"]),
    "the base has a newer one": Case(asked=["pear"], index=PEARS, base=[spec("pear", "3.0")], found=[]),
    "the base has a pre-release": Case(
        asked=["plum"],
        index=[*PEARS, spec("plum", "1.0", "pear>=1")],
        base=[spec("pear", "3.0.dev1")],
        found=["plum-1.0"],
    ),
    "the base has a local version": Case(asked=["pear==1.0"], index=PEARS, base=[spec("pear", "1.0+cpu")], found=[]),
    "the base lacks a part": Case(
        asked=["pear"], index=[*PEARS, spec("fig")], base=[spec("pear", "1.5", "fig")], found=["fig-1.0"]
    ),
    "the base limits others": Case(
        asked=["plum"],
        index=[*EXCLUSIVE[4:], spec("pear"), spec("plum", "1.0", "pear", "fig")],
        base=[spec("pear", "1.5", "fig<2")],
        found=["fig-1.0", "plum-1.0"],
    ),
    "the base is in the way": Case(
        asked=["pear", "plum"],
        index=[*EXCLUSIVE[4:], spec("plum", "1.0", "fig>=2")],
        base=[spec("pear", "1.0", "fig"), spec("fig", "1.0")],
        found=["fig-2.0", "plum-1.0"],
    ),
}  # fmt: skip


@pytest.fixture
def locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Case], Mapping[str, list[str]]]:
    """Give a function that locks a case with both resolvers and returns the file names, without tags."""

    def run(case: Case) -> Mapping[str, list[str]]:
        file = tmp_path / "requirements.vrf"
        file.write_text("".join(f"{line}\n" for line in case.asked))
        python = base_with(case.base, tmp_path) if case.base else default_executable()
        with Index(case.index) as index:
            monkeypatch.setenv("PIP_INDEX_URL", index.url)
            return {
                name: found(name, file, python, isolated=not case.base) for name in get_args(ResolverName)
            }

    def found(name: ResolverName, file: Path, python: str, *, isolated: bool) -> list[str]:
        result = lock(
            [str(file)],
            python=python,
            # What a store knows is no longer resolved.
            store=Store.open(tmp_path / f"store-{name}"),
            options=LinkOptions(isolated=isolated),
            policy=Policy(resolver=name),
        )
        return [wheel.filename.removesuffix("-py3-none-any.whl") for wheel in result.lock.wheels]

    return run


def base_with(specs: Sequence[WheelSpec], directory: Path) -> str:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", directory / "base"], check=True)
    (site,) = directory.glob("base/lib/python*/site-packages")
    for each in specs:
        with zipfile.ZipFile(build_wheel(each, directory)) as wheel:
            wheel.extractall(site)
    return str(directory / "base/bin/python")


@pytest.mark.parametrize("name", ALIKE)
def test_both_find_the_same(name: str, locked: Callable[[Case], Mapping[str, list[str]]]) -> None:
    assert locked(ALIKE[name]) == {"pip": list(ALIKE[name].found), "uv": list(ALIKE[name].found)}


UNLIKE = {
    # "uv only considers lower bounds": of the versions of Python that a package says it is for.
    "an upper bound of Python": (
        Case(
            asked=["pear"],
            index=[spec("pear"), spec("pear", "2.0", requires_python=">=3.8,<3.11")],
            found=["pear-1.0"],
        ),
        ["pear-2.0"],
    ),
    # To uv a release is better than any pre-release, unless that is asked for at the top.
    "a pre-release that a dependency names": (
        Case(asked=["plum"], index=BETA, found=["pear-2.0b1", "plum-1.0"]),
        ["pear-1.0", "plum-1.0"],
    ),
    # uv goes by what the index says of a version that both have.
    "a base that needs less than the index says": (
        Case(asked=["pear"], index=[spec("pear", "1.0", "fig"), spec("fig")], base=[spec("pear")], found=[]),
        ["fig-1.0"],
    ),
}


@pytest.mark.parametrize("name", UNLIKE)
def test_what_is_known_to_differ_still_does(
    name: str, locked: Callable[[Case], Mapping[str, list[str]]]
) -> None:
    case, by_uv = UNLIKE[name]
    assert locked(case) == {"pip": list(case.found), "uv": by_uv}


def test_an_older_uv_is_not_asked_for_what_it_does_not_know(
    locked: Callable[[Case], Mapping[str, list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda _: "0.12.0")
    assert locked(ALIKE["a pre-release as lower bound"])["uv"] == ["pear-1.0"]


# --- the tool

ONE, TWO = (Wheel("pear", f"{n}.0", f"pear-{n}.0-py3-none-any.whl", f"{n}" * 64) for n in (1, 2))
FIG = Wheel("fig", "1.0", "fig-1.0-py3-none-any.whl", "3" * 64)


def answers(pip: Sequence[Wheel], uv: Sequence[Wheel]) -> dict[str, Answer]:
    return {"pip": Answer(code=0, wheels=tuple(pip)), "uv": Answer(code=0, wheels=tuple(uv))}


def test_equal_locks_do_not_differ() -> None:
    assert resolvers.different_wheels(answers([FIG, ONE], [FIG, ONE])) == {}


def test_locks_differ_by_version_by_bytes_and_by_what_one_does_not_have() -> None:
    assert resolvers.different_wheels(answers([FIG, ONE], [TWO])) == {
        "fig": "pip fig-1.0-py3-none-any.whl (333333333333…); uv nothing",
        "pear": "pip pear-1.0-py3-none-any.whl (111111111111…); uv pear-2.0-py3-none-any.whl (222222222222…)",
    }
    other = Wheel("fig", "1.0", FIG.filename, "4" * 64)
    assert list(resolvers.different_wheels(answers([FIG], [other]))) == ["fig"]


def test_a_lock_brings_what_does_not_fit_and_nothing_else_of_the_base() -> None:
    asked = RequirementSet(name="set", requirements=("pear",), fits=("fig==0.9",), misfits=("pear==0.5",))
    assert resolvers.different_base(answers([ONE], [ONE]), asked) == {}
    assert resolvers.different_base(answers([FIG, ONE], []), asked) == {
        "fig": "0.9 of the base fits, and pip brings 1.0",
        "pear": "0.5 of the base does not fit, and uv brings none",
    }


def test_whoever_does_not_end_as_expected_is_named() -> None:
    found = {"pip": Answer(code=11, error="no"), "uv": Answer(code=0)}
    assert resolvers.different_answers(found, 0) == ["pip: exit 11, where 0 was to be: no"]
    assert resolvers.different_answers(found, 11) == ["uv: exit 0, where 11 was to be: "]


@pytest.mark.parametrize(
    ("explained", "expected"),
    [
        ({}, ("fig: a\npear: b", "")),
        ({"wheels:pear": "why"}, ("fig: a", "")),
        ({"wheels:pear": "why", "wheels:f*": "how"}, ("fig: a\npear: b", "how; why")),
        ({"wheels": "why"}, ("fig: a\npear: b", "why")),
        ({"base": "why", "base:fig": "why"}, ("fig: a\npear: b", "")),
    ],
    ids=["nothing", "one of two", "both", "the label", "another label"],
)
def test_what_is_explained_by_name_leaves_the_rest(
    explained: Mapping[str, str], expected: tuple[str, str]
) -> None:
    assert resolvers.explain({"fig": "a", "pear": "b"}, "wheels", explained) == expected


def test_the_table_has_a_row_for_each_base() -> None:
    summary = Summary(
        [
            Outcome(python="3.12.1", name="a", base="isolated", label="resolvers", seconds={"pip": 2.4, "uv": 1}),
            Outcome(python="3.12.1", name="a", base="isolated", label="wheels", wheels=7, difference="x"),
            Outcome(python="3.12.1", name="a", base="base", label="wheels", wheels=5, difference="x", explained="y"),
        ]
    )  # fmt: skip
    heading, *rows = (line.split() for line in str(summary).splitlines())
    assert heading[:4] == ["python", "base", "sets", "wheels"]
    assert rows == [
        ["3.12.1", "isolated", "1", "7", "2", "1", "0", "1", "2", "1"],
        ["3.12.1", "base", "1", "5", "1", "0", "1", "0", "0", "0"],
    ]
    assert [one.base for one in summary.unexplained] == ["isolated"]


def test_a_set_with_an_unknown_key_is_refused(tmp_path: Path) -> None:
    data = tmp_path / "sets.toml"
    data.write_text('[[set]]\nname = "a"\nrequirements = ["pear"]\nfit = ["fig==1"]\n')
    with pytest.raises(ValueError, match="a: fit is not known"):
        resolvers.read_sets(data)


SETS = """
[[set]]
name = "good"
requirements = ["pear"]
fits = ["fig==1.0"]
misfits = ["pear==1.0"]

[[set]]
name = "contradiction"
requirements = ["pear<2", "pear>=2"]
refused = 11

[[set]]
name = "bound"
requirements = ["plum"]

[[set]]
name = "explained"
requirements = ["plum"]
[set.explained]
"wheels:plum" = "uv goes by lower bounds only"
"pip check:uv" = "and so it does not fit"

[[set]]
name = "no base"
requirements = ["pear"]
fits = ["cherry==1.0"]
"""


@pytest.fixture
def data(index: Index, tmp_path: Path) -> Path:
    """The file of sets, and an index that has what they ask for."""
    for each in (
        spec("pear"),
        spec("pear", "2.0", "fig"),
        spec("fig"),
        spec("plum"),
        spec("plum", "2.0", requires_python=">=3.8,<3.11"),
    ):
        index.add(each)
    path = tmp_path / "sets.toml"
    # Of pear the base has what no set can do with.
    path.write_text(SETS.replace('requirements = ["pear"]', 'requirements = ["pear>=2"]', 1))
    return path


def examined(data: Path, out: Path, *names: str) -> tuple[int, dict[tuple[str, str, str], dict[str, object]]]:
    only = [word for name in names for word in ("--only", name)]
    python = ["--python", default_executable(), "--jobs", "1"]
    code = resolvers.main(["--data", str(data), "--json", str(out), *python, *only])
    found = json.loads(out.read_text())
    return code, {(one["name"], one["base"], one["label"]): one for one in found}


def test_the_tool_is_content_with_sets_that_are_as_they_should_be(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found = examined(data, tmp_path / "out.json", "good", "contradiction", "explained")
    said = capsys.readouterr().out
    assert code == 0, said
    assert {place: one["wheels"] for place, one in found.items() if one["wheels"]} == {
        ("good", "isolated", "wheels"): 2,
        ("good", "base", "wheels"): 1,
        ("explained", "isolated", "wheels"): 2,
        ("explained", "base", "wheels"): 2,
    }
    assert {place for place in found if place[0] == "good"} == {
        ("good", "isolated", "resolvers"), ("good", "isolated", "wheels"), ("good", "isolated", "pip check"),
        ("good", "base", "resolvers"), ("good", "base", "wheels"), ("good", "base", "base"),
        ("good", "base", "pip check"),
    }  # fmt: skip
    assert {label for name, _, label in found if name == "contradiction"} == {"resolvers"}
    bound = found["explained", "isolated", "pip check"]
    assert str(bound["difference"]).startswith("uv: exit 18: not every wheel fits Python")
    assert bound["explained"] == "and so it does not fit"
    assert "    isolated, wheels: explained: uv goes by lower bounds only\n" in said


def test_the_tool_names_what_differs_and_fails(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found = examined(data, tmp_path / "out.json", "bound", "no base")
    assert code == 1
    said = capsys.readouterr().out
    assert f"BAD {sys.version.split()[0]} bound: pip " in said
    assert "    isolated, wheels: differs\n        plum: pip plum-1.0-py3-none-any.whl (" in said
    assert "cherry" in str(found["no base", "base", "base"]["difference"])
    assert ("no base", "base", "wheels") not in found


def test_pip_tells_what_is_wrong_with_an_environment(data: Path, index: Index, tmp_path: Path) -> None:
    # The base needs a fig that the set does not allow: neither resolver looks at who else uses it.
    base = base_with([spec("quince", "1.0", "fig<1"), spec("fig", "0.5")], tmp_path)
    file = tmp_path / "requirements.vrf"
    file.write_text("fig>=1\n")
    options = ["--python", base]
    assert resolvers.lock("uv", file, options, tmp_path).code == 0
    told = resolvers.complaints(tmp_path / "store", tmp_path / "uv/pylock.toml", options)
    assert told == "quince 1.0 has requirement fig<1, but you have fig 1.0."


def test_a_set_that_is_not_there_is_a_mistake(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        resolvers.main(["--data", str(data), "--only", "lemon"])
    assert "there is no set lemon" in capsys.readouterr().err


def test_the_data_names_every_set_once_and_pins_every_base() -> None:
    sets = resolvers.read_sets()
    assert len({each.name for each in sets}) == len(sets) >= 12
    for each in sets:
        pins = (*each.fits, *each.misfits)
        assert pins, each.name
        assert all(pin.count("==") == 1 for pin in pins), each.name
        assert all(why for why in each.explained.values()), each.name


@pytest.mark.network
@pytest.mark.slow
def test_both_find_the_same_for_a_sample_of_real_sets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found = examined(resolvers.DATA, tmp_path / "out.json", "black", "conflict")
    assert code == 0, capsys.readouterr().out
    assert {name for name, _, _ in found} == {"black", "conflict"}


def test_the_tool_runs_as_a_program() -> None:
    command = [sys.executable, resolvers.__file__, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "every one found that our pip runs on" in done.stdout
