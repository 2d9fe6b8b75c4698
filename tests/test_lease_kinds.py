"""Leases of a process and until a time: when they end, what their names may be, and who can tell."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vrfstore.model import Digest
from vrfstore.store import leases
from vrfstore.store.leases import LeaseRecord
from vrfstore.store.machine import Machine, Process
from vrfstore.store.store import Store

KEY = "e" * 32
ID = "0123456789abcdef"
BOOT, OTHER_BOOT = "b" * 32, "c" * 32
NAMESPACE = 4026531836
NOW, TODAY = 1000.0, 1_800_000_000.0


class Told(Machine):
    """A machine that says what a test wants it to say; numbers of processes are those of ``running``."""

    def __init__(self, *running: Process, boot: str = BOOT, namespace: int = NAMESPACE) -> None:
        super().__init__()
        self.running = {process.pid: process for process in running}
        self.boot_id, self.inode = boot, namespace
        self.now, self.today = NOW, TODAY

    def since_boot(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.today

    def boot(self) -> str:
        if not self.boot_id:
            raise PermissionError(13, "Permission denied")
        return self.boot_id

    def namespace(self) -> int:
        if not self.inode:
            raise OSError(18, "it shows the processes of another pid namespace")
        return self.inode

    def process(self, pid: int) -> Process | None:
        found = self.running.get(pid)
        if found is not None and found.start < 0:
            raise PermissionError(13, "Permission denied")
        return found


RUNNING = Process(7, 70)


def one(store: Store, machine: Machine | None = None) -> LeaseRecord:
    (found,) = leases.read(store.layout, machine) if machine else leases.read(store.layout)
    return found


def name_of(store: Store) -> str:
    (name,) = os.listdir(store.layout.of("leases"))
    return name


def test_the_names_are_those_that_are_written_down(store: Store) -> None:
    """Clients in other languages make them by the description in ``store.leases``."""
    machine = Told(RUNNING)
    with leases.take_for_process(store.layout, RUNNING, environment=KEY, unseen=60, machine=machine) as lease:
        assert name_of(store) == f"process.{lease.id}.{KEY}.7.70.{BOOT}.{NAMESPACE}.1060"
        assert lease.expires == TODAY + 60
        assert os.path.getsize(lease.path) == 0
    machine.now += 0.5
    with leases.take_until(store.layout, 60, machine=machine) as lease:
        assert name_of(store) == f"until.{lease.id}.-.{BOOT}.1061.{TODAY + 60:.0f}"
        assert lease.expires == TODAY + 60.5
    assert os.listdir(store.layout.of("leases")) == os.listdir(store.layout.of("tmp")) == []


def test_a_reader_is_told_all_of_it(store: Store) -> None:
    machine = Told(RUNNING)
    lease = leases.take_for_process(store.layout, RUNNING, environment=KEY, unseen=60, machine=machine)
    machine.now, machine.today = NOW + 10, TODAY + 10
    assert one(store, machine) == LeaseRecord(
        name=os.path.basename(lease.path),
        id=lease.id,
        environment=KEY,
        digests=frozenset(),
        lock=None,
        alive=True,
        kind="process",
        process=7,
        expires=TODAY + 60,
    )
    lease.release()
    lease = leases.take_until(store.layout, 60, machine=machine)
    found = one(store, machine)
    assert (found.kind, found.id, found.environment, found.process) == ("until", lease.id, None, None)
    assert found.expires == TODAY + 70


def test_what_is_released_is_gone_and_releasing_again_does_nothing(store: Store) -> None:
    lease = leases.take_until(store.layout, 60)
    lease.release()
    other = Path(lease.path)
    other.touch()
    lease.release()
    assert other.exists()


PROCESSES = {
    "running": ([RUNNING], {}, True),
    "gone": ([], {}, False),
    "another with its number": ([Process(7, 71)], {}, False),
    "a zombie": ([Process(7, 70, ended=True)], {}, False),
    "hidden": ([Process(7, -1)], {}, True),
    "another boot": ([RUNNING], {"boot": OTHER_BOOT}, False),
    "no boot that can be read": ([], {"boot": ""}, True),
    # Of whom nothing can be told, whether the number is somebody's there or not.
    "another namespace": ([], {"namespace": NAMESPACE + 1}, True),
    "no namespace that can be read": ([], {"namespace": 0}, True),
    "another namespace and boot": ([RUNNING], {"namespace": NAMESPACE + 1, "boot": OTHER_BOOT}, False),
}


@pytest.mark.parametrize(("running", "elsewhere", "alive"), PROCESSES.values(), ids=PROCESSES)
def test_a_lease_of_a_process_ends_when_it_is_certain_that_the_process_has(
    store: Store, running: list[Process], elsewhere: dict[str, object], alive: bool
) -> None:
    leases.take_for_process(store.layout, RUNNING, unseen=60, machine=Told(RUNNING))
    assert one(store, Told(*running, **elsewhere)).alive is alive  # type: ignore[arg-type]


@pytest.mark.parametrize("namespace", [NAMESPACE, NAMESPACE + 1, 0])
def test_only_those_who_cannot_see_the_process_go_by_the_time(store: Store, namespace: int) -> None:
    leases.take_for_process(store.layout, RUNNING, unseen=60, machine=Told(RUNNING))
    reader = Told(RUNNING, namespace=namespace)
    for reader.now, believed in ((NOW + 59, True), (NOW + 60, namespace == NAMESPACE)):
        # The wall clock has no say.
        for reader.today in (0.0, TODAY, 10 * TODAY):
            assert one(store, reader).alive is believed


@pytest.mark.parametrize(
    ("boot", "now", "today", "alive"),
    [
        (BOOT, NOW + 59, TODAY, True),
        (BOOT, NOW + 60, TODAY, False),
        # Somebody sets the clock, back or forth.
        (BOOT, NOW + 59, 10 * TODAY, True),
        (BOOT, NOW + 60, 0, False),
        # After a reboot only the wall clock can tell.
        (OTHER_BOOT, 1, TODAY + 59, True),
        (OTHER_BOOT, NOW + 1000, TODAY + 59, True),
        (OTHER_BOOT, 1, TODAY + 60, False),
        ("", NOW + 59, TODAY + 60, True),
        ("", NOW + 60, TODAY + 59, True),
        ("", NOW + 60, TODAY + 60, False),
    ],
)
def test_a_lease_until_a_time_goes_by_the_clock_that_nobody_sets(
    store: Store, boot: str, now: float, today: float, alive: bool
) -> None:
    leases.take_until(store.layout, 60, machine=Told())
    reader = Told(boot=boot)
    reader.now, reader.today = now, today
    assert one(store, reader).alive is alive


def test_content_says_what_else_is_protected(store: Store) -> None:
    lease = leases.take_until(store.layout, 60, environment=KEY)
    Path(lease.path).write_text(f'{{"digests": ["{"1" * 64}"], "lock": "{"a" * 64}"}}')
    found = one(store)
    assert (found.environment, found.digests, found.lock) == (KEY, frozenset([Digest("1" * 64)]), "a" * 64)


@pytest.mark.parametrize(
    "content",
    [b"{", b"[]", b'{"digests":[1],"lock":null}', b'{"digests":[],"lock":[]}', b"\xff", b"[" * 99999],
)
def test_content_that_cannot_be_read_may_protect_anything(store: Store, content: bytes) -> None:
    Path(leases.take_until(store.layout, 60).path).write_bytes(content)
    found = one(store)
    assert (found.alive, found.digests) == (True, None)


ODD = [
    "until", "until.", "process", "process..........", "until.1.2", "process.1.2.3",
    f"until.{ID}.{KEY}.{BOOT}.1", f"until.{ID}.{KEY}.{BOOT}.1.2.3", f"until.{ID}.{KEY}.{BOOT}.1.-2",
    f"until.{ID}.{KEY}.{BOOT}.01.2", f"until.{ID}.{KEY}.{BOOT}.1.2\n", f"until.{ID}.{KEY}.{BOOT}.1.2 ",
    f"until.{ID}.{KEY}.{BOOT}.\u0661.2", f"until.{ID}.{KEY}.{BOOT}.{'9' * 40}.2", f"until.{ID}.{KEY}..1.2",
    f"until.{ID}.{KEY[1:]}.{BOOT}.1.2", f"until.{ID[1:]}.{KEY}.{BOOT}.1.2", f"until.{ID}.{KEY.upper()}.{BOOT}.1.2",
    f"until.{ID}.{KEY}.{BOOT}.1.2.json", f"Until.{ID}.{KEY}.{BOOT}.1.2",
    f"process.{ID}.{KEY}.0x7.70.{BOOT}.1.2", f"process.{ID}.{KEY}.7.70.{BOOT}.1",
    f"process.{ID}.{KEY}.7.7e1.{BOOT}.1.2",
    f"process.{ID}.{KEY}.-7.70.{BOOT}.1.2", f"process.{ID}.{KEY}.7.70.{BOOT}.1.2.3", "\udcff\udcfe", "a\x1b[2J",
]  # fmt: skip


@pytest.mark.parametrize("name", ODD, ids=repr)
def test_any_other_name_is_of_an_unknown_kind_and_alive(store: Store, name: str) -> None:
    Path(store.layout.of("leases", name)).touch()
    assert one(store) == LeaseRecord(
        name=name, id="", environment=None, digests=None, lock=None, alive=True, kind="unknown"
    )


numbers = st.integers(0, 10**15 - 1)
identities = st.text("0123456789abcdef", min_size=16, max_size=16)
boots = st.text("0123456789abcdef", min_size=32, max_size=32)
keys = st.one_of(st.just("-"), boots)
process_names = st.builds(
    "process.{}.{}.{}.{}.{}.{}.{}".format, identities, keys, numbers, numbers, boots, numbers, numbers
)
until_names = st.builds("until.{}.{}.{}.{}.{}".format, identities, keys, boots, numbers, numbers)
parts = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), max_size=20)
odd_names = st.builds(".".join, st.lists(st.one_of(st.sampled_from(["until", "process", "-", KEY]), parts)))
within = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@contextmanager
def lying_there(store: Store, name: str) -> Iterator[None]:
    path = Path(store.layout.of("leases", name))
    path.touch()
    try:
        yield
    finally:
        path.unlink()


@within
@given(name=st.one_of(process_names, until_names))
def test_a_well_formed_name_is_understood_to_the_last_letter(store: Store, name: str) -> None:
    with lying_there(store, name):
        found = one(store, Told(RUNNING))
    kind, identity, key, *_ = name.split(".")
    assert (found.kind, found.id, found.environment or "-") == (kind, identity, key)
    assert found.digests == frozenset()


@within
@given(name=odd_names.filter(lambda name: name not in {"", ".", ".."} and len(name.encode()) < 250))
def test_no_name_at_all_is_a_crash(store: Store, name: str) -> None:
    with lying_there(store, name):
        found = one(store)
    assert found.name == name
    assert found.alive or found.kind != "unknown"


@within
@given(name=st.one_of(process_names, until_names), cut=st.integers(0, 200), more=parts.filter(bool))
def test_a_name_that_is_not_quite_one_is_alive(store: Store, name: str, cut: int, more: str) -> None:
    odd = f"{name[:cut]}.{more}{name[cut:]}"
    if len(odd.encode()) > 250 or odd.startswith("held."):
        return
    with lying_there(store, odd):
        found = one(store)
    assert (found.kind, found.alive, found.digests) == ("unknown", True, None)


REAL = Machine()


def real(pid: int) -> Process:
    process = REAL.process(pid)
    assert process is not None
    return process


def test_a_real_process_is_known_by_number_and_start(store: Store) -> None:
    leases.take_for_process(store.layout, real(os.getpid()))
    assert one(store).alive
    name = name_of(store)
    start = name.split(".")[4]
    # Its number was given to another process, as far as the start tells.
    os.rename(
        store.layout.of("leases", name), store.layout.of("leases", name.replace(start, f"{int(start) - 1}"))
    )
    assert not one(store).alive


def test_the_lease_of_a_real_process_ends_with_it_and_with_a_zombie(store: Store) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        leases.take_for_process(store.layout, real(process.pid))
        assert one(store).alive
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        zombie = REAL.process(process.pid)
        assert zombie is not None
        assert zombie.ended
        assert not one(store).alive
    assert REAL.process(process.pid) is None
    assert not one(store).alive


FIRST_THREAD_ENDS = """
import ctypes, threading, time, platform
threading.Thread(target=lambda: (time.sleep(0.2), print("on", flush=True), time.sleep(60))).start()
ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[platform.machine()], 0)
"""


@pytest.mark.skipif(os.uname().machine not in {"x86_64", "aarch64"}, reason="exit(2) has another number")
def test_a_process_whose_first_thread_has_ended_is_no_zombie(store: Store) -> None:
    with subprocess.Popen([sys.executable, "-c", FIRST_THREAD_ENDS], stdout=subprocess.PIPE) as process:
        leases.take_for_process(store.layout, real(process.pid))
        assert process.stdout is not None
        process.stdout.readline()
        state = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
        assert state == "Z"
        assert one(store).alive
        process.kill()


def a_proc(place: Path, stat: str) -> Machine:
    """A proc file system that shows one process, number 7."""
    for name, text in (("self/status", "Name:\tx\nNSpid:\t7\n"), ("self/ns/pid", ""), ("7/stat", stat)):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    return Machine(str(place))


@pytest.mark.parametrize("name", ["sleep", ") R 1 (x", "a b", ")", "Z) Z 1", "\n"])
def test_a_name_with_brackets_and_spaces_confuses_nobody(tmp_path: Path, name: str) -> None:
    # As proc_pid_stat(5) has it: fields 3 to 22, of which 20 is the number of threads and 22 the start.
    fields = f"S 1 7 7 0 -1 4194560 101 0 0 0 0 0 0 0 20 0 1 0 {70} 5767168"
    assert a_proc(tmp_path, f"7 ({name}) {fields}\n").process(7) == Process(7, 70)
    assert a_proc(tmp_path, f"7 ({name}) {fields.replace('S', 'Z', 1)}\n").process(7) == Process(
        7, 70, ended=True
    )


def test_a_process_that_proc_does_not_show_is_not_gone_while_it_can_be_signalled(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        a_proc(tmp_path, "").process(os.getpid())


def test_another_boot_ends_the_lease_of_a_process_that_runs(store: Store) -> None:
    leases.take_for_process(store.layout, real(os.getpid()))
    name = name_of(store)
    forged = name.replace(REAL.boot(), OTHER_BOOT)
    os.rename(store.layout.of("leases", name), store.layout.of("leases", forged))
    assert not one(store).alive


LOOK = """
import sys
from vrfstore.store import leases
from vrfstore.store.layout import Layout
(found,) = leases.read(Layout(sys.argv[1]))
print(found.alive)
"""

TAKE = """
import os, sys
from vrfstore.store.machine import Machine
try:
    print(Machine().process(os.getpid()))
