"""``run --hint``: the command runs beside us, as if we had become it, and a hint follows where an import fails."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.index import Index
from support.wheels import WheelSpec
from vrfstore.gc.policy import Policy
from vrfstore.gc.sweep import collect
from vrfstore.runner import supervise
from vrfstore.runner.link import link
from vrfstore.store.store import Store


@pytest.fixture
def requirements(index: Index, tmp_path: Path, store: Store) -> Path:
    index.add(WheelSpec(name="pear", version="2.0"))
    path = tmp_path / "requirements.vrf"
    path.write_text("pear\n")
    link(path, store=store)
    return path


def words(store: Store, *arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "vrfstore", "--store", store.root, "run", "--hint", *map(str, arguments)]


def ran(store: Store, *arguments: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        words(store, *arguments), capture_output=True, text=True, check=False, **options
    )


@contextlib.contextmanager
def running(store: Store, *arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """Start a command in a group of its own, and wait for its first line."""
    with subprocess.Popen(
        words(store, *arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
    ) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def gone(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def test_a_hint_follows_an_import_that_failed(requirements: Path, store: Store) -> None:
    done = ran(store, requirements, "--", "python", "-c", "import cv2")
    assert done.returncode == 1
    said = done.stderr.splitlines()
    assert said[-3:] == [
        "ModuleNotFoundError: No module named 'cv2'",
        "hint: opencv-python provides cv2, as is well known",
        f"  add a line to {requirements}: opencv-python",
    ]


def test_the_version_in_the_environment_is_told(requirements: Path, store: Store) -> None:
    done = ran(store, requirements, "--", "python", "-c", "from pear import stone")
    assert "hint: pear 2.0 has no stone in pear" in done.stderr
    environment = link(requirements, store=store).environment
    done = ran(store, environment, "--", "python", "-c", "import pear.stone")
    assert "hint: pear 2.0 is there and has no module pear.stone" in done.stderr


def test_the_file_that_a_script_gets_its_packages_from_is_named(
    requirements: Path, store: Store, tmp_path: Path
) -> None:
    script = tmp_path / "report.py"
    script.write_text("import cv2\n")
    assert f"  add a line to {requirements}: opencv-python\n" in ran(store, script).stderr
    script.write_text('# /// script\n# dependencies = ["pear"]\n# ///\nimport cv2\n')
    assert f'  add to the dependencies in {script}: "opencv-python"\n' in ran(store, script).stderr


@pytest.mark.parametrize(
    "source",
    [
        "import sys; sys.exit(0)",
        "raise ValueError",
        "import sys; print(\"No module named 'cv2'\", file=sys.stderr); sys.exit(3)",
    ],
)
def test_nothing_follows_anything_else(requirements: Path, store: Store, source: str) -> None:
    assert "hint" not in ran(store, requirements, "--", "python", "-c", source).stderr


def test_a_variable_wants_hints_and_an_option_does_not(
    requirements: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-m", "vrfstore", "--store", store.root, "run"]
    failing = [str(requirements), "--", "python", "-c", "import cv2"]

    def said(*options: str) -> str:
        return subprocess.run(
            [*command, *options, *failing], capture_output=True, text=True, check=False
        ).stderr

    assert "hint" not in said()
    monkeypatch.setenv("VRFSTORE_HINT", "1")
    assert "hint" in said()
    assert "hint" not in said("--no-hint")


def test_bytes_pass_unchanged(requirements: Path, store: Store) -> None:
    source = "import sys; data = bytes(range(256)) * 5000; sys.stderr.buffer.write(data); sys.stdout.buffer.write(data)"
    done = subprocess.run(
        words(store, requirements, "--", "python", "-c", source), capture_output=True, check=False
    )
    assert done.returncode == 0
    assert done.stdout == done.stderr == bytes(range(256)) * 5000


def test_stdin_and_descriptors_are_the_commands(requirements: Path, store: Store) -> None:
    read, write = os.pipe()
    os.write(write, b"pit")
    os.close(write)
    source = f"import os, sys; print(sys.stdin.read() + os.read({read}, 9).decode())"
    done = ran(store, requirements, "--", "python", "-c", source, input="stone ", pass_fds=(read,))
    os.close(read)
    assert done.stdout == "stone pit\n"


@pytest.mark.parametrize("code", [1, 3, 255])
def test_the_exit_code_is_the_commands(requirements: Path, store: Store, code: int) -> None:
    assert ran(store, requirements, "--", "sh", "-c", f"exit {code}").returncode == code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGSEGV])
def test_a_signal_that_ends_the_command_ends_us(requirements: Path, store: Store, number: int) -> None:
    assert ran(store, requirements, "--", "sh", "-c", f"kill -{number:d} $$").returncode == -number


def test_a_command_that_is_not_there_is_named(requirements: Path, store: Store, tmp_path: Path) -> None:
    done = ran(store, requirements, "--", "absent")
    assert (done.returncode, "there is no command 'absent'" in done.stderr) == (2, True)
    (tmp_path / "plain").write_text("")
    done = ran(store, requirements, "--", tmp_path / "plain")
    assert (done.returncode, "cannot be executed" in done.stderr) == (2, True)


COUNTS = """
import os, signal
for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
    signal.signal(number, lambda number, frame: os.write(1, b"%d\\n" % number))
os.write(1, b"ready\\n")
while True:
    signal.pause()
