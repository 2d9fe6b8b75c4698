"""The commands ``env check``, ``env heal`` and ``run`` on environments that are there: answers, exit codes, leases."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.crash import tree
from support.index import Index
from support.wheels import WheelSpec
from vrfstore import fs
from vrfstore.cli.running import run
from vrfstore.gc.policy import Policy
from vrfstore.gc.sweep import collect
from vrfstore.runner.link import link
from vrfstore.store import externals
from vrfstore.store.store import Store

APPLE = WheelSpec(
    name="apple",
    files={"apple/__init__.py": "who = 1\n\ndef main():\n    print('eaten')\n"},
    entry_points={"console_scripts": {"eat": "apple:main"}},
)


pytestmark = pytest.mark.usefixtures("without_sync")


@dataclass(frozen=True)
class World:
    """A store with one managed environment, and one elsewhere, of the same requirements."""

    store: Store
    folder: Path
    place: Path
    managed: Path
    capture: pytest.CaptureFixture[str]

    @property
    def requirements(self) -> Path:
        return self.folder / "requirements.vrf"

    @property
    def package(self) -> Path:
        """The link to the package in the environment elsewhere."""
        found = externals.read(str(self.place))
        assert found is not None
        return self.place / found.site_packages / "apple"

    def call(self, *arguments: str | Path) -> tuple[int, str, str]:
        """Return exit code, stdout and stderr of a command in this process."""
        self.capture.readouterr()
        code = run(["--store", self.store.root, *map(str, arguments)])
        said = self.capture.readouterr()
        return code, said.out, said.err

    def json(self, *arguments: str | Path) -> tuple[int, Any]:
        code, out, _ = self.call(*arguments, "--json")
        return code, json.loads(out)

    def run(self, *arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run ``vrfstore run`` in a process of its own, which becomes the command."""
        return subprocess.run(
            [sys.executable, "-m", "vrfstore", "--store", self.store.root, "run", *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **variables},
        )


@pytest.fixture
def world(index: Index, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> World:
    index.add(APPLE)
    requirements = tmp_path / "requirements.vrf"
    requirements.write_text("apple\n")
    managed = link(requirements, store=store)
    link(requirements, store=store, into=tmp_path / "venv")
    return World(store, tmp_path, tmp_path / "venv", Path(managed.environment), capsys)


def kinds(answer: Any) -> list[str]:
    return [problem["kind"] for each in answer["environments"] for problem in each["problems"]]


def test_what_is_healthy_is_passed_over_in_silence(world: World) -> None:
    for arguments in (
        [world.place],
        [world.managed],
        [world.managed.name],
        ["--all"],
        [world.place, world.managed],
    ):
        assert world.call("env", "check", *arguments) == (0, "", "")
        assert world.call("env", "heal", *arguments) == (0, "", "")
    code, answer = world.json("env", "check", "--all")
    assert (code, answer["status"], len(answer["environments"])) == (0, "healthy", 2)
    assert {each["managed"] for each in answer["environments"]} == {True, False}


def test_drift_is_listed_one_line_each_and_ends_with_23(world: World) -> None:
    world.package.unlink()
    (world.managed / "bin/eat").unlink()
    code, out, _ = world.call("env", "check", world.place, world.managed)
    lines = out.splitlines()
    assert code == 23
    assert lines[0].startswith(f"{world.place}: link-missing: ")
    assert lines[1] == f"{world.managed}: file-missing: bin/eat is gone"
    assert lines[2:] == ["2 problems; mend with: vrfstore env heal"]
    code, answer = world.json("env", "check", "--all")
    assert (code, answer["status"]) == (23, "drifted")
    assert sorted(kinds(answer)) == ["file-missing", "link-missing"]
    assert all(problem["drift"] for each in answer["environments"] for problem in each["problems"])
    code, out, err = world.call("env", "heal", "--all")
    assert (code, err) == (0, "")
    assert {line.split(": ")[1] for line in out.splitlines()} == {"mended"}
    assert world.call("env", "heal", "--all") == (0, "", "")
    assert world.call("env", "check", "--all") == (0, "", "")


def test_additions_by_hand_are_shown_and_no_drift(world: World) -> None:
    info = world.package.parent / "fig-3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: fig\nVersion: 3\nRequires-Dist: plum>1\n\nplum\n"
    )
    code, out, _ = world.call("env", "check", "--no-pip-check", world.place)
    assert (code, out) == (0, f"{world.place}: package-added: fig 3 was installed by hand\n")
    code, answer = world.json("env", "check", world.place)
    assert code == 23
    assert kinds(answer) == ["package-added", "requirement-unmet"]
    assert (
        answer["environments"][0]["problems"][1]["message"] == "fig 3 requires plum, which is not installed"
    )
    code, answer = world.json("env", "heal", world.place)
    assert (code, answer["status"]) == (23, "drifted")
    assert [each["kind"] for each in answer["environments"][0]["left"]] == ["requirement-unmet"]


