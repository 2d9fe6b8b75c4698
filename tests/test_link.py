"""The whole path on a loopback index with a real pip: what a requirements file becomes."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

import vrfstore
from support.index import Index
from support.wheels import WheelSpec
from vrfstore.errors import (
    CollisionError,
    PackageIndexError,
    ResolutionError,
    VrfstoreError,
    WheelError,
)
from vrfstore.interpreter import default_executable
from vrfstore.model import Event
from vrfstore.requirements.policy import Policy
from vrfstore.runner import configuration
from vrfstore.runner.link import LinkResult
from vrfstore.store.store import Store

APPLE = WheelSpec(
    name="apple",
    requires=["pear>=1"],
    files={"apple/__init__.py": "import pear\n\ndef main():\n    print('apple with', pear.__name__)\n"},
    entry_points={"console_scripts": {"eat-apple": "apple:main"}},
    data={"data/share/jupyter/kernels/apple/kernel.json": "{}", "data/etc/apple.conf": "sweet = yes\n"},
)
PEAR = WheelSpec(name="pear", version="1.5", files={"pear.py": "ripe = True\n"})
FIG = WheelSpec(name="orchard-fig", files={"orchard/fig/__init__.py": "seeds = 1000\n"})
PLUM = WheelSpec(name="orchard-plum", files={"orchard/plum/__init__.py": "stones = 1\n"})


@pytest.fixture
def orchard(index: Index) -> Index:
    """An index with two plain and two namespace distributions."""
    for spec in (APPLE, PEAR, FIG, PLUM):
        index.add(spec)
    return index


@pytest.fixture
def requirements(tmp_path: Path) -> Path:
    path = tmp_path / "requirements.vrf"
    path.write_text("apple\n")
    return path


def downloads(index: Index) -> list[str]:
    return sorted(
        path.rpartition("/")[2]
        for method, path in index.requests
        if method == "GET" and path.endswith(".whl")
    )


def in_environment(result: LinkResult, *arguments: str) -> str:
    done = subprocess.run([result.python, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def names(result: LinkResult) -> list[str]:
    return [package.name for package in result.packages]


def test_a_requirement_becomes_an_environment_in_which_it_can_be_imported(
    orchard: Index, store: Store, requirements: Path
) -> None:
    result = vrfstore.link(requirements, store=store)
    assert result.status == "built"
    assert names(result) == ["apple", "pear"]
    assert in_environment(result, "-c", "import apple, sys; print(apple.pear.ripe, sys.prefix)") == (
        f"True {result.environment}"
    )
    assert downloads(orchard) == ["apple-1.0-py3-none-any.whl", "pear-1.5-py3-none-any.whl"]


def test_the_second_call_is_a_hit_that_starts_nothing_and_asks_nobody(
    orchard: Index, store: Store, requirements: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = vrfstore.link(requirements, store=store)
    orchard.requests.clear()

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError(arguments)

    monkeypatch.setattr(subprocess, "Popen", refuse)
    monkeypatch.setattr("socket.socket.connect", refuse)
    events: list[Event] = []
    second = vrfstore.link(requirements, store=store, watch=events.append)
    assert second.status == "hit"
    assert (second.python, second.lock, names(second)) == (first.python, first.lock, names(first))
    assert events == []
    assert orchard.requests == []


def test_a_file_that_resolves_to_the_same_wheels_gets_the_same_environment(
    orchard: Index, store: Store, tmp_path: Path, requirements: Path
) -> None:
    other = tmp_path / "other.vrf"
    other.write_text("# the same, said otherwise\npear\nApple>=0.5\n")
    first, second = (vrfstore.link(path, store=store) for path in (requirements, other))
    assert second.environment == first.environment
    assert second.status == "hit"
    assert len(store.environments()) == 1


def test_a_file_that_is_only_written_otherwise_is_not_resolved_again(
    orchard: Index, store: Store, requirements: Path
) -> None:
    vrfstore.link(requirements, store=store)
    orchard.requests.clear()
    requirements.write_text("\n  apple   # with a remark\napple\n")
    assert vrfstore.link(requirements, store=store).status == "hit"
    assert orchard.requests == []


def test_a_file_that_shares_most_wheels_unpacks_only_the_new_ones(
    orchard: Index, store: Store, requirements: Path
) -> None:
    vrfstore.link(requirements, store=store)
    published = {name: os.stat(f"{store.root}/entries/{name}").st_ctime_ns for name in store.entries()}
    orchard.requests.clear()
    requirements.write_text("apple\norchard-fig\n")
    result = vrfstore.link(requirements, store=store)
    assert downloads(orchard) == ["orchard_fig-1.0-py3-none-any.whl"]
    assert [package.name for package in result.packages if not package.reused] == ["orchard-fig"]
    for name, when in published.items():
        assert os.stat(f"{store.root}/entries/{name}").st_ctime_ns == when


def test_wheels_in_the_store_are_linked_without_a_download(
    orchard: Index, store: Store, requirements: Path
) -> None:
    requirements.write_text("apple\norchard-fig\n")
    vrfstore.link(requirements, store=store)
    requirements.write_text("apple\n")
    orchard.requests.clear()
    result = vrfstore.link(requirements, store=store)
    assert (result.status, result.downloaded) == ("linked", 0)
    assert downloads(orchard) == []


def test_refresh_resolves_again(orchard: Index, store: Store, requirements: Path) -> None:
    vrfstore.link(requirements, store=store)
    orchard.add(WheelSpec(name="pear", version="2.0", files={"pear.py": "ripe = False\n"}))
    assert vrfstore.link(requirements, store=store).status == "hit"
    refreshed = vrfstore.link(requirements, store=store, policy=Policy(upgrade=True))
    assert [package.version for package in refreshed.packages] == ["1.0", "2.0"]
    assert vrfstore.link(requirements, store=store).environment == refreshed.environment


def test_namespace_packages_of_several_wheels_are_one(
    orchard: Index, store: Store, requirements: Path
) -> None:
    requirements.write_text("orchard-fig\norchard-plum\n")
    result = vrfstore.link(requirements, store=store)
    code = "import orchard.fig, orchard.plum; print(orchard.fig.seeds, orchard.plum.stones)"
    assert in_environment(result, "-c", code) == "1000 1"


def test_console_scripts_data_and_configuration_are_where_pip_puts_them(
    orchard: Index, store: Store, requirements: Path
) -> None:
    root = Path(vrfstore.link(requirements, store=store).environment)
    done = subprocess.run([root / "bin/eat-apple"], capture_output=True, text=True, check=True)
    assert done.stdout == "apple with pear\n"
    assert (root / "share/jupyter/kernels/apple/kernel.json").read_text() == "{}"
    configuration = root / "etc/apple.conf"
    assert configuration.read_text() == "sweet = yes\n"
    # It may be edited, and then only this environment's copy changes.
    assert configuration.stat().st_nlink == 1


def test_metadata_is_what_every_tool_reads(orchard: Index, store: Store, requirements: Path) -> None:
    result = vrfstore.link(requirements, store=store)
    site = next(Path(result.environment).glob("lib/python*/site-packages"))
    found = {
        distribution.metadata["Name"]: distribution
        for distribution in importlib.metadata.distributions(path=[str(site)])
    }
    assert sorted(found) == ["apple", "pear"]
    apple = found["apple"]
    assert apple.read_text("INSTALLER") == "vrfstore\n"
    assert {entry.name for entry in apple.entry_points} == {"eat-apple"}
    for file in apple.files or ():
        assert os.path.exists(file.locate()), file
    listed = json.loads(in_environment(result, "-m", "pip", "list", "--format", "json", "--path", str(site)))
    assert {item["name"]: item["version"] for item in listed} == {"apple": "1.0", "pear": "1.5"}


def test_the_lock_is_a_pylock_that_names_every_wheel_with_its_hash(
    orchard: Index, store: Store, requirements: Path
) -> None:
    result = vrfstore.link(requirements, store=store)
    lock = tomllib.loads(Path(result.lock).read_text())
    assert lock["lock-version"] == "1.0"
    assert {package["name"]: package["wheels"][0]["hashes"]["sha256"] for package in lock["packages"]} == {
        package.name: package.digest for package in result.packages
    }


def test_pip_installs_the_lock(orchard: Index, store: Store, requirements: Path, tmp_path: Path) -> None:
    result = vrfstore.link(requirements, store=store)
    pylock = tmp_path / "pylock.toml"
    pylock.write_bytes(Path(result.lock).read_bytes())
    target = tmp_path / "target"
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", target, "-r", pylock]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if "Invalid requirement" in done.stderr:
        pytest.skip("this pip does not read pylock.toml")
    assert done.returncode == 0, done.stderr
    assert (target / "apple/__init__.py").exists()


def test_what_the_base_has_is_not_installed_again(
    orchard: Index, store: Store, requirements: Path, tmp_path: Path
) -> None:
    base = virtual_base(tmp_path, orchard, "pear==1.5")
    result = vrfstore.link(requirements, store=store, python=base)
    assert names(result) == ["apple"]
    assert in_environment(result, "-c", "import apple; print(apple.pear.ripe)") == "True"


def test_a_changed_base_is_noticed(orchard: Index, store: Store, requirements: Path, tmp_path: Path) -> None:
    base = virtual_base(tmp_path, orchard, "pear==1.5")
    vrfstore.link(requirements, store=store, python=base)
    pip_in(base, "uninstall", "--yes", "pear")
    assert names(vrfstore.link(requirements, store=store, python=base)) == ["apple", "pear"]


def virtual_base(directory: Path, index: Index, *packages: str) -> str:
    """Make a venv with some packages, and return its python."""
    root = directory / "base"
    subprocess.run([default_executable(), "-m", "venv", "--without-pip", root], check=True)
    python = str(root / "bin/python")
    pip_in(python, "install", "--index-url", index.url, *packages)
    return python


def pip_in(python: str, *arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--python", python, "--quiet", *arguments]
    subprocess.run(command, check=True, capture_output=True)


def test_an_empty_file_links_the_base_alone_and_says_so(store: Store, requirements: Path) -> None:
    requirements.write_text("# nothing yet\n")
    result = vrfstore.link(requirements, store=store)
    assert result.packages == ()
    assert "names no packages" in result.warnings[0]
    assert in_environment(result, "-c", "import sys; print(sys.prefix)") == result.environment
    again = vrfstore.link(requirements, store=store)
    assert (again.status, again.warnings) == ("hit", result.warnings)


def test_an_environment_that_somebody_installed_into_is_not_handed_out_again(
    orchard: Index, store: Store, requirements: Path
) -> None:
    first = vrfstore.link(requirements, store=store)
    pip_in(first.python, "install", "orchard-fig")
    second = vrfstore.link(requirements, store=store)
    assert second.environment == f"{first.environment}.1"
    assert names(second) == ["apple", "pear"]
    assert in_environment(first, "-c", "import orchard.fig, apple") == ""
    assert vrfstore.link(requirements, store=store).environment == second.environment


def test_an_environment_that_lost_its_python_is_not_handed_out(
    orchard: Index, store: Store, requirements: Path
) -> None:
    first = vrfstore.link(requirements, store=store)
    os.unlink(first.python)
    second = vrfstore.link(requirements, store=store)
    assert second.environment == f"{first.environment}.1"
    assert in_environment(second, "-c", "import apple") == ""


def test_a_kernelspec_that_somebody_installed_is_nobody_elses(
    orchard: Index, store: Store, requirements: Path
) -> None:
    first = vrfstore.link(requirements, store=store)
    Path(first.environment, "share/jupyter/kernels/mine").mkdir()
    assert vrfstore.link(requirements, store=store).environment == f"{first.environment}.1"


def test_an_environment_whose_record_was_torn_is_passed_over(
    orchard: Index, store: Store, requirements: Path
) -> None:
    first = vrfstore.link(requirements, store=store)
    Path(first.environment, "vrfstore.json").write_bytes(b"")
    second = vrfstore.link(requirements, store=store)
    assert second.environment == f"{first.environment}.1"
    assert vrfstore.link(requirements, store=store).environment == second.environment


def test_constraints_count_by_what_they_say(
    orchard: Index, store: Store, requirements: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orchard.add(WheelSpec(name="pear", version="1.2", files={"pear.py": ""}))
    constraints = tmp_path / "constraints.txt"
    monkeypatch.setenv("PIP_CONSTRAINT", str(constraints))
    for version in ("1.2", "1.5"):
        constraints.write_text(f"pear=={version}\n")
        assert [package.version for package in vrfstore.link(requirements, store=store).packages] == [
            "1.0",
            version,
        ]


def test_a_pip_configuration_that_says_what_to_install_is_refused_with_its_line(
    orchard: Index, store: Store, requirements: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configuration = tmp_path / "pip.conf"
    configuration.write_text("[global]\ntimeout = 5\n[install]\neditable = /somewhere\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(configuration))
    with pytest.raises(VrfstoreError, match="editable") as caught:
        vrfstore.link(requirements, store=store)
    assert (caught.value.kind, caught.value.path, caught.value.line) == (
        "pip-configuration",
        str(configuration),
        4,
    )


def test_importing_as_an_ordinary_run_does_not_count_as_a_change(
    orchard: Index, store: Store, requirements: Path
) -> None:
    first = vrfstore.link(requirements, store=store)
    in_environment(first, "-c", "import apple, pear")
    assert vrfstore.link(requirements, store=store).status == "hit"


def test_a_link_whose_environment_was_collected_is_made_again_from_the_lock(
    orchard: Index, store: Store, requirements: Path
) -> None:
    first = vrfstore.link(requirements, store=store)
    os.rename(first.environment, f"{store.root}/environments/.dead-0000000000000000")
    orchard.requests.clear()
    again = vrfstore.link(requirements, store=store)
    assert (again.status, again.environment) == ("linked", first.environment)
    assert orchard.requests == []


def snapshot(store: Store) -> set[str]:
    """Everything in the store but what stays by design: holds, the gc's own files, probes, logs."""
    return {
        f"{directory}/{name}"
        for directory, _, files in os.walk(store.root)
        for name in files
        if directory.rpartition("/")[2] not in {"holds", "gc", "logs", "interpreters"}
    }


