"""A copy of an environment that stands alone: all of it, nothing else, and no way back to the store."""

from __future__ import annotations

import base64
import csv
import errno
import hashlib
import json
import os
import posixpath
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.crash import LOCK, NOBODY, base, dangling, each_kill, litter, tree
from support.elf import elf_bytes
from support.faults import Fault, with_fault
from support.installers import LINKED, expect_success, installed, uv
from support.venvs import environment
from support.wheels import WheelSpec, build_wheel
from vrfstore import fs
from vrfstore.cli.running import run
from vrfstore.errors import BusyError, StoreDamagedError, UsageError
from vrfstore.gc import sweep
from vrfstore.gc.policy import Policy
from vrfstore.linker.into import Asked, link_into
from vrfstore.model import EntryPlan, Event, LinkOptions
from vrfstore.runner.export_tree import ExportTreeResult, export_tree, tree_record
from vrfstore.store import externals, interpreters
from vrfstore.store.compiling import compile_entries
from vrfstore.store.store import Store

SITE = f"lib/{base().directory_name}/site-packages"
EVERYTHING = Policy(max_age=0, grace=0)

COUPLED = (
    WheelSpec(
        name="seeker",
        tag="py3-none-any",
        files={
            "seeker/__init__.py": "who = 'seeker'\n",
            "seeker/_core.so": elf_bytes(needed=["libfound.so.1"], runpath="$ORIGIN/../found/lib"),
        },
    ),
    WheelSpec(
        name="found",
        files={
            "found/__init__.py": "who = 'found'\n",
            "found/lib/libfound.so.1": elf_bytes(soname="libfound.so.1"),
        },
    ),
)
SPECS = (*LINKED.values(), *COUPLED)


def build(folder: Path, specs: Sequence[WheelSpec] = SPECS) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    return [build_wheel(spec, folder) for spec in specs]


def plans_of(store: Store, wheels: Sequence[Path]) -> list[EntryPlan]:
    return [added.plan for added in map(store.add, wheels)]


def compiled(store: Store) -> None:
    with store.session() as lease:
        compile_entries(store, base(), store.entries(), lease=lease, watch=lambda _: None)


def managed(store: Store, wheels: Sequence[Path], place: Path, options: LinkOptions) -> Path:
    del place
    return environment(store, base().executable, wheels, options)


def external(store: Store, wheels: Sequence[Path], place: Path, options: LinkOptions) -> Path:
    with store.session() as lease:
        interpreters.ready_links(store.layout, lease, base())
        asked = Asked(requirements="", path="", python="", lock=LOCK, options=options)
        link_into(store, lease, plans_of(store, wheels), base(), str(place), asked)
    return place


Maker = Callable[[Store, Sequence[Path], Path, LinkOptions], Path]


class World:
    """A store, and an environment of some wheels there."""

    def __init__(
        self,
        folder: Path,
        maker: Maker = managed,
        specs: Sequence[WheelSpec] = SPECS,
        options: LinkOptions = LinkOptions(),  # noqa: B008 - frozen
        *,
        compile_first: bool = False,
    ) -> None:
        self.folder = folder
        self.specs = specs
        self.wheels = build(folder / "wheels", specs)
        self.store = Store.open(folder / "store", durable=False)
        if compile_first:
            plans_of(self.store, self.wheels)
            compiled(self.store)
        self.path = maker(self.store, self.wheels, folder / "own environment", options)

    def export(self, name: str = "copy", *, python: str | None = None) -> ExportTreeResult:
        return export_tree(str(self.path), str(self.folder / name), store=self.store, python=python)

    @property
    def parts(self) -> list[str]:
        """What was left of what was not finished."""
        return [name for name in os.listdir(self.folder) if name.endswith(".part")]


SMALL = (
    WheelSpec(
        name="app",
        files={
            "app/__init__.py": "def main():\n    print('app runs')\n",
            "app/data.txt": "data",
            "single.py": "",
        },
        data={"data/etc/app.conf": "x = 1\n", "scripts/app-sh": "#!/bin/sh\necho sh\n"},
        executable=["scripts/app-sh"],
        entry_points={"console_scripts": {"app": "app:main"}},
    ),
)


@pytest.fixture
def small(tmp_path: Path) -> World:
    """An environment of one wheel."""
    return World(tmp_path / "world", specs=SMALL)


def environment_variables(home: Path) -> dict[str, str]:
    return {"HOME": str(home), "PATH": os.defpath, "PYTHONDONTWRITEBYTECODE": "1", "LANG": "C.UTF-8"}


def output(folder: Path, *command: str) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment_variables(folder), cwd=folder
    )
    return expect_success(done)


