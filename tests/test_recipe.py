"""What an input came to before is linked without finding it out again, and only where nothing has changed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import vrfstore
from support import crash
from support.commands import Command
from support.index import Index
from support.wheels import WheelSpec
from vrfstore import fs
from vrfstore.errors import CapError, NotPermittedError, PackageIndexError, UsageError
from vrfstore.model import LinkOptions
from vrfstore.requirements.budget import Caps
from vrfstore.requirements.policy import Policy
from vrfstore.runner.link import LinkResult
from vrfstore.store import interpreters
from vrfstore.store.store import Store

APPLE = WheelSpec(name="apple", requires=["pear>=1"], files={"apple.py": "import pear\n"})
PEAR = WheelSpec(name="pear", version="1.5", files={"pear.py": "ripe = True\n"})

Linked = Callable[..., LinkResult]


@pytest.fixture
def orchard(index: Index) -> Index:
    for spec in (APPLE, PEAR):
        index.add(spec)
    return index


@pytest.fixture
def requirements(tmp_path: Path) -> Path:
    path = tmp_path / "requirements.vrf"
    path.write_text("apple\n")
    return path


@pytest.fixture
def shortly(monkeypatch: pytest.MonkeyPatch) -> Linked:
    """Link, where the whole way is blocked."""

    def link(*arguments: object, **options: object) -> LinkResult:
        with monkeypatch.context() as blocked:
            blocked.setattr("vrfstore.runner.linking.Linking.run", lambda *_: 1 / 0)
            return vrfstore.link(*arguments, **options)  # type: ignore[arg-type]

    return link


def take_away(result: LinkResult) -> None:
    """As a gc does."""
    fs.remove_tree(result.environment)


def goes_the_whole_way(link: Linked, *arguments: object, **options: object) -> bool:
    try:
        link(*arguments, **options)
    except ZeroDivisionError:
        return True
    return False


def recipes(store: Store) -> list[Path]:
    return [
        path
        for path in Path(store.layout.of("requests")).iterdir()
        if "wheels" in json.loads(path.read_text())
    ]


def test_an_environment_that_was_taken_is_made_again(
    orchard: Index, store: Store, requirements: Path, shortly: Linked
) -> None:
    first = vrfstore.link(requirements, store=store)
    take_away(first)
    orchard.requests.clear()
    again = shortly(requirements, store=store)
    assert (again.status, again.environment) == ("linked", first.environment)
    assert again == replace(
        first,
        status="linked",
        downloaded=0,
        unpacked=0,
        shared=first.unpacked + first.shared,
        packages=tuple(replace(package, reused=True) for package in first.packages),
        timings=again.timings,
    )
    assert orchard.requests == []
    subprocess.run([again.python, "-c", "import apple"], check=True)
    assert shortly(requirements, store=store).status == "hit"


@pytest.mark.parametrize(
    "options",
    [LinkOptions(prompt="x"), LinkOptions(user_site=True), LinkOptions(materialize=("pear",))],
    ids=["prompt", "user-site", "materialize"],
)
def test_another_way_to_link_the_same_is_no_other_request(
    orchard: Index, store: Store, requirements: Path, shortly: Linked, options: LinkOptions
) -> None:
    first = vrfstore.link(requirements, store=store)
    other = shortly(requirements, store=store, options=options)
    assert other.status == "linked"
    assert other.environment != first.environment
    whole = vrfstore.link(requirements, store=store, options=options, policy=Policy(refresh=True))
    assert (whole.environment, whole.packages, whole.lock) == (other.environment, other.packages, other.lock)
    assert shortly(requirements, store=store, options=options).status == "hit"


def test_what_the_base_has_is_another_question(
    orchard: Index, store: Store, requirements: Path, shortly: Linked
) -> None:
    vrfstore.link(requirements, store=store)
    assert goes_the_whole_way(shortly, requirements, store=store, options=LinkOptions(isolated=True))


def test_several_files_and_locks_have_recipes_too(
    orchard: Index, store: Store, requirements: Path, tmp_path: Path, shortly: Linked
) -> None:
    more = tmp_path / "more.txt"
    more.write_text("pear==1.5\n")
    first = vrfstore.link([requirements, more], store=store)
    take_away(first)
    assert shortly([requirements, more], store=store).environment == first.environment
    lock = tmp_path / "pylock.toml"
    lock.write_bytes(Path(first.lock).read_bytes())
    of_lock = vrfstore.link(lock, store=store)
    take_away(of_lock)
    assert shortly(lock, store=store).environment == first.environment


def test_warnings_are_said_each_time_and_there_is_no_memo_that_would_not(
    store: Store, requirements: Path, shortly: Linked
) -> None:
    requirements.write_text("# nothing\n")
    first = vrfstore.link(requirements, store=store)
    assert len(first.warnings) == 1
    assert os.listdir(store.layout.of("inputs")) == []
    for _ in range(2):
        again = shortly(requirements, store=store)
        assert (again.status, again.warnings) == ("hit", first.warnings)
    take_away(first)
    again = shortly(requirements, store=store)
    assert (again.status, again.warnings) == ("linked", first.warnings)


def lose_an_entry(store: Store, _: LinkResult) -> None:
    (name,) = (name for name in os.listdir(store.layout.of("entries")) if "pear" in name)
    fs.remove_tree(store.layout.of("entries", name))


def lose_the_lock(store: Store, result: LinkResult) -> None:
    os.unlink(result.lock)


def tear_the_recipe(store: Store, _: LinkResult) -> None:
    for path in recipes(store):
        path.write_bytes(path.read_bytes()[:-20])


def make_it_stale(store: Store, _: LinkResult) -> None:
    for path in recipes(store):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"until": 1}))


def give_it_odd_wheels(store: Store, _: LinkResult) -> None:
    for path in recipes(store):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"wheels": [["x"]]}))


def empty_the_lock(store: Store, result: LinkResult) -> None:
    Path(result.lock).write_bytes(b"")


def take_the_memo_of_the_request(store: Store, _: LinkResult) -> None:
    kept = recipes(store)
    for path in Path(store.layout.of("requests")).iterdir():
        if path not in kept:
            path.unlink()


def change_the_base(store: Store, _: LinkResult) -> None:
    for path in recipes(store):
        recipe = json.loads(path.read_text())
        recipe["stats"] = dict.fromkeys(recipe["stats"], "1:2")
        path.write_text(json.dumps(recipe))


@pytest.mark.parametrize(
    "change",
    [
        lose_an_entry,
        lose_the_lock,
        empty_the_lock,
        take_the_memo_of_the_request,
        tear_the_recipe,
        make_it_stale,
        give_it_odd_wheels,
        change_the_base,
    ],
)
def test_where_something_is_missing_or_looks_odd_the_whole_way_is_taken(
    orchard: Index,
    store: Store,
    requirements: Path,
    shortly: Linked,
    change: Callable[[Store, LinkResult], object],
) -> None:
    first = vrfstore.link(requirements, store=store)
    take_away(first)
    assert len(recipes(store)) == 1
    change(store, first)
    assert goes_the_whole_way(shortly, requirements, store=store)
    assert vrfstore.link(requirements, store=store).environment == first.environment
    take_away(first)
    assert shortly(requirements, store=store).environment == first.environment


ODD: dict[str, list[object]] = {
    "lock": [5, None, "a\0b", [], "\ud800"],
    "wheels": [
        [[1, 2, 3]],
        [["a", None, "1"]],
        [["a", "b\0", "1"]],
        {"abc": 1},
        "abc",
        7,
        [["a", "b", ["1"]]],
    ],
    "stats": [[], 3, {"a\0b": "-"}, {"/": None}, {"\ud800": "-"}, ["ab"]],
    "warnings": [1, [1], [[]], None],
    "resolved_at": [1e400, "1", None, [], 1.5],
    "until": [1e400, -1e400, "x", {}, 0.5],
    "request": [None, 3, [], "\0"],
    "schema": [None, 0, "2", []],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in ODD.items() for value in values], ids=repr
)
def test_a_recipe_that_says_what_none_would_is_none(
    orchard: Index, store: Store, requirements: Path, shortly: Linked, name: str, value: object
) -> None:
    take_away(vrfstore.link(requirements, store=store))
    for path in recipes(store):
        path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}).replace("Infinity", "1e400"))
    assert goes_the_whole_way(shortly, requirements, store=store)


def test_a_base_that_changes_while_a_recipe_is_followed_does_not_get_into_a_memo(
    orchard: Index,
    store: Store,
    requirements: Path,
    shortly: Linked,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    take_away(vrfstore.link(requirements, store=store))
    known = interpreters.known

    def changed_meanwhile(*arguments: Any) -> Any:
        base, probed = known(*arguments)
        return base, probed and {path: f"{token}0" for path, token in probed.items()}

    monkeypatch.setattr(interpreters, "known", changed_meanwhile)
    assert goes_the_whole_way(shortly, requirements, store=store)


def test_a_configuration_of_pip_that_changed_is_noticed(
    orchard: Index,
    store: Store,
    requirements: Path,
    shortly: Linked,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.delenv("PIP_CONFIG_FILE")
    take_away(vrfstore.link(requirements, store=store))
    place = Path(os.environ["HOME"]) / ".config/pip/pip.conf"
    place.parent.mkdir(parents=True)
    place.write_text("[global]\nno-cache-dir = true\n")
    assert goes_the_whole_way(shortly, requirements, store=store)


def test_what_is_resolved_again_takes_the_place_of_what_it_came_to(
    orchard: Index, store: Store, requirements: Path, shortly: Linked
) -> None:
    vrfstore.link(requirements, store=store)
    orchard.add(replace(PEAR, version="2.0"))
    assert goes_the_whole_way(shortly, requirements, store=store, policy=Policy(upgrade=True))
    newer = vrfstore.link(requirements, store=store, policy=Policy(upgrade=True))
    assert {package.version for package in newer.packages if package.name == "pear"} == {"2.0"}
    take_away(newer)
    assert shortly(requirements, store=store).packages == newer.packages[:1] + tuple(
        replace(package, reused=True) for package in newer.packages[1:]
    )


def test_that_resolving_failed_once_is_no_part_of_a_recipe(
    orchard: Index, store: Store, requirements: Path, shortly: Linked
) -> None:
    first = vrfstore.link(requirements, store=store)
    orchard.status["/simple/"] = 503
    policy = Policy(refresh=True, stale_ok=True)
    used = vrfstore.link(requirements, store=store, policy=policy)
    assert any("resolving again failed" in warning for warning in used.warnings)
    take_away(first)
    assert shortly(requirements, store=store).warnings == ()


def test_a_cap_counts_here_as_well(orchard: Index, store: Store, requirements: Path) -> None:
    policy = Policy(caps=Caps(packages=2))
    first = vrfstore.link(requirements, store=store, policy=policy)
    take_away(first)
    for path in recipes(store):
        recipe = json.loads(path.read_text())
        path.write_text(json.dumps(recipe | {"wheels": recipe["wheels"] * 2}))
    with pytest.raises(CapError):
        vrfstore.link(requirements, store=store, policy=policy)


def test_what_is_to_be_materialized_has_to_be_there(
    orchard: Index, store: Store, requirements: Path, shortly: Linked
) -> None:
    vrfstore.link(requirements, store=store)
    with pytest.raises(UsageError, match="quince"):
        shortly(requirements, store=store, options=LinkOptions(materialize=("quince",)))


def test_behind_a_closed_gate_it_is_served_and_written_down(
    orchard: Index, store: Store, requirements: Path, shortly: Linked
) -> None:
    first = vrfstore.link(requirements, store=store)
    take_away(first)
    assert shortly(requirements, store=store, policy=Policy(install=False)).status == "linked"
    (line,) = [json.loads(line) for line in Path(store.layout.audit).read_text().splitlines()]
    assert (line["decision"], line["status"], line["environment"]) == ("served", "linked", first.environment)
    lose_an_entry(store, first)
    take_away(first)
    with pytest.raises(NotPermittedError):
        vrfstore.link(requirements, store=store, policy=Policy(install=False))


def test_bytecode_that_is_missing_is_compiled_where_that_is_wanted(
    orchard: Index, store: Store, requirements: Path, shortly: Linked
) -> None:
    first = vrfstore.link(requirements, store=store)
    take_away(first)
    again = shortly(requirements, store=store, compile_mode="eager")
    assert again.compiled
    assert list(Path(again.environment).glob("lib/python*/site-packages/__pycache__/pear.*.pyc"))


def test_a_lease_and_a_root_keep_what_was_made_so(
    orchard: Index, store: Store, requirements: Path, shortly: Linked, command: Command
) -> None:
    take_away(vrfstore.link(requirements, store=store))
    kept = shortly(requirements, store=store, lease_ttl=3600)
    assert kept.lease is not None
    assert command("gc", "--grace", "0", "--max-age", "0").code == 0
    assert os.path.lexists(kept.python)
    kept.lease.release()
    assert command("gc", "--grace", "0", "--max-age", "0").code == 0
    assert not os.path.lexists(kept.python)


def test_it_goes_with_its_lock(orchard: Index, store: Store, requirements: Path, command: Command) -> None:
    vrfstore.link(requirements, store=store)
    assert len(recipes(store)) == 1
    for _ in range(2):
        assert command("gc", "--grace", "0", "--max-age", "0").code == 0
    assert os.listdir(store.layout.of("requests")) == os.listdir(store.layout.of("locks")) == []


def test_where_each_document_is_written_otherwise_there_are_not_ever_more(
    orchard: Index, store: Store, requirements: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vrfstore.gc.policy._MEMOS", 2)
    for number in range(4):
        requirements.write_text(f"apple  # of document {number}\n")
        result = vrfstore.link(requirements, store=store)
    assert len(recipes(store)) == 4
    request = set(os.listdir(store.layout.of("requests"))) - {path.name for path in recipes(store)}
    assert command("gc").code == 0
    assert len(recipes(store)) == 2
    assert request < set(os.listdir(store.layout.of("requests")))
    assert vrfstore.link(requirements, store=store).environment == result.environment


def test_over_a_shared_store_there_are_none(
    orchard: Index, store: Store, requirements: Path, tmp_path: Path
) -> None:
    shared = Store.open(tmp_path / "shared")
    vrfstore.link(requirements, store=store, shared_store=shared.root)
    assert recipes(store) == []


def test_killed_anywhere_the_next_makes_it_good(
    orchard: Index, store: Store, requirements: Path, shortly: Linked
) -> None:
    first = vrfstore.link(requirements, store=store)
    points = []

    def prepare() -> None:
        take_away(first)

    for point, _ in crash.each_kill(prepare, lambda _: shortly(requirements, store=store)):
        points.append(point)
        again = shortly(requirements, store=store)
        assert (again.environment.partition(".")[0], again.packages) == (
            first.environment,
            tuple(replace(package, reused=True) for package in first.packages),
        )
        take_away(again)
    assert len(points) > 20


def test_only_what_is_needed_is_loaded(orchard: Index, store: Store, requirements: Path) -> None:
    take_away(vrfstore.link(requirements, store=store))
    code = (
        # What measures coverage has loaded some of it already.
        "import sys\nheavy = {'packaging', 'filelock', 'dataclasses', 'inspect', 'hashlib', 'tomllib', 'json',\n"
        " 'typing', 'csv', 'base64'}\n"
        "for name in [name for name in sys.modules if name.partition('.')[0] in heavy]:\n    del sys.modules[name]\n"
        f"import vrfstore\nprint(vrfstore.link({str(requirements)!r}, store={store.root!r}).status)\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "linked\n[]\n"


@pytest.mark.parametrize("part", ["inputs", "requests", "interpreters", "environments"])
def test_whatever_is_torn_is_found_out_anew_where_next_to_nothing_is_loaded(
    orchard: Index, store: Store, requirements: Path, part: str
) -> None:
    vrfstore.link(requirements, store=store)
    for path in Path(store.layout.of(part)).glob("**/*.json"):
        if not path.is_symlink():
            path.write_bytes(b'{"schema":2,"stats":{"/":1')
    command = [sys.executable, "-m", "vrfstore", "--store", store.root, "link", str(requirements)]
    for words in ([*command, "--prompt", "x"], command):
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"{store.root}/environments/")


def test_an_index_that_is_down_does_not_matter(
    orchard: Index, store: Store, requirements: Path, shortly: Linked
) -> None:
    first = vrfstore.link(requirements, store=store)
    take_away(first)
    orchard.status["/simple/"] = 503
    assert shortly(requirements, store=store).environment == first.environment
    requirements.write_text("apple\npear\n")
    with pytest.raises(PackageIndexError):
        vrfstore.link(requirements, store=store)


def test_what_was_resolved_again_counts_even_if_it_might_have_failed(
    orchard: Index, store: Store, requirements: Path
) -> None:
    vrfstore.link(requirements, store=store)
    orchard.add(replace(PEAR, version="2.0"))
    newer = vrfstore.link(requirements, store=store, policy=Policy(upgrade=True, stale_ok=True))
    take_away(newer)
    assert vrfstore.link(requirements, store=store).environment == newer.environment


def test_what_was_resolved_again_for_an_environment_elsewhere_counts_here_too(
    orchard: Index, store: Store, requirements: Path, tmp_path: Path
) -> None:
    first = vrfstore.link(requirements, store=store)
    orchard.add(replace(PEAR, version="2.0"))
    newer = vrfstore.link(requirements, store=store, into=tmp_path / "own", policy=Policy(upgrade=True))
    take_away(first)
    assert vrfstore.link(requirements, store=store).lock == newer.lock


def test_a_file_that_asks_for_nothing_is_called_by_its_own_name(store: Store, tmp_path: Path) -> None:
    for name in ("a.vrf", "b.vrf"):
        path = tmp_path / name
        path.write_text("# nothing\n")
        (warning,) = vrfstore.link(path, store=store).warnings
        assert warning.startswith(str(path))
