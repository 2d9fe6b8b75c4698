"""The comparison with pip finds what differs; a sample of the corpus does not."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import corpus
from corpus import Difference, Listing, check, compare, entry_listing, installed_listing
from support.wheels import Member, WheelSpec, build_wheel
from vrfstore.store.store import Store

SPEC = WheelSpec(
    name="Pear-Tree",
    version="1.5",
    files={
        "pear/__init__.py": "import sys\n\ndef main():\n    sys.exit(3)\n",
        "pear/data.txt": "data\n",
        "pear/program": "#!/bin/sh\nexit 0\n",
        "pear/__pycache__/old.cpython-311.pyc": b"old",
        "pear.pth": "# nothing\n",
    },
    data={
        "data/share/pear/x.txt": "x",
        "data/etc/pear.conf": "a = 1\n",
        "headers/pear.h": "/* pear */\n",
        "purelib/pear_more.py": "",
        "scripts/pear-sh": "#!/bin/sh\nexit 0\n",
        "scripts/pear-py": "#!python\nprint(1)\n",
    },
    executable=("pear/program",),
    entry_points={"console_scripts": {"pear": "pear:main"}, "gui_scripts": {"pear-gui": "pear:main"}},
)


@pytest.fixture
def entry(store: Store, tmp_path: Path) -> Path:
    """The directory of an entry of every scheme."""
    plan = store.add(build_wheel(SPEC, tmp_path)).plan
    return Path(store.layout.of("entries", plan.reference.directory))


@pytest.fixture
def installed(tmp_path: Path, store: Store) -> Path:
    """A venv with the same wheel, as pip installs it; nothing else."""
    complaint, _ = corpus._installed_by_pip(build_wheel(SPEC, tmp_path), tmp_path / "venv", "pear-tree")
    assert complaint == ""
    return tmp_path / "venv"


def listings(entry: Path, venv: Path) -> tuple[Listing, Listing]:
    # What of a fresh venv is its own is not part of the comparison.
    own = ["pyvenv.cfg", ".gitignore", *(str(path.relative_to(venv)) for path in venv.glob("bin/*ctivate*"))]
    return entry_listing(entry, "pear-tree"), installed_listing(venv, "pear-tree", own)


def test_a_wheel_of_every_scheme_is_as_pip_installs_it(store: Store, tmp_path: Path) -> None:
    outcome = check(store, build_wheel(SPEC, tmp_path), tmp_path)
    assert outcome.good, outcome
    assert outcome.files > 12
    assert outcome.size > 0
    assert store.entries() == []
    assert not (tmp_path / "venv").exists()


def test_every_scheme_is_looked_at(entry: Path, installed: Path) -> None:
    for listing in listings(entry, installed):
        assert {
            "site-packages/pear/__init__.py", "site-packages/pear_more.py", "site-packages/pear.pth",
            "share/pear/x.txt", "etc/pear.conf", "headers/pear.h",
            "bin/pear", "bin/pear-gui", "bin/pear-sh", "bin/pear-py",
        } <= listing.keys()  # fmt: skip
        generated = {path for path, file in listing.items() if file.generated}
        assert generated == {"bin/pear", "bin/pear-gui", "bin/pear-py"}


def library(venv: Path) -> Path:
    return next(venv.glob("lib/python*/site-packages"))


def remove(path: Path) -> None:
    path.unlink()


def change(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])


def lose_executable(path: Path) -> None:
    path.chmod(0o644)


def gain_executable(path: Path) -> None:
    path.chmod(0o755)


def add(path: Path) -> None:
    path.write_text("more")


CHANGES: list[tuple[str, Callable[[Path], None], str]] = [
    ("site-packages/pear/data.txt", remove, "added"),
    ("share/pear/x.txt", remove, "added"),
    ("etc/pear.conf", remove, "added"),
    ("headers/pear.h", remove, "added"),
    ("bin/pear", remove, "added"),
    ("bin/pear-gui", remove, "added"),
    ("bin/pear-sh", remove, "added"),
    ("site-packages/pear_tree-1.5.dist-info/METADATA", remove, "added"),
    ("site-packages/pear_tree-1.5.dist-info/RECORD", remove, "added"),
    ("site-packages/pear/__init__.py", change, "bytes"),
    ("share/pear/x.txt", change, "bytes"),
    ("headers/pear.h", change, "bytes"),
    ("bin/pear-sh", change, "bytes"),
    ("site-packages/pear_tree-1.5.dist-info/METADATA", change, "bytes"),
    ("site-packages/pear/program", lose_executable, "executable"),
    ("site-packages/pear/data.txt", gain_executable, "executable"),
    ("site-packages/pear/more.py", add, "missing"),
    ("site-packages/other/__init__.pyc", add, "missing"),
    ("site-packages/pear_tree-1.5.dist-info/licenses", add, "missing"),
    ("share/pear/more", add, "missing"),
    ("headers/more.h", add, "missing"),
    ("bin/more", add, "missing"),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Listing, Path]:
    """The listing of an entry, and a venv to change; made once, because pip takes a second."""
    directory = tmp_path_factory.mktemp("made")
    wheel = build_wheel(SPEC, directory)
    store = Store.open(directory / "store")
    reference = store.add(wheel).plan.reference
    ours = entry_listing(Path(store.layout.of("entries", reference.directory)), "pear-tree")
    complaint, _ = corpus._installed_by_pip(wheel, directory / "venv", "pear-tree")
    assert complaint == ""
    return ours, directory / "venv"


@pytest.mark.parametrize(
    ("place", "action", "kind"), CHANGES, ids=[f"{row[1].__name__} {row[0]}" for row in CHANGES]
)
def test_one_change_is_one_difference(
    made: tuple[Listing, Path], place: str, action: Callable[[Path], None], kind: str
) -> None:
    ours, venv = made
    headers = next(venv.glob("include/site/python*/*"))
    scheme, _, rest = place.partition("/")
    tops = {"site-packages": library(venv), "headers": headers}
    path = tops[scheme] / rest if scheme in tops else venv / place
    before = (path.read_bytes(), path.stat().st_mode) if path.exists() else None
    new_parent = not path.parent.exists()
    path.parent.mkdir(exist_ok=True)
    try:
        action(path)
        own = [
            "pyvenv.cfg",
            ".gitignore",
            *(str(found.relative_to(venv)) for found in venv.glob("bin/*ctivate*")),
        ]
        assert compare(ours, installed_listing(venv, "pear-tree", own)) == (Difference(place, kind),)
    finally:
        if before is None:
            path.unlink()
        else:
            path.write_bytes(before[0])
            path.chmod(before[1])
        if new_parent:
            path.parent.rmdir()


def test_a_refused_wheel_is_an_outcome_with_its_reason(store: Store, tmp_path: Path) -> None:
    wheel = build_wheel(SPEC, tmp_path, members=lambda members: [*members, Member("../out", b"")])
    outcome = check(store, wheel, tmp_path)
    assert not outcome.good
    assert outcome.refused.startswith("wheel-member-name: ")
    assert outcome.files == 0


def test_a_wheel_that_pip_does_not_install_is_an_outcome_with_its_reason(
    store: Store, tmp_path: Path
) -> None:
    wheel = build_wheel(WheelSpec(name="pear", tag="cp27-cp27m-win32"), tmp_path)
    outcome = check(store, wheel, tmp_path)
    assert not outcome.good
    assert "is not a supported wheel on this platform" in outcome.unanswered
    assert store.entries() == []


def test_the_tool_says_what_is_wrong_and_sums_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = build_wheel(WheelSpec(name="pear"), tmp_path)
    hostile = WheelSpec(name="plum", files={"plum.py": "", "../plum.py": ""})
    refused = build_wheel(hostile, tmp_path)
    assert corpus.main([str(good)]) == 0
    capsys.readouterr()
    assert corpus.main([str(good), str(refused)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("ok  pear-1.0-py3-none-any.whl: 4 files, ")
    assert lines[1].startswith("BAD plum-1.0-py3-none-any.whl: ")
    assert lines[2].startswith("    wheel-member-name: ")
    assert lines[3].startswith("2 wheels, 4 files, ")
    assert lines[3].endswith("; 1 refused, 0 different, 0 not installed by pip")


def test_the_tool_takes_from_the_cache_what_the_list_pins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    build_wheel(SPEC, cache)
    build_wheel(WheelSpec(name="pear", version="2.0"), cache)
    (cache / "broken.whl").touch()
    pins = tmp_path / "list.txt"
    pins.write_text("# two of them\npear_tree==1.5.0\npear==1.0\n\n")
    assert corpus.main(["--offline", "--list", str(pins), "--cache", str(cache)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("1 wheels, ")


@pytest.mark.parametrize("line", ["pear", "pear>=1", "pear==1,!=2", "pear @ file:///pear.whl"])
def test_a_line_of_the_list_that_pins_nothing_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "list.txt").write_text(f"{line}\n")
    with pytest.raises(ValueError, match="not a pin"):
        corpus.read_list(tmp_path / "list.txt")


def test_the_list_is_sorted_and_names_every_project_once() -> None:
    names = [pin.name for pin in corpus.read_list(corpus.LIST)]
    assert names == sorted(set(names))
    assert set(SAMPLE) <= set(names)


SAMPLE = ("greenlet", "idna", "jupyterlab", "lxml", "ninja", "pip", "tzdata", "xlsxwriter")
"""Small and diverse: headers, pure Python, data, extension modules, a program, scripts with ``#!python``."""


@pytest.mark.network
@pytest.mark.slow
def test_a_sample_of_the_corpus_is_as_pip_installs_it(tmp_path: Path) -> None:
    pins = [pin for pin in corpus.read_list(corpus.LIST) if pin.name in SAMPLE]
    wheels = corpus.download(pins, tmp_path / "cache")
    assert len(wheels) == len(SAMPLE)
    summary = corpus.check_all(wheels)
    assert [outcome for outcome in summary.outcomes if not outcome.good] == []
    assert os.listdir(tmp_path / "cache")
    assert corpus.download(pins, tmp_path / "cache") == wheels


def test_the_tool_runs_as_a_program() -> None:
    import subprocess

    command = [sys.executable, corpus.__file__, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "instead of those of the list" in done.stdout
