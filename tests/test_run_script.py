"""``vrfstore run script.py``: with the packages that it asks for, and with its own arguments."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.commands import Ended, in_process_of_its_own
from support.index import Index
from support.wheels import WheelSpec
from vrfstore.store.store import Store

SAYING = "import sys, pear\nprint(pear.__version__, *sys.argv[1:])\nsys.exit(7)\n"
BLOCK = '# /// script\n# dependencies = ["pear<2"]\n# ///\n'


@pytest.fixture(autouse=True)
def _orchard(index: Index) -> None:
    for version in ("1.0", "2.0"):
        index.add(WheelSpec(name="pear", version=version))
    index.add(WheelSpec(name="plum"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "project"
    made.mkdir()
    return made


def run(store: Store, folder: Path, *arguments: str) -> Ended:
    return in_process_of_its_own(store, "run", *arguments, cwd=folder)


def test_it_runs_with_what_it_asks_for(store: Store, folder: Path) -> None:
    (folder / "script.py").write_text(BLOCK + SAYING)
    for name in ("script.py", "./script.py", f"{folder}/script.py"):
        ended = run(store, folder, name, "one", "two words")
        assert (ended.code, ended.out) == (7, "1.0 one two words\n"), ended.err


def test_without_a_block_the_file_beside_it_says(store: Store, folder: Path, tmp_path: Path) -> None:
    (folder / "script.py").write_text(SAYING)
    (folder / "requirements.vrf").write_text("pear\n")
    # Beside the script, not where the command runs.
    (tmp_path / "requirements.vrf").write_text("pear<2\n")
    assert run(store, folder, "script.py").out == "2.0\n"
    assert run(store, tmp_path, "project/script.py").out == "2.0\n"
    (folder / "requirements.vrf").write_text("pear==1.0\n")
    assert run(store, folder, "script.py").out == "1.0\n"


def test_what_the_script_says_itself_counts(store: Store, folder: Path) -> None:
    (folder / "script.py").write_text(BLOCK + SAYING)
    (folder / "requirements.vrf").write_text("pear>=2\n")
    assert run(store, folder, "script.py").out == "1.0\n"
    # And when it says something else.
    (folder / "script.py").write_text(BLOCK.replace("pear<2", "pear>=2") + SAYING)
    assert run(store, folder, "script.py").out == "2.0\n"


def test_a_script_that_says_nothing_anywhere_is_refused(store: Store, folder: Path) -> None:
    (folder / "script.py").write_text(SAYING)
    assert run(store, folder, "script.py").code == 10
    assert run(store, folder, "absent.py").code == 10


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("-h",),
        ("--version",),
        ("--offline", "--python", "nowhere"),
        ("--store", "/nowhere"),
        ("-x",),
        ("--index-url=http://nowhere", "script.py"),
        ("--into", "x", "--isolated", "-q", "--json"),
        ("",),
        ("-",),
    ],
)
def test_options_behind_a_script_are_its_own(store: Store, folder: Path, arguments: tuple[str, ...]) -> None:
    (folder / "script.py").write_text(BLOCK + SAYING)
    ended = run(store, folder, "script.py", *arguments)
    assert (ended.code, ended.out) == (7, f"{' '.join(['1.0', *arguments])}\n"), ended.err


@pytest.mark.parametrize(
    "options",
    [
        ("--prompt", "mine"),
        ("--prompt=other.py",),
        ("--prompt", "other.py"),
        ("--isolated",),
        ("--resolver", "pip", "--timeout", "10m"),
        ("--materialize", "pear", "--no-heal"),
    ],
)
def test_options_before_a_script_are_ours(store: Store, folder: Path, options: tuple[str, ...]) -> None:
    (folder / "script.py").write_text(BLOCK + SAYING)
    ended = run(store, folder, *options, "script.py", "--prompt")
    assert (ended.code, ended.out) == (7, "1.0 --prompt\n"), ended.err


def test_a_command_may_be_run_there_instead(store: Store, folder: Path) -> None:
    (folder / "script.py").write_text(BLOCK + SAYING)
    code = "import pear; print('instead', pear.__version__)"
    for words in (("script.py", "--"), ("script.py", "--isolated", "--"), ("--isolated", "script.py", "--")):
        assert run(store, folder, *words, "python", "-c", code).out == "instead 1.0\n"
    assert run(store, folder, "script.py", "--").code == 2


def test_further_files_count_together_with_a_script(store: Store, folder: Path) -> None:
    (folder / "script.py").write_text(BLOCK + "import plum\n" + SAYING)
    (folder / "more.vrf").write_text("plum\n")
    ended = run(store, folder, "--and", "more.vrf", "script.py", "--and", "x")
    assert (ended.code, ended.out) == (7, "1.0 --and x\n"), ended.err


def test_a_directory_that_is_called_like_a_script_is_an_environment(store: Store, folder: Path) -> None:
    (folder / "requirements.vrf").write_text("pear\n")
    assert in_process_of_its_own(store, "link", "requirements.vrf", "--into", "env.py", cwd=folder).code == 0
    assert run(store, folder, "env.py").code == 2
    code = "import pear; print(pear.__version__)"
    assert run(store, folder, "env.py", "--", "python", "-c", code).out == "2.0\n"


def test_a_script_is_not_run_to_find_out_what_it_needs(store: Store, folder: Path) -> None:
    (folder / "script.py").write_text("open('mark', 'w')\n")
    assert run(store, folder, "script.py").code == 10
    assert not (folder / "mark").exists()


def test_other_pythons_than_it_is_for_do_not_run_it(store: Store, folder: Path) -> None:
    (folder / "script.py").write_text(
        '# /// script\n# requires-python = ">=99"\n# dependencies = []\n# ///\n' + SAYING
    )
    assert run(store, folder, "script.py").code == 11


def test_a_script_may_not_say_where_code_comes_from(store: Store, folder: Path) -> None:
    (folder / "script.py").write_text(BLOCK.replace("pear<2", "pear @ file:///tmp/pear-1.0-py3-none-any.whl"))
    assert run(store, folder, "script.py").code == 10
