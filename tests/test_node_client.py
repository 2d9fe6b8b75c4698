"""The Node client: its own tests, and that it answers as the command does, whatever has changed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.bases import base_with, site_packages
from support.commands import Command, check_link, commands
from support.index import Index
from support.node import CLIENT, ask, node
from support.wheels import WheelSpec
from vrfstore.cli import quick
from vrfstore.store import leases
from vrfstore.store.store import Store

PEAR = WheelSpec(name="pear", version="1.5")
APPLE = WheelSpec(name="apple", requires=["pear"])


@dataclass(frozen=True)
class Orchard:
    """A store, an interpreter with packages of its own, and a file that has been linked."""

    store: Store
    python: str
    requirements: Path
    command: Command
    scratch: Path
    patch: pytest.MonkeyPatch

    def short_way(self) -> bool:
        """Whether the short way of the command finds an environment."""
        words = ["--store", self.store.root, "link", "--python", self.python, str(self.requirements)]
        return quick(words) is not None

    def from_command(self, *options: str) -> dict[str, Any]:
        """What the command answers."""
        return self.command("link", "--json", "--python", self.python, *options, self.requirements).document

    def from_node(self, **options: Any) -> tuple[dict[str, Any], bool]:
        """What the client answers, and whether it started the command for it."""
        asked = {"store": self.store.root, "python": self.python, **options}
        said = ask(self.scratch, self.requirements, **asked)
        assert said.failure == {}
        assert len(said.started) <= 1
        check_link(said.answer)
        return said.answer, bool(said.started)

    @property
    def environment(self) -> Path:
        """The one environment that is there."""
        (directory,) = self.store.environments()
        return Path(self.store.layout.of("environments", directory))

    def memo(self) -> tuple[Path, dict[str, Any]]:
        """The one memo of an input that is there."""
        (path,) = Path(self.store.layout.of("inputs")).iterdir()
        return path, json.loads(path.read_text())


@pytest.fixture
def orchard(
    store: Store,
    index: Index,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Orchard:
    index.add(PEAR)
    index.add(APPLE)
    requirements = tmp_path / "requirements.vrf"
    requirements.write_text("apple\n")
    python = base_with(tmp_path / "base", WheelSpec(name="plum"))
    made = Orchard(store, python, requirements, commands(store, capsys), tmp_path, monkeypatch)
    time.sleep(0.03)  # what was changed this very moment is not remembered
    assert made.from_command()["status"] == "built"
    assert made.short_way()
    return made


COMPARED = {
    "bytes",
    "by_hand",
    "environment",
    "error",
    "lock",
    "packages",
    "python",
    "schema_version",
    "status",
}
"""What two answers have to agree in; they are not of the same moment, and a lease is like no other."""


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Hold two answers to each other."""
    assert set(one) == set(other)
    for name in COMPARED & set(one):
        assert one[name] == other[name], name


def test_the_tests_of_the_client_pass() -> None:
    done = subprocess.run(
        [node(), "--test", "--test-reporter=tap"],
        cwd=CLIENT,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ,
    )
    assert done.returncode == 0, done.stdout
    (passed,) = re.findall(r"^# pass (\d+)$", done.stdout, re.MULTILINE)
    assert int(passed) > 20


def test_where_no_node_is_on_path_that_of_the_development_dependencies_serves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "")
    found = node.__wrapped__()
    done = subprocess.run([found, "--version"], capture_output=True, text=True, check=True)
    assert int(done.stdout.removeprefix("v").split(".")[0]) >= 20


def test_a_hit_is_what_the_command_answers_and_starts_nothing(orchard: Orchard) -> None:
    answer, started = orchard.from_node()
    assert not started
    assert answer["status"] == "hit"
    assert [package["name"] for package in answer["packages"]] == ["apple", "pear"]
    expected = orchard.from_command("--lease-ttl", "900s")
    same(answer, expected)
    assert answer["lease"].keys() == expected["lease"].keys()


def change_file(orchard: Orchard) -> None:
    orchard.requirements.write_text("# another\napple\n")


def touch_interpreter(orchard: Orchard) -> None:
    configuration = Path(orchard.python).parent.parent / "pyvenv.cfg"
    configuration.write_text(configuration.read_text())


def change_base(orchard: Orchard) -> None:
    (site_packages(Path(orchard.python).parent.parent) / "added.py").touch()


