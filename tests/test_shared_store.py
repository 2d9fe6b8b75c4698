"""A private store over a shared one: what is there is linked from there, nothing is written there, nobody is broken."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import vrfstore
from support.commands import Command, Ended, check_link
from support.crash import LOCK, NOBODY, as_nobody, base, each_kill, litter, together
from support.elf import elf_bytes
from support.index import Index
from support.node import ask
from support.wheels import WheelSpec, build_wheel
from vrfstore import codec, fs
from vrfstore.cli import quick
from vrfstore.errors import StoreDamagedError, UsageError
from vrfstore.gc import scan, sweep
from vrfstore.gc.policy import Policy
from vrfstore.interpreter import default_executable
from vrfstore.linker.composing import composed
from vrfstore.linker.link import environment_key, link
from vrfstore.model import EntryPlan, LinkOptions, LockedWheel, nobody
from vrfstore.requirements.policy import Policy as Wanted
from vrfstore.runner.compile import compile_store
from vrfstore.runner.doctor import examine
from vrfstore.runner.link import LinkResult
from vrfstore.runner.verify import verify
from vrfstore.store import clients, condemned, leases
from vrfstore.store.bytecode import is_compiled
from vrfstore.store.entry_plan import DAMAGED
from vrfstore.store.layout import Layout
from vrfstore.store.shared import SharedStore
from vrfstore.store.store import Store

pytestmark = pytest.mark.usefixtures("without_sync")

EVERYTHING = Policy(max_age=0, grace=0)
OPEN, SEALED = 0o755, 0o555

APPLE = WheelSpec(
    name="apple",
    requires=["pear>=1"],
    files={"apple/__init__.py": "import pear\n\ndef main():\n    print('apple with', pear.ripe)\n"},
    entry_points={"console_scripts": {"eat-apple": "apple:main"}},
)
PEAR = WheelSpec(
    name="pear",
    version="1.5",
    files={"pear.py": "ripe = True\n", "pips/__init__.py": "count = 5\n", "pips/deep/er.py": "x = 1\n"},
    data={"scripts/peel": "#!python\nprint('peeled')\n", "data/etc/pear.conf": "sweet = yes\n"},
)
FIG = WheelSpec(name="orchard-fig", files={"orchard/fig/__init__.py": "seeds = 1000\n"})
PLUM = WheelSpec(name="orchard-plum", files={"orchard/plum/__init__.py": "stones = 1\n"})
TOP = WheelSpec(
    name="top",
    files={
        "top/__init__.py": "X = 1\n",
        "top/_core.so": elf_bytes(needed=["libbottom.so.1"], runpath="$ORIGIN/../bottom/lib"),
    },
)
BOTTOM = WheelSpec(
    name="bottom",
    files={
        "bottom/__init__.py": "Y = 1\n",
        "bottom/lib/libbottom.so.1": elf_bytes(soname="libbottom.so.1"),
    },
)

Snapshot = dict[str, tuple[Any, ...]]


def snapshot(root: str) -> Snapshot:
    """Everything at and below a directory: what it is, when it was written or changed, and its bytes."""
    found: Snapshot = {}
    for parent, directories, files in os.walk(root):
        for path in (parent, *(os.path.join(parent, name) for name in (*directories, *files))):
            seen = os.lstat(path)
            data = Path(path).read_bytes() if stat.S_ISREG(seen.st_mode) else b""
            times = (seen.st_mtime_ns, seen.st_ctime_ns)
            found[path] = (seen.st_mode, seen.st_nlink, seen.st_uid, seen.st_size, *times, data)
    return found


@contextmanager
def untouched(root: str) -> Iterator[None]:
    """Hold that nothing of a store changes."""
    before = snapshot(root)
    yield
    assert snapshot(root) == before


@dataclass(frozen=True, kw_only=True)
class Site:
    """A shared store with pear, fig and bottom, a store of one's own, and an index with everything."""

    shared: Store
    own: Store
    index: Index
    requirements: Path
    command: Command

    def link(self, text: str = "apple\n", **options: Any) -> LinkResult:
        """Link over the shared store."""
        self.requirements.write_text(text)
        options = {"store": self.own, "shared_store": self.shared.root, **options}
        return vrfstore.link(self.requirements, **options)

    def json(self, *options: str) -> dict[str, Any]:
        """Link over the shared store from the command line."""
        return self.ended(*options).document

    def ended(self, *options: str) -> Ended:
        """Link over the shared store from the command line."""
        self.requirements.write_text("apple\n")
        return self.command("link", "--json", "--shared-store", self.shared.root, *options, self.requirements)

    def quick(self, *options: str) -> str | None:
        """What the short way of the command finds."""
        found = quick(["--store", self.own.root, "link", *options, str(self.requirements)])
        return None if found is None else os.fsdecode(found)

    def entry(self, store: Store, name: str) -> Path:
        """The one entry of a distribution."""
        (directory,) = (each for each in store.entries() if each.split("-")[1] == name)
        return Path(store.layout.of("entries", directory))

    def names(self, store: Store) -> list[str]:
        """The distributions of which there are entries."""
        return sorted(directory.split("-")[1] for directory in store.entries())

    def downloads(self) -> list[str]:
        """The distributions whose wheels were fetched since the last call."""
        paths = [path for method, path in self.index.requests if method == "GET" and path.endswith(".whl")]
        self.index.requests.clear()
        return sorted(path.rpartition("/")[2].split("-")[0] for path in paths)

    def open_clients(self) -> Path:
        """Let others leave in the shared store what they borrow."""
        path = Path(self.shared.layout.of("clients"))
        path.mkdir()
        path.chmod(0o1777)
        return path

    def collect_shared(self) -> list[str]:
        """Collect all that may go in the shared store; return the distributions that went."""
        return sorted(name.split("-")[1] for name in sweep.collect(self.shared, EVERYTHING).entries)