"""
"""A command that says which signals it gets; with write(2), since a signal may come while it says something."""


def test_signals_are_passed_on(requirements: Path, store: Store) -> None:
    with running(store, requirements, "--", "python", "-c", COUNTS) as process:
        assert line(process) == "ready"
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
            process.send_signal(number)
            assert line(process) == str(int(number))
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL


def test_the_command_has_the_signals_of_whoever_started_us(requirements: Path, store: Store) -> None:
    source = (
        "import signal; print(signal.pthread_sigmask(signal.SIG_BLOCK, []) == set(), *(signal.getsignal(number) == "
        "signal.SIG_DFL for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGXFSZ)))"
    )
    with_exec = [
        word for word in words(store, requirements, "--", "python", "-c", source) if word != "--hint"
    ]
    expected = subprocess.run(with_exec, capture_output=True, text=True, check=True).stdout
    assert ran(store, requirements, "--", "python", "-c", source).stdout == expected


def test_the_command_is_killed_with_us(requirements: Path, store: Store) -> None:
    source = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    with running(store, requirements, "--", "python", "-c", source) as process:
        child = int(line(process))
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert gone(child)


def test_a_stop_stops_us_and_goes_on_with_us(requirements: Path, store: Store) -> None:
    source = "import os, signal; os.kill(os.getpid(), signal.SIGSTOP); print('on', flush=True)"
    with running(store, requirements, "--", "python", "-c", source) as process:
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        process.send_signal(signal.SIGCONT)
        assert line(process) == "on"
        assert process.wait() == 0


def test_a_lease_is_held_by_what_the_command_leaves_behind_and_not_by_us(
    requirements: Path, store: Store
) -> None:
    # The child names the environment nowhere, and writes to stderr long after we have ended.
    source = "import os, sys, time\nif os.fork() == 0:\n os.execvpe('sh', ['sh', '-c', 'read x; echo late >&2'], {})\n"
    read, write = os.pipe()
    with subprocess.Popen(
        words(store, requirements, "--", sys.executable, "-c", source),
        stdin=read,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd="/",
    ) as process:
        os.close(read)
        assert process.wait() == 0
        time.sleep(0.01)
        everything = Policy(max_age=0, grace=0)
        assert collect(store, everything).environments == ()
        os.write(write, b"\n")
        assert process.stderr is not None
        assert process.stderr.read() == b"late\n"
        os.close(write)
    deadline = time.monotonic() + 10
    while not collect(store, everything).environments:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_reader_that_has_seen_enough_is_the_commands_affair(requirements: Path, store: Store) -> None:
    read, write = os.pipe()
    source = "import sys, time\ntry:\n while True:\n  print('x' * 4096, file=sys.stderr)\nexcept OSError:\n sys.exit(7)"
    with subprocess.Popen(words(store, requirements, "--", "python", "-c", source), stderr=write) as process:
        os.close(write)
        os.read(read, 10)
        os.close(read)
        # With what it cannot say any more, Python's own exit code comes in the place of ours.
        assert process.wait(timeout=30) in {7, 120}


def test_a_terminal_stays_one(requirements: Path, store: Store) -> None:
    source = """
import os, sys
print(*map(os.isatty, (0, 1, 2)), os.get_terminal_size(2).columns, file=sys.stderr)
import cv2
"""
    pid, terminal = pty.fork()
    if not pid:
        with contextlib.suppress(OSError):
            os.execv(sys.executable, words(store, requirements, "--", "python", "-c", source))  # noqa: S606
        os._exit(99)
    import fcntl
    import struct
    import termios

    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 31, 97, 0, 0))
    said = b""
    with contextlib.suppress(OSError):  # so a terminal ends
        while select.select([terminal], [], [], 30)[0]:
            said += os.read(terminal, 1 << 16)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
    os.close(terminal)
    assert b"True True True 97\r\n" in said
    assert b"hint:" in said
    assert b"opencv-python provides cv2" in said


def test_only_the_end_of_what_is_said_is_kept() -> None:
    read, write = os.pipe()
    sink, other = os.pipe()
    keep = os.dup(2)
    os.dup2(other, 2)
    try:
        relay = supervise._Relay(read)
        import threading

        thread = threading.Thread(target=relay.run)
        drain = threading.Thread(target=lambda: [None for _ in iter(lambda: os.read(sink, 1 << 20), b"")])
        drain.start()
        thread.start()
        for _ in range(8):
            os.write(write, b"x" * 60_000)
        os.write(write, b"the end")
        os.close(write)
        thread.join()
    finally:
        os.dup2(keep, 2)
        os.close(keep)
        os.close(other)
    drain.join()
    os.close(sink)
    assert len(relay.tail) == supervise.TAIL
    assert relay.tail.endswith(b"xthe end")


NOTEBOOK = """
import nbclient, nbformat
notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("def load():\\n    import cv2\\n\\nload()")])
nbclient.NotebookClient(notebook, kernel_name="python3").execute()
"""


@pytest.mark.network
@pytest.mark.slow
def test_a_notebook_that_fails_is_explained(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "requirements.vrf"
    path.write_text("ipykernel\nnbclient\n")
    done = ran(store, path, "--", "python", "-c", NOTEBOOK)
    assert done.returncode == 1
    assert "nbclient.exceptions.CellExecutionError" in done.stderr
    assert (
        f"hint: opencv-python provides cv2, as is well known\n  add a line to {path}: opencv-python\n"
        in done.stderr
    )