def configure_pip(_orchard: Orchard) -> None:
    place = Path(os.environ["HOME"], ".config/pip/pip.conf")
    place.parent.mkdir(parents=True)
    place.write_text("[global]\n")


def configure_vrfstore(_orchard: Orchard) -> None:
    place = Path(os.environ["HOME"], ".config/vrfstore/vrfstore.toml")
    place.parent.mkdir(parents=True)
    place.write_text("[resolve]\n")


def set_variable(name: str, value: str) -> Callable[[Orchard], None]:
    def change(orchard: Orchard) -> None:
        orchard.patch.setenv(name, value)

    change.__name__ = f"set_{name}"
    return change


def install_by_hand(orchard: Orchard) -> None:
    (next(orchard.environment.glob("lib/python*/site-packages")) / "added.py").touch()


def remove_python(orchard: Orchard) -> None:
    (orchard.environment / "bin/python").unlink()


def remove_environment(orchard: Orchard) -> None:
    shutil.rmtree(orchard.environment)


def another_format(orchard: Orchard) -> None:
    Path(orchard.store.layout.marker).write_text('{"format":4,"id":"x"}')


def condemn(orchard: Orchard) -> None:
    name = f"environments/{orchard.environment.name}\n"
    Path(orchard.store.layout.condemned).write_bytes(name.encode() + b"\0" * 100)


def condemn_another(orchard: Orchard) -> None:
    Path(orchard.store.layout.condemned).write_bytes(
        b"environments/x\n\0environments/" + orchard.environment.name.encode() + b"\n"
    )


def remove_memo(orchard: Orchard) -> None:
    orchard.memo()[0].unlink()


def rewrite_memo(name: str, value: object) -> Callable[[Orchard], None]:
    def change(orchard: Orchard) -> None:
        path, memo = orchard.memo()
        path.write_text(json.dumps(memo | {name: value}))

    change.__name__ = f"memo_{name}"
    return change


def tear_memo(orchard: Orchard) -> None:
    path, _ = orchard.memo()
    path.write_text(path.read_text()[:-10])


def nothing(_orchard: Orchard) -> None:
    pass


CHANGES = [
    (True, nothing),
    (True, set_variable("PATH", os.environ["PATH"] + ":/other")),
    (True, set_variable("PIPX_HOME", "/opt/pipx")),
    (True, condemn_another),
    (False, change_file),
    (False, touch_interpreter),
    (False, change_base),
    (False, configure_pip),
    (False, configure_vrfstore),
    (False, set_variable("PIP_EXTRA_INDEX_URL", "")),
    (False, set_variable("PIP_É😀", "x")),
    (False, install_by_hand),
    (False, remove_python),
    (False, remove_environment),
    (False, another_format),
    (False, condemn),
    (False, remove_memo),
    (False, rewrite_memo("schema", 1)),
    (False, rewrite_memo("until", 1)),
    (False, rewrite_memo("environment", None)),
    (False, tear_memo),
]


@pytest.mark.parametrize(("stands", "change"), CHANGES, ids=[row[1].__name__ for row in CHANGES])
def test_the_client_gives_up_where_the_short_way_does_and_then_answers_as_the_command(
    orchard: Orchard, stands: bool, change: Callable[[Orchard], None]
) -> None:
    change(orchard)
    assert orchard.short_way() is stands
    answer, started = orchard.from_node()
    assert started is not stands
    expected = orchard.from_command("--lease-ttl", "900s")
    if answer["status"] == "linked":
        # What the client had made is there for who asks next.
        assert expected["status"] == "hit"
        expected["status"] = "linked"
    same(answer, expected)


def test_a_record_that_was_torn_is_left_to_the_command(orchard: Orchard) -> None:
    (orchard.environment / "vrfstore.json").write_text("{")
    answer, started = orchard.from_node()
    assert started
    assert (answer["status"], answer["environment"][-2:]) == ("linked", ".1")