def test_all_of_them_are_looked_at_whatever_is_wrong_with_one(world: World) -> None:
    for name in ("gone", "replaced", "unreadable"):
        link(world.requirements, store=world.store, into=world.folder / name)
    shutil.rmtree(world.folder / "gone")
    shutil.rmtree(world.folder / "replaced")
    link(world.requirements, store=world.store, into=world.folder / "replaced")
    (world.folder / "unreadable/vrfstore.json").write_text("{")
    (world.managed / "vrfstore.json").write_text("{")
    (Path(world.store.layout.of("external")) / f"{'0' * 16}.json").write_text("{")
    world.package.unlink()
    code, answer = world.json("env", "check", "--all")
    assert code == 23
    assert sorted(kinds(answer)) == [
        "gone", "link-missing", "record-unreadable", "record-unreadable", "record-unreadable",
    ]  # fmt: skip
    code, answer = world.json("env", "heal", "--all")
    assert code == 23
    assert world.package.is_symlink()
    assert world.call("env", "check", world.place)[0] == 0


def test_one_that_cannot_be_mended_is_in_nobody_else_s_way(world: World) -> None:
    broken = world.folder / "broken"
    link(world.requirements, store=world.store, into=broken)
    record = json.loads((broken / "vrfstore.json").read_text())
    record["executable"] = record["asked"] = record["interpreter"]["real"] = "/gone/python"
    (broken / "vrfstore.json").write_text(json.dumps(record))
    world.package.unlink()
    code, out, _ = world.call("env", "heal", broken, world.place)
    assert code == 23
    assert f"{broken}: left: interpreter-missing" in out
    assert f"{world.place}: mended: link-missing" in out
    assert world.package.is_symlink()


@pytest.mark.parametrize(
    "arguments",
    [
        ["env", "check"],
        ["env", "heal"],
        ["env", "check", "--all", "somewhere"],
        ["env", "heal", "--adopt", "--all"],
        ["env", "heal", "--python", "3.12", "somewhere"],
        ["env", "check", "nothing-of-this-name"],
        ["env", "check", "/"],
    ],
)
def test_what_makes_no_sense_is_a_usage_error(world: World, arguments: list[str]) -> None:
    code, answer = world.json(*arguments)
    assert (code, answer["status"]) == (2, "error")


def test_an_entry_or_a_foreign_directory_is_no_environment(world: World) -> None:
    assert world.call("env", "check", world.store.entries()[0])[0] == 2
    foreign = world.folder / "foreign"
    foreign.mkdir()
    code, _, err = world.call("env", "heal", foreign)
    assert code == 2
    assert "--adopt" in err


def test_a_venv_can_be_adopted_checked_and_given_back(world: World) -> None:
    venv = world.folder / "old"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    before = {path: found for path, found in tree(venv).items() if "__pycache__" not in path}
    code, answer = world.json("env", "heal", "--adopt", venv)
    assert (code, answer["status"]) == (0, "adopted")
    assert answer["environments"][0]["path"] == str(venv)
    assert world.call("env", "check", "--no-pip-check", venv)[0] == 0
    assert world.run(venv, "--", "python", "-c", "import sys; print(sys.prefix)").stdout == f"{venv}\n"
    assert world.call("env", "undo", venv)[0] == 0
    assert {path: found for path, found in tree(venv).items() if "__pycache__" not in path} == before


def test_looking_changes_nothing(world: World) -> None:
    world.package.unlink()
    before = {place: tree(place) for place in (world.place, world.store.root)}
    for arguments in (["--all"], [world.place], [world.managed]):
        world.call("env", "check", *arguments)
    assert {place: tree(place) for place in before} == before


