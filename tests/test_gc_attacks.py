"""Attacks on a gc: whatever somebody puts into a store to lead it out, nothing outside is touched."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support import crash
from support.crash import NOBODY, as_nobody, base, dangling, make_environment, stats, together, tree
from support.faults import mounted
from support.wheels import WheelSpec, build_wheel
from vrfstore import codec, fs
from vrfstore.cli.running import run
from vrfstore.gc import roots, sweep
from vrfstore.gc.policy import Policy
from vrfstore.store.layout import SUBDIRECTORIES
from vrfstore.store.store import Store, check_parts

EVERYTHING = Policy(max_age=0, grace=0)

USERS = ["root", "nobody"] if os.geteuid() == 0 else ["self"]

LONG_AGO = 10**9
"""Seconds since the epoch."""


@dataclass
class Ground:
    """A store with a pinned and a dead environment, and a place outside that has the same things in it.

    Attributes:
        folder: What both are in.
        user: Who collects.
        live: The directory name of the environment that is pinned.
        dead: That of the one which is not.
    """

    folder: Path
    user: str
    live: str
    dead: str

    @property
    def outside(self) -> Path:
        return self.folder / "outside"

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def path(self, place: str) -> Path:
        """Where something in the store is."""
        return self.store / place.format(live=self.live, dead=self.dead, zeros="0" * 16, digest="0" * 64)

    def put(self, place: str, content: bytes | Path) -> None:
        """Put a file, or a link that leads somewhere, in the place of whatever is there."""
        path = self.path(place)
        if path.is_dir() and not path.is_symlink():
            shutil.move(path, self.folder / f"moved-{fs.unique_name()}")
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            path.symlink_to(content)
        else:
            path.write_bytes(content)

    def give_away(self) -> None:
        """Let everything belong to who collects, so that nothing but the gc itself keeps it from going."""
        if self.user == "nobody":
            subprocess.run(["chown", "-hR", f"{NOBODY}:{NOBODY}", self.folder], check=True)

    def collect(self) -> tuple[int, dict[str, Any]]:
        """Run the command; return its exit code and what it printed."""

        def command() -> tuple[int, dict[str, Any]]:
            out, err = io.StringIO(), io.StringIO()
            arguments = ["--store", str(self.store), "gc", "--json", "--max-age", "0"]
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = run(arguments)
            assert "bug" not in err.getvalue(), err.getvalue()
            return code, json.loads(out.getvalue())

        return as_nobody(command) if self.user == "nobody" else together(command)[0]


@pytest.fixture(scope="module")
def template() -> Iterator[Path]:
    """What each test gets a copy of, in a directory that others may be given; pytest's own are closed to them."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = Store.open(folder / "store")
        wheels = [
            build_wheel(WheelSpec(name=name, metadata_extra=f"Keywords: {fs.unique_name()}\n"), folder)
            for name in ("live", "dead", "shared")
        ]
        live = make_environment(store, wheels[0], wheels[2]).directory
        dead = make_environment(store, wheels[1], wheels[2]).directory
        roots.add(store, "pin", live)
        (folder / "names").write_text(f"{live} {dead}")
        # The same names outside, so that whoever gets there finds something to remove.
        subprocess.run(["cp", "-a", folder / "store", folder / "outside"], check=True)
        for path in [*(folder / "outside").rglob("*"), folder / "outside"]:
            os.utime(path, (LONG_AGO, LONG_AGO), follow_symlinks=False)
        base()
        sweep.preview(store, EVERYTHING)
        with contextlib.redirect_stdout(io.StringIO()):
            run(["--store", store.root, "gc", "--json", "--dry-run"])
        yield folder
        fs.remove_tree(str(folder / "store"))
        fs.remove_tree(str(folder / "outside"))