OPTIONS: list[tuple[list[str], dict[str, Any]]] = [
    (["--isolated"], {"isolated": True}),
    (["--user-site"], {"userSite": True}),
    (["--allow-collisions"], {"allowCollisions": True}),
    (["--materialize", "Pear,apple"], {"materialize": ["pear", "Apple", "apple"]}),
    (["--materialize", "pear,all"], {"materialize": ["all", "pear"]}),
    (["--prompt", "r\xe9sum\xe9 \u2713"], {"prompt": "r\xe9sum\xe9 \u2713"}),
    (["--protect", "plum", "--protect", "A.b-_c"], {"protect": ["a-b-c", "Plum"]}),
    (["--allow-builds"], {"allowBuilds": True}),
    (["--max-packages", "5"], {"maxPackages": 5}),
    (["--stale-after", "1h"], {"staleAfter": 3600}),
    (["--stale-after", "3600.5s"], {"staleAfter": 3600.5}),
    (["--no-shared-store"], {"sharedStore": ""}),
    (
        ["--max-bytes", "1G", "--max-unpacked", "1G", "--timeout", "60"],
        {"maxBytes": 1e9, "maxUnpacked": 1e9, "timeout": 60},
    ),
    ([], {"isolated": False, "prompt": "", "materialize": [], "protect": [], "indexUrl": "", "lease": 0}),
]


@pytest.mark.parametrize(
    ("words", "options"), OPTIONS, ids=[" ".join(row[0]) or "as usual" for row in OPTIONS]
)
def test_options_mean_the_same_to_both(orchard: Orchard, words: list[str], options: dict[str, Any]) -> None:
    linked = orchard.from_command(*words)
    answer, started = orchard.from_node(**options)
    assert not started
    assert answer["python"] == linked["python"]
    # And the other way round, where the command has not been asked in these words.
    orchard.requirements.write_text("# another\napple\n")
    answer, started = orchard.from_node(**options)
    assert started
    assert answer["python"] == linked["python"]
    assert orchard.from_command(*words)["status"] == "hit"
    assert not orchard.from_node(**options)[1]


VARIABLES = [
    {"JUPYTERCACHE": "/cache"},
    {"JUPYTERCACHE": "/cache/"},
    {"PYTHONHOME": ""},
    {"PATH": ""},
]


@pytest.mark.parametrize("variables", VARIABLES, ids=str)
def test_what_to_set_for_a_command_is_the_same(orchard: Orchard, variables: dict[str, str]) -> None:
    program = node()
    for name, value in variables.items():
        orchard.patch.setenv(name, value)
    orchard.patch.setattr("support.node.node", lambda: program)  # which is not on PATH any more
    answer, started = orchard.from_node()
    assert not started
    assert answer["env"] == orchard.from_command()["env"]


@pytest.mark.skipif(os.geteuid() != 0, reason="it is root who could write bytecode")
def test_root_writes_no_bytecode_while_it_is_being_compiled(orchard: Orchard) -> None:
    answer, started = orchard.from_node()
    assert not started
    assert answer["env"]["PYTHONDONTWRITEBYTECODE"] == "1"
    assert orchard.command("compile").code == 0
    answer, started = orchard.from_node()
    assert not started
    assert "PYTHONDONTWRITEBYTECODE" not in answer["env"]
    same(answer, orchard.from_command())


def lines_of(orchard: Orchard) -> list[dict[str, Any]]:
    """What a closed gate has let through, as it was written down."""
    log = Path(orchard.store.layout.audit)
    return [json.loads(line) for line in log.read_text().splitlines() if line] if log.exists() else []


def test_a_closed_gate_lets_through_what_is_there_and_writes_it_down(orchard: Orchard) -> None:
    answer, started = orchard.from_node(install=False)
    assert not started
    same(answer, orchard.from_command("--no-install", "--lease-ttl", "900s"))
    ours, other = lines_of(orchard)
    assert ours.keys() == other.keys()
    for name in ours.keys() - {"at", "pid", "parent"}:
        assert ours[name] == other[name], name
    assert ours["decision"] == "served"
    raw = Path(orchard.store.layout.audit).read_bytes().split(b"\n")
    assert not [line for line in raw if b": " in line]
    orchard.requirements.write_text("pear\n")
    answer, started = orchard.from_node(install=False)
    assert started
    assert (answer["status"], answer["error"]["code"]) == ("error", 12)
    assert lines_of(orchard)[-1]["decision"] == "refused"


def test_a_gate_that_is_closed_by_configuration_has_no_way_around(orchard: Orchard) -> None:
    place = Path(os.environ["HOME"], ".config/vrfstore/vrfstore.toml")
    place.parent.mkdir(parents=True)
    place.write_text('[link]\ninstall = "deny"\n')
    # Nothing is known under this configuration yet; and where nothing is said, only the command may serve.
    assert orchard.from_node()[1]
    assert orchard.from_node()[1]
    written = len(lines_of(orchard))
    answer, started = orchard.from_node(install=False)
    assert not started
    assert answer["status"] == "hit"
    assert len(lines_of(orchard)) == written + 1
    answer, started = orchard.from_node(install=True)
    assert started
    assert answer["status"] == "hit"


