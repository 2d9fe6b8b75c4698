"""The main job on real packages of the real index, held against a venv that pip made from the same lock."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

import vrfstore
from support.crash import dangling
from support.pythons import pythons
from vrfstore.gc.policy import Policy
from vrfstore.gc.sweep import collect
from vrfstore.interpreter import default_executable
from vrfstore.runner.link import LinkResult
from vrfstore.runner.run import command_environment
from vrfstore.store import leases
from vrfstore.store.machine import Machine
from vrfstore.store.store import Store

pytestmark = pytest.mark.network

REPORT = Path(__file__).parent.parent / "examples/report/requirements.vrf"

METADATA = """
import importlib.metadata, json, sys
found = {item.metadata["Name"].lower().replace("_", "-"): item.version for item in importlib.metadata.distributions()}
tops = {name: sorted(who) for name, who in importlib.metadata.packages_distributions().items()}
print(json.dumps([found, tops], sort_keys=True))
"""

WORK = """
import matplotlib
matplotlib.use("Agg")
import io
import matplotlib.pyplot as plt
import numpy
import pandas
from sklearn.linear_model import LinearRegression
frame = pandas.DataFrame({"x": range(50), "y": [3.0 * x + 1 for x in range(50)]})
model = LinearRegression().fit(frame[["x"]], frame["y"])
figure, axes = plt.subplots()
axes.plot(frame["x"], model.predict(frame[["x"]]))
picture = io.BytesIO()
figure.savefig(picture)
print(numpy.allclose(model.coef_, 3), frame.describe().shape, picture.getvalue()[:4] == b"\\x89PNG")
"""

KERNEL = """
import sys
from jupyter_client.manager import start_new_kernel
manager, client = start_new_kernel(kernel_name="python3")
try:
    answers = []
    client.execute_interactive(
        "import sys; print(sys.prefix)", timeout=60,
        output_hook=lambda message: answers.append(message["content"].get("text", "")),
    )
    print("".join(answers).strip() == sys.prefix)
finally:
    client.stop_channels()
    manager.shutdown_kernel(now=True)
