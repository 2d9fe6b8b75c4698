"""The comparison with a venv of pip's finds what differs; a sample of the distributions does not."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import pytest

import parity
from parity import Answer, Case, Outcome, Pin, Place, Summary
from support.pythons import pythons
from support.wheels import WheelSpec, build_wheel
from vrfstore.interpreter import default_executable

PEAR = WheelSpec(
    name="Pear-Tree",
    version="1.5",
    files={
        "pear/__init__.py": "import sys\n\ndef main():\n    print(sys.prefix)\n    sys.exit(3)\n",
        "pear/data/inner.txt": "inner\n",
        "pear/program": "#!/bin/sh\nexit 0\n",
        "orchard/pear.py": "",
        "pear_more.py": "",
    },
    data={
        "data/share/pear/x.txt": "x",
        "data/etc/pear.conf": "a = 1\n",
        "headers/pear.h": "/* pear */\n",
        "scripts/pear-sh": "#!/bin/sh\nexit 0\n",
        "scripts/pear-py": "#!python\nprint(1)\n",
    },
    executable=("pear/program", "scripts/pear-sh", "scripts/pear-py"),
    requires=("plum",),
    entry_points={"console_scripts": {"pear": "pear:main"}, "fruit": {"pear": "pear:main"}},
)

PLUM = WheelSpec(name="plum", files={"plum/__init__.py": "", "orchard/plum.py": ""})

LEMON = WheelSpec(name="lemon", files={"pear/__init__.py": "other = 1\n"})

CASE = Case(
    name="pear-tree",
    requirements=("pear-tree",),
    imports=("pear", "orchard", "orchard.pear", "orchard.plum"),
    checks=("import pear, os; print(os.listdir(os.path.join(os.path.dirname(pear.__file__), 'data')))",),
    commands=("pear", "pear-sh", "pear-py"),
)

LABELS = ["files", "metadata", "pip list", "imports", "check 1", "pear", "pear-sh", "pear-py"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, Place]:
    """Both environments of the case, the venv to be changed; made once, because it takes seconds."""
    scratch = tmp_path_factory.mktemp("made")
    links = scratch / "links"
    links.mkdir()
    for spec in (PEAR, PLUM):
        build_wheel(spec, links)
    python = default_executable()
    environment, wheels = parity.link(python, CASE, links, scratch / "store", scratch)
    assert sorted(wheel.name.partition("-")[0] for wheel in wheels) == ["pear_tree", "plum"]
    parity.make_reference(python, wheels, scratch / "venv")
    return Place(environment, scratch / "ours"), Place(scratch / "venv", scratch / "theirs")


def different(made: tuple[Place, Place], labels: Collection[str] = LABELS) -> dict[str, str]:
    """What differs, by label; only some are looked at, because each takes a few processes."""
    found = {"files": "\n".join(parity.compare_files(*made))}
    for label, look in parity.looks(CASE):
        if label in labels:
            found[label] = parity._difference(look(made[1])[1], look(made[0])[1])
    return {label: difference for label, difference in found.items() if difference}


def test_both_are_the_same(made: tuple[Place, Place]) -> None:
    outcomes = parity.compare("3.11.7", CASE, *made)
    assert [one.label for one in outcomes] == LABELS
    assert [one for one in outcomes if one.difference] == []
    assert [one.label for one in outcomes if one.failed] == ["pear"]


def site(venv: Path) -> Path:
    return next(venv.glob("lib/python*/site-packages"))


@pytest.fixture
def venv(made: tuple[Place, Place]) -> Iterator[Path]:
    """The venv, put back afterwards."""
    prefix = made[1].prefix
    kept = prefix.with_name("kept")
    shutil.copytree(prefix, kept, symlinks=True)
    yield prefix
    shutil.rmtree(prefix)
    kept.rename(prefix)


def change(path: str) -> Callable[[Path], None]:
    def action(venv: Path) -> None:
        place = next(venv.glob(path))
        place.write_text(place.read_text() + "#\n")

    return action


def remove(path: str) -> Callable[[Path], None]:
    return lambda venv: next(venv.glob(path)).unlink()


def write(path: str, text: str = "#!/bin/sh\n") -> Callable[[Path], None]:
    def action(venv: Path) -> None:
        directory, _, name = path.rpartition("/")
        (next(venv.glob(directory)) / name).write_text(text)

    return action


def set_mode(path: str, mode: int) -> Callable[[Path], None]:
    return lambda venv: next(venv.glob(path)).chmod(mode)


LIBRARY = "lib/python*/site-packages"

CHANGES: list[tuple[str, Callable[[Path], None], dict[str, str]]] = [
    ("a module", change(f"{LIBRARY}/pear_more.py"), {"files": "bytes: SITE/pear_more.py"}),
    (
        "data in a folded package",
        change(f"{LIBRARY}/pear/data/inner.txt"),
        {"files": "bytes: SITE/pear/data/inner.txt"},
    ),
    (
        "METADATA",
        change(f"{LIBRARY}/pear_tree-1.5.dist-info/METADATA"),
        {"files": "bytes: SITE/pear_tree-1.5.dist-info/METADATA"},
    ),
    (
        "data that ours alone has",
        remove("share/pear/x.txt"),
        {"files": "added: share/pear/x.txt", "metadata": '"../../../share/pear/x.txt": "missing"'},
    ),
    (
        "a header that ours alone has",
        remove("include/site/python*/*/pear.h"),
        {"files": "added: include/site/", "metadata": "pear.h"},
    ),
    ("a module that theirs alone has", write(f"{LIBRARY}/more.py"), {"files": "missing: SITE/more.py"}),
    ("a script that theirs alone has", write("bin/more"), {"files": "missing: bin/more"}),
    (
        "a file in a folded directory",
        write(f"{LIBRARY}/pear/data/more"),
        {"files": "missing: SITE/pear/data/more", "check 1": "more"},
    ),
    (
        "not executable",
        set_mode(f"{LIBRARY}/pear/program", 0o644),
        {"files": "executable: SITE/pear/program"},
    ),
    ("executable", set_mode(f"{LIBRARY}/pear_more.py", 0o755), {"files": "executable: SITE/pear_more.py"}),
    (
        "the portion of a namespace",
        remove(f"{LIBRARY}/orchard/plum.py"),
        {
            "files": "added: SITE/orchard/plum.py",
            "metadata": "orchard/plum.py",
            "imports": "orchard.plum ModuleNotFoundError",
        },
    ),
    (
        "entry points",
        remove(f"{LIBRARY}/pear_tree-1.5.dist-info/entry_points.txt"),
        {"files": "entry_points.txt", "metadata": '"fruit"'},
    ),
    (
        "a distribution",
        remove(f"{LIBRARY}/plum-1.0.dist-info/METADATA"),
        {
            "files": "added: SITE/plum-1.0.dist-info/METADATA",
            "metadata": '"name": "plum"',
            "pip list": "+plum 1.0",
        },
    ),
    (
        "the exit code of a script",
        write("bin/pear-sh", "#!/bin/sh\nexit 4\n"),
        {"files": "bytes: bin/pear-sh", "pear-sh": "-exit 4"},
    ),
    (
        "the output of a script",
        write("bin/pear-py", "#!/bin/sh\necho 2\n"),
        {"files": "bytes: bin/pear-py", "pear-py": "+1"},
    ),
    (
        "what a script complains of",
        write("bin/pear-sh", "#!/bin/sh\necho ouch >&2\n"),
        {"files": "bytes: bin/pear-sh", "pear-sh": "-stderr: ouch"},
    ),
    ("sys.path", write(f"{LIBRARY}/more.pth", "/usr\n"), {"files": "more.pth", "metadata": '"/usr"'}),
]


@pytest.mark.parametrize(
    ("action", "expected"), [row[1:] for row in CHANGES], ids=[row[0] for row in CHANGES]
)
def test_a_change_is_found(
    made: tuple[Place, Place], venv: Path, action: Callable[[Path], None], expected: dict[str, str]
) -> None:
    action(venv)
    found = different(made, expected)
    library = site(venv).relative_to(venv).as_posix()
    for label, difference in expected.items():
        assert difference.replace("SITE", library) in found[label]
    assert found.keys() == expected.keys()
    # What installers write in their own words is compared by what it does.
    assert not any("RECORD" in difference for difference in found.values())


def test_bytecode_and_what_installers_write_themselves_may_differ(
    made: tuple[Place, Place], venv: Path
) -> None:
    change(f"{LIBRARY}/plum-1.0.dist-info/INSTALLER")(venv)
    record = site(venv) / "plum-1.0.dist-info/RECORD"
    record.write_text(record.read_text() + "plum/__pycache__/more.pyc,,\n")
    (site(venv) / "plum/__pycache__").mkdir(exist_ok=True)
    write(f"{LIBRARY}/plum/__pycache__/more.pyc")(venv)
    assert different(made, ["metadata"]) == {}


def test_what_is_explained_is_told_apart(made: tuple[Place, Place], venv: Path) -> None:
    change(f"{LIBRARY}/pear_more.py")(venv)
    (venv / "bin/pear-sh").write_text("#!/bin/sh\nexit 4\n")
    some = Case(
        name="pear",
        requirements=(),
        commands=("pear-sh",),
        explained={"pear-sh": "why", "files:bin/*": "too"},
    )
    outcomes = {one.label: one for one in parity.compare("3.11.7", some, *made)}
    assert outcomes["pear-sh"].explained == "why"
    assert outcomes["files"].explained == ""
    assert outcomes["files"].difference.startswith("bytes: ")
    assert "pear-sh" not in outcomes["files"].difference
    all_of_it = Case(name="pear", requirements=(), explained={"files:bin/*": "too", "files:lib/*": "why"})
    (files, *_) = parity.compare("3.11.7", all_of_it, *made)
    assert files.explained == "too; why"
    assert not Summary([files]).unexplained


def test_two_answers_differ_by_place_only_in_nothing(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    (tmp_path / "link").symlink_to(real)
    place = Place(tmp_path / "link", tmp_path / "scratch")
    text = f"{tmp_path}/link/a {real}/a {tmp_path}/scratch/home <x at 0x7f0011223344> 0x12 in 0.35s, 1.2 ms"
    assert (
        place.equalised(text)
        == "<prefix>/a <prefix>/a <scratch>/home <x at <address>> 0x12 in <time>, <time>"
    )


def test_a_command_that_is_not_there_is_an_answer(made: tuple[Place, Place]) -> None:
    answer = made[0].run(["absent"])
    assert answer == Answer(-1, "", "absent: No such file or directory")


def test_a_command_that_does_not_end_is_an_answer(
    made: tuple[Place, Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity, "_SECONDS", 0.2)
    answer = made[0].run(["python", "-c", "import time; time.sleep(60)"])
    assert answer == Answer(-1, "", "still running after 0.2 s")


def test_a_key_that_is_not_known_is_refused() -> None:
    with pytest.raises(ValueError, match="pear: chekcs is not known"):
        Case.of({"name": "pear", "chekcs": []})


@pytest.mark.parametrize(
    "line", ["pear==1.0", "pear --hash=sha256:" + "0" * 64, "pear==1 --hash=sha256:0", "-r x"]
)
def test_a_line_that_pins_nothing_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "pins.txt").write_text(f"# pins\n{line}\n")
    with pytest.raises(ValueError, match="not a pin"):
        parity.read_pins(tmp_path / "pins.txt")


def test_the_summary_has_a_row_for_each_python_and_one_for_all() -> None:
    outcomes = [
        Outcome(python="3.9.1", case="pear", label="files"),
        Outcome(python="3.9.1", case="pear", label="imports", difference="x"),
        Outcome(python="3.13.1", case="pear", label="files", difference="x", explained="why"),
        Outcome(python="3.13.1", case="plum", label="imports", failed="exit 1"),
    ]
    rows = [line.split() for line in str(Summary(outcomes, {"3.9.1": 1.2, "3.13.1": 2.0})).splitlines()]
    assert rows[1:] == [
        ["3.9.1", "1", "2", "1", "0", "0", "1", "1"],
        ["3.13.1", "2", "2", "1", "1", "1", "0", "2"],
        ["all", "3", "4", "2", "1", "1", "1", "3"],
    ]


def test_the_data_are_consistent() -> None:
    cases = parity.read_cases()
    names = [case.name for case in cases]
    assert len(names) == len(set(names))
    assert len(names) > 100
    assert set(SAMPLE) <= set(names)
    for file in parity.DATA.glob("requirements-*.txt"):
        short = file.stem.removeprefix("requirements-")
        pins = parity.read_pins(file)
        pinned = {pin.requirement.partition("==")[0] for pin in pins}
        assert len(pinned) == len(pins)
        wanted = {one for case in cases if parity._is_for(case, f"{short}.0") for one in case.requirements}
        assert {one.lower().replace(".", "-") for one in wanted} <= pinned, file.name
    labels = {label for case in cases for label, _ in parity.looks(case)} | {"link"}
    for case in cases:
        assert {key for key in case.explained if not key.startswith("files:")} <= labels


TABLES = """
[[distribution]]
name = "pear-tree"
imports = ["pear"]
[[distribution]]
name = "both"
requirements = ["pear-tree", "lemon"]
refused = 19
[[distribution]]
name = "never"
pythons = "<3"
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Data files, and a cache beside them with the wheels they pin."""
    directory = tmp_path / "data"
    directory.mkdir()
    (directory / "distributions.toml").write_text(TABLES)
    (directory / "environments.toml").write_text("environment = []\n")
    pins = []
    for spec in (PEAR, PLUM, LEMON):
        wheel = build_wheel(spec, tmp_path)
        sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
        (tmp_path / "cache" / sha256).mkdir(parents=True)
        wheel.rename(tmp_path / "cache" / sha256 / wheel.name)
        name, version, _ = wheel.name.split("-", 2)
        pins.append(f"{name.replace('_', '-')}=={version} --hash=sha256:{sha256}")
    short = parity.short_version(parity.version_of(default_executable()))
    (directory / f"requirements-{short}.txt").write_text("\n".join(pins))
    return directory


def run(data: Path, *arguments: str) -> int:
    common = ["--data", str(data), "--cache", str(data.parent / "cache"), "--python", default_executable()]
    return parity.main([*common, "--json", str(data.parent / "out.json"), *arguments])


def test_the_tool_says_what_it_found_and_sums_up(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(data) == 0
    lines = capsys.readouterr().out.splitlines()
    version = parity.version_of(default_executable())
    assert {line.partition(":")[0] for line in lines[:2]} == {
        f"ok  {version} pear-tree",
        f"ok  {version} both",
    }
    assert lines[-1].split()[:4] == [version, "2", "5", "5"]
    outcomes = json.loads((data.parent / "out.json").read_text())
    assert sorted(one["label"] for one in outcomes) == ["files", "imports", "link", "metadata", "pip list"]


def test_a_case_that_is_not_linked_as_it_should_be_is_a_difference(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = TABLES.replace("refused = 19", "").replace('"pear"', '"pear", "absent"')
    (data / "distributions.toml").write_text(
        tables.replace('name = "pear-tree"', 'name = "pear-tree"\nrefused = 19')
    )
    assert run(data) == 1
    shown = capsys.readouterr().out
    assert "made, where exit 19 was to be" in shown
    assert "exit 19: " in shown
    assert "BAD" in shown


def test_one_case_can_be_asked_for(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(data, "--only", "both") == 0
    assert [line.split()[2] for line in capsys.readouterr().out.splitlines() if line.startswith("ok")] == [
        "both:"
    ]
    with pytest.raises(SystemExit):
        run(data, "--only", "absent")


def test_a_wheel_that_is_not_the_pinned_one_is_not_taken(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = default_executable()
    cache = tmp_path / "cache"
    (found,) = parity.fetch_for(python, [pin(cache, "plum")], ["plum"], cache)
    assert found.name == "plum-1.0-py3-none-any.whl"
    (tmp_path / "elsewhere").mkdir()
    build_wheel(PLUM, tmp_path / "elsewhere")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "elsewhere"))
    with pytest.raises(ValueError, match=r"not the pinned wheel: plum==1\.0"):
        parity.fetch_for(python, [Pin("plum==1.0", "0" * 64)], ["plum"], cache)


def pin(cache: Path, name: str) -> Pin:
    wheel = next(cache.glob(f"*/{name}-*.whl"))
    return Pin(f"{name}=={wheel.name.split('-')[1]}", wheel.parent.name)


SAMPLE = (
    "backports.tarfile",
    "enum34",
    "greenlet",
    "lazr.config",
    "pillow",
    "ruff",
    "setuptools",
    "zope.schema",
)
"""Small, and of different hazards: libraries, programs, headers, .pth files, namespaces of every kind."""


def sampled() -> list[str]:
    """The default interpreter, and the oldest there is."""
    known = {python: tuple(map(int, parity.version_of(python).split(".")[:2])) for python in pythons()}
    oldest = min(known, key=lambda python: known[python])
    return list(dict.fromkeys([default_executable(), oldest]))


@pytest.mark.network
@pytest.mark.slow
@pytest.mark.parametrize("python", sampled(), ids=parity.version_of)
def test_a_sample_is_as_pip_installs_it(
    python: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    only = [word for name in SAMPLE for word in ("--only", name)]
    code = parity.main(["--python", python, "--json", str(tmp_path / "out.json"), *only])
    assert code == 0, capsys.readouterr().out
    outcomes = json.loads((tmp_path / "out.json").read_text())
    assert {one["case"] for one in outcomes} == set(SAMPLE)


def test_the_tool_runs_as_a_program() -> None:
    done = subprocess.run(
        [sys.executable, parity.__file__, "--help"], capture_output=True, text=True, check=True
    )
    assert "where wheels are kept" in done.stdout