except OSError as error:
    print(error.strerror)
"""


def unshared(*options: str) -> Callable[..., str]:
    """Return what runs Python code in a pid namespace of its own, if that is permitted."""
    prefix = ["unshare", "--pid", "--fork", "--kill-child", *options]
    try:
        allowed = subprocess.run([*prefix, "true"], check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        allowed = False
    if not allowed:
        pytest.skip("a pid namespace may not be made here")

    def run(code: str, *arguments: str) -> str:
        command = [*prefix, sys.executable, "-c", code, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    return run


@pytest.mark.parametrize("options", [(), ("--mount-proc",)], ids=["proc of the outer", "proc of its own"])
def test_from_another_pid_namespace_a_lease_holds_until_it_expires(
    store: Store, options: tuple[str, ...]
) -> None:
    look = unshared(*options)
    with subprocess.Popen(["sleep", "60"]) as process:
        lease = leases.take_for_process(store.layout, real(process.pid), unseen=3600)
        process.kill()
    assert look(LOOK, store.root) == "True"
    assert not one(store).alive
    lease.release()
    # Seen from there it has expired, while the process that nobody there can see goes on.
    leases.take_for_process(store.layout, real(os.getpid()), unseen=-Machine().since_boot())
    assert look(LOOK, store.root) == "False"
    assert one(store).alive


def test_where_proc_is_of_another_namespace_no_number_is_believed() -> None:
    assert unshared()(TAKE) == "it shows the processes of another pid namespace"
    assert unshared("--mount-proc")(TAKE).startswith("Process(pid=1,")


HIDDEN = """
import os, sys
from vrfstore.store.machine import Machine
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
try:
    print(Machine().process(int(sys.argv[1])))