@pytest.fixture(params=USERS)
def ground(
    template: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Ground]:
    """A copy, for one user."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        monkeypatch.setenv("HOME", name)
        subprocess.run(["cp", "-a", f"{template}/store", f"{template}/outside", name], check=True)
        live, dead = (template / "names").read_text().split()
        time.sleep(0.01)
        yield Ground(Path(name), request.param, live, dead)
        for child in Path(name).iterdir():
            fs.remove_tree(str(child))


def assert_harmless(ground: Ground, *, goes: bool = True) -> dict[str, Any]:
    """Collect; nothing outside is touched, what is pinned is whole, and what is dead goes in spite of all."""
    ground.give_away()
    outside, live = stats(ground.outside), tree(ground.path("environments/{live}"))
    code, answer = ground.collect()
    assert stats(ground.outside) == outside
    assert code == 0, answer
    assert tree(ground.path("environments/{live}")) == live
    assert dangling(str(ground.path("environments/{live}"))) == []
    if goes:
        assert not os.path.lexists(ground.path("environments/{dead}")), answer
    return answer


def test_without_an_attack_everything_but_what_is_pinned_goes(ground: Ground) -> None:
    answer = assert_harmless(ground)
    assert answer["removed"]["environments"] == [ground.dead]
    assert len(answer["removed"]["entries"]) == 1
    assert answer["problems"] == []


@pytest.mark.parametrize("part", SUBDIRECTORIES)
def test_a_part_that_is_a_link_is_refused(ground: Ground, part: str) -> None:
    ground.put(part, ground.outside / part)
    ground.give_away()
    outside = stats(ground.outside)
    code, answer = ground.collect()
    assert stats(ground.outside) == outside
    error = answer["error"]
    assert (code, error["kind"], error["path"]) == (21, "store-part", str(ground.store / part))
    assert part in error["message"]
    assert error["hint"]


def test_a_part_that_is_a_file_is_refused_and_one_that_is_a_directory_is_not(store: Store) -> None:
    check_parts(store.layout)
    os.rmdir(store.layout.of("repairs"))
    Path(store.layout.of("repairs")).touch()
    with pytest.raises(Exception, match="repairs is no directory") as caught:
        check_parts(store.layout)
    assert getattr(caught.value, "kind", "") == "store-part"


PLACES = {
    "entries": ["entries/00000000000000000000-x-1.0", "entries/.dead-{zeros}", "entries/.new-{zeros}.0"],
    "environments": [
        "environments/00000000000000000000000000000000",
        "environments/{live}.1",
        "environments/.dead-{zeros}",
        "environments/.new-{zeros}.0",
        "environments/odd",
    ],
    "tmp": ["tmp/{zeros}.0", "tmp/{zeros}.lease", "tmp/odd"],
    "memos": ["inputs/{digest}.json", "requests/{digest}.json", "inputs/odd", "requests/odd"],
    "locks": ["locks/{digest}.toml", "locks/.dead-{zeros}", "locks/odd"],
    "interpreters": ["interpreters/{digest}.json", "interpreters/{zeros}{zeros}"],
    "logs and repairs": ["logs/odd", "repairs/odd.json", "holds/entry-000"],
    "gc": ["gc/spare", "gc/ballast", "gc/repaired", "gc/odd"],
    "condemned": ["gc/condemned"],
    "the store": [".store.{zeros}", "odd"],
}


@pytest.mark.parametrize("target", ["directory", "environment", "file", "nothing"])
@pytest.mark.parametrize("part", PLACES)
def test_a_name_that_is_a_link_is_never_followed(ground: Ground, part: str, target: str) -> None:
    leads = {
        "directory": ground.outside,
        "environment": ground.outside / "environments" / ground.dead,
        "file": ground.outside / "environments" / ground.dead / "vrfstore.json",
        "nothing": ground.folder / "absent",
    }
    for place in PLACES[part]:
        ground.put(place, leads[target])
    # Who cannot read a record keeps what that may refer to; repairs may be under way.
    assert_harmless(ground, goes=part != "logs and repairs")
    assert not os.path.lexists(ground.folder / "absent")


@pytest.mark.parametrize(
    "place", ["roots/odd.json", "external/{zeros}.json", "leases/held.{zeros}.-", "leases/odd"]
)
def test_a_root_or_lease_that_is_a_link_touches_nothing(ground: Ground, place: str) -> None:
    ground.put(place, ground.outside / "roots/pin.json")
    assert_harmless(ground, goes=False)


def test_a_hold_that_is_a_link_is_refused(ground: Ground) -> None:
    (ground.outside / "run").touch()
    ground.put("gc/run", ground.outside / "run")
    ground.give_away()
    outside = stats(ground.outside)
    code, answer = ground.collect()
    assert (code == 0, stats(ground.outside)) == (False, outside), answer


ELSEWHERE = [
    "/",
    "..",
    "../..",
    "../../outside",
    "../outside/environments",
    "/etc",
    "",
    ".",
    "x\n/",
    "x\0/",
    "\udcff",
    "x" * 5000,
]
"""What a record may name that is no name in a store."""


def root_records(text: str) -> list[object]:
    return [
        {"schema": 1, "environment": text, "entry": None},
        {"schema": 1, "environment": None, "entry": text},
        {"schema": 2, "kind": "pin", "names": [text]},
        {"schema": 2, "kind": "pin", "names": [f"environments/{text}", f"entries/{text}", f"locks/{text}"]},
        {"schema": 2, "kind": "project", "names": [f"environments/{text}"]},
    ]


def memo_records(text: str) -> list[object]:
    memo = {
        "schema": 2,
        "environment": text,
        "lock": text,
        "own": {text: "-"},
        "stats": {text: "-"},
        "until": 0,
    }
    return [memo, {"schema": 2, "lock": text, "resolved_at": 0}]


def registrations(text: str) -> list[object]:
    wheels = [["0" * 64, "x", "1", text]]
    known = {"schema": 1, "token": "0" * 16, "path": text, "device": 0, "wheels": wheels, "locks": [text]}
    return [known, {**known, "path": f"/{text}", "references": wheels, "namespace": 0}]


HOSTILE: dict[str, tuple[str, Callable[[str], list[object]]]] = {
    "root": ("roots/odd{number}.json", root_records),
    "input memo": ("inputs/{number}.json", memo_records),
    "request memo": ("requests/{number}.json", memo_records),
    "registration": ("external/{number}{{zeros}}.json", registrations),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_record_that_names_a_place_elsewhere_leads_nowhere(ground: Ground, kind: str) -> None:
    place, records = HOSTILE[kind]
    values = [record for text in ELSEWHERE for record in records(text)]
    for number, value in enumerate(values):
        ground.put(
            place.replace("{number}", str(number)).replace("{{", "{").replace("}}", "}"), codec.dumps(value)
        )
    # A root or registration that makes no sense may be anything's; memos are only ever removed.
    assert_harmless(ground, goes="memo" in kind)


def test_a_record_of_an_environment_that_names_places_elsewhere_leads_nowhere(ground: Ground) -> None:
    path = ground.path("environments/{dead}/vrfstore.json")
    value = json.loads(path.read_bytes())
    for number, text in enumerate(ELSEWHERE):
        environment = ground.path(f"environments/{number:032}")
        environment.mkdir()
        hostile = {
            **value,
            "wheels": [["0" * 64, "x", "1", text]],
            "composites": [["0" * 64, "x", "1", text]],
            "lock": text,
            "key": text,
            "own": {text: "-"},
        }
        (environment / "vrfstore.json").write_bytes(codec.dumps(hostile))
        os.utime(environment / "vrfstore.json", (LONG_AGO, LONG_AGO))
    time.sleep(0.01)
    assert_harmless(ground, goes=False)


LEASES = [
    "held.{zeros}.../../outside",
    "held.{zeros}.x\ny",
    "held",
    "held.",
    "process.{zeros}.-.1",
    "process.{zeros}.-.-1.-1.x.x.x",
    "process.{zeros}.-.99999999999999999999.1.{zeros}{zeros}.1.1",
    "until.{zeros}.-.{zeros}{zeros}.1e9.nan",
    "until.{zeros}.-.\u0664.\u0664.\u0664",
    "..odd",
    "\n",
    "\udcff",
    "x" * 255,
]


@pytest.mark.parametrize("content", [b"", b'{"digests":["../../outside","/"],"lock":"../../outside"}'])
def test_a_lease_may_be_called_anything_and_say_anything(ground: Ground, content: bytes) -> None:
    for name in LEASES:
        if "/" not in name:
            ground.put(f"leases/{name}", content)
    assert_harmless(ground, goes=False)


def test_a_list_of_condemned_names_is_never_worked_off(ground: Ground) -> None:
    lines = [
        f"environments/{ground.live}",
        "../outside",
        "/",
        "..",
        "environments/../../outside",
        "x\r",
        "\x1b",
    ]
    ground.put("gc/condemned", "\n".join(lines).encode() + b"\xff\n\0" + b"x" * 1000)
    assert_harmless(ground)


ODD_NAMES = [
    b"two\nlines",
    b"\n",
    b"\xff\xfe",
    b"\x1b[31m",
    b" ",
    b"-rf",
    b"x" * 255,
    "\u00e4".encode(),
    b"...",
    b"*",
]


@pytest.mark.parametrize("part", ["environments", "entries"])
def test_what_is_published_under_an_odd_name_goes_like_anything_else(ground: Ground, part: str) -> None:
    """An environment may be called anything by who may make one; a line of the list is no way to another name."""
    names = sorted(os.listdir(ground.path(part)))
    source = ground.path("environments/{dead}") if part == "environments" else ground.path(part) / names[0]
    for name in ODD_NAMES:
        subprocess.run(["cp", "-a", source, os.path.join(os.fsencode(ground.path(part)), name)], check=True)
    odd = os.fsencode(f"x\nenvironments/{ground.live}".replace("/", "\\"))
    subprocess.run(["cp", "-a", source, os.path.join(os.fsencode(ground.path(part)), odd)], check=True)
    time.sleep(0.01)
    answer = assert_harmless(ground)
    assert answer["problems"] == []
    assert set(os.listdir(ground.path(part))) < set(names)


def directories(root: Path) -> list[str]:
    """Return every directory at and below one, the deepest first, by relative path."""
    return [os.path.relpath(parent, root) for parent, _, _ in os.walk(root, topdown=False)]


@pytest.mark.parametrize("kind", ["environments", "entries"])
@pytest.mark.parametrize("dead_name", [False, True], ids=["published", "dead"])
def test_links_out_of_the_store_at_every_level_of_a_tree(ground: Ground, kind: str, dead_name: bool) -> None:
    name = ground.dead
    if kind == "entries":
        (name,) = (name for name in os.listdir(ground.path("entries")) if "-dead-" in name)
    tree_path, twin = ground.path(kind) / name, ground.outside / kind / name
    inner = [place for place in directories(tree_path) if place != "."]
    assert len(inner) > 4
    for number, place in enumerate(inner):
        copy = ground.path(kind) / (f".dead-{number:016}" if dead_name else f"{number:020}-x-1.0")
        subprocess.run(["cp", "-a", tree_path, copy], check=True)
        for parent in [copy, *(path for path in copy.rglob("*") if path.is_dir() and not path.is_symlink())]:
            parent.chmod(0o755)
        shutil.rmtree(copy / place)
        (copy / place).symlink_to(twin / place)
        (copy / "more").symlink_to(twin)
    time.sleep(0.01)
    # An entry that only looks like one is nobody's; an environment may be one that cannot be read.
    assert_harmless(ground, goes=dead_name or kind == "entries")


def test_a_file_outside_that_has_a_further_name_in_the_store_keeps_its_content_and_its_mode(
    ground: Ground,
) -> None:
    (ground.outside / "secret").write_text("kept")
    (ground.outside / "secret").chmod(0o440)
    for place in (
        "environments/{dead}/lib/secret",
        "environments/{dead}/pyvenv.cfg",
        "gc/spare",
        "gc/ballast",
    ):
        ground.path(place).unlink(missing_ok=True)
        os.link(ground.outside / "secret", ground.path(place))
    ground.give_away()
    before = tree(ground.outside)
    code, answer = ground.collect()
    assert (code, answer["problems"], tree(ground.outside)) == (0, [], before)


def swap(ground: Ground) -> None:
    """Put links to the same places outside in the place of all directories of what is dead or about to be."""
    aside = ground.folder / f"aside-{fs.unique_name()}"
    aside.mkdir()
    twin = ground.outside / "environments" / ground.dead
    for root in [ground.path("environments/{dead}"), *ground.path("environments").glob(".dead-*")]:
        for number, place in enumerate(directories(root) if root.is_dir() else []):
            with contextlib.suppress(OSError):
                os.rename(root / place, aside / f"{root.name}-{number}")
                (root / place).symlink_to(twin / place)


def count_and_swap(ground: Ground, at: int) -> int:
    """Collect, and swap at one of the effects; return how many there were."""

    def attacked() -> int:
        effects = 0

        def notice(*_: str) -> None:
            nonlocal effects
            effects += 1
            if effects == at:
                swap(ground)

        fs.on_effect = notice
        sweep.collect(Store.open(ground.store), EVERYTHING)
        return effects

    return as_nobody(attacked) if ground.user == "nobody" else together(attacked)[0]


@pytest.mark.slow
def test_directories_swapped_for_links_at_any_effect_of_a_gc(template: Path, ground: Ground) -> None:
    ground.give_away()
    for at in crash.sampled(count_and_swap(ground, 0)):
        fs.remove_tree(str(ground.store))
        subprocess.run(["cp", "-a", f"{template}/store", ground.store], check=True)
        time.sleep(0.01)
        ground.give_away()
        outside, live = stats(ground.outside), tree(ground.path("environments/{live}"))
        count_and_swap(ground, at)
        assert stats(ground.outside) == outside, at
        assert tree(ground.path("environments/{live}")) == live, at
        # What was left, because it was not what it had been, the next one takes.
        code, answer = ground.collect()
        assert (code, answer["problems"]) == (0, []), at
        assert not [name for name in os.listdir(ground.path("environments")) if name != ground.live], at


MOUNTS = {
    "tmpfs": 'mount -t tmpfs none "$2"/store/environments/{dead}/lib && touch "$2"/store/environments/{dead}/lib/kept',
    "bind": 'mount --bind "$2"/outside "$2"/store/environments/{dead}/lib',
    "file": 'mount --bind "$2"/outside/store.json "$2"/store/environments/{dead}/pyvenv.cfg',
    "itself": 'mount --bind "$2"/store "$2"/store/environments/{dead}/lib',
}


def collect_around_a_mount(folder: str, live: str, dead: str) -> None:
    """Collect twice where something is mounted in the dead environment."""
    ground = Ground(Path(folder), "root", live, dead)
    outside = stats(ground.outside)
    for _ in range(2):
        code, answer = ground.collect()
        assert code == 0, answer
        assert stats(ground.outside) == outside
        assert len(answer["problems"]) == 1, answer
        assert ".dead-" in answer["problems"][0]
    assert os.listdir(ground.path("environments")) != [live]
    assert dangling(str(ground.path("environments/{live}"))) == []
    remains = [path for path in ground.path("environments").glob(".dead-*/*") if not path.is_symlink()]
    assert len(remains) == 1, remains
    assert stat.S_ISDIR(remains[0].stat().st_mode) is (remains[0].name == "lib")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
@pytest.mark.parametrize("ground", ["root"], indirect=True)
@pytest.mark.parametrize("mount", MOUNTS)
def test_what_is_mounted_in_an_environment_stays_and_the_rest_goes(ground: Ground, mount: str) -> None:
    # Not while it is mounted: what is mounted over is not what is found on the way there.
    command = MOUNTS[mount].format(dead=ground.dead)
    trial = mounted(command, ground.folder, "")
    if trial.returncode:
        pytest.skip(f"nothing may be mounted here: {trial.stderr.strip()}")
    program = (
        "import sys; from test_gc_attacks import *; "
        f"collect_around_a_mount(sys.argv[1], {ground.live!r}, {ground.dead!r})"
    )
    ran = mounted(command, ground.folder, program)
    assert ran.returncode == 0, ran.stderr
    code, answer = ground.collect()
    assert (code, answer["problems"]) == (0, [])
    assert os.listdir(ground.path("environments")) == [ground.live]