@pytest.fixture
def site(tmp_path: Path, store: Store, index: Index, command: Command) -> Site:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    shared = Store.open(tmp_path / "shared")
    # Unlike those of any other test: in /proc, a name counts for every store that has it.
    own = f"Keywords: {fs.unique_name()}\n"
    for spec in (APPLE, PEAR, FIG, PLUM, TOP, BOTTOM):
        wheel = build_wheel(WheelSpec(**{**_fields(spec), "metadata_extra": own}), wheels)
        index.add(wheel)
        if spec in (PEAR, FIG, BOTTOM):
            shared.add(wheel)
    found = Site(
        shared=shared,
        own=store,
        index=index,
        requirements=tmp_path / "requirements.vrf",
        command=command,
    )
    found.requirements.write_text("apple\n")
    return found


def _fields(spec: WheelSpec) -> dict[str, Any]:
    return {name: getattr(spec, name) for name in WheelSpec.__dataclass_fields__}


def says(python: str, code: str) -> str:
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def is_all_well(store: Store) -> bool:
    """Whether nothing of a store is other than it was published."""
    return verify(store).sound


def compiled(store: Store) -> None:
    """Compile everything that is there."""
    compile_store(store, everything=True, python=default_executable(), watch=nobody)


def marked(plan: Path) -> None:
    """Let an entry be marked as damaged, as a repair without a source does."""
    plan.parent.chmod(OPEN)
    value = json.loads(plan.read_text())
    plan.unlink()
    plan.write_bytes(codec.dumps(value | {DAMAGED: "bad"}))


# --- linking


def test_what_the_shared_store_has_is_linked_from_there_and_only_the_rest_is_fetched(site: Site) -> None:
    with untouched(site.shared.root):
        result = site.link()
        assert says(result.python, "import apple, os; print(os.path.realpath(apple.pear.__file__))") == str(
            site.entry(site.shared, "pear") / "site-packages/pear.py"
        )
        assert says(result.python, "import apple, os; print(os.path.realpath(apple.__file__))") == str(
            site.entry(site.own, "apple") / "site-packages/apple/__init__.py"
        )
        for script, text in (("eat-apple", "apple with True"), ("peel", "peeled")):
            done = subprocess.run(
                [f"{result.environment}/bin/{script}"], capture_output=True, text=True, check=True
            )
            assert done.stdout.strip() == text
    assert result.status == "built"
    assert site.downloads() == ["apple"]
    assert {package.name: (package.reused, package.shared) for package in result.packages} == {
        "apple": (False, False),
        "pear": (True, True),
    }
    assert not [path for path in site.entry(site.own, "pear").rglob("*.py") if not path.is_symlink()]


def test_a_borrowed_distribution_is_an_ordinary_one_to_its_environment(site: Site) -> None:
    python = site.link().python
    code = (
        "import importlib.metadata as m; d = m.distribution('pear'); "
        "print(d.version, all(file.locate().exists() for file in d.files))"
    )
    assert says(python, code) == "1.5 True"
    assert says(
        python, "import sysconfig; print(open(sysconfig.get_path('data') + '/etc/pear.conf').read())"
    ) == ("sweet = yes")


def test_where_the_shared_store_has_everything_nothing_is_fetched(site: Site) -> None:
    result = site.link("pear\norchard-fig\n")
    assert result.status == "linked"
    assert site.downloads() == []
    assert result.unpacked == 0
    assert result.shared > 0


def test_packages_of_both_stores_share_a_namespace(site: Site) -> None:
    result = site.link("orchard-fig\norchard-plum\n")
    assert says(result.python, "from orchard import fig, plum; print(fig.seeds, plum.stones)") == "1000 1"
    assert {package.name: package.shared for package in result.packages} == {
        "orchard-fig": True,
        "orchard-plum": False,
    }


def test_a_composite_is_made_in_ones_own_store_of_members_from_both(site: Site) -> None:
    with untouched(site.shared.root):
        result = site.link("top\nbottom\n")
    assert site.names(site.own) == ["bottom", "composite", "top"]
    composite = site.entry(site.own, "composite") / "site-packages"
    library = composite / "top/../bottom/lib/libbottom.so.1"
    assert library.resolve() == site.entry(site.shared, "bottom") / "site-packages/bottom/lib/libbottom.so.1"
    assert not (composite / "top/_core.so").is_symlink()
    assert says(result.python, "import top, bottom; print(top.X, bottom.Y)") == "1 1"
    assert is_all_well(site.own)


