"""A store is one user's: root may look at it and leaves nothing there, and whoever may not write is told so."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.crash import NOBODY, as_nobody, base, dangling, litter, make_environment, together, tree
from support.wheels import WheelSpec, build_wheel
from vrfstore.cli.running import run
from vrfstore.gc import sweep
from vrfstore.gc.policy import Policy
from vrfstore.model import EntryPlan
from vrfstore.runner.verify import verify
from vrfstore.store.store import Added, Store

EVERYTHING = Policy(max_age=0, grace=0)

SPECS = [
    WheelSpec(
        name="ant", files={"ant/__init__.py": "", "ant/deep/er/data.txt": "x"}, executable=["ant/__init__.py"]
    ),
    WheelSpec(
        name="bee",
        data={
            "scripts/buzz": "#!python\n",
            "data/share/bee/x": "x",
            "data/etc/bee.conf": "x",
            "headers/b.h": "",
        },
    ),
    WheelSpec(name="cat", files={"cat.py": "", "cat.bin": os.urandom(1 << 18)}),
    WheelSpec(name="dog", files={"dog.py": "", "dog.bin": os.urandom(1 << 18)}),
]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be several users")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory of an ordinary user, with the wheels; pytest's own are closed to others."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        (path / "wheels").mkdir()
        for spec in SPECS:
            build_wheel(spec, path / "wheels")
        os.chown(path, NOBODY, NOBODY)
        base()  # which this user might not be able to start
        yield path


@pytest.fixture
def wheels(folder: Path) -> list[Path]:
    """The wheels."""
    return sorted((folder / "wheels").iterdir())


@pytest.fixture(scope="module", autouse=True)
def _everything_imported(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Import what an ordinary user might not be able to read."""
    folder = tmp_path_factory.mktemp("first")
    wheels = [build_wheel(spec, folder) for spec in SPECS]
    assert use(folder / "store", wheels) == ALL_WELL
    more = [["add", str(wheels[0])], ["add", "--json", str(wheels[1])], ["gc"]]
    for arguments in [*LOOKING, *more]:
        command("--store", folder / "store", *arguments)


@pytest.fixture
def theirs(folder: Path, wheels: list[Path]) -> Store:
    """The store of an ordinary user, with entries and an environment."""

    def make() -> None:
        store = Store.open(folder / "store")
        store.add_all(wheels)
        make_environment(store, *wheels[:2])

    as_nobody(make)
    return Store.open(folder / "store", to_look=True)


def command(*arguments: object) -> tuple[int, str, str]:
    """Run the command in this process; return its exit code and what it printed."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(list(map(str, arguments)))
    return code, out.getvalue(), err.getvalue()


def owners(store: Store) -> set[int]:
    """Return to whom everything in a store belongs."""
    found = {os.lstat(store.root).st_uid}
    for directory, names, files in os.walk(store.root):
        found |= {os.lstat(os.path.join(directory, name)).st_uid for name in names + files}
    return found


def use(root: Path, wheels: list[Path]) -> dict[str, object]:
    """Do all that one does with a store of one's own."""
    store = Store.open(root)
    wheels = [*wheels, build_wheel(WheelSpec(name="eel"), root.parent)]
    added = [isinstance(result, Added) for result in store.add_all(wheels)]
    record = make_environment(store, *wheels)
    links = dangling(store.layout.of("environments", record.directory))
    sound = verify(store).findings
    time.sleep(0.01)
    report = sweep.collect(store, EVERYTHING)
    left = [*store.entries(), *store.environments(), *litter(store)]
    return {"added": added, "links": links, "findings": sound, "problems": report.problems, "left": left}


ALL_WELL = {"added": [True] * 5, "links": [], "findings": (), "problems": (), "left": []}

LOOKING = [
    ["list"],
    ["gc", "--dry-run"],
    ["verify"],
    ["doctor"],
    ["roots", "list"],
    ["env", "check", "--all"],
]


@pytest.mark.parametrize("looking", LOOKING, ids=" ".join)
def test_root_looks_at_the_store_of_a_user_and_changes_nothing(
    theirs: Store, wheels: list[Path], looking: list[str]
) -> None:
    before = tree(theirs.root)
    ((code, out, err),) = together(lambda: command("--store", theirs.root, *looking))
    assert (code in {0, 23}, "bug" in err) == (True, False), (out, err)
    assert tree(theirs.root) == before
    assert owners(theirs) == {NOBODY}
    assert as_nobody(functools.partial(use, Path(theirs.root), wheels)) == ALL_WELL


CHANGING: list[list[str]] = [
    ["add", "WHEEL"],
    ["link", "REQUIREMENTS"],
    ["run", "REQUIREMENTS", "--", "true"],
    ["gc"],
    ["roots", "add", "pin", "ENTRY"],
    ["compile", "ENTRY"],
    ["verify", "--repair"],
    ["import", "WHEEL"],
]