FAULTS: Sequence[tuple[str, type[VrfstoreError], int, str, str]] = [
    ("papaya\n", ResolutionError, 11, "package-missing", "there is no package papaya"),
    ("apple\nquince\n", ResolutionError, 11, "no-wheel", "quince has no wheel for Python"),
    ("cherry\n", ResolutionError, 11, "no-wheel", "cherry has no wheel for Python"),
    ("pear>=9\n", ResolutionError, 11, "no-version", "no version of pear satisfies pear>=9"),
    ("apple\npear<1\n", ResolutionError, 11, "conflict", "contradict"),
    (f"pear==1.5 --hash=sha256:{'0' * 64}\n", WheelError, 18, "hash-mismatch", "has another hash"),
]


@pytest.mark.parametrize(
    ("text", "error", "code", "kind", "words"), FAULTS, ids=[row[3] + row[0][:6] for row in FAULTS]
)
def test_what_cannot_be_resolved_is_said_with_its_line_and_leaves_nothing(
    orchard: Index,
    store: Store,
    requirements: Path,
    text: str,
    error: type[VrfstoreError],
    code: int,
    kind: str,
    words: str,
) -> None:
    orchard.add(b"not looked into", "quince-1.0.tar.gz")
    orchard.add(WheelSpec(name="cherry", tag="cp39-cp39-win_amd64"))
    orchard.add(WheelSpec(name="pear", version="0.5"))
    before = snapshot(store)
    requirements.write_text(text)
    with pytest.raises(error) as caught:
        vrfstore.link(requirements, store=store)
    found = caught.value
    assert (found.exit_code, found.kind) == (code, kind)
    assert words in found.message
    assert found.path == str(requirements)
    last = len(text.splitlines())
    assert found.line in ({1, 2} if kind == "conflict" else {last})
    assert found.log is not None
    assert Path(found.log).stat().st_size > 0
    assert snapshot(store) == before