def test_what_is_materialized_is_copied_out_of_the_shared_store(site: Site) -> None:
    with untouched(site.shared.root):
        result = site.link(options=LinkOptions(materialize=("pear",)))
    module = Path(says(result.python, "import pear; print(pear.__file__)"))
    assert not module.is_symlink()
    assert module.resolve() == module
    assert module.read_text() == "ripe = True\n"


def test_an_environment_of_ones_own_leads_to_both_stores(site: Site, tmp_path: Path) -> None:
    place = tmp_path / "env"
    with untouched(site.shared.root):
        result = site.link("apple\nbottom\n", into=place)
        assert says(result.python, "import apple, bottom, pips; print(pips.count)") == "5"
        # Small files are copies there, which nobody changes for others.
        assert not Path(says(result.python, "import pear; print(pear.__file__)")).is_symlink()
        assert site.command("env", "check", place).code == 0
    assert site.link("apple\nbottom\n", into=place).status == "hit"


# --- a hit


def test_the_second_call_is_a_hit_by_every_way(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    first = site.link()
    with untouched(site.shared.root):
        again = site.link()
        assert (again.status, again.python) == ("hit", first.python)
        assert [package.shared for package in again.packages] == [False, True]
        assert site.quick("--shared-store", site.shared.root) == first.python
        assert site.quick("--shared-store", f"{site.shared.root}/../shared/") == first.python
        document = site.json()
        assert document["status"] == "hit"
        assert [package["store"] for package in document["packages"]] == ["own", "shared"]
    assert site.quick() is None
    monkeypatch.setenv("VRFSTORE_SHARED_STORE", site.shared.root)
    assert site.quick() == first.python
    assert site.quick("--no-shared-store") is None
    assert vrfstore.link(site.requirements, store=site.own).python == first.python


def test_the_node_client_finds_the_same_and_notices_the_same(site: Site, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    asked = {"store": site.own.root, "python": default_executable(), "lease": 0}
    over = {**asked, "sharedStore": site.shared.root}

    def started(**options: Any) -> tuple[str, bool]:
        said = ask(scratch, site.requirements, **options)
        assert said.failure == {}
        check_link(said.answer)
        return said.answer["python"], bool(said.started)

    first = site.link(python=default_executable())
    assert started(**over) == (first.python, False)
    strict, asked_command = started(**asked)
    assert asked_command
    assert strict != first.python
    assert started(**asked) == (strict, False)
    site.collect_shared()
    again, asked_command = started(**over)
    assert asked_command
    assert again == strict


def test_an_environment_is_shared_only_with_those_who_ask_for_that_store(site: Site) -> None:
    over = site.link()
    strict = site.link(shared_store=None)
    assert site.downloads() == ["apple", "pear"]
    assert strict.environment != over.environment
    assert site.shared.root not in says(
        strict.python, "import pear, os; print(os.path.realpath(pear.__file__))"
    )
    assert {package.shared for package in strict.packages} == {False}
    assert site.quick() == strict.python
    assert site.quick("--shared-store", site.shared.root) == over.python
    assert site.link().python == over.python


def test_without_a_shared_store_keys_and_memos_are_what_they_were(site: Site) -> None:
    result = site.link(shared_store=None)
    digests = [package.digest for package in result.packages]
    assert os.path.basename(result.environment) == environment_key(digests, base())
    record = json.loads(Path(result.environment, "vrfstore.json").read_text())
    assert "shared" not in record
    (memo,) = Path(site.own.layout.of("inputs")).iterdir()
    assert not [path for path in json.loads(memo.read_text())["stats"] if site.shared.root in path]
    assert all(
        "shared" not in json.loads(path.read_text())
        for path in Path(site.own.root).glob("entries/*/plan.json")
    )


def test_what_is_configured_counts_unless_somebody_says_otherwise(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configuration = tmp_path / "vrfstore.toml"
    configuration.write_text(f'[link]\nshared-store = "{site.shared.root}"\n')
    monkeypatch.setenv("VRFSTORE_CONFIG", str(configuration))
    over = site.link(shared_store=None)
    assert site.names(site.own) == ["apple", "pear"]
    assert [package.shared for package in over.packages] == [False, True]
    strict = site.command("link", "--json", "--no-shared-store", site.requirements).document
    assert [package["store"] for package in strict["packages"]] == ["own", "own"]
    # The short way does not read the file, and must not find what was linked without.
    assert site.quick() in (None, over.python)
    assert site.command("link", site.requirements).out.strip() == over.python
    empty = tmp_path / "empty"
    Store.open(empty)
    monkeypatch.setenv("VRFSTORE_SHARED_STORE", str(empty))
    other = site.command("link", "--json", site.requirements).document
    assert other["python"] == strict["python"]
    configuration.write_text('[link]\nshared-store = "shared"\n')
    assert site.command("link", site.requirements).code == 2


def test_run_borrows_as_well(site: Site) -> None:
    code = "import apple, os, sys; sys.exit('shared' not in os.path.realpath(apple.pear.__file__))"
    words = [
        "--store",
        site.own.root,
        "run",
        "--shared-store",
        site.shared.root,
        str(site.requirements),
        "--",
    ]
    done = subprocess.run([sys.executable, "-m", "vrfstore", *words, "python", "-c", code], check=False)
    assert done.returncode == 0


def test_a_closed_gate_lets_through_what_the_shared_store_has(site: Site) -> None:
    site.requirements.write_text("pear\n")
    lock = site.requirements.with_name("pylock.toml")
    assert site.command("lock", site.requirements, "--output", lock).code == 0
    site.index.requests.clear()
    closed = Wanted(install=False, offline=True)
    result = vrfstore.link(lock, store=site.own, shared_store=site.shared.root, policy=closed)
    assert [package.shared for package in result.packages] == [True]
    assert site.index.requests == []


# --- what is not as it should be


def _no_store(site: Site) -> None:
    shutil.rmtree(site.shared.root)


def _another_format(site: Site) -> None:
    Path(site.shared.layout.marker).write_text('{"format": 99, "id": "x"}')


def _not_a_store(site: Site) -> None:
    os.remove(site.shared.layout.marker)


def _no_entries(site: Site) -> None:
    shutil.rmtree(site.shared.layout.of("entries"))


@pytest.mark.parametrize("spoil", [_no_store, _another_format, _not_a_store, _no_entries])
def test_a_shared_store_that_cannot_be_used_lends_nothing_and_that_is_said_each_time(
    site: Site, spoil: Callable[[Site], None]
) -> None:
    spoil(site)
    for _ in range(2):
        done = site.ended()
        assert done.code == 0
        (warning,) = done.warnings
        assert warning.startswith(f"the shared store {site.shared.root} is not used: ")
        assert [package["store"] for package in done.document["packages"]] == ["own", "own"]
    assert site.quick("--shared-store", site.shared.root) is None
    site.requirements.write_text("orchard-fig\n")
    refused = site.command("link", "--no-install", "--shared-store", site.shared.root, site.requirements)
    assert refused.code == 12


def test_an_environment_over_a_store_that_went_away_is_linked_anew_from_ones_own(site: Site) -> None:
    first = site.link()
    shutil.rmtree(site.shared.root)
    again = site.link()
    assert again.status == "built"
    assert again.environment != first.environment
    assert says(again.python, "import apple; print(apple.pear.ripe)") == "True"


def test_what_is_damaged_there_is_not_taken_from_there(site: Site) -> None:
    marked(site.entry(site.shared, "pear") / "plan.json")
    result = site.link()
    (warning,) = result.warnings
    assert "pear 1.5 is not taken from the shared store" in warning
    assert says(result.python, "import apple; print(apple.pear.ripe)") == "True"
    assert site.downloads() == ["apple", "pear"]


def test_what_is_half_there_is_not_taken_from_there(site: Site) -> None:
    entry = site.entry(site.shared, "pear")
    entry.chmod(OPEN)
    (entry / "manifest.json").unlink()
    result = site.link()
    assert len(result.warnings) == 1
    assert [package.shared for package in result.packages] == [False, False]
    assert litter(site.own) == []


@pytest.mark.parametrize("strange", ["../../x", "/etc/x", "site-packages/../../x", "site-packages//x"])
def test_nothing_is_made_elsewhere_whatever_a_shared_store_says(site: Site, strange: str) -> None:
    path = site.entry(site.shared, "pear") / "manifest.json"
    manifest = site.shared.manifest(path.parent.name)
    first, *rest = manifest.files
    path.parent.chmod(OPEN)
    path.unlink()
    path.write_bytes(codec.dumps(replace(manifest, files=(replace(first, path=strange), *rest)).to_json()))
    result = site.link()
    (warning,) = result.warnings
    assert strange in warning
    assert [package.shared for package in result.packages] == [False, False]
    assert litter(site.own) == []


def test_an_entry_that_is_marked_as_damaged_later_is_no_hit(site: Site) -> None:
    first = site.link()
    marked(site.entry(site.shared, "pear") / "plan.json")
    assert site.quick("--shared-store", site.shared.root) is None
    assert site.link().environment != first.environment


def test_a_store_is_not_shared_with_itself(site: Site) -> None:
    with pytest.raises(UsageError) as caught:
        site.link(shared_store=f"{site.own.root}/.")
    assert caught.value.kind == "shared-store-same"
    assert site.ended("--no-shared-store").code == 2


# --- the one store is not the other


def test_no_command_on_ones_own_store_changes_a_byte_of_the_shared_one(site: Site, tmp_path: Path) -> None:
    result = site.link("apple\nbottom\ntop\n", root="report")
    own = site.own
    with untouched(site.shared.root):
        # As root too: nothing an interpreter compiles gets there.
        says(result.python, "import apple, bottom, top, pips.deep.er")
        compiled(own)
        for words in (
            ["verify"],
            ["verify", "--quick"],
            ["verify", "--repair"],
            ["list"],
            ["du"],
            ["doctor"],
            ["why", os.path.basename(result.environment)],
            ["roots", "list"],
            ["tree", result.environment],
            ["export", os.path.basename(result.environment), "--output", str(tmp_path / "archive")],
            ["env", "export-tree", result.environment, str(tmp_path / "copy")],
            ["gc", "--dry-run", "--max-age", "0"],
            ["roots", "remove", "report"],
            ["gc", "--max-age", "0"],
        ):
            done = site.command(*words)
            assert done.code in {0, 23}, (words, done)
    assert site.names(own) == []


def test_no_link_leads_to_a_directory_of_the_shared_store(site: Site) -> None:
    result = site.link("apple\nbottom\norchard-fig\n")
    links = [path for path in Path(site.own.root).rglob("*") if path.is_symlink()]
    ends = [path.resolve() for path in links if path.resolve().is_relative_to(site.shared.root)]
    assert len(ends) > 5
    assert all(end.is_file() for end in ends)
    with untouched(site.shared.root):
        # Only root could.
        package = Path(says(result.python, "import pips; print(pips.__path__[0])"))
        package.resolve().chmod(OPEN)
        (package / "added.py").write_text("x = 1\n")
        (package / "__init__.py").unlink()


def test_the_bytes_of_the_shared_store_are_not_counted_here(site: Site) -> None:
    big = WheelSpec(name="big", files={"big/data.bin": os.urandom(1 << 20)})
    digest = build_wheel(big, site.requirements.parent)
    site.index.add(digest)
    site.shared.add(digest)
    site.link("big\n")
    document = site.command("du", "--json").document
    assert 0 < sum(row["bytes_exclusive"] for row in document["rows"]) < 1 << 18


def test_verify_finds_a_link_that_leads_elsewhere_and_a_repair_makes_the_entry_ones_own(site: Site) -> None:
    result = site.link()
    entry = site.entry(site.own, "pear")
    module = entry / "site-packages/pips/__init__.py"
    module.parent.chmod(OPEN)
    module.unlink()
    module.symlink_to("/etc/passwd")
    module.parent.chmod(SEALED)
    report = verify(site.own, full=False)
    assert [finding.problem.kind for finding in report.findings] == ["link"]
    with untouched(site.shared.root):
        assert site.command("verify", "--repair").code == 0
    assert says(result.python, "import pips, apple; print(pips.count, apple.pear.ripe)") == "5 True"
    assert is_all_well(site.own)


def test_bytecode_that_is_there_is_used_and_what_is_not_is_compiled_here(site: Site) -> None:
    compiled(site.shared)
    with untouched(site.shared.root):
        result = site.link()
        pear, apple = (site.entry(site.own, name) for name in ("pear", "apple"))
        assert is_compiled(site.own.layout, pear.name, base())
        assert not is_compiled(site.own.layout, apple.name, base())
        cached = Path(says(result.python, "import pips; print(pips.__cached__)"))
        assert cached.resolve().is_relative_to(site.shared.root)
        assert is_all_well(site.own)
        compiled(site.own)
        assert is_compiled(site.own.layout, apple.name, base())
        assert is_all_well(site.own)


def test_bytecode_of_what_is_borrowed_is_compiled_into_ones_own_store(site: Site) -> None:
    with untouched(site.shared.root):
        result = site.link(compile_mode="eager")
        cached = Path(says(result.python, "import pips; print(pips.__cached__)"))
        assert cached.resolve().is_relative_to(site.own.root)
        assert is_all_well(site.own)


def test_an_archive_and_a_copy_stand_without_either_store(site: Site, tmp_path: Path) -> None:
    result = site.link("apple\nbottom\ntop\n")
    archive, copy = tmp_path / "archive", tmp_path / "copy"
    name = os.path.basename(result.environment)
    assert site.command("export", name, "--output", archive).code == 0
    exported = site.command("env", "export-tree", result.environment, copy)
    assert exported.code == 0, exported
    other = Store.open(tmp_path / "other")
    shutil.rmtree(site.shared.root)
    shutil.rmtree(site.own.root)
    code = "import apple, top, bottom, pips; print(apple.pear.ripe, pips.count)"
    assert says(f"{copy}/bin/python", code) == "True 5"
    assert not [path for path in copy.rglob("*") if path.is_symlink() and not path.exists()]
    done = site.command("--store", other.root, "import", "--trust", archive)
    assert done.code == 0, done
    (environment,) = other.environments()
    assert says(f"{other.layout.of('environments', environment)}/bin/python", code) == "True 5"
    assert is_all_well(other)


# --- collecting


def test_what_the_shared_store_collects_is_noticed_and_had_anew(site: Site) -> None:
    first = site.link()
    assert site.collect_shared() == ["bottom", "orchard_fig", "pear"]
    assert site.quick("--shared-store", site.shared.root) is None
    again = site.link()
    assert again.environment != first.environment
    assert says(again.python, "import apple; print(apple.pear.ripe)") == "True"
    # And where it comes back, so does what led there.
    site.shared.add(next(site.requirements.parent.glob("wheels/pear-*")))
    assert site.link().environment == again.environment
    third = site.link(policy=Wanted(refresh=True))
    assert third.environment == first.environment
    assert says(third.python, "import apple; print(apple.pear.ripe)") == "True"
    assert site.link().status == "hit"


def test_who_is_told_what_is_borrowed_keeps_it(site: Site) -> None:
    box = site.open_clients()
    result = site.link()
    with untouched(site.shared.layout.of("entries")):
        assert site.link().status == "hit"
    (registration,) = box.iterdir()
    assert stat.S_IMODE(registration.stat().st_mode) == 0o644
    pear = site.entry(site.shared, "pear").name
    assert f"borrowed by the store {site.own.root}" in str(scan.look(site.shared, EVERYTHING).snapshot().kept)
    done = site.command("--store", site.shared.root, "why", pear)
    assert f"the store {site.own.root}, which borrows it" in done.out
    assert site.collect_shared() == ["bottom", "orchard_fig"]
    assert site.quick("--shared-store", site.shared.root) == result.python
    assert says(result.python, "import apple; print(apple.pear.ripe)") == "True"
    sweep.collect(site.own, EVERYTHING)
    assert list(box.iterdir()) == []
    assert clients.lenders(site.own.layout) == frozenset()
    assert site.collect_shared() == ["pear"]


def test_a_registration_grows_and_shrinks_with_what_is_borrowed(site: Site) -> None:
    box = site.open_clients()
    site.link("pear\n", root="stays")
    site.link("orchard-fig\n")
    (registration,) = box.iterdir()
    pear, fig = (site.entry(site.shared, name).name for name in ("pear", "orchard_fig"))
    assert json.loads(registration.read_text()) == {
        "schema": 1,
        "store": site.own.root,
        "entries": sorted([pear, fig]),
    }
    sweep.collect(site.own, EVERYTHING)
    assert json.loads(registration.read_text())["entries"] == [pear]


def test_a_store_that_is_spelt_in_two_ways_keeps_what_is_borrowed_by_either(
    site: Site, tmp_path: Path
) -> None:
    box = site.open_clients()
    (tmp_path / "elsewhere").symlink_to(site.shared.root)
    results = [
        site.link("pear\n", root="one"),
        site.link("orchard-fig\n", root="other", shared_store=tmp_path / "elsewhere"),
        site.link("bottom\n", root="third", shared_store=f"/{site.shared.root}"),
    ]
    sweep.collect(site.own, EVERYTHING)
    (registration,) = box.iterdir()
    assert len(json.loads(registration.read_text())["entries"]) == 3
    assert site.collect_shared() == []
    for result, module in zip(results, ("pear", "orchard.fig", "bottom"), strict=True):
        says(result.python, f"import {module}")
    for name in ("one", "other"):
        site.command("roots", "remove", name)
    sweep.collect(site.own, EVERYTHING)
    assert site.collect_shared() == ["orchard_fig", "pear"]


def test_what_is_about_to_be_borrowed_is_not_taken_back(site: Site) -> None:
    box = site.open_clients()
    pear = site.entry(site.shared, "pear").name
    digest = site.shared.plan(pear).reference.digest
    with leases.take(site.own.layout, digests=[digest]):
        assert clients.register(site.own.layout, site.shared.layout, [pear])
        clients.renew(site.own)
        assert len(list(box.iterdir())) == 1
    clients.renew(site.own)
    assert list(box.iterdir()) == []


def test_a_place_for_registrations_that_comes_later_is_used_from_the_next_gc_on(site: Site) -> None:
    site.link(root="stays")
    box = site.open_clients()
    assert site.link().status == "hit"
    assert list(box.iterdir()) == []
    sweep.collect(site.own, EVERYTHING)
    assert len(list(box.iterdir())) == 1
    assert site.collect_shared() == ["bottom", "orchard_fig"]


def test_what_was_told_to_a_store_that_is_away_is_not_forgotten(site: Site) -> None:
    box = site.open_clients()
    site.link()
    os.rename(site.shared.root, f"{site.shared.root}.away")
    sweep.collect(site.own, EVERYTHING)
    assert clients.lenders(site.own.layout) == {site.shared.root}
    os.rename(f"{site.shared.root}.away", site.shared.root)
    assert len(list(box.iterdir())) == 1
    sweep.collect(site.own, EVERYTHING)
    assert list(box.iterdir()) == []
    assert clients.lenders(site.own.layout) == frozenset()


def test_who_borrows_again_while_it_is_being_taken_back_is_told_of_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    (box, pear) = (site.open_clients(), site.entry(site.shared, "pear").name)
    digest = site.shared.plan(pear).reference.digest
    clients.register(site.own.layout, site.shared.layout, [pear])
    read, threads = leases.read, []

    def borrow(layout: Layout) -> None:
        with leases.take(layout, digests=[digest]):
            clients.register(layout, site.shared.layout, [pear])

    def read_first(layout: Layout) -> list[leases.LeaseRecord]:
        found = read(layout)
        threads.append(threading.Thread(target=borrow, args=(layout,)))
        threads[0].start()
        threads[0].join(0.2)
        return found

    monkeypatch.setattr(leases, "read", read_first)
    clients.renew(site.own)
    threads[0].join()
    assert [json.loads(path.read_text())["entries"] for path in box.iterdir()] == [[pear]]
    assert clients.lenders(site.own.layout) == {site.shared.root}


def test_two_stores_that_borrow_do_not_forget_each_other(site: Site, tmp_path: Path) -> None:
    box = site.open_clients()
    other = Store.open(tmp_path / "other")
    site.link("pear\n")
    site.link("pear\n", store=other)
    # A copy has the id of what it is a copy of.
    shutil.copytree(other.root, tmp_path / "third", symlinks=True)
    site.link("pear\n", store=tmp_path / "third", policy=Wanted(refresh=True))
    assert len(list(box.iterdir())) == 3
    sweep.collect(site.own, EVERYTHING)
    assert site.collect_shared() == ["bottom", "orchard_fig"]


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"schema": 9, "store": "/x", "entries": []}'])
def test_a_registration_that_cannot_be_read_keeps_whatever_is_older(site: Site, text: str) -> None:
    (site.open_clients() / "x.json").write_text(text)
    assert site.collect_shared() == []


def test_a_registration_is_never_followed_nor_waited_for(site: Site) -> None:
    box = site.open_clients()
    (box / "link.json").symlink_to("/etc/passwd")
    os.mkfifo(box / "fifo.json")
    (box / "directory.json").mkdir()
    (box / "on-its-way.json.abc").write_text("x")
    found = list(clients.read(site.shared.layout))
    assert len(found) == 3
    assert all(isinstance(each, StoreDamagedError) for each in found)
    assert site.collect_shared() == []


def test_who_borrows_while_the_other_collects_is_seen_or_sees_that(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.open_clients()
    results: list[LinkResult] = []
    publish = condemned.publish

    def borrow_first(layout: Layout, names: list[str]) -> None:
        publish(layout, names)
        if layout.root == site.shared.root and not results:
            # The list is up: what is on it is not taken.
            results.append(site.link("pear\n"))

    monkeypatch.setattr(condemned, "publish", borrow_first)
    gone = site.collect_shared()
    (result,) = results
    assert says(result.python, "import pear; print(pear.ripe)") == "True"
    assert [package.shared for package in result.packages] == [False]
    # What was registered in vain stays for once.
    assert "pear" not in gone


def test_who_has_registered_before_the_list_is_read_again_keeps_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.open_clients()
    results: list[LinkResult] = []
    publish = condemned.publish

    def borrow_first(layout: Layout, names: list[str]) -> None:
        if layout.root == site.shared.root and not results:
            results.append(site.link("pear\n"))
        publish(layout, names)

    monkeypatch.setattr(condemned, "publish", borrow_first)
    assert "pear" not in site.collect_shared()
    (result,) = results
    assert [package.shared for package in result.packages] == [True]
    assert says(result.python, "import pear; print(pear.ripe)") == "True"


def test_an_environment_of_ones_own_is_healed_when_what_it_borrows_is_gone(
    site: Site, tmp_path: Path
) -> None:
    place = tmp_path / "env"
    result = site.link("apple\nbottom\n", into=place)
    site.collect_shared()
    checked = site.command("env", "check", place)
    assert checked.code == 23
    assert "pear 1.5 is gone from the store" in checked.out
    assert site.command("env", "heal", place).code == 0
    assert says(result.python, "import apple, bottom, pips; print(pips.count, apple.pear.ripe)") == "5 True"
    assert site.command("env", "check", place).code == 0


def test_linking_again_brings_an_environment_of_ones_own_over_to_what_is_there(
    site: Site, tmp_path: Path
) -> None:
    place = tmp_path / "env"
    site.link("apple\nbottom\n", into=place)
    site.collect_shared()
    result = site.link("apple\nbottom\n", into=place)
    assert {package.shared for package in result.packages} == {False}
    assert says(result.python, "import apple, bottom, pips; print(pips.count, apple.pear.ripe)") == "5 True"


def test_an_environment_that_is_named_is_not_said_to_be_well_without_what_it_borrows(site: Site) -> None:
    name = os.path.basename(site.link().environment)
    site.collect_shared()
    assert site.command("env", "check", name).code == 23
    healed = site.command("env", "heal", name)
    assert healed.code == 23
    assert "link its requirements again: what it borrows is gone from the shared store" in healed.out


# --- users, kills and what doctor says


def borrowed(shared: Store, own: Store, wheel: LockedWheel) -> EntryPlan:
    with leases.take(own.layout, digests=[wheel.digest]) as lease:
        return SharedStore(shared).borrow(own, lease, [wheel]).plans[wheel.digest]


def locked(store: Store, directory: str) -> LockedWheel:
    reference = store.plan(directory).reference
    return LockedWheel(
        name=reference.name,
        version=reference.version,
        filename=store.manifest(directory).filename,
        digest=reference.digest,
        url="file:///nowhere",
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be several users")
@pytest.mark.parametrize("box", [True, False])
def test_an_ordinary_user_borrows_of_root(site: Site, tmp_path: Path, *, box: bool) -> None:
    if box:
        site.open_clients()
    wheel = locked(site.shared, site.entry(site.shared, "pear").name)
    home = tmp_path / "his"
    home.mkdir()
    os.chown(home, NOBODY, NOBODY)
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_uid == 0 and not parent.stat().st_mode & stat.S_IXOTH:
            parent.chmod(parent.stat().st_mode | stat.S_IXOTH | stat.S_IROTH)
    interpreter = base()

    def link_there() -> str:
        own = Store.open(home / "store", durable=False)
        plan = borrowed(SharedStore.open(site.shared.root).store, own, wheel)
        key = environment_key([plan.identity], interpreter)
        taken = leases.take(own.layout, environment=key, digests=[wheel.digest], lock=LOCK)
        with taken as lease, composed(own, [plan], LinkOptions()) as merged:
            record, _ = link(own, lease, [plan], interpreter, key=key, lock=LOCK, merged=merged)
        assert is_all_well(own)
        found = own.layout.of("environments", record.directory)
        assert clients.is_open(site.shared.layout) == box
        return found

    with untouched(site.shared.layout.of("entries")):
        environment = as_nobody(link_there)
    module = next(Path(environment).glob("lib/python*/site-packages/pear.py"))
    assert module.read_text() == "ripe = True\n"
    assert os.lstat(module).st_uid == NOBODY
    assert ("pear" in site.collect_shared()) == (not box)


def test_many_who_borrow_the_same_at_once_have_one_entry(site: Site) -> None:
    site.open_clients()
    pear, fig = (locked(site.shared, site.entry(site.shared, name).name) for name in ("pear", "orchard_fig"))

    def both() -> list[str]:
        return [borrowed(site.shared, site.own, wheel).reference.directory for wheel in (pear, fig)]

    assert len({tuple(found) for found in together(*[both] * 4)}) == 1
    assert site.names(site.own) == ["orchard_fig", "pear"]
    assert site.collect_shared() == ["bottom"]
    assert litter(site.own) == []


def test_where_nobody_can_tell_what_is_being_collected_nothing_is_lent(site: Site) -> None:
    os.mkdir(site.shared.layout.condemned)
    result = site.link()
    assert "nobody can tell what its gc takes" in result.warnings[0]
    assert [package.shared for package in result.packages] == [False, False]


def test_a_kill_while_borrowing_leaves_nothing_that_the_next_does_not_mend(site: Site) -> None:
    site.open_clients()
    wheel = locked(site.shared, site.entry(site.shared, "pear").name)
    count = 0

    def fresh() -> Store:
        nonlocal count
        count += 1
        return Store.open(f"{site.own.root}-{count}", durable=False)

    for _, own in each_kill(fresh, lambda own: borrowed(site.shared, own, wheel)):
        plan = borrowed(site.shared, own, wheel)
        assert is_all_well(own)
        module = Path(own.layout.of("entries", plan.reference.directory), "site-packages/pear.py")
        assert module.read_text() == "ripe = True\n"
        sweep.collect(own, Policy(max_age=3600, grace=3600))
        assert litter(own) == []


def test_doctor_says_which_store_is_shared_and_whether_its_gc_knows(site: Site) -> None:
    def found(**variables: str) -> list[tuple[str, str]]:
        findings = examine(site.own.root, {**os.environ, **variables})
        return [(finding.state, finding.message) for finding in findings if finding.subject == "shared store"]

    assert found() == []
    asked = {"VRFSTORE_SHARED_STORE": site.shared.root}
    assert [state for state, _ in found(**asked)] == ["note"]
    site.link()
    ((state, message),) = found()
    assert state == "note"
    assert "1 entries borrowed" in message
    site.open_clients()
    assert [state for state, _ in found()] == ["good"]
    site.collect_shared()
    ((state, message),) = found()
    assert state == "bad"
    assert "1 of them are not there any more" in message
    shutil.rmtree(site.shared.root)
    ((state, message),) = found()
    assert state == "bad"
    assert "there is no store" in message


def test_doctor_says_who_borrows_and_whether_that_is_safe(site: Site) -> None:
    def found() -> list[str]:
        findings = examine(site.shared.root, os.environ)
        return [finding.state for finding in findings if finding.subject == "clients"]

    assert found() == []
    box = site.open_clients()
    site.link()
    assert found() == ["good"]
    (box / "x.json").write_text("")
    assert found() == ["note"]
    box.chmod(stat.S_IRWXU | stat.S_IRWXG | stat.S_IRWXO)
    assert found() == ["bad", "note"]