except OSError as error:
    print(error.strerror)
print(Machine().process(2**22 + 1))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount, and become somebody else")
def test_a_process_that_is_hidden_is_not_taken_for_gone() -> None:
    # A mount of its own: mounting proc again in another way would hide processes from everybody.
    mounted = [
        "unshare",
        "--mount",
        "sh",
        "-c",
        'mount -t proc -o hidepid=2 proc /proc 2>/dev/null || exit 77; exec "$@"',
    ]
    with subprocess.Popen(["sleep", "60"]) as process:
        done = subprocess.run(
            [*mounted, "sh", sys.executable, "-c", HIDDEN, str(process.pid)],
            capture_output=True,
            text=True,
            check=False,
        )
        process.kill()
    if done.returncode:
        pytest.skip("proc cannot be mounted with hidepid here")
    assert done.stdout.splitlines() == ["Operation not permitted", "None"]


@pytest.mark.parametrize("stat", ["", "7", "7 (x) S 1", "7 (x) S" + " x" * 40])
def test_a_proc_that_says_something_else_is_not_believed(tmp_path: Path, stat: str) -> None:
    machine = a_proc(tmp_path, stat)
    with pytest.raises(OSError, match="it says nothing of a process"):
        machine.process(7)
    (tmp_path / "self/status").write_text("Name:\tx\n")
    with pytest.raises(OSError, match="another pid namespace"):
        machine.process(7)


def test_a_boot_without_a_name_is_not_known(tmp_path: Path) -> None:
    place = tmp_path / "sys/kernel/random"
    place.mkdir(parents=True)
    (place / "boot_id").write_text("23fa0640-d2b4-4207-86ac\n")
    with pytest.raises(OSError, match="names no boot"):
        Machine(str(tmp_path)).boot()


def test_the_clock_of_boots_goes_on(store: Store) -> None:
    leases.take_until(store.layout, 0.5)
    assert one(store).alive
    time.sleep(2.1)
    assert not one(store).alive


def test_a_lease_of_a_process_survives_whoever_took_it(store: Store) -> None:
    process = real(os.getpid())
    pid = os.fork()
    if not pid:
        leases.take_for_process(store.layout, process)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert one(store).alive