def pip(python: str, *arguments: str) -> None:
    """Let our own pip work on another python."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "-q",
        "--disable-pip-version-check",
        "--python",
        python,
        *arguments,
    ]
    variables = {**os.environ, "PIP_CONFIG_FILE": os.devnull, "PIP_ROOT_USER_ACTION": "ignore"}
    expect_success(subprocess.run(command, capture_output=True, text=True, check=False, env=variables))


def links(root: Path) -> dict[str, str]:
    return {place: content.decode() for place, (mode, content) in tree(root).items() if mode.startswith("l")}


def naming(root: Path, *places: Path | str) -> list[str]:
    """Return what below a directory has one of some paths in it: as a text, or as where a link leads."""
    wanted = [os.fsencode(place) for place in places]
    return [place for place, (_, content) in tree(root).items() if any(name in content for name in wanted)]


def records(root: Path) -> Iterator[tuple[str, list[list[str]]]]:
    for path in sorted(root.glob("lib/*/site-packages/*.dist-info/RECORD")):
        with path.open(newline="") as stream:
            yield path.parent.name, list(csv.reader(stream))


def false_rows(root: Path) -> list[str]:
    """Return the rows of all RECORDs that are not so."""
    site = next(root.glob("lib/*/site-packages"))
    found = []
    for owner, rows in records(root):
        for path, digest, size in rows:
            place = site / path
            if not place.is_file():
                found.append(f"{owner}: {path} is no file")
            elif digest:
                data = place.read_bytes()
                name, _, value = digest.partition("=")
                said = base64.urlsafe_b64encode(hashlib.new(name, data).digest()).decode().rstrip("=")
                if (said, str(len(data))) != (value, size):
                    found.append(f"{owner}: {path} is another")
    return found


CASES = {
    "managed": (managed, LinkOptions()),
    "external": (external, LinkOptions()),
    "materialized": (managed, LinkOptions(materialize=("regular", "tooling"))),
    "materialized-external": (external, LinkOptions(materialize=("native", "orchard-fig"))),
}


@pytest.fixture(scope="module", params=CASES)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[World, Path]:
    """An environment of every shape of wheel, and its copy, which nobody changes."""
    maker, options = CASES[request.param]
    world = World(tmp_path_factory.mktemp(request.param), maker, options=options, compile_first=True)
    before = tree(world.folder, without=("store",)), tree(world.store.layout.of("entries"))
    result = world.export()
    copy = Path(result.path)
    assert (tree(world.folder, without=("store", "copy")), tree(world.store.layout.of("entries"))) == before
    assert not litter(world.store)
    assert result.files == sum(mode.startswith("-") for mode, _ in tree(copy).values())
    assert result.size == sum(len(content) for mode, content in tree(copy).values() if mode.startswith("-"))
    return world, copy


class TestWhole:
    def test_every_file_of_every_wheel_has_its_bytes_at_its_place(self, exported: tuple[World, Path]) -> None:
        world, copy = exported
        missing = []
        for spec in world.specs:
            for place, content in installed(spec, base().directory_name).items():
                path = copy / place
                if not path.is_file() or path.is_symlink() or content not in (None, path.read_bytes()):
                    missing.append(place)
        assert not missing

    def test_only_links_within_itself_and_to_the_base(self, exported: tuple[World, Path]) -> None:
        _, copy = exported
        assert links(copy) == {
            "bin/python": base().real,
            "bin/python3": "python",
            f"bin/{base().directory_name}": "python",
            "lib64": "lib",
        }

    def test_files_are_their_owners_to_write_and_programs_run(self, exported: tuple[World, Path]) -> None:
        _, copy = exported
        for place, (mode, _) in tree(copy).items():
            assert mode[2] == "w" or mode.startswith("l"), place
        assert os.access(copy / "bin/extra", os.X_OK)
        assert os.access(copy / "bin/tool", os.X_OK)

    def test_nothing_names_the_store_or_the_environment(self, exported: tuple[World, Path]) -> None:
        world, copy = exported
        assert not naming(copy, world.store.root, world.path)

    def test_nothing_of_ours_is_left(self, exported: tuple[World, Path]) -> None:
        _, copy = exported
        assert not [place for place in tree(copy) if Path(place).name in {".vrfstore", "vrfstore.json"}]

    def test_every_row_of_record_is_true_and_every_file_has_one(self, exported: tuple[World, Path]) -> None:
        world, copy = exported
        assert not false_rows(copy)
        rows = {posixpath.normpath(f"{SITE}/{path}") for _, found in records(copy) for path, _, _ in found}
        wanted = {place for spec in world.specs for place in installed(spec, base().directory_name)}
        assert wanted <= rows
        assert len(dict(records(copy))) == len(world.specs)
        assert {path.read_text() for path in copy.glob("lib/*/site-packages/*.dist-info/INSTALLER")}

    def test_bytecode_comes_with_its_modules_and_serves(self, exported: tuple[World, Path]) -> None:
        _, copy = exported
        modules = {place for place in tree(copy / SITE) if place.endswith(".py")}
        pycs = {place for place in tree(copy / SITE) if place.endswith(".pyc")}
        expected = {
            f"{parent}{slash}__pycache__/{name.removesuffix('.py')}.{base().cache_tag}.pyc"
            for parent, slash, name in (module.rpartition("/") for module in modules)
        }
        assert pycs <= expected
        assert f"host/__pycache__/__init__.{base().cache_tag}.pyc" in pycs

    def test_it_runs_elsewhere_and_without_the_store(
        self, exported: tuple[World, Path], tmp_path: Path
    ) -> None:
        world, copy = exported
        moved = tmp_path / "somewhere else" / "moved"
        moved.parent.mkdir()
        shutil.copytree(copy, moved, symlinks=True)
        hidden = world.folder.with_name(f"{world.folder.name}-hidden")
        world.folder.rename(hidden)
        try:
            assert not dangling(str(moved))
            python = str(moved / "bin/python")
            code = (
                "import sys, importlib, json; found = {n: importlib.import_module(n).__file__ for n in sys.argv[1:]}; "
                "import grove; print(json.dumps([sys.prefix, sys.pathy_hook, len(grove.__path__), found]))"
            )
            names = ["regular.inner.deep", "single", "orchard.fig", "orchard.plum", "grove.ash", "grove.oak"]
            names += [
                "vine.cellar.red",
                "common.one",
                "common.two",
                "tooling",
                "pathy_added",
                "seeker",
                "found",
            ]
            prefix, hook, _, files = json.loads(output(tmp_path, python, "-c", code, *names))
            assert (prefix, hook) == (str(moved), True)
            assert all(file.startswith(f"{moved}/") for file in files.values())
            assert output(tmp_path, str(moved / "bin/tool")) == "tooling 1.0\n"
            assert output(tmp_path, str(moved / "bin/tool-py")) == "tooling 1.0\n"
            assert output(tmp_path, str(moved / "bin/extra")) == "extra\n"
            shown = output(
                tmp_path, "/bin/sh", "-c", '. "$0" && echo "$VIRTUAL_ENV"', str(moved / "bin/activate")
            )
            assert shown == f"{moved}\n"
        finally:
            hidden.rename(world.folder)

    def test_libraries_of_other_wheels_are_where_they_are_looked_for(
        self, exported: tuple[World, Path]
    ) -> None:
        _, copy = exported
        core = copy / SITE / "seeker/_core.so"
        assert core.resolve() == core
        assert (core.parent / "../found/lib/libfound.so.1").is_file()

    @pytest.mark.slow
    def test_pip_and_uv_work_on_it(self, exported: tuple[World, Path], tmp_path: Path) -> None:
        _, copy = exported
        moved = tmp_path / "moved"
        shutil.copytree(copy, moved, symlinks=True)
        python = str(moved / "bin/python")
        fresh = tmp_path / "fresh"
        newer = build(
            fresh,
            [
                replace(LINKED["regular"], version="2.0", files={"regular/__init__.py": "who = 2\n"}),
                WheelSpec(name="native", version="2.0", files={"native/__init__.py": ""}),
            ],
        )
        pip(python, "uninstall", "-y", "tooling", "orchard-plum", "host")
        pip(python, "install", "--no-index", "--no-deps", str(newer[0]))
        left = tree(moved)
        assert not [
            place
            for place in left
            if place.startswith((f"{SITE}/tooling/", f"{SITE}/orchard/plum", f"{SITE}/host"))
        ]
        assert not {"bin/tool", "bin/tool-py", f"{SITE}/regular/inner/deep.py"} & left.keys()
        assert {f"{SITE}/orchard/fig/pip.py", "share/tooling/shared/y.txt"} <= left.keys()
        assert output(tmp_path, python, "-c", "import regular; print(regular.who)") == "2\n"
        if uv():
            offline = {**environment_variables(tmp_path), "UV_CACHE_DIR": f"{tmp_path}/uv", "UV_OFFLINE": "1"}
            for command in (
                ["uninstall", "seeker"],
                ["install", "--no-index", "--no-deps", "--link-mode=copy", str(newer[1])],
            ):
                done = subprocess.run(
                    [uv(), "pip", *command, "--python", python],
                    env=offline, capture_output=True, text=True, check=False,
                )  # fmt: skip
                expect_success(done)
            assert not (moved / SITE / "seeker").exists()
            assert not list((moved / SITE / "native.libs").glob("*"))
        assert not false_rows(moved)


class TestWhatIsMeant:
    def test_by_the_beginning_of_a_name(self, small: World) -> None:
        result = export_tree(small.path.name[:8], str(small.folder / "copy"), store=small.store)
        assert Path(result.python).samefile(base().real)

    def test_by_a_link_to_it(self, small: World) -> None:
        (small.folder / "venv").symlink_to(small.path)
        small.path = small.folder / "venv"
        assert not naming(Path(small.export().path), small.store.root)

    def test_an_own_one_by_a_link_to_it(self, tmp_path: Path) -> None:
        world = World(tmp_path / "world", external, SMALL)
        (tmp_path / "venv").symlink_to(world.path)
        copy = Path(export_tree(str(tmp_path / "venv"), str(tmp_path / "copy"), store=world.store).path)
        assert not naming(copy, world.store.root, world.path)

    @pytest.mark.parametrize("target", ["", "nothing", "/"])
    def test_nothing(self, small: World, target: str) -> None:
        with pytest.raises(UsageError) as caught:
            export_tree(target, str(small.folder / "copy"), store=small.store)
        assert caught.value.kind == "target-unknown"

    def test_an_entry(self, small: World) -> None:
        with pytest.raises(UsageError, match="is an entry"):
            export_tree(small.store.entries()[0], str(small.folder / "copy"), store=small.store)

    @pytest.mark.parametrize("maker", [managed, external])
    def test_one_of_another_store(self, tmp_path: Path, maker: Maker) -> None:
        world = World(tmp_path / "world", maker, SMALL)
        other = Store.open(tmp_path / "other")
        with pytest.raises(UsageError) as caught:
            export_tree(str(world.path), str(tmp_path / "copy"), store=other)
        assert (caught.value.kind, caught.value.hint) == (
            "store-other",
            f"give it with --store {world.store.root}",
        )

    def test_one_that_was_left_unfinished(self, tmp_path: Path) -> None:
        world = World(tmp_path / "world", external, SMALL)
        record = externals.read(str(world.path))
        assert record is not None
        externals.write(str(world.path), replace(record, finished=False))
        with pytest.raises(StoreDamagedError) as caught:
            world.export()
        assert caught.value.kind == "environment-unfinished"


class TestDestination:
    def test_an_empty_directory_will_do(self, small: World) -> None:
        (small.folder / "copy").mkdir()
        assert output(small.folder, f"{small.export().path}/bin/app") == "app runs\n"

    @pytest.mark.parametrize("kind", ["file", "full", "link", "dangling"])
    def test_what_is_there_stays(self, small: World, kind: str) -> None:
        place = small.folder / "copy"
        match kind:
            case "file":
                place.write_text("mine")
            case "full":
                place.mkdir()
                (place / "mine").touch()
            case "link":
                (small.folder / "empty").mkdir()
                place.symlink_to("empty")
            case _:
                place.symlink_to("nowhere")
        before = tree(small.folder)
        with pytest.raises(UsageError) as caught:
            small.export()
        assert caught.value.kind == "output-exists"
        assert tree(small.folder, without=("store",)) == {
            place: value
            for place, value in before.items()
            if not place.startswith("store/") and place != "store"
        }

    @pytest.mark.parametrize("name", ["wheels/file/copy", "x" * 300, "loop/x"], ids=["file", "long", "loop"])
    def test_what_cannot_be_reached_is_refused_before_anything_is_copied(
        self, small: World, name: str
    ) -> None:
        (small.folder / "wheels/file").touch()
        (small.folder / "loop").symlink_to("loop")
        destination = str(small.folder / name)
        with pytest.raises(UsageError) as caught:
            export_tree(str(small.path), destination, store=small.store)
        assert (caught.value.kind, caught.value.path) == ("output-unwritable", destination)

    @pytest.mark.parametrize("name", ["", "no/such/directory", "wheels/file/copy"])
    def test_what_cannot_be_made(self, small: World, name: str) -> None:
        (small.folder / "wheels/file").touch()
        destination = str(small.folder / name) if name else ""
        with pytest.raises(UsageError) as caught:
            export_tree(str(small.path), destination, store=small.store)
        assert caught.value.kind == "output-unwritable"

    def test_a_name_as_long_as_can_be(self, small: World) -> None:
        assert output(small.folder, f"{small.export('ü' * 127).path}/bin/app") == "app runs\n"

    @pytest.mark.parametrize("maker", [managed, external])
    def test_not_in_itself(self, tmp_path: Path, maker: Maker) -> None:
        world = World(tmp_path / "world", maker, SMALL)
        (tmp_path / "around").symlink_to(world.path)
        for place in (world.path / "copy", tmp_path / "around" / "copy", Path(world.store.root) / "copy"):
            with pytest.raises(UsageError) as caught:
                export_tree(str(world.path), str(place), store=world.store)
            assert caught.value.kind == "output-inside"

    def test_taken_while_it_was_made(self, small: World) -> None:
        def interrupt(event: Event) -> None:
            if event.kind == "missing":
                (small.folder / "copy").mkdir()
                (small.folder / "copy/mine").touch()

        with pytest.raises(UsageError) as caught:
            export_tree(str(small.path), str(small.folder / "copy"), store=small.store, watch=interrupt)
        assert caught.value.kind == "output-exists"
        assert os.listdir(small.folder / "copy") == ["mine"]
        assert not small.parts

    def test_killed_at_any_step_it_is_whole_or_not_there(self, tmp_path: Path) -> None:
        world = World(tmp_path / "world", specs=SMALL)
        whole = tree(world.export("whole").path)
        numbers = iter(range(10**6))

        def prepare() -> Path:
            folder = world.folder / f"attempt{next(numbers)}"
            folder.mkdir()
            return folder

        def action(folder: Path) -> None:
            export_tree(str(world.path), str(folder / "whole"), store=world.store)

        for _, folder in each_kill(prepare, action):
            found = os.listdir(folder)
            if "whole" in found:
                copied = tree(folder / "whole")
                assert copied.keys() == whole.keys()
                assert found == ["whole"]
            else:
                assert all(name.startswith(".whole.") and name.endswith(".part") for name in found)
                assert len(found) <= 1
            shutil.rmtree(folder)
        assert world.store.environments() == [world.path.name]

    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
    def test_a_full_disk_leaves_nothing(self, small: World, code: int) -> None:
        calls = with_fault(Fault(), lambda: _export(small, "first")).calls
        for point in range(4, calls + 1, max(1, calls // 12)):
            fault = Fault(code=code, point=point)
            outcome = with_fault(fault, lambda: _export(small, "copy"))
            assert outcome.exit_code in {0, fault.exit_code}, outcome.error
            assert not small.parts
            if (small.folder / "copy").exists():
                shutil.rmtree(small.folder / "copy")
            else:
                assert outcome.exit_code == fault.exit_code


def _export(world: World, name: str) -> None:
    world.export(name)


class TestTheUsersOwn:
    """What somebody has put into an environment is copied; where it leads elsewhere, that is said."""

    def test_links_elsewhere_are_kept_and_named(self, small: World, tmp_path: Path) -> None:
        secret = tmp_path / "secret"
        secret.mkdir()
        (secret / "key").write_text("hidden")
        for name, target in {
            "configuration": "/etc",
            "key": f"{secret}/key",
            "up": "../../../secret",
            "loop": "loop",
        }.items():
            (small.path / name).symlink_to(target)
        (small.path / SITE / "editable").symlink_to(secret)
        result = small.export()
        copied = links(Path(result.path))
        assert copied["configuration"] == "/etc"
        assert copied["key"] == f"{secret}/key"
        assert copied[f"{SITE}/editable"] == str(secret)
        assert copied["loop"] == "loop"
        assert not any(b"hidden" in content for _, content in tree(result.path).values())
        for name in ("configuration", "key", "up", f"{SITE}/editable"):
            assert any(warning.startswith(f"{name} is a link to ") for warning in result.warnings)

    def test_links_inside_stay_inside(self, small: World) -> None:
        (small.path / "absolute").symlink_to(small.path / SITE / "app")
        (small.path / "share").mkdir(exist_ok=True)
        (small.path / "share/relative").symlink_to(f"../{SITE}/app/data.txt")
        (small.path / "round").symlink_to(f"../{small.path.name}/bin")
        (small.path / "self").symlink_to(small.path)
        result = small.export()
        copy = Path(result.path)
        assert links(copy).items() >= {
            "absolute": f"{SITE}/app", "share/relative": f"../{SITE}/app/data.txt", "round": "bin", "self": ".",
        }.items()  # fmt: skip
        assert (copy / "share/relative").read_text() == "data"
        assert (copy / "absolute/data.txt").read_text() == "data"
        assert not result.warnings
        assert not naming(copy, small.store.root)

    def test_links_into_the_store_are_looked_behind_only_where_an_entry_is(self, small: World) -> None:
        other = build(small.folder / "more", [WheelSpec(name="other")])
        plan = small.store.add(other[0]).plan
        entry = small.store.layout.of("entries", plan.reference.directory)
        stranger = environment(small.store, base().executable, other)
        (small.path / SITE / "other").symlink_to(f"{entry}/site-packages/other")
        left_out = {
            "marker": small.store.layout.marker,
            "entries": small.store.layout.of("entries"),
            "entry": entry,
            "links": f"{entry}/links",
            "plan": f"{entry}/plan.json",
            "root": small.store.root,
            "stranger": str(stranger),
        }
        for name, target in left_out.items():
            (small.path / name).symlink_to(target)
        result = small.export()
        copy = Path(result.path)
        assert output(small.folder, result.python, "-c", "import other; print(other.__version__)") == "1.0\n"
        assert not left_out.keys() & set(os.listdir(copy))
        for name in left_out:
            assert sum(warning.startswith(f"{name} is a link to ") for warning in result.warnings) == 1
        assert not naming(copy, small.store.root)

    def test_an_entry_that_only_a_link_leads_to_is_leased_too(self, small: World) -> None:
        other = build(small.folder / "more", [WheelSpec(name="other")])
        reference = small.store.add(other[0]).plan.reference
        entry = small.store.layout.of("entries", reference.directory)
        (small.path / SITE / "other").symlink_to(f"{entry}/site-packages/other")

        def collect(event: Event) -> None:
            if event.kind == "missing":
                sweep.collect(small.store, EVERYTHING)

        result = export_tree(str(small.path), str(small.folder / "copy"), store=small.store, watch=collect)
        assert (Path(result.path) / SITE / "other/__init__.py").is_file()

    def test_what_is_neither_file_nor_link_is_left_out_and_named(self, small: World) -> None:
        os.mkfifo(small.path / "pipe")
        result = small.export()
        assert not os.path.lexists(f"{result.path}/pipe")
        assert any(warning.startswith("pipe is neither") for warning in result.warnings)

    def test_very_deep_directories(self, small: World) -> None:
        deep = small.path.joinpath(*["d"] * 500)
        deep.mkdir(parents=True)
        (deep / "end").write_text("end")
        copy = Path(small.export().path)
        assert copy.joinpath(*["d"] * 500, "end").read_text() == "end"

    @pytest.mark.parametrize("place", ["bin", "lib", SITE])
    def test_a_link_in_the_place_of_a_directory_leads_nobody_elsewhere(
        self, small: World, tmp_path: Path, place: str
    ) -> None:
        elsewhere = tmp_path / "elsewhere"
        shutil.copytree(small.path / place, elsewhere, symlinks=True)
        (small.path / place).rename(tmp_path / "aside")
        (small.path / place).symlink_to(elsewhere)
        before = tree(elsewhere)
        with pytest.raises(StoreDamagedError) as caught:
            small.export()
        assert caught.value.kind == "environment-damaged"
        assert tree(elsewhere) == before

    def test_a_dist_info_that_is_a_link(self, small: World, tmp_path: Path) -> None:
        stranger = tmp_path / "stranger-1.0.dist-info"
        stranger.mkdir()
        (stranger / "RECORD").write_text("../../../bin/activate,sha256=x,1\n")
        (small.path / SITE / stranger.name).symlink_to(stranger)
        copy = Path(small.export().path)
        assert links(copy)[f"{SITE}/{stranger.name}"] == str(stranger)
        assert (stranger / "RECORD").read_text() == "../../../bin/activate,sha256=x,1\n"

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["own environment", "plain"])
    def test_what_pip_has_installed_works_there(self, tmp_path: Path, name: str) -> None:
        folder = tmp_path / ("a path that is " + "very " * 25 + "long" if name == "plain" else "world")
        world = World(folder, external, SMALL)
        mine = WheelSpec(
            name="mine",
            files={"mine/__init__.py": "def main():\n    print('mine runs')\n"},
            entry_points={"console_scripts": {"mine": "mine:main"}},
            data={"scripts/mine-too": "#!python\n# -*- coding: latin-1 -*-\nprint('mine, too')\n"},
            executable=["scripts/mine-too"],
        )
        pip(
            f"{world.path}/bin/python", "install", "--no-index", "--compile", str(build_wheel(mine, tmp_path))
        )
        result = world.export()
        copy = tmp_path / "moved"
        os.rename(result.path, copy)
        shutil.rmtree(world.folder)
        assert output(tmp_path, str(copy / "bin/mine")) == "mine runs\n"
        assert output(tmp_path, str(copy / "bin/mine-too")) == "mine, too\n"
        assert not naming(copy, world.store.root, world.path)
        assert not false_rows(copy)
        assert not result.warnings
        pip(str(copy / "bin/python"), "uninstall", "-y", "mine")
        assert not [place for place in tree(copy) if "mine" in place]

    def test_what_names_the_environment_is_named(self, small: World) -> None:
        (small.path / "share").mkdir(exist_ok=True)
        (small.path / "share/kernel.json").write_text(f'{{"argv": ["{small.path}/bin/python"]}}')
        (small.path / "bin/wrapper").write_text(f"#!{small.path}/bin/python -E\n")
        warnings = small.export().warnings
        assert sorted(warning.split(" ")[0] for warning in warnings) == ["bin/wrapper", "share/kernel.json"]

    def test_what_was_removed_is_not_there(self, small: World) -> None:
        (small.path / "bin/app").unlink()
        (small.path / "bin/app-sh").unlink()
        copy = Path(small.export().path)
        assert not (copy / "bin/app").exists()
        assert not false_rows(copy)

    def test_bytecode_of_others_is_left_out(self, small: World) -> None:
        cache = small.path / SITE / "__pycache__"
        tag = base().cache_tag
        magic = bytes.fromhex(base().magic)
        (small.path / SITE / "mine.py").write_text("")
        for name, data in {
            f"mine.{tag}.pyc": magic + b"\1\0\0\0" + bytes(8),
            f"mine.{tag}.opt-1.pyc": magic + b"\1\0\0\0" + bytes(8),
            "mine.cpython-27.pyc": magic + b"\1\0\0\0" + bytes(8),
            f"single.{tag}.pyc": magic + bytes(12),
            f"gone.{tag}.pyc": magic + b"\1\0\0\0" + bytes(8),
            "mine.nbi": b"cache",
        }.items():
            (cache / name).write_bytes(data)
        assert os.listdir(f"{small.export().path}/{SITE}/__pycache__") == [f"mine.{tag}.pyc"]

    def test_a_record_that_nobody_can_read_stays_as_it_is(self, small: World) -> None:
        (small.path / SITE / "mine-1.dist-info").mkdir()
        (small.path / SITE / "mine-1.dist-info/RECORD").write_bytes(b"\xff,,")
        result = small.export()
        assert (Path(result.path) / SITE / "mine-1.dist-info/RECORD").read_bytes() == b"\xff,,"
        assert any("mine-1.dist-info/RECORD cannot be read" in warning for warning in result.warnings)

    def test_removed_while_it_was_read(self, small: World) -> None:
        (small.path / "share").mkdir(exist_ok=True)
        (small.path / "share/mine").write_text("")

        def interrupt(event: Event) -> None:
            if event.kind == "missing":
                (small.path / "share/mine").unlink()

        with pytest.raises(BusyError):
            export_tree(str(small.path), str(small.folder / "copy"), store=small.store, watch=interrupt)
        assert not small.parts

    def test_changed_while_it_was_read(self, small: World) -> None:
        def interrupt(event: Event) -> None:
            if event.kind == "missing":
                (small.path / SITE / "new.py").touch()

        with pytest.raises(BusyError) as caught:
            export_tree(str(small.path), str(small.folder / "copy"), store=small.store, watch=interrupt)
        assert (caught.value.kind, caught.value.exit_code) == ("environment-changed", 15)
        assert sorted(os.listdir(small.folder)) == ["store", "wheels"]


class TestDamage:
    @pytest.mark.parametrize("maker", [managed, external])
    def test_an_entry_that_is_gone(self, tmp_path: Path, maker: Maker) -> None:
        world = World(tmp_path / "world", maker, SMALL)
        directory = world.store.entries()[0]
        fs.remove_tree(world.store.layout.of("entries", directory))
        with pytest.raises(StoreDamagedError) as caught:
            world.export()
        assert (caught.value.exit_code, caught.value.kind) == (17, "entry-missing")
        assert directory in str(caught.value)
        assert not world.parts

    @pytest.mark.parametrize("maker", [managed, external])
    def test_a_link_that_leads_nowhere_any_more(self, tmp_path: Path, maker: Maker) -> None:
        world = World(tmp_path / "world", maker, SMALL)
        fs.remove_tree(f"{world.store.layout.of('entries', world.store.entries()[0])}/site-packages/app")
        with pytest.raises(StoreDamagedError) as caught:
            world.export()
        assert caught.value.kind == "dangling"
        assert f"{SITE}/app leads to " in str(caught.value)
        assert not world.parts
        assert not litter(world.store)

    @pytest.mark.parametrize(
        "change",
        [
            {"library": "python3.11/../../../../etc"},
            {"library": "python9.9"},
            {"interpreter": {"version": "3.11.1"}},
        ],
    )
    def test_a_record_that_makes_no_sense(self, tmp_path: Path, change: dict[str, Any]) -> None:
        world = World(tmp_path / "world", external, SMALL)
        record = externals.read(str(world.path))
        assert record is not None
        externals.write(str(world.path), replace(record, **change))
        with pytest.raises(StoreDamagedError) as caught:
            world.export()
        assert caught.value.kind in {"record-unreadable", "environment-damaged"}

    def test_links_into_a_store_that_was_moved(self, tmp_path: Path) -> None:
        world = World(tmp_path / "world", external, SMALL)
        os.rename(world.store.root, tmp_path / "moved")
        with pytest.raises(StoreDamagedError) as caught:
            export_tree(str(world.path), str(tmp_path / "copy"), store=Store.open(tmp_path / "moved"))
        assert caught.value.kind == "dangling"

    def test_something_else_in_the_place_of_a_file(self, small: World) -> None:
        path = Path(small.store.layout.of("entries", small.store.entries()[0])) / "site-packages/app"
        path.chmod(0o755)
        (path / "passwd").symlink_to("/etc/passwd")
        with pytest.raises(StoreDamagedError, match="something else is in the place of a file"):
            small.export()

    def test_a_file_that_vanishes_meanwhile(self, small: World) -> None:
        def interrupt(event: Event) -> None:
            if event.kind == "missing":
                path = small.store.layout.of("entries", small.store.entries()[0])
                fs.remove_tree(f"{path}/site-packages/app")

        with pytest.raises(StoreDamagedError, match="a file of an entry is gone"):
            export_tree(str(small.path), str(small.folder / "copy"), store=small.store, watch=interrupt)
        assert sorted(os.listdir(small.folder)) == ["store", "wheels"]


class TestTheStore:
    @pytest.mark.parametrize("maker", [managed, external])
    def test_gc_leaves_alone_what_is_being_read(self, tmp_path: Path, maker: Maker) -> None:
        world = World(tmp_path / "world", maker)
        collected = []

        def collect(event: Event) -> None:
            if event.kind == "missing":
                collected.append(sweep.collect(world.store, EVERYTHING))

        result = export_tree(str(world.path), str(world.folder / "copy"), store=world.store, watch=collect)
        assert collected
        assert not false_rows(Path(result.path))
        if maker is managed:
            sweep.collect(world.store, EVERYTHING)
            assert not world.store.environments()

    @pytest.mark.parametrize("maker", [managed, external])
    def test_one_that_may_only_be_read(self, tmp_path: Path, maker: Maker) -> None:
        name, version = base().base[0]
        specs = [replace(SMALL[0], requires=[name])]
        world = World(tmp_path / "world", maker, specs)
        if os.geteuid() == 0:
            os.chown(world.store.layout.marker, NOBODY, NOBODY)
        else:
            Path(world.store.layout.of("leases")).chmod(0o555)
        before = tree(world.store.root)
        times = {
            path: os.stat(world.store.layout.of(path)).st_mtime_ns
            for path in ("leases", "tmp", "interpreters")
        }
        opened = Store.open(world.store.root, to_look=True)
        result = export_tree(str(world.path), str(tmp_path / "copy"), store=opened)
        assert output(tmp_path, f"{result.path}/bin/app") == "app runs\n"
        assert [warning.split(" is ")[0] for warning in result.warnings] == [f"{name} {version}"]
        assert tree(world.store.root) == before
        assert all(os.stat(opened.layout.of(path)).st_mtime_ns == time for path, time in times.items())


class TestOptions:
    def test_another_python(self, small: World) -> None:
        copy = Path(small.export(python="/opt/there/bin/python3.11").path)
        assert links(copy)["bin/python"] == "/opt/there/bin/python3.11"
        settings = (copy / "pyvenv.cfg").read_text()
        assert "home = /opt/there/bin\n" in settings
        assert "executable = /opt/there/bin/python3.11\n" in settings
        assert not naming(copy, os.path.dirname(base().real))

    def test_another_python_runs_it(self, small: World, tmp_path: Path) -> None:
        alias = tmp_path / "elsewhere"
        alias.symlink_to(base().prefix)
        result = small.export(python=f"{alias}/bin/{os.path.basename(base().real)}")
        assert output(tmp_path, result.python, "-c", "import app; app.main()") == "app runs\n"

    @pytest.mark.parametrize(
        "python", ["", "python3.11", "bin/python", "/bin/python\nhome = /tmp", "/bin/\udcff"]
    )
    def test_no_python(self, small: World, python: str) -> None:
        with pytest.raises(UsageError) as caught:
            small.export(python=python)
        assert caught.value.kind == "python-path"

    def test_those_of_the_environment_stay(self, tmp_path: Path) -> None:
        options = LinkOptions(prompt="my (prompt) $x", isolated=True)
        world = World(tmp_path / "world", specs=SMALL, options=options)
        copy = Path(world.export().path)
        assert "include-system-site-packages = false\n" in (copy / "pyvenv.cfg").read_text()
        shown = output(tmp_path, "/bin/sh", "-c", f'. "{copy}/bin/activate" && echo "$VIRTUAL_ENV_PROMPT"')
        assert shown == "my (prompt) $x\n"

    def test_an_activation_script_of_a_wheel_stays(self, tmp_path: Path) -> None:
        spec = WheelSpec(name="activating", data={"scripts/activate": "#!/bin/sh\necho mine\n"})
        world = World(tmp_path / "world", specs=[spec])
        copy = Path(world.export().path)
        assert (copy / "bin/activate").read_text() == "#!/bin/sh\necho mine\n"
        assert (copy / "bin/activate.fish").is_file()
        assert not false_rows(copy)

    def test_a_base_that_is_itself_a_venv(self, tmp_path: Path) -> None:
        subprocess.run([base().executable, "-m", "venv", "--without-pip", tmp_path / "base"], check=True)
        (tmp_path / "base" / SITE / "of_base.py").write_text("")
        store = Store.open(tmp_path / "store", durable=False)
        made = environment(store, str(tmp_path / "base/bin/python"), build(tmp_path / "wheels", SMALL))
        result = export_tree(str(made), str(tmp_path / "copy"), store=store)
        output(tmp_path, result.python, "-c", "import app, of_base")
        there = export_tree(str(made), str(tmp_path / "there"), store=store, python=base().real)
        assert not naming(Path(there.path), tmp_path / "base")
        output(tmp_path, there.python, "-c", "import app")


class TestWarnings:
    def test_what_only_the_base_has(self, tmp_path: Path) -> None:
        name, version = base().base[0]
        requires = ["other", f"{name}>=0", "nowhere", f'{name}>0; python_version < "3"']
        specs = [
            WheelSpec(name="needy", requires=requires, extras={"more": [base().base[-1][0]]}),
            WheelSpec(name="other", requires=[name], metadata_extra="Requires-Dist: not a requirement !\n"),
        ]
        result = World(tmp_path / "world", specs=specs).export()
        assert result.warnings == (
            f"{name} {version} is in the base only and was not copied; it is needed by needy, other",
        )

    def test_nothing_where_the_base_is_not_seen(self, tmp_path: Path) -> None:
        spec = WheelSpec(name="needy", requires=[base().base[0][0]])
        world = World(tmp_path / "world", specs=[spec], options=LinkOptions(isolated=True))
        assert not world.export().warnings

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give something away")
    def test_nothing_is_started_because_somebody_else_says_so(self, tmp_path: Path) -> None:
        world = World(tmp_path / "world", external, [WheelSpec(name="needy", requires=["x"])])
        program = tmp_path / "program"
        program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
        program.chmod(0o755)
        record = externals.read(str(world.path))
        assert record is not None
        externals.write(str(world.path), replace(record, executable=str(program)))
        os.chown(world.path, NOBODY, NOBODY)
        (warning,) = world.export().warnings
        assert "was not started" in warning
        assert not (tmp_path / "started").exists()

    def test_a_base_that_is_gone(self, tmp_path: Path) -> None:
        python = tmp_path / "python"
        python.symlink_to(base().real)
        store = Store.open(tmp_path / "store", durable=False)
        made = environment(
            store, str(python), build(tmp_path / "wheels", [WheelSpec(name="needy", requires=["x"])])
        )
        record = store.record(made.name)
        assert record.executable == str(python)
        python.unlink()
        (warning,) = export_tree(str(made), str(tmp_path / "copy"), store=store).warnings
        assert warning.startswith("which packages of its base the environment needs is not known: ")


class TestCommand:
    def test_json(self, small: World, capsys: pytest.CaptureFixture[str]) -> None:
        arguments = [
            "--store",
            small.store.root,
            "env",
            "export-tree",
            str(small.path),
            str(small.folder / "copy"),
        ]
        assert run([*arguments, "--json"]) == 0
        said = json.loads(capsys.readouterr().out)
        assert said["path"] == str(small.folder / "copy")
        assert said["python"] == f"{said['path']}/bin/python"
        assert said["files"] > 5
        assert said["bytes"] > 1000
        assert said["warnings"] == []
        assert said["timings_ms"].keys() == {"scan", "copy", "total"}

    def test_text(self, small: World, capsys: pytest.CaptureFixture[str]) -> None:
        (small.path / "etc-link").symlink_to("/etc")
        arguments = [
            "env",
            "export-tree",
            "--store",
            small.store.root,
            small.path.name,
            str(small.folder / "copy"),
        ]
        assert run(arguments) == 0
        said = capsys.readouterr()
        assert said.out == f"{small.folder}/copy/bin/python\n"
        assert "warning: etc-link is a link to /etc; it was not followed\n" in said.err
        assert run(arguments) == 2
        assert "is there already" in capsys.readouterr().err

    def test_without_a_store(self, tmp_path: Path) -> None:
        assert (
            run(["--store", str(tmp_path / "none"), "env", "export-tree", "x", str(tmp_path / "copy")]) == 21
        )
        assert not (tmp_path / "none").exists()


class TestRecord:
    """RECORD for a tree without links."""

    def test_rows_of_links_and_of_what_is_elsewhere_go(self) -> None:
        data = (
            b"pkg,,\npkg/__init__.py,sha256=a,1\n../../../bin/tool,sha256=b,2\n../../../../etc/passwd,,\n"
            b"/etc/passwd,,\n/old/place/bin/other,sha256=c,3\npkg/__pycache__/x.pyc,,\n\npkg-1.dist-info/RECORD,,\n"
        )
        site = "lib/python3.11/site-packages"
        present = {"bin/tool", "bin/other", f"{site}/pkg/__init__.py", f"{site}/pkg-1.dist-info/RECORD"}
        found = tree_record(data, site=site, present=present, changed={"bin/tool": b""}, roots=["/old/place"])
        empty = base64.urlsafe_b64encode(hashlib.sha256(b"").digest()).decode().rstrip("=")
        assert (
            found
            == (
                f"pkg/__init__.py,sha256=a,1\n../../../bin/tool,sha256={empty},0\n"
                "../../../bin/other,sha256=c,3\npkg-1.dist-info/RECORD,,\n"
            ).encode()
        )

    @pytest.mark.parametrize("data", [b"\xff,,\n", b'a"b,"c\n', b'"open,,\n'])
    def test_what_is_none_is_none(self, data: bytes) -> None:
        assert tree_record(data, site="site", present=["site/a"], changed={}) in {None, b""}

    @given(
        st.lists(st.tuples(st.text(st.characters(codec="utf-8"), max_size=20), st.text("ab=", max_size=3))),
        st.sets(st.sampled_from(["site/a", "site/b,c", 'site/"', "bin/x", "site/d/e"])),
    )
    def test_it_names_only_what_is_there(self, rows: list[tuple[str, str]], present: set[str]) -> None:
        text = "".join(f'"{path.replace(chr(34), chr(34) * 2)}",{digest},\n' for path, digest in rows)
        named = "".join(
            f'"{posixpath.relpath(place, "site").replace(chr(34), chr(34) * 2)}",,\n' for place in present
        )
        found = tree_record((text + named).encode(), site="site", present=present, changed={})
        if found is not None:
            places = [row[0] for row in csv.reader(found.decode().splitlines(keepends=True))]
            assert {posixpath.normpath(f"site/{place}") for place in places} == present
            assert len(places) == len(present)


@pytest.mark.network
@pytest.mark.slow
def test_real_wheels(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "-q", "--only-binary=:all:", "-d", wheels, "jupyter-core", "numpy"],
        check=True, env={**os.environ, "PIP_CONFIG_FILE": ""},
    )  # fmt: skip
    store = Store.open(tmp_path / "store")
    made = environment(store, base().executable, sorted(wheels.iterdir()), LinkOptions(isolated=True))
    result = export_tree(str(made), str(tmp_path / "copy"), store=store)
    fs.remove_tree(store.root)
    code = "import numpy; from jupyter_core import paths; print(numpy.eye(3).sum(), paths.ENV_JUPYTER_PATH)"
    assert output(tmp_path, result.python, "-c", code) == f"3.0 ['{result.path}/share/jupyter']\n"
    assert f"{result.path}/etc/jupyter" in output(tmp_path, f"{result.path}/bin/jupyter", "--paths")
    assert not false_rows(Path(result.path))
    assert not naming(Path(result.path), store.root)