def test_run_takes_an_environment_that_is_there(world: World) -> None:
    code = "import sys, os; print(sys.prefix, os.environ['VIRTUAL_ENV'], os.environ['QUARTO_PYTHON']); sys.exit(7)"
    for place in (world.place, world.managed):
        done = world.run(place, "--", "python", "-c", code)
        assert (done.returncode, done.stderr) == (7, "")
        assert done.stdout == f"{place} {place} {place}/bin/python\n"
        assert world.run(place, "--", "eat").stdout == "eaten\n"


def test_run_mends_before_it_starts_unless_told_not_to(world: World) -> None:
    command = [sys.executable and "python", "-c", "import apple; print(apple.who)"]
    for path in (world.package, world.managed / world.package.relative_to(world.place)):
        place = path.parents[3]
        path.unlink()
        assert world.run("--no-heal", place, "--", *command).returncode == 1
        assert not path.is_symlink()
        done = world.run(place, "--", *command)
        assert (done.returncode, done.stdout) == (0, "1\n")
        assert f"mended in {place}" in done.stderr
        assert path.is_symlink()


def test_run_says_what_it_cannot_mend_and_goes_on_where_it_can(world: World, index: Index) -> None:
    gone = world.store.entries()[0]
    fs.remove_tree(world.store.layout.of("entries", gone))
    index.requests.clear()
    done = world.run(world.place, "--", "python", "-c", "print('started')")
    assert (done.returncode, done.stdout) == (0, "started\n")
    assert "has to be fetched" in done.stderr
    assert f"vrfstore env heal {world.place}" in done.stderr
    assert index.requests == []
    (world.place / "bin/python").unlink()
    done = world.run("--no-heal", world.place, "--", "python", "-c", "")
    assert done.returncode == 23
    assert "leads nowhere" in done.stderr


def test_run_refuses_what_is_not_ours(world: World) -> None:
    foreign = world.folder / "foreign"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", foreign], check=True)
    before = tree(foreign)
    done = world.run(foreign, "--", "true")
    assert done.returncode == 2
    assert "--adopt" in done.stderr
    done = world.run(world.place, "--refresh", "--", "true")
    assert done.returncode == 2
    assert "--refresh is of no use" in done.stderr
    assert tree(foreign) == before


