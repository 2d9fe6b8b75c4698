"""What a shared store says, and what others leave in it, when whoever writes it means ill: see docs/sharing.md."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import vrfstore
from support.commands import Command
from support.crash import base, litter
from support.index import Index
from support.wheels import WheelSpec, build_wheel
from vrfstore import codec, fs
from vrfstore.errors import StoreDamagedError
from vrfstore.gc import sweep
from vrfstore.gc.policy import Policy
from vrfstore.model import EntryPlan, nobody
from vrfstore.requirements.policy import Policy as Wanted
from vrfstore.runner.link import LinkResult
from vrfstore.runner.verify import verify
from vrfstore.store import clients
from vrfstore.store.bytecode import BytecodeRecord, CompiledFile
from vrfstore.store.compiling import compile_entries
from vrfstore.store.store import Store

pytestmark = pytest.mark.usefixtures("without_sync")

PEAR = WheelSpec(
    name="pear",
    version="1.5",
    files={"pear.py": "ripe = True\n", "pips/__init__.py": "count = 5\n"},
    data={"scripts/peel": "#!python\nprint('peeled')\n"},
)

Values = dict[str, Any]


class Lender:
    """A shared store with pear, whose owner may make it say anything."""

    def __init__(self, home: Path, own: Store, index: Index, spec: WheelSpec = PEAR) -> None:
        self.home = home
        self.own = own
        self.store = Store.open(home / "shared")
        wheel = build_wheel(spec, home)
        index.add(wheel)
        self.store.add(wheel)
        (directory,) = self.store.entries()
        self.entry = Path(self.store.layout.of("entries", directory))
        self.entry.chmod(0o755)

    def say(self, change: Callable[[Values, Values], None]) -> None:
        """Let plan and manifest be other ones, with a checksum that is right."""
        plan, manifest = (self.entry / name for name in ("plan.json", "manifest.json"))
        said, listed = json.loads(plan.read_text()), json.loads(manifest.read_text())
        change(said, listed)
        listed.pop("checksum")
        for path, value in ((plan, said), (manifest, codec.with_checksum(listed))):
            path.unlink()
            path.write_text(json.dumps(value))

    def link(self, **options: Any) -> LinkResult:
        """Link pear over the shared store."""
        requirements = self.home / "requirements.vrf"
        requirements.write_text("pear\n")
        options = {"store": self.own, "shared_store": self.store.root, **options}
        return vrfstore.link(requirements, **options)


@pytest.fixture
def lender(tmp_path: Path, store: Store, index: Index) -> Lender:
    return Lender(tmp_path, store, index)


def _site(plan: Values) -> Values:
    found: Values = plan["trees"]["site-packages"]
    return found


def _file_outside(plan: Values, manifest: Values) -> None:
    _site(plan)["../../../../../victim"] = "site-packages/pear.py"


def _directory_outside(plan: Values, manifest: Values) -> None:
    _site(plan)[".."] = {"..": {"..": {"..": {"..": {"victim": "site-packages/pear.py"}}}}}


def _absolute_name(plan: Values, manifest: Values) -> None:
    _site(plan)["/victim"] = "site-packages/pear.py"


def _somebody_elses_file(plan: Values, manifest: Values) -> None:
    _site(plan)["pear.py"] = "../../store.json"


def _file_that_is_not_there(plan: Values, manifest: Values) -> None:
    _site(plan)["more.py"] = ""


def _link_that_is_not_there(plan: Values, manifest: Values) -> None:
    _site(plan)["more"] = 77


def _link_elsewhere(plan: Values, manifest: Values) -> None:
    manifest["links"]["links/0"] = "/etc"


def _link_to_a_directory(plan: Values, manifest: Values) -> None:
    _site(plan)["more"] = ""
    manifest["links"]["site-packages/more"] = "/etc"


def _tree_of_another_kind(plan: Values, manifest: Values) -> None:
    plan["trees"] = ["site-packages"]


def _unknown_scheme(plan: Values, manifest: Values) -> None:
    plan["trees"]["elsewhere"] = {"x": ""}


def _node_of_another_kind(plan: Values, manifest: Values) -> None:
    _site(plan)["pear.py"] = None


def _size_of_another_kind(plan: Values, manifest: Values) -> None:
    plan["unpacked"] = "much"


def _tags_of_another_kind(plan: Values, manifest: Values) -> None:
    plan["tags"] = [1, "x"]


def _python_of_another_kind(plan: Values, manifest: Values) -> None:
    plan["requires_python"] = 3


def _libraries_of_another_kind(plan: Values, manifest: Values) -> None:
    plan["libraries"] = [{"a": [1]}, [], [3]]


def _dist_info_elsewhere(plan: Values, manifest: Values) -> None:
    plan["dist_info"] = "../x"


def _rows_that_are_no_links(plan: Values, manifest: Values) -> None:
    plan["record_links"] = "a"


def _members(plan: Values, manifest: Values) -> None:
    plan["members"] = ["../../x"]


def _file_and_directory(plan: Values, manifest: Values) -> None:
    manifest["files"].append(["site-packages/pear.py/x", 1, 0o444, "0" * 64])


def _cache_that_is_a_file(plan: Values, manifest: Values) -> None:
    manifest["files"].append(["site-packages/__pycache__", 1, 0o444, "0" * 64])


def _manifest_in_itself(plan: Values, manifest: Values) -> None:
    manifest["files"].append(["manifest.json", 1, 0o444, "0" * 64])


def _link_for_manifest(plan: Values, manifest: Values) -> None:
    manifest["links"]["manifest.json"] = "/etc/passwd"


def _long_name(plan: Values, manifest: Values) -> None:
    manifest["files"].append([f"site-packages/{'x' * 300}", 1, 0o444, "0" * 64])


def _long_path(plan: Values, manifest: Values) -> None:
    manifest["files"].append(["site-packages/" + "x" * 200 + ("/" + "y" * 200) * 30, 1, 0o444, "0" * 64])


def _nul(plan: Values, manifest: Values) -> None:
    manifest["files"].append(["site-packages/a\0b", 1, 0o444, "0" * 64])


def _half_a_character(plan: Values, manifest: Values) -> None:
    manifest["files"].append(["site-packages/\ud800", 1, 0o444, "0" * 64])


def _file_twice(plan: Values, manifest: Values) -> None:
    manifest["files"].append(["site-packages/pear.py", 1, 0o444, "0" * 64])


def _setuid(plan: Values, manifest: Values) -> None:
    for file in manifest["files"]:
        if file[0] == "links/bin/peel":
            file[2] = 0o4755


def _directory_name(plan: Values, manifest: Values) -> None:
    plan["directory"] = "../tmp"


def _files_of_another_kind(plan: Values, manifest: Values) -> None:
    manifest["files"] = 3


def _libraries_that_are_a_list(plan: Values, manifest: Values) -> None:
    plan["libraries"] = [[], [], []]


def _file_in_no_place(plan: Values, manifest: Values) -> None:
    manifest["files"].append(["bytecode/x.json", 1, 0o444, "0" * 64])


def _many_bytes_of_scripts(plan: Values, manifest: Values) -> None:
    manifest["files"].append(["links/bin/much", 1 << 40, 0o444, "0" * 64])


def _another_wheel(plan: Values, manifest: Values) -> None:
    manifest["filename"] = "apple-1.0-py3-none-any.whl"


def _words_that_cannot_be_shown(plan: Values, manifest: Values) -> None:
    plan["damaged"] = "\x1b]0;mine\x07\ud800" * 100_000


@pytest.fixture
def honest(lender: Lender) -> EntryPlan:
    """The plan of the entry that an honest store lends."""
    (plan,) = borrowed(lender)
    return plan


def borrowed(lender: Lender) -> list[EntryPlan]:
    """What is made of what is lent, in a store of its own."""
    own = Store.open(lender.home / fs.unique_name())
    lender.link(store=own)
    return [plan for plan in map(own.plan, own.entries()) if plan.shared]


@pytest.mark.parametrize(
    "lie",
    [
        _file_outside,
        _directory_outside,
        _absolute_name,
        _somebody_elses_file,
        _file_that_is_not_there,
        _link_that_is_not_there,
        _link_elsewhere,
        _link_to_a_directory,
        _unknown_scheme,
        _node_of_another_kind,
        _size_of_another_kind,
        _rows_that_are_no_links,
        _members,
        _link_for_manifest,
    ],
)
def test_nothing_that_is_derived_is_taken_from_a_shared_store(
    lender: Lender, honest: EntryPlan, lie: Callable[[Values, Values], None]
) -> None:
    lender.say(lie)
    result = lender.link()
    assert [package.shared for package in result.packages] == [True]
    (plan,) = map(lender.own.plan, lender.own.entries())
    assert plan == honest
    assert verify(lender.own).sound
    assert list(lender.home.rglob("victim")) == []
    place = Path(lender.own.layout.of("entries", plan.reference.directory))
    targets = {
        str(path.relative_to(place)): os.readlink(path) for path in place.rglob("*") if path.is_symlink()
    }
    assert {path for path in targets if targets[path] != f"{lender.entry}/{path}"} == {"links/0"}
    assert targets["links/0"].endswith(f"../entries/{place.name}/site-packages/pips")


@pytest.mark.parametrize(
    "lie",
    [
        _tree_of_another_kind,
        _tags_of_another_kind,
        _python_of_another_kind,
        _libraries_of_another_kind,
        _libraries_that_are_a_list,
        _dist_info_elsewhere,
        _file_and_directory,
        _cache_that_is_a_file,
        _manifest_in_itself,
        _file_in_no_place,
        _long_name,
        _long_path,
        _nul,
        _half_a_character,
        _file_twice,
        _setuid,
        _many_bytes_of_scripts,
        _another_wheel,
        _files_of_another_kind,
        _words_that_cannot_be_shown,
    ],
)
def test_what_no_entry_can_be_like_is_not_taken_and_fails_nothing(
    lender: Lender, lie: Callable[[Values, Values], None]
) -> None:
    lender.say(lie)
    result = lender.link()
    (warning,) = result.warnings
    assert f"is not taken from the shared store {lender.store.root}: " in warning
    assert warning.isprintable()
    assert len(warning) < 1000
    assert [package.shared for package in result.packages] == [False]
    assert litter(lender.own) == []


def test_an_entry_that_says_to_be_elsewhere_is_not_taken(lender: Lender) -> None:
    lender.say(_directory_name)
    box = Path(lender.store.root) / "clients"
    box.mkdir()
    assert [package.shared for package in lender.link().packages] == [False]
    assert list(box.iterdir()) == []


@pytest.mark.parametrize("path", ["links/RECORD", "links/bin/peel", "plan.json", "manifest.json"])
def test_what_is_no_file_there_is_not_waited_for(lender: Lender, path: str) -> None:
    place = lender.entry / path
    place.parent.chmod(0o755)
    place.unlink()
    os.mkfifo(place)
    assert [package.shared for package in lender.link().packages] == [path == "links/RECORD"]


@pytest.mark.parametrize("kind", ["fifo", "endless", "large"])
def test_modules_that_have_become_something_else_are_neither_waited_for_nor_read(
    lender: Lender, kind: str
) -> None:
    lender.link(compile_mode="off")
    (directory,) = lender.own.entries()
    place = lender.entry / "site-packages"
    place.chmod(0o755)
    module = place / "pear.py"
    module.unlink()
    if kind == "fifo":
        os.mkfifo(module)
    elif kind == "endless":
        module.symlink_to("/dev/zero")
    else:
        with open(module, "wb") as stream:
            stream.truncate(1 << 33)
    with lender.own.session() as lease:
        (result,) = compile_entries(lender.own, base(), [directory], lease=lease, watch=nobody)
    assert result.state == "failed"
    assert litter(lender.own) == []


def test_what_cannot_be_copied_of_it_is_damage_and_no_bug(lender: Lender, command: Command) -> None:
    lender.link(compile_mode="off")
    place = lender.entry / "site-packages"
    place.chmod(0o755)
    (place / "pear.py").unlink()
    os.mkfifo(place / "pear.py")
    words = ["--shared-store", lender.store.root, "--materialize", "pear"]
    done = command("link", *words, lender.home / "requirements.vrf")
    assert done.code == 17
    assert "not a regular file" in done.err


def test_bytecode_that_would_be_in_the_place_of_something_else_is_not_taken(lender: Lender) -> None:
    named = "links/bin/peel.pyc", "site-packages/pear.py", "site-packages/pear.pyc", "bytecode/x.pyc"
    for number, path in enumerate(named):
        record = BytecodeRecord(
            cache_tag=f"cpython-{number}",
            magic="00000000",
            version="3.0.0",
            files=(CompiledFile(path, 1, "0" * 64),),
            failed=(),
        )
        (lender.entry / "bytecode").chmod(0o755)
        (lender.entry / f"bytecode/cpython-{number}-00000000.json").write_bytes(codec.dumps(record.to_json()))
        (lender.entry / path).parent.chmod(0o755)
        if not (lender.entry / path).exists():
            (lender.entry / path).write_bytes(b"x")
    assert [package.shared for package in lender.link().packages] == [True]
    (directory,) = lender.own.entries()
    assert list(Path(lender.own.layout.of("entries", directory), "bytecode").iterdir()) == []


@pytest.mark.parametrize(
    "spec",
    [
        PEAR,
        WheelSpec(
            name="pear",
            files={
                "pear/__init__.py": "__path__ = __import__('pkgutil').extend_path(__path__, __name__)\n",
                "pear/a/b.py": "",
                "pear/seeds/x.txt": "x",
            },
        ),
        WheelSpec(
            name="pear",
            files={"pear/fig/__init__.py": "", "pear.libs/liba.so": "x", "docs/a.md": "x"},
            data={
                "data/share/jupyter/kernels/pear/kernel.json": "{}",
                "headers/pear.h": "int x;",
                "data/etc/pear.conf": "x",
            },
            entry_points={"console_scripts": {"pear": "pear.fig:main"}},
        ),
    ],
)
def test_what_an_honest_store_lends_is_what_its_wheel_is_unpacked_to(
    tmp_path: Path, store: Store, index: Index, spec: WheelSpec
) -> None:
    lender = Lender(tmp_path, store, index, spec)
    lender.link()
    (directory,) = lender.own.entries()
    ours, theirs = lender.own.plan(directory), lender.store.plan(directory)
    assert ours.shared
    assert replace(ours, shared="") == theirs
    one, other = lender.own.manifest(directory), lender.store.manifest(directory)
    assert {path: target for path, target in one.links.items() if path.startswith("links/")} == other.links
    assert {file for file in one.files if file.path != "plan.json"} == {
        file for file in other.files if file.path != "plan.json"
    }
    assert verify(lender.own).sound


# --- what others leave in a store that lends


@pytest.fixture
def box(lender: Lender) -> Path:
    """Where other stores say what they borrow."""
    made = Path(lender.store.root) / "clients"
    made.mkdir()
    made.chmod(0o1777)
    return made


def said_by(store: str, *entries: str) -> str:
    return json.dumps({"schema": 1, "store": store, "entries": entries})


def read(lender: Lender) -> list[clients.Client | StoreDamagedError]:
    return list(clients.read(lender.store.layout))


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"schema": "x" * 1_000_000, "store": "/x", "entries": []}),
        json.dumps({"schema": 1, "store": ["x" * 1_000_000], "entries": []}),
        json.dumps({"schema": 1, "store": "/x" * 1_000_000, "entries": []}),
        "[" * 1_000_000,
    ],
)
def test_no_registration_has_much_to_say(lender: Lender, box: Path, text: str) -> None:
    (box / "x.json").write_text(text)
    (found,) = read(lender)
    assert isinstance(found, StoreDamagedError)
    assert len(found.message) < 5000


def test_of_what_is_not_there_nothing_is_kept_in_mind(lender: Lender, box: Path) -> None:
    (box / "x.json").write_text(
        said_by("/x", *(f"{number:020}-x-1" for number in range(50_000)), lender.entry.name)
    )
    (found,) = read(lender)
    assert isinstance(found, clients.Client)
    assert found.entries == {lender.entry.name}


def test_more_than_can_be_read_keeps_everything_and_takes_no_longer(
    lender: Lender, box: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "_MOST", 100_000)
    for number in range(1000):
        (box / f"{number:04}.json").write_text("" if number % 2 else said_by("/x"))
    found = read(lender)
    assert len(found) < 110
    assert isinstance(found[-1], StoreDamagedError)
    assert found[-1].path == str(box)
    assert sweep.collect(lender.store, Policy(max_age=0, grace=0)).entries == ()


def test_a_file_with_more_bytes_than_there_can_be_is_not_read(lender: Lender, box: Path) -> None:
    with open(box / "x.json", "wb") as stream:
        stream.truncate(1 << 40)
    (found,) = read(lender)
    assert isinstance(found, StoreDamagedError)


def test_names_in_clients_do_nothing_to_the_terminal_of_who_runs_doctor(
    lender: Lender, box: Path, command: Command
) -> None:
    (box / "\x1b[31mx.json").write_text("")
    done = command("--store", lender.store.root, "doctor")
    assert "x.json" in done.out
    assert "\x1b" not in done.out


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a file somebody else's")
def test_who_takes_the_name_of_a_registration_first_keeps_nobody_from_being_told_of(
    lender: Lender, box: Path
) -> None:
    lender.link()
    (registration,) = box.iterdir()
    text = registration.read_text()
    assert lender.entry.name in text
    # Somebody else knows the name, has said the same there, and takes it back later.
    os.chown(registration, 65534, 65534)
    sweep.collect(lender.own, Policy(max_age=0, grace=0))
    lender.link()
    lender.link(policy=Wanted(refresh=True))
    assert len(list(box.iterdir())) == 2
    registration.unlink()
    (ours,) = box.iterdir()
    assert ours.stat().st_uid == os.geteuid()
    assert json.loads(ours.read_text()) == json.loads(text)
    assert sweep.collect(lender.store, Policy(max_age=0, grace=0)).entries == ()
    sweep.collect(lender.own, Policy(max_age=0, grace=0))
    assert list(box.iterdir()) == []