def test_an_audit_that_cannot_be_written_is_left_to_the_command(orchard: Orchard) -> None:
    Path(orchard.store.layout.audit).mkdir()
    answer, started = orchard.from_node(install=False)
    assert started
    assert "audit" in answer["warnings"][0]


def test_authors_read_the_same(orchard: Orchard, tmp_path: Path) -> None:
    ours, other = tmp_path / "ours", tmp_path / "other"
    for _ in range(2):
        assert not orchard.from_node(log=str(ours))[1]
        orchard.from_command("--log", str(other))
    assert ours.read_text() == other.read_text()
    assert "using cached environment (2 packages)" in ours.read_text()


def test_a_log_is_not_written_through_a_link(orchard: Orchard, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.touch()
    (tmp_path / "log").symlink_to(target)
    answer, started = orchard.from_node(log=str(tmp_path / "log"))
    assert started
    assert answer["error"]["code"] == 2
    assert target.read_text() == ""
    assert not list(Path(orchard.store.layout.of("leases")).iterdir())


def test_a_variable_that_is_no_utf8_is_left_to_the_command(orchard: Orchard) -> None:
    # Something is known of the variable as Node shows it.
    orchard.patch.setenv("PIP_ODD", "\ufffd")
    orchard.from_command()
    orchard.patch.setenv("PIP_ODD", "\udcff")
    assert orchard.from_command()["status"] == "hit"
    answer, started = orchard.from_node()
    assert started
    assert answer["status"] == "hit"


@pytest.mark.parametrize(
    "options", [{"python": None}, {"python": "3.11"}, {"root": "report"}, {"arguments": ["--no-sync"]}]
)
def test_what_only_the_command_understands_is_left_to_it(orchard: Orchard, options: dict[str, Any]) -> None:
    assert orchard.from_node(**options)[1]


def test_a_variable_may_say_where_store_and_interpreter_are(orchard: Orchard) -> None:
    orchard.patch.setenv(
        "VRFSTORE_PYTHON", str(Path(orchard.python).parent.parent)
    )  # a venv, by its directory
    orchard.patch.setenv("VRFSTORE_HOME", orchard.store.root)
    answer, started = orchard.from_node(python=None, store=None)
    assert not started
    assert answer["environment"] == str(orchard.environment)
    orchard.patch.setenv("VRFSTORE_COMPILE", "eager")
    assert orchard.from_node(python=None, store=None)[1]


def test_the_default_store_is_found(orchard: Orchard, tmp_path: Path) -> None:
    home = tmp_path / "data"
    home.mkdir()
    (home / "vrfstore").symlink_to(orchard.store.root)
    orchard.patch.setenv("XDG_DATA_HOME", str(home))
    assert quick(["link", "--python", orchard.python, str(orchard.requirements)]) is not None
    answer, started = orchard.from_node(store=None)
    assert not started
    assert answer["environment"] == str(home / "vrfstore/environments" / orchard.environment.name)


@pytest.mark.parametrize("name", ["requirements.py", "pylock.toml"])
def test_a_name_that_says_something_is_left_to_the_command(
    orchard: Orchard, name: str, tmp_path: Path
) -> None:
    path = shutil.copy(orchard.requirements, tmp_path / name)
    assert ask(tmp_path, path, store=orchard.store.root, python=orchard.python).started


def test_what_is_no_regular_file_is_not_waited_for(orchard: Orchard) -> None:
    orchard.requirements.unlink()
    os.mkfifo(orchard.requirements)
    said = ask(
        orchard.scratch, orchard.requirements, store=orchard.store.root, python="/", command=["/nowhere"]
    )
    assert said.failure["kind"] == "no-command"


def test_a_hit_is_a_use_and_its_lease_keeps_the_environment_until_it_is_released(orchard: Orchard) -> None:
    record = orchard.environment / "vrfstore.json"
    os.utime(record, (0, 0))
    before = time.time()
    answer, _ = orchard.from_node(lease=600)
    assert before <= os.stat(record).st_mtime < before + 60
    (lease,) = (each for each in leases.read(orchard.store.layout) if each.kind == "until")
    assert (lease.alive, lease.environment) == (True, orchard.environment.name)
    assert answer["lease"]["id"] == lease.id
    assert lease.expires is not None
    assert 599 < lease.expires - before < 660
    os.utime(record, (0, 0))
    assert orchard.command("gc", "--max-age", "0").code == 0
    assert orchard.environment.exists()
    Path(orchard.store.layout.of("leases", lease.name)).unlink()
    assert orchard.command("gc", "--max-age", "0").code == 0
    assert orchard.store.environments() == []


RELEASING = """
import { readdirSync } from 'node:fs';
const { link } = await import(process.argv[1]);
const [requirements, store, python, program] = process.argv.slice(2);
const said = [];
for (const options of [{}, { root: 'report' }, { lease: 0 }]) {
  const { lease } = await link(requirements, { store, python, command: [program], ...options });
  const taken = readdirSync(`${store}/leases`).length;
  lease?.release();
  lease?.release();
  said.push([taken, readdirSync(`${store}/leases`).length]);
}
{
  const found = await link(requirements, { store, python });
  found.lease[Symbol.dispose]();
  const names = Object.keys(JSON.parse(JSON.stringify(found.lease)));
  said.push([names, readdirSync(`${store}/leases`).length]);
}
console.log(JSON.stringify(said));
"""


def test_a_lease_is_released_whoever_took_it(orchard: Orchard) -> None:
    ask(orchard.scratch, orchard.requirements, store=orchard.store.root, python=orchard.python, lease=0)
    arguments = [orchard.requirements, orchard.store.root, orchard.python, orchard.scratch / "vrfstore"]
    done = subprocess.run(
        [node(), "--input-type=module", "--eval", RELEASING, str(CLIENT / "index.js"), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == [[1, 0], [1, 0], [0, 0], [["id", "expires"], 0]]


def test_a_hit_does_things_in_the_order_that_keeps_gc_away_and_starts_nothing(orchard: Orchard) -> None:
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    trace = orchard.scratch / "trace"
    question = {
        "requirements": str(orchard.requirements),
        "options": {"store": orchard.store.root, "python": orchard.python},
    }
    source = (
        "const { link } = await import(process.argv[1]);"
        "const { requirements, options } = JSON.parse(process.argv[2]);"
        "console.log((await link(requirements, options)).status);"
    )
    done = subprocess.run(
        [
            strace, "-f", "-o", str(trace), "-e", "trace=file,desc,network,process", node(), "--input-type=module",
            "--eval", source, str(CLIENT / "index.js"), json.dumps(question),
        ],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "hit\n"
    # From the memo on, nothing but what is said of the store counts.
    lines = trace.read_text().partition("/inputs/")[2].splitlines()
    events = {
        "stamp": r"utimensat\(.*vrfstore\.json",
        "lease": r"open(at)?\(.*/leases/until\..*O_CREAT\|O_EXCL",
        "list": r"open(at)?\(.*gc/condemned",
        "own": r"(statx?|newfstatat)\(.*/bin\"",
    }
    places = {
        name: next(number for number, line in enumerate(lines) if re.search(pattern, line))
        for name, pattern in events.items()
    }
    assert sorted(places, key=lambda name: places[name]) == ["stamp", "lease", "list", "own"]
    assert not [line for line in lines if re.search(r"\b(execve|fork|vfork|connect)\(", line)]


def test_what_was_aborted_runs_no_more_and_what_had_come_is_kept(orchard: Orchard, index: Index) -> None:
    index.add(WheelSpec(name="fig"))
    index.add(WheelSpec(name="melon"))
    # Both have been asked for when the first of them is there.
    index.delay.update({"fig-1.0-py3-none-any.whl": 1, "melon-1.0-py3-none-any.whl": 5})
    orchard.requirements.write_text("fig\nmelon\n")
    asked = {"store": orchard.store.root, "python": orchard.python}
    said = ask(orchard.scratch, orchard.requirements, stop="fetched fig", **asked)
    assert said.failure["kind"] == "aborted"
    (group,) = re.findall(r"process group (\d+), was ended", said.failure["message"])
    with pytest.raises(ProcessLookupError):
        os.killpg(int(group), 0)
    assert len(orchard.store.environments()) == 1
    index.delay.clear()
    said = ask(orchard.scratch, orchard.requirements, **asked)
    assert said.answer["status"] == "built"
    assert [index.downloads(f"{name}-1.0-py3-none-any.whl") for name in ("fig", "melon")] == [1, 2]