def test_a_missing_dependency_is_said_with_who_needs_it(
    index: Index, store: Store, requirements: Path
) -> None:
    index.add(APPLE)
    with pytest.raises(ResolutionError, match=r"there is no package pear on the index, which apple"):
        vrfstore.link(requirements, store=store)


def test_an_index_that_is_down_is_not_a_missing_package(
    store: Store, requirements: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple/")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(PackageIndexError, match="did not answer") as caught:
        vrfstore.link(requirements, store=store)
    assert (caught.value.exit_code, caught.value.kind) == (14, "index-unreachable")


def test_a_file_that_is_not_what_the_lock_says_is_refused_and_nothing_of_it_is_kept(
    orchard: Index, store: Store, requirements: Path
) -> None:
    orchard.corrupt("pear-1.5-py3-none-any.whl")
    with pytest.raises(WheelError) as caught:
        vrfstore.link(requirements, store=store)
    assert (caught.value.exit_code, caught.value.kind) == (18, "hash-mismatch")
    assert not [name for name in store.entries() if "pear" in name]
    assert os.listdir(store.layout.of("tmp")) == []
    assert store.environments() == []


def test_a_server_that_fails_for_a_wheel_leaves_the_others_for_the_next_try(
    orchard: Index, store: Store, requirements: Path
) -> None:
    def fail_from_now_on(event: Event) -> None:
        if event.kind == "resolved":
            orchard.status["/files/pear"] = 404

    with pytest.raises(PackageIndexError) as caught:
        vrfstore.link(requirements, store=store, watch=fail_from_now_on)
    assert (caught.value.exit_code, caught.value.kind) == (14, "download-failed")
    orchard.status.clear()
    orchard.requests.clear()
    assert vrfstore.link(requirements, store=store).status == "built"
    assert "pear-1.5-py3-none-any.whl" in downloads(orchard)


def test_wheels_that_bring_different_files_to_one_place_collide(
    index: Index, store: Store, requirements: Path
) -> None:
    index.add(WheelSpec(name="one", files={"shared/__init__.py": "one = 1\n"}))
    index.add(WheelSpec(name="two", files={"shared/__init__.py": "two = 2\n"}))
    requirements.write_text("one\ntwo\n")
    with pytest.raises(
        CollisionError, match=r"one 1\.0 and two 1\.0 both bring .*shared/__init__\.py"
    ) as caught:
        vrfstore.link(requirements, store=store)
    assert caught.value.exit_code == 19
    assert store.environments() == []


def test_credentials_reach_the_index_and_nothing_that_is_written(
    tmp_path: Path, store: Store, requirements: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Index([APPLE, PEAR], credentials=("gardener", "hunter2")) as served:
        monkeypatch.setenv("PIP_INDEX_URL", served.url_with_credentials)
        result = vrfstore.link(requirements, store=store)
    assert names(result) == ["apple", "pear"]
    for directory, _, files in os.walk(store.root):
        for name in files:
            file = Path(directory, name)
            assert file.is_symlink() or b"hunter2" not in file.read_bytes(), file


def test_wheels_of_a_local_folder_are_taken_by_path(
    tmp_path: Path, store: Store, requirements: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from support.wheels import build_wheel

    folder = tmp_path / "folder with spaces"
    folder.mkdir()
    for spec in (APPLE, PEAR):
        build_wheel(spec, folder)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", folder.as_uri())
    result = vrfstore.link(requirements, store=store)
    assert result.status == "built"
    lock = tomllib.loads(Path(result.lock).read_text())
    assert lock["packages"][0]["wheels"][0]["path"] == str(folder / "apple-1.0-py3-none-any.whl")


def test_nothing_is_remembered_under_a_configuration_that_changed_while_it_was_read(
    orchard: Index, store: Store, requirements: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "vrfstore.toml"
    path.write_text("[resolve]\nmax-packages = 100\n")
    monkeypatch.setenv("VRFSTORE_CONFIG", str(path))
    read = configuration.read

    def changed_behind_our_back(variables: Mapping[str, str]) -> configuration.Configuration:
        found = read(variables)
        path.write_text("[resolve]\nmax-packages = 0\n")
        return found

    monkeypatch.setattr(configuration, "read", changed_behind_our_back)
    vrfstore.link(requirements, store=store)
    assert os.listdir(store.layout.of("inputs")) == []