@pytest.mark.parametrize("changing", CHANGING, ids=lambda changing: " ".join(changing[:2]))
def test_root_does_not_write_into_the_store_of_a_user(
    theirs: Store, folder: Path, wheels: list[Path], changing: list[str]
) -> None:
    (folder / "requirements.vrf").write_text("ant\n")
    values = {
        "WHEEL": str(wheels[0]),
        "REQUIREMENTS": str(folder / "requirements.vrf"),
        "ENTRY": theirs.entries()[0],
    }
    before = tree(theirs.root)
    arguments = [values.get(argument, argument) for argument in changing]
    if "--" not in arguments and arguments[0] != "roots":
        arguments.insert(1, "--json")
    ((code, out, err),) = together(lambda: command("--store", theirs.root, *arguments))
    assert code == 21, (out, err)
    if "--json" in arguments:
        error: Any = json.loads(out)["error"]
        assert (error["kind"], error["path"]) == ("store-owner", theirs.root)
        assert f"sudo -u '#{NOBODY}'" in error["hint"]
    assert f"belongs to user {NOBODY}" in err
    assert tree(theirs.root) == before
    assert owners(theirs) == {NOBODY}


def test_root_has_not_taken_the_store_away(theirs: Store, wheels: list[Path]) -> None:
    for arguments in (*LOOKING, ["add", str(wheels[0])], ["gc"]):
        together(lambda arguments=arguments: command("--store", theirs.root, *arguments))  # type: ignore[misc]
    assert as_nobody(functools.partial(use, Path(theirs.root), wheels)) == ALL_WELL


@pytest.fixture
def ours(folder: Path, wheels: list[Path]) -> Store:
    """The store of root, which everybody may read."""
    os.chown(folder, 0, 0)
    folder.chmod(0o755)
    store = Store.open(folder / "store")
    store.add_all(wheels[:1])
    make_environment(store, wheels[0])
    return store


@pytest.mark.parametrize("changing", [["add", "--json", "WHEEL"], ["gc", "--json"]], ids=" ".join)
def test_a_user_does_not_write_into_the_store_of_root(
    ours: Store, wheels: list[Path], changing: list[str]
) -> None:
    before = tree(ours.root)
    arguments = [str(wheels[1]) if argument == "WHEEL" else argument for argument in changing]
    code, out, err = as_nobody(lambda: command("--store", ours.root, *arguments))
    error = json.loads(out)["error"]
    assert (code, error["kind"], error["path"]) == (21, "store-access", ours.root)
    assert error["hint"]
    assert "cannot be used" in err
    assert tree(ours.root) == before


def test_a_user_may_look_at_the_store_of_root(ours: Store) -> None:
    code, out, _ = as_nobody(lambda: command("--store", ours.root, "list"))
    assert (code, "ant" in out) == (0, True)


def test_root_uses_and_empties_its_own_store(ours: Store, wheels: list[Path]) -> None:
    assert use(Path(ours.root), wheels) == ALL_WELL


def test_what_a_wheel_becomes_is_sealed_for_everybody_alike(folder: Path, wheels: list[Path]) -> None:
    def modes(root: Path) -> dict[str, str]:
        store = Store.open(root)
        plans = [result.plan for result in store.add_all(wheels) if isinstance(result, Added)]
        assert len(plans) == len(wheels)
        return {
            f"{plan.reference.name}/{place}": mode
            for plan in plans
            for place, mode in sealed(store, plan).items()
        }

    def sealed(store: Store, plan: EntryPlan) -> dict[str, str]:
        path = store.layout.of("entries", plan.reference.directory)
        found = {place: mode for place, (mode, _) in tree(path).items()}
        return {".": stat.filemode(os.stat(path).st_mode), **found}

    users = as_nobody(lambda: modes(folder / "one"))
    assert {mode for place, mode in users.items() if mode.startswith("d")} == {"dr-xr-xr-x"}
    assert {mode for mode in users.values() if mode.startswith("-")} == {"-r--r--r--", "-r-xr-xr-x"}
    assert users["ant/site-packages/ant/__init__.py"] == "-r-xr-xr-x"
    assert users["cat/site-packages/cat.py"] == "-r--r--r--"
    assert users["bee/scripts/buzz"] == "-r-xr-xr-x"
    os.mkdir(folder / "root")
    assert modes(folder / "root/two") == users

    def spoil() -> list[str]:
        store = Store.open(folder / "one")
        spoiled = []
        for directory, _, files in os.walk(store.layout.of("entries")):
            for path in (*(os.path.join(directory, name) for name in files), f"{directory}/new"):
                if directory == store.layout.of("entries"):
                    continue
                if not os.path.islink(path):
                    with contextlib.suppress(PermissionError), open(path, "ab"):
                        spoiled.append(path)
        return spoiled

    assert as_nobody(spoil) == []


def test_a_umask_that_shuts_everybody_out_does_not_shut_out_who_may_read(
    folder: Path, wheels: list[Path]
) -> None:
    shutil.rmtree(folder / "store", ignore_errors=True)
    os.chown(folder, 0, 0)
    folder.chmod(0o755)
    store = Store.open(folder / "store")
    before = os.umask(0o077)
    try:
        store.add_all(wheels)
    finally:
        os.umask(before)
    entries = store.layout.of("entries")
    assert as_nobody(lambda: tree(entries)) == tree(entries)