def test_run_leaves_the_venv_alone_that_is_active(world: World) -> None:
    active = world.folder / "active"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", active], check=True)
    before = tree(active)
    variables = {"VIRTUAL_ENV": str(active), "PATH": f"{active}/bin:{os.environ['PATH']}"}
    world.package.unlink()
    for arguments in (
        [world.place],
        [world.requirements],
        [world.requirements, "--into", world.place],
        [world.managed],
    ):
        done = world.run(
            *arguments, "--", "python", "-B", "-c", "import apple, sys; print(sys.prefix)", **variables
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() in {str(world.place), str(world.managed)}
    assert tree(active) == before


def test_run_into_makes_mends_and_brings_up_to_date(world: World) -> None:
    command = ["--", "python", "-c", "import apple, sys; print(apple.who, sys.prefix)"]
    fresh = world.folder / "fresh"
    for _ in range(2):
        assert world.run(world.requirements, "--into", fresh, *command).stdout == f"1 {fresh}\n"
    world.package.unlink()
    world.package.symlink_to("/nowhere")
    assert world.run(world.requirements, "--into", world.place, *command).stdout == f"1 {world.place}\n"


@pytest.mark.parametrize("which", ["place", "managed"])
def test_what_run_runs_in_stays_as_long_as_the_command_does(world: World, which: str) -> None:
    place: Path = getattr(world, which)
    code = "import sys; print('up', flush=True); sys.stdin.read(); import apple; print(apple.who)"
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "vrfstore",
            "--store",
            world.store.root,
            "run",
            place,
            "--",
            "python",
            "-c",
            code,
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    # Neither its registration nor anything else keeps it, but for the lease.
    for name in os.listdir(world.store.layout.of("external")):
        os.unlink(f"{world.store.layout.of('external')}/{name}")
    time.sleep(0.05)
    collect(world.store, Policy(max_age=0, grace=0))
    out, _ = process.communicate("")
    assert (process.returncode, out) == (0, "1\n")
    time.sleep(0.05)
    collect(world.store, Policy(max_age=0, grace=0))
    assert world.store.entries() == []


@pytest.mark.parametrize("wanted", [True, False])
def test_the_user_s_own_packages_are_seen_where_that_was_asked_for(world: World, *, wanted: bool) -> None:
    options = ["--user-site"] if wanted else []
    command = ["--", "python", "-c", "import site; print(site.ENABLE_USER_SITE)"]
    assert world.run(world.requirements, *options, *command).stdout == f"{wanted}\n"
    fresh = world.folder / "fresh"
    assert world.run(world.requirements, *options, "--into", fresh, *command).stdout == f"{wanted}\n"
    assert world.run(fresh, *command).stdout == f"{wanted}\n"


def test_one_that_is_gone_can_be_forgotten_by_path_or_by_name(world: World) -> None:
    other = world.folder / "other"
    link(world.requirements, store=world.store, into=other)
    names = {}
    for place in (world.place, other):
        found = externals.read(str(place))
        assert found is not None
        names[place] = found.token
        code, answer = world.json("env", "forget", place)
        assert (code, answer["error"]["kind"]) == (2, "environment-there")
        shutil.rmtree(place)
    code, out, _ = world.call("env", "check", "--all")
    assert code == 0
    assert f"vrfstore env forget {other}" in out
    assert world.call("env", "forget", other)[:2] == (0, f"{other}: forgotten\n")
    code, answer = world.json("env", "forget", names[world.place])
    assert (code, answer["status"]) == (0, "forgotten")
    assert answer["environments"] == [{"name": names[world.place], "path": str(world.place)}]
    assert os.listdir(world.store.layout.of("external")) == []
    code, answer = world.json("env", "forget", other)
    assert (code, answer["error"]["kind"]) == (2, "target-unknown")


def test_a_registration_that_nobody_can_read_is_forgotten_by_its_name(world: World) -> None:
    path = Path(world.store.layout.of("external")) / f"{'0' * 16}.json"
    path.write_text("{")
    assert world.call("env", "forget", "0" * 16)[0] == 0
    assert not path.exists()
    assert len(os.listdir(path.parent)) == 1


@pytest.mark.parametrize("command", ["check", "heal"])
@pytest.mark.parametrize("bad", ["record", "owner", "nothing", "long"])
def test_an_error_of_one_is_its_own_and_the_rest_goes_on(world: World, command: str, bad: str) -> None:
    broken = world.folder / "a-broken"
    arguments: list[str | Path] = ["--all"]
    if bad == "nothing":
        arguments = [broken, world.place]
    elif bad == "record":
        record = json.loads((world.managed / "vrfstore.json").read_text())
        record["interpreter"] = {}
        os.chmod(world.managed / "vrfstore.json", 0o644)
        (world.managed / "vrfstore.json").write_text(json.dumps(record))
    else:
        link(world.requirements, store=world.store, into=broken)
        record = json.loads((broken / "vrfstore.json").read_text())
        if bad == "long":
            record["made"]["x" * 300] = ["d", "", []]
        else:
            record["store"] = str(world.folder / "elsewhere")
            (world.folder / "elsewhere").mkdir()
            (world.folder / "elsewhere/store.json").write_text("{")
        (broken / "vrfstore.json").write_text(json.dumps(record))
    world.package.unlink()
    code, out, _ = world.call("env", command, *arguments)
    # The worst of all: what was mended is none.
    codes = {
        "record": {23},
        "long": {23},
        "owner": {17, 21, 23},
        "nothing": {23 if command == "check" else 2},
    }
    assert code in codes[bad]
    assert f"{world.place}: {'mended: ' if command == 'heal' else ''}link-missing" in out
    assert world.package.is_symlink() == (command == "heal")


@pytest.mark.parametrize("command", ["check", "heal", "forget"])
def test_an_empty_path_is_not_the_current_directory(
    store: Store, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["--store", store.root, "env", command, ""]) == 2
    assert "empty" in capsys.readouterr().err


def test_a_path_that_is_not_there_is_not_taken_for_a_name(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["--store", store.root, "env", "check", str(tmp_path / "nowhere/8")]) == 2
    assert "there is no such directory" in capsys.readouterr().err