"""


DETACHED = """
import os, subprocess
from jupyter_client.manager import KernelManager
manager = KernelManager(kernel_name="python3")
manager.start_kernel(independent=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
client = manager.blocking_client()
client.start_channels()
client.wait_for_ready(timeout=60)
print(manager.provisioner.pid, manager.connection_file, flush=True)
os._exit(0)
"""
"""Starts a kernel that outlives it."""

ASK = """
import sys
from jupyter_client import BlockingKernelClient
client = BlockingKernelClient(connection_file=sys.argv[1])
client.load_connection_file()
client.start_channels()
client.wait_for_ready(timeout=60)
answers = []
client.execute_interactive(
    "import sys, ipykernel.zmqshell; print(sys.prefix)", timeout=60,
    output_hook=lambda message: answers.append(message["content"].get("text", "")),
)
print("".join(answers).strip())
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One store for all tests of this module, so that each wheel is downloaded once."""
    return Store.open(tmp_path_factory.mktemp("shared") / "store")


@pytest.fixture
def linked(shared: Store) -> LinkResult:
    return vrfstore.link(REPORT, store=shared)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the venv that pip makes is kept."""
    return tmp_path_factory.mktemp("reference") / "venv"


@pytest.fixture
def venv(reference: Path, linked: LinkResult, tmp_path: Path) -> str:
    """The python of a venv with what the lock of ``linked`` names, made by venv and pip."""
    python = str(reference / "bin/python")
    if not os.path.exists(python):
        subprocess.run(
            [default_executable(), "-m", "venv", "--system-site-packages", "--without-pip", reference],
            check=True,
        )
        pylock = tmp_path / "pylock.toml"
        shutil.copyfile(linked.lock, pylock)
        run(
            sys.executable,
            "-m",
            "pip",
            "--python",
            python,
            "install",
            "--quiet",
            "--no-deps",
            "-r",
            str(pylock),
        )
    return python


def run(*command: str, environment: Mapping[str, str] | None = None, code: int | None = 0) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert code is None or done.returncode == code, done.stdout + done.stderr
    return done.stdout.strip()


def uv(*arguments: str) -> str:
    executable = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if executable is None:
        pytest.skip("uv is not installed")
    return run(executable, *arguments, code=None)


def test_pip_list_is_what_it_is_in_a_venv(linked: LinkResult, venv: str) -> None:
    ours, theirs = (
        json.loads(run(sys.executable, "-m", "pip", "--python", python, "list", "--format", "json"))
        for python in (linked.python, venv)
    )
    assert ours == theirs
    assert len(ours) > len(linked.packages) > 10


def test_uv_pip_list_is_what_it_is_in_a_venv(linked: LinkResult, venv: str) -> None:
    ours, theirs = (
        json.loads(uv("pip", "list", "--python", python, "--format", "json"))
        for python in (linked.python, venv)
    )
    assert ours == theirs
    assert {package.name for package in linked.packages} <= {item["name"] for item in ours}


def test_pip_check_is_what_it_is_in_a_venv(linked: LinkResult, venv: str) -> None:
    ours, theirs = (
        run(sys.executable, "-m", "pip", "--python", python, "check", code=None)
        for python in (linked.python, venv)
    )
    assert ours == theirs


def test_importlib_metadata_is_what_it_is_in_a_venv(linked: LinkResult, venv: str) -> None:
    ours, theirs = (json.loads(run(python, "-c", METADATA)) for python in (linked.python, venv))
    assert ours == theirs


def test_the_stack_imports_and_works(linked: LinkResult) -> None:
    assert run(linked.python, "-c", WORK) == "True (8, 2) True"


def test_a_kernel_starts_from_the_environment_and_runs_a_cell(linked: LinkResult) -> None:
    variables = command_environment(linked, os.environ)
    assert run(linked.python, "-c", KERNEL, environment=variables) == "True"


def test_a_kernel_that_outlives_its_command_keeps_its_environment_until_it_ends(
    tmp_path: Path, store: Store
) -> None:
    requirements = tmp_path / "requirements.vrf"
    requirements.write_text("ipykernel\n")
    started = run(
        sys.executable, "-m", "vrfstore", "--store", store.root, "run", str(requirements),
        "--", "python", "-c", DETACHED,
    )  # fmt: skip
    number, _, connection = started.partition(" ")
    kernel = int(number)
    everything = Policy(max_age=0, grace=0)
    try:
        # The lease has ended with the command: the kernel has not inherited its descriptor.
        assert not [lease for lease in leases.read(store.layout) if lease.alive]
        (environment,) = store.environments()
        time.sleep(0.01)
        report = collect(store, everything)
        assert report.kept == {environment: (f"in use by process {kernel}",)}
        place = store.layout.of("environments", environment)
        assert dangling(place) == []
        assert run(f"{place}/bin/python", "-c", ASK, connection) == place
    finally:
        os.kill(kernel, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while (found := Machine().process(kernel)) is not None and not found.ended:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert collect(store, everything).environments == (environment,)
    assert store.entries() == []


def test_console_scripts_run(linked: LinkResult) -> None:
    kernels = json.loads(run(f"{linked.environment}/bin/jupyter-kernelspec", "list", "--json"))
    expected = f"{linked.environment}/share/jupyter/kernels/python3"
    assert kernels["kernelspecs"]["python3"]["resource_dir"] == expected


@pytest.mark.parametrize(
    "python", pythons(), ids=lambda python: Path(python).parts[-3] + "-" + Path(python).name
)
def test_every_interpreter_from_3_9_up_gets_an_environment_that_works(
    shared: Store, tmp_path: Path, python: str
) -> None:
    requirements = tmp_path / "requirements.vrf"
    requirements.write_text("pandas\nsix\n")
    result = vrfstore.link(requirements, store=shared, python=python)
    code = "import sys, pandas, six; print(sys.prefix, pandas.DataFrame([[1, 2]]).sum().sum())"
    assert run(result.python, "-c", code) == f"{result.environment} 3"


def test_the_demonstration_shows_what_it_promises() -> None:
    """The README's first command: cold, warm and hit, a report with a plot, and what is shared."""
    root = REPORT.parents[2]
    shown = run(sys.executable, str(REPORT.parent / "demo.py"))
    for name, status in (("cold", "built"), ("overlap", "built"), ("warm", "linked"), ("hit", "hit")):
        (line,) = (line for line in shown.splitlines() if line.startswith(f"{name} "))
        assert f" {status} " in line
    assert (root / ".demo/report/report.png").read_bytes().startswith(b"\x89PNG")


SOCKETS = ("socket(", "connect(", "sendto(")


def test_a_hit_opens_no_socket_and_starts_no_process(
    shared: Store, linked: LinkResult, tmp_path: Path
) -> None:
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    trace = tmp_path / "trace"
    command = [sys.executable, "-m", "vrfstore", "--store", shared.root, "link", str(REPORT)]
    seen = run(strace, "-f", "-e", "trace=network,process", "-o", str(trace), *command)
    assert seen == linked.python
    calls = trace.read_text().splitlines()
    assert [line for line in calls if any(call in line for call in SOCKETS)] == []
    assert sum("execve(" in line for line in calls) == 1
    assert not [line for line in calls if "clone" in line or "fork" in line]


def forbidden(paths: Sequence[Path]) -> list[Path]:
    return [path for path in paths if path.name.startswith((".new-", ".dead-"))]


def test_nothing_is_half_made_in_the_store(shared: Store, linked: LinkResult) -> None:
    root = Path(shared.root)
    assert forbidden([*root.glob("entries/.*"), *root.glob("environments/.*")]) == []
    assert list(root.glob("tmp/*")) == []
    assert linked.environment
