"""``run`` in environments that are there already, by name, and commands that an environment does not have."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.index import Index
from support.wheels import WheelSpec
from vrfstore.cli.running import run
from vrfstore.errors import UsageError
from vrfstore.gc.policy import Policy
from vrfstore.gc.sweep import collect
from vrfstore.model import LinkOptions
from vrfstore.runner.link import link
from vrfstore.runner.run import named
from vrfstore.store import leases
from vrfstore.store.store import Store

WHERE = ["python", "-c", "import sys; print(sys.prefix)"]


@pytest.fixture
def requirements(index: Index, tmp_path: Path) -> Path:
    index.add(WheelSpec(name="pear"))
    path = tmp_path / "requirements.vrf"
    path.write_text("pear\n")
    return path


@pytest.fixture
def managed(requirements: Path, store: Store) -> Path:
    """An environment of the store."""
    return Path(link(requirements, store=store).environment)


@pytest.fixture
def others(tmp_path: Path) -> Path:
    """A directory with somebody else's pip, which says so."""
    folder = tmp_path / "others"
    folder.mkdir()
    for name in ("pip", "pip3"):
        (folder / name).write_text("#!/bin/sh\necho somebody else\n")
        (folder / name).chmod(0o755)
    return folder


def vrfstore(
    store: Store, *arguments: str | Path, folder: Path | None = None, path: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``vrfstore run`` in a process of its own, which becomes the command."""
    variables = dict(os.environ)
    if path is not None:
        variables["PATH"] = f"{path}{os.pathsep}{variables['PATH']}"
    return subprocess.run(
        [sys.executable, "-m", "vrfstore", "--store", store.root, "run", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=variables,
    )


def test_an_environment_of_the_store_is_known_by_its_name_and_the_beginning_of_it(
    managed: Path, store: Store, tmp_path: Path
) -> None:
    for name in (managed.name, managed.name[:8], managed):
        done = vrfstore(store, name, "--", *WHERE, folder=tmp_path)
        assert (done.returncode, done.stdout) == (0, f"{managed}\n"), done.stderr


def test_a_file_comes_before_an_environment_of_that_name(
    managed: Path, requirements: Path, store: Store, tmp_path: Path
) -> None:
    name = managed.name[:8]
    (tmp_path / name).write_text("papaya\n")
    assert vrfstore(store, name, "--", *WHERE, folder=tmp_path).returncode == 11
    (tmp_path / name).unlink()
    # A link that leads nowhere is a file that is missing.
    (tmp_path / name).symlink_to("nowhere")
    assert vrfstore(store, name, "--", *WHERE, folder=tmp_path).returncode == 10


@pytest.mark.parametrize("name", ["absent.vrf", "below/{}", "./{}"])
def test_what_is_neither_is_a_file_that_is_missing(
    managed: Path, store: Store, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert run(["--store", store.root, "run", name.format(managed.name), "--", "true"]) == 10
    assert "there is no file or environment of that name" in capsys.readouterr().err


def test_without_a_store_there_are_no_environments(tmp_path: Path) -> None:
    assert named("a", str(tmp_path / "absent")) is None
    assert not (tmp_path / "absent").exists()


def test_a_beginning_of_several_names_is_refused(requirements: Path, store: Store) -> None:
    prompts = (str(number) for number in range(17))
    names = {
        os.path.basename(link(requirements, store=store, options=LinkOptions(prompt=prompt)).environment)
        for prompt in prompts
    }
    first = [name[0] for name in names]
    twice = next(letter for letter in first if first.count(letter) > 1)
    with pytest.raises(UsageError, match="may be any of"):
        named(twice, store.root)


def test_options_of_a_link_are_of_no_use_with_a_name(
    managed: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["--store", store.root, "run", managed.name, "--isolated", "--", "true"]) == 2
    assert "--isolated is of no use" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["pip", "pip3"])
def test_pip_is_that_of_the_environment_and_not_somebody_elses(
    managed: Path, requirements: Path, store: Store, others: Path, tmp_path: Path, command: str
) -> None:
    own = tmp_path / "own"
    link(requirements, store=store, into=own)
    # A module of that name tells which python was started, whether the base has pip or not.
    (tmp_path / "pip.py").write_text("import sys; print(sys.prefix, *sys.argv[1:])\n")
    for given, place in ((managed, managed), (requirements, managed), (own, own)):
        done = vrfstore(store, given, "--", command, "list", "-v", folder=tmp_path, path=others)
        assert (done.returncode, done.stdout) == (0, f"{place} list -v\n"), done.stderr


def test_a_pip_that_the_environment_has_is_run(requirements: Path, store: Store, tmp_path: Path) -> None:
    own = tmp_path / "own"
    link(requirements, store=store, into=own)
    (own / "bin/pip").write_text("#!/bin/sh\necho its own\n")
    (own / "bin/pip").chmod(0o755)
    assert vrfstore(store, own, "--", "pip").stdout == "its own\n"


def collected(store: Store) -> tuple[str, ...]:
    """Return which environments a collection takes that goes by nothing but roots, leases and processes."""
    return collect(store, Policy(max_age=0, grace=0)).environments


def test_a_frame_that_is_killed_before_it_becomes_the_command_frees_its_lease(
    requirements: Path, store: Store, managed: Path
) -> None:
    for given in (requirements, managed):
        pid = os.fork()
        if not pid:
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(os, "execvpe", lambda *_arguments: os.kill(os.getpid(), signal.SIGKILL))
                run(["--store", store.root, "run", str(given), "--", "true"])
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        (lease,) = leases.read(store.layout)
        assert (lease.kind, lease.environment, lease.alive) == ("held", managed.name, False)
        os.unlink(store.layout.of("leases", lease.name))
    assert collected(store) == (managed.name,)


FORKS = """
import os, sys, time
if os.fork() == 0:
    print(os.getpid(), flush=True)
time.sleep(60)
"""
"""A command whose child inherits all its descriptors."""


def test_a_lease_goes_to_the_children_that_inherit_it_and_ends_with_the_last(
    requirements: Path, store: Store, managed: Path
) -> None:
    # Neither command line nor variables nor program name the environment: only the lease can keep it.
    command = ["env", "-i", sys.executable, "-c", FORKS]
    with subprocess.Popen(
        [sys.executable, "-m", "vrfstore", "--store", store.root, "run", requirements, "--", *command],
        stdout=subprocess.PIPE,
        cwd="/",
    ) as running:
        assert running.stdout is not None
        child = int(running.stdout.readline())
        running.send_signal(signal.SIGKILL)
        running.wait()
        assert collected(store) == ()
        os.kill(child, signal.SIGKILL)
        running.stdout.read()  # until the child, too, has closed it
    deadline = time.monotonic() + 10
    while any(lease.alive for lease in leases.read(store.layout)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert collected(store) == (managed.name,)
