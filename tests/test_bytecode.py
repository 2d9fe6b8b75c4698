"""Bytecode: compiled once, by the interpreter itself, whatever the modules are and whatever happens meanwhile."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from support.crash import NOBODY, as_nobody, base, each_kill, litter, make_environment, together, tree
from support.pythons import pythons
from support.wheels import WheelSpec, build_wheel
from vrfstore import codec, fs, interpreter
from vrfstore.errors import InterpreterError, StoreDamagedError
from vrfstore.gc import runtime, sweep
from vrfstore.gc.policy import Policy
from vrfstore.model import Event, Interpreter
from vrfstore.store import bytecode_parts, compile_worker, compilers, compiling
from vrfstore.store.bytecode import (
    BytecodeRecord,
    CompiledFile,
    is_compiled,
    pyc_path,
    read_record,
    read_records,
    record_path,
    sources,
)
from vrfstore.store.compile_worker import start_worker
from vrfstore.store.compiling import CompiledEntry, compile_entries, remove_record
from vrfstore.store.holds import hold, shard
from vrfstore.store.store import Store

FILES = {
    "pear.py": "def fail():\n    raise ValueError('ripe')\n",
    "tree/__init__.py": "value = 'from the source'\n",
    "tree/branch/leaf.py": "import pear\n",
    "tree/data.txt": "no module",
    "space/one.py": "",
}
MODULES = ["pear.py", "space/one.py", "tree/__init__.py", "tree/branch/leaf.py"]

ENTRIES_ONLY = Policy(max_age=3600, grace=0)

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


pytestmark = pytest.mark.usefixtures("without_sync")


@pytest.fixture(autouse=True)
def _no_child_is_left() -> Iterator[None]:
    yield
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@functools.cache
def probed(python: str) -> Interpreter:
    return interpreter.probe(python)


@pytest.fixture
def add(store: Store, tmp_path: Path) -> Callable[..., str]:
    """Add an entry of some files; give its directory name."""

    def build(name: str = "pear", files: Mapping[str, str | bytes] = FILES) -> str:
        wheel = build_wheel(WheelSpec(name=name, files=files), tmp_path)
        return store.add(wheel).plan.reference.directory

    return build


def compiled(
    store: Store,
    *directories: str,
    by: Interpreter | None = None,
    watch: Callable[[Event], None] | None = None,
) -> list[CompiledEntry]:
    with store.session() as lease:
        return compile_entries(store, by or base(), directories, lease=lease, watch=watch or (lambda _: None))


def one(store: Store, directory: str, by: Interpreter | None = None) -> CompiledEntry:
    (result,) = compiled(store, directory, by=by)
    return result


def site(store: Store, directory: str) -> Path:
    return Path(store.layout.of("entries", directory), "site-packages")


def pycs(store: Store, directory: str) -> list[str]:
    root = Path(store.layout.of("entries", directory))
    return sorted(str(path.relative_to(root)) for path in root.rglob("*.pyc"))


def expected(by: Interpreter, modules: list[str] = MODULES) -> list[str]:
    return sorted(pyc_path(f"site-packages/{module}", by.cache_tag) for module in modules)


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 300  # the worker gives way to everybody
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# What is made.


@pytest.mark.parametrize("python", pythons())
def test_an_interpreter_uses_the_pycs_it_compiled_and_leaves_them_alone(
    store: Store, add: Callable[..., str], python: str
) -> None:
    by = probed(python)
    directory = add()
    result = one(store, directory, by)
    assert (result.state, result.modules, result.failed, result.problem) == ("compiled", 4, (), None)
    assert pycs(store, directory) == expected(by)
    before = tree(store.root, without=("interpreters",))
    path = site(store, directory)
    code = (
        f"import sys; sys.path.insert(0, {str(path)!r}); import pear, space.one, tree.branch.leaf\n"
        "try: pear.fail()\n"
        "except ValueError as error: print(error.__traceback__.tb_next.tb_frame.f_code.co_filename)\n"
    )
    # `always` compares the hash with the source even where the pyc says that nobody need do so.
    for extra in ((), ("--check-hash-based-pycs", "always")):
        command = [python, "-I", "-v", *extra, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout == f"{path}/pear.py\n"
        loaded = {line.split("'")[1] for line in done.stderr.splitlines() if "# code object from '" in line}
        assert {f"{path.parent}/{place}" for place in expected(by)} <= loaded
        assert not [line for line in done.stderr.splitlines() if "# wrote" in line and str(path) in line]
    assert tree(store.root, without=("interpreters",)) == before


def test_the_source_is_never_looked_at(store: Store, add: Callable[..., str]) -> None:
    directory = add()
    one(store, directory)
    source = site(store, directory) / "tree/__init__.py"
    source.chmod(0o644)
    source.write_text("value = 'something else, and longer'\n")
    code = f"import sys; sys.path.insert(0, {str(site(store, directory))!r}); import tree; print(tree.value)"
    done = subprocess.run([base().real, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "from the source\n"


def test_what_is_written_is_sealed_and_recorded_and_the_same_everywhere(
    store: Store, add: Callable[..., str], tmp_path: Path
) -> None:
    directory = add()
    entry = store.layout.of("entries", directory)
    bare = tree(entry)
    old = os.umask(0o077)
    try:
        one(store, directory)
    finally:
        os.umask(old)
    made = {place: found for place, found in tree(entry).items() if place not in bare}
    record = f"bytecode/{base().cache_tag}-{base().magic}.json"
    assert sorted(made) == sorted([record, *expected(base())])
    assert {mode for mode, _ in made.values()} == {"-r--r--r--"}
    assert {place: mode for place, (mode, _) in tree(entry).items() if place in bare} == {
        place: mode for place, (mode, _) in bare.items()
    }
    read = read_record(store.layout, directory, base().cache_tag)
    assert read == BytecodeRecord(
        cache_tag=base().cache_tag,
        magic=base().magic,
        version=base().version,
        files=tuple(
            CompiledFile(place, len(made[place][1]), hashlib.sha256(made[place][1]).hexdigest())
            for place in expected(base())
        ),
        failed=(),
    )
    # PEP 552: hash-based and unchecked.
    assert {made[place][1][:8] for place in expected(base())} == {bytes.fromhex(base().magic) + b"\1\0\0\0"}
    other = Store.open(tmp_path / "elsewhere")
    other.add(next(tmp_path.glob("*.whl")))
    one(other, directory)
    assert tree(f"{other.root}/entries") == tree(f"{store.root}/entries")


def test_the_second_time_nothing_is_started_or_changed(store: Store, add: Callable[..., str]) -> None:
    directory = add()
    assert not is_compiled(store.layout, directory, base())
    one(store, directory)
    assert is_compiled(store.layout, directory, base())
    before = tree(store.root)
    nowhere = replace(base(), real="/nowhere/python")
    assert one(store, directory, nowhere) == CompiledEntry(directory=directory, state="present")
    assert tree(store.root) == before


def test_each_cache_tag_has_its_own(store: Store, add: Callable[..., str]) -> None:
    directory = add()
    found = {probed(python).cache_tag: probed(python) for python in pythons()}
    for by in found.values():
        assert one(store, directory, by).state == "compiled"
    assert pycs(store, directory) == sorted(place for by in found.values() for place in expected(by))
    assert {record.cache_tag for record in read_records(store.layout, directory)} == set(found)


def test_what_has_another_magic_number_is_replaced(store: Store, add: Callable[..., str]) -> None:
    directory = add()
    one(store, directory)
    whole = tree(store.layout.of("entries", directory))
    older = replace(base(), magic="00000d0a")
    path = Path(record_path(store.layout, directory, base().cache_tag, base().magic))
    value = codec.loads(path.read_bytes()) | {"magic": older.magic}
    path.parent.chmod(0o755)
    path.unlink()
    Path(record_path(store.layout, directory, older.cache_tag, older.magic)).write_bytes(codec.dumps(value))
    for place in expected(base()):
        pyc = path.parent.parent / place
        pyc.chmod(0o644)
        pyc.write_bytes(b"old")
    assert is_compiled(store.layout, directory, older)
    assert not is_compiled(store.layout, directory, base())
    assert one(store, directory).state == "compiled"
    assert tree(store.layout.of("entries", directory)) == whole


def test_what_root_let_an_interpreter_write_is_replaced(store: Store, add: Callable[..., str]) -> None:
    directory = add()
    place = site(store, directory) / "__pycache__"
    place.chmod(0o755)
    pyc = place / f"pear.{base().cache_tag}.pyc"
    pyc.write_bytes(b"by somebody else")
    pyc.chmod(0o600)
    one(store, directory)
    assert pyc.read_bytes()[:4].hex() == base().magic
    assert stat.S_IMODE(pyc.stat().st_mode) == 0o444
    assert stat.S_IMODE(place.stat().st_mode) == 0o555


def test_an_entry_without_modules_has_been_compiled_too(store: Store, add: Callable[..., str]) -> None:
    directory = add(files={"data.txt": "", ".py": "", "tree/.py": ""})
    assert one(store, directory) == CompiledEntry(directory=directory, state="compiled")
    assert is_compiled(store.layout, directory, base())
    assert one(store, directory).state == "present"


def test_the_callers_variables_change_nothing(
    store: Store, add: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    directory = add()
    one(store, directory)
    entry = store.layout.of("entries", directory)
    whole = tree(entry)
    remove_record(store, directory, base().cache_tag)
    (tmp_path / "hashlib.py").write_text("raise SystemExit('imported from the current directory')")
    monkeypatch.chdir(tmp_path)
    for name, value in (
        ("PYTHONDONTWRITEBYTECODE", "1"),
        ("PYTHONOPTIMIZE", "2"),
        ("PYTHONPYCACHEPREFIX", str(tmp_path / "cache")),
        ("PYTHONPATH", str(tmp_path)),
        ("PYTHONWARNINGS", "error"),
        ("PYTHONHOME", "/nowhere"),
    ):
        monkeypatch.setenv(name, value)
    assert one(store, directory).modules == 4
    assert tree(entry) == whole
    assert not (tmp_path / "cache").exists()


def test_progress_is_told(store: Store, add: Callable[..., str]) -> None:
    directories = [add(), add("fig", {f"fig/m{number}.py": "" for number in range(40)})]
    events: list[Event] = []
    assert [result.directory for result in compiled(store, *directories, watch=events.append)] == directories
    assert events[0] == Event(kind="compiling", subject=f"Python {base().version}", total=44)
    assert {event.kind for event in events[1:]} == {"compiled"}
    for directory, modules in zip(directories, (4, 40), strict=True):
        assert sum(event.size for event in events if event.subject == directory) == modules


# What does not compile.


HOSTILE: Mapping[str, tuple[str | bytes, str]] = {
    "syntax": ("def f(:\n", r"SyntaxError: .* (line 1)"),
    "python2": ("x = 1\nprint 'x'\n", r"SyntaxError: .* (line 2)"),
    "undecodable": (b"x = '\xff'\n", "SyntaxError"),
    "unknown-encoding": (b"# coding: martian\n", "SyntaxError"),
    "nul": (b"x = 1\0\n", "Error: source code"),
    "parentheses": ("(" * 5000 + ")" * 5000, "Error"),
    "template": ("{{ name }} = {% if x %}\n", "SyntaxError"),
    "surrogate": (
        "x = '\\ud800'\nclass \ud7ff\ufffe: pass\n".encode("utf-8", "surrogatepass"),
        "SyntaxError",
    ),
}


@pytest.mark.parametrize("python", pythons())
def test_a_module_that_does_not_compile_is_noted_and_stops_nobody(
    store: Store, add: Callable[..., str], python: str
) -> None:
    by = probed(python)
    good = {
        "good.py": "",
        "warned.py": "x = '\\d' is 1\nassert (x, 'true')\n",
        "deep.py": "x = " + "-" * 3000 + "1\n",
        "nested.py": "x = " + "a." * 3000 + "a\n",
    }
    directory = add(files=good | {f"bad/{name}.py": source for name, (source, _) in HOSTILE.items()})
    result = one(store, directory, by)
    failed = dict(result.failed)
    # Whether these nest too deeply is a matter of the version; that they end nothing is not.
    for name in ("deep.py", "nested.py"):
        failed.pop(f"site-packages/{name}", None)
    assert sorted(failed) == sorted(f"site-packages/bad/{name}.py" for name in HOSTILE)
    for name, (_, words) in HOSTILE.items():
        why = failed[f"site-packages/bad/{name}.py"]
        assert words.split(" .* ")[0] in why
        assert words.split(" .* ")[-1] in why
        assert why.isascii()
        assert why.isprintable()
    record = read_record(store.layout, directory, by.cache_tag)
    assert record is not None
    assert record.failed == result.failed
    assert [file.path for file in record.files] == pycs(store, directory)
    assert set(expected(by, ["good.py", "warned.py"])) <= set(pycs(store, directory))
    assert one(store, directory, by).state == "present"


def test_a_module_that_is_too_large_or_has_too_long_a_name_is_noted(
    store: Store, add: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compilers, "LARGEST", 1 << 20)
    long = "m" * 245
    directory = add(files={"large.py": "#" * (1 << 20) + "\n", f"{long}.py": "", "good.py": ""})
    result = one(store, directory)
    assert result.failed == (
        ("site-packages/large.py", "it is larger than 1 MiB"),
        (f"site-packages/{long}.py", "the name of its pyc would be too long"),
    )
    assert pycs(store, directory) == expected(base(), ["good.py"])


def wrapper(path: Path, change: str) -> Interpreter:
    """Return an interpreter that runs our script with a line at the beginning of what it does for a module."""
    path.write_text(
        f"#!{base().real} -IS\n"
        "import os, sys\n"
        "head = 'def answer(source, target, name):\\n'\n"
        "assert head in sys.argv[-1]\n"
        f"script = sys.argv[-1].replace(head, head + {change!r} + '\\n')\n"
        f"os.execv({base().real!r}, [{base().real!r}, *sys.argv[1:-1], script])\n"
    )
    path.chmod(0o755)
    return replace(base(), real=str(path))


def test_an_interpreter_that_dies_of_a_module_goes_on_with_the_next(
    store: Store, add: Callable[..., str], tmp_path: Path
) -> None:
    by = wrapper(tmp_path / "python", "    if 'deadly' in name: os.kill(os.getpid(), 9)")
    # More than may die one after the other, and in the order of their names there is a good one before each.
    names, deadly = ([f"m{number}{word}.py" for number in range(12)] for word in ("", "_deadly"))
    directory = add(files=dict.fromkeys([*names, *deadly], ""))
    with store.session() as lease:
        (result,) = compile_entries(store, by, [directory], lease=lease, watch=lambda _: None, processes=1)
    assert dict(result.failed) == dict.fromkeys(
        (f"site-packages/{name}" for name in deadly), "the interpreter died of it (signal 9)"
    )
    assert pycs(store, directory) == expected(base(), names)
    directory = add("worse", {f"deadly_{number}.py": "" for number in range(20)})
    with pytest.raises(InterpreterError, match=r"keeps dying \(signal 9\)"):
        one(store, directory, by)
    assert pycs(store, directory) == litter(store) == []


def test_a_module_that_takes_for_ever_is_given_up(
    store: Store, add: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compilers, "_PATIENCE", 0.2)
    by = wrapper(tmp_path / "python", "    while 'endless' in name: pass")
    directory = add(files={"endless.py": "", "good.py": ""})
    assert one(store, directory, by).failed == (("site-packages/endless.py", "compiling it takes too long"),)
    assert pycs(store, directory) == expected(base(), ["good.py"])


def test_an_interpreter_that_is_gone_broken_or_another_one_is_said(
    store: Store, add: Callable[..., str], tmp_path: Path
) -> None:
    directories = [add(), add("fig"), add("plum")]
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    for by, words in (
        (replace(base(), real=str(tmp_path / "nowhere")), "does not start: No such file"),
        (replace(base(), real=str(broken)), "broken does not start"),
        (replace(base(), magic="00000d0a"), f"is not the Python {base().version} that it was"),
    ):
        with pytest.raises(InterpreterError, match=words) as caught:
            compiled(store, *directories, by=by)
        assert caught.value.kind == "interpreter-broken"
        assert [pycs(store, directory) for directory in directories] == [[], [], []]
        assert litter(store) == []


# What may happen meanwhile.


def test_an_entry_that_goes_is_left_alone_and_the_others_are_not(
    store: Store, add: Callable[..., str]
) -> None:
    many = {f"m{number}.py": f"x = {number}\n" * 200 for number in range(400)}
    going, staying = add("going", many), add("staying")

    def watch(event: Event) -> None:
        if event.subject == going and os.path.lexists(store.layout.of("entries", going)):
            fs.rename(store.layout.of("entries", going), store.layout.of("entries", ".dead-1"))
            fs.remove_tree(store.layout.of("entries", ".dead-1"))

    absent = "0" * 20 + "-absent-1.0"
    results = compiled(store, going, staying, absent, watch=watch)
    assert [result.state for result in results] == ["gone", "compiled", "gone"]
    assert os.listdir(store.layout.of("entries")) == [staying]
    assert litter(store) == []


def test_an_entry_that_was_replaced_gets_nothing_that_was_compiled_before(
    store: Store, add: Callable[..., str]
) -> None:
    directory = add()
    path = store.layout.of("entries", directory)

    def watch(event: Event) -> None:
        if event.kind == "compiled":
            fs.remove_tree(path)
            assert add() == directory

    (result,) = compiled(store, directory, watch=watch)
    assert result.state == "gone"
    assert pycs(store, directory) == []
    assert one(store, directory).state == "compiled"


def test_a_damaged_entry_is_named_and_stops_nobody(store: Store, add: Callable[..., str]) -> None:
    unreadable, incomplete, sourceless, good = add("a"), add("b"), add("c"), add("d")
    Path(store.layout.of("entries", unreadable), "manifest.json").unlink()
    fs.remove_tree(f"{site(store, incomplete)}/tree/__pycache__")
    site(store, sourceless).joinpath("pear.py").unlink()
    results = compiled(store, unreadable, incomplete, sourceless, good)
    assert [result.state for result in results] == ["failed", "failed", "failed", "compiled"]
    paths = ("manifest.json", "site-packages/tree/__pycache__", "site-packages/pear.py")
    for result, path in zip(results, paths, strict=False):
        assert isinstance(result.problem, StoreDamagedError)
        assert result.problem.path == f"{store.layout.of('entries', result.directory)}/{path}"
        assert f"vrfstore verify --repair {result.directory}" in str(result.problem.hint)
        assert not is_compiled(store.layout, result.directory, base())
    assert litter(store) == []


def test_what_was_asked_for_an_entry_that_fails_is_not_taken_for_another(
    store: Store, add: Callable[..., str]
) -> None:
    """With one process, which has answers left that nobody wants."""
    failing = add(
        "a", {f"m{number}.py": f"x = {number}  # the larger entry comes first\n" for number in range(9)}
    )
    good = add("b", {f"m{number}.py": f"y = {number}\n" for number in range(9)})
    site(store, failing).joinpath("m0.py").unlink()
    with store.session() as lease:
        results = compile_entries(
            store, base(), [failing, good], lease=lease, watch=lambda _: None, processes=1
        )
    assert [result.state for result in results] == ["failed", "compiled"]
    record = read_record(store.layout, good, base().cache_tag)
    assert record is not None
    for file in record.files:
        data = Path(store.layout.of("entries", good), file.path).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file.size, file.sha256)


def test_an_interruption_is_not_noted_as_a_modules_fault(
    store: Store, add: Callable[..., str], tmp_path: Path
) -> None:
    flag = tmp_path / "flag"
    by = wrapper(
        tmp_path / "python",
        f"    open({str(flag)!r}, 'w').close()\n    while os.path.exists({str(flag)!r}): pass",
    )
    directory = add(files={"pear.py": ""})

    def interrupt() -> None:
        wait_until(flag.exists)
        os.killpg(0, signal.SIGINT)
        flag.unlink()

    def work() -> None:
        os.setpgid(0, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            one(store, directory, by)

    together(work)
    record = read_record(store.layout, directory, base().cache_tag)
    assert record is None or record.failed == ()
    assert litter(store) == []


def test_a_full_disk_ends_it_and_the_next_run_goes_on(
    store: Store, add: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    directories = [add(name) for name in ("a", "b", "c")]

    def full(name: str, path: str) -> None:
        if name == "rename" and path.endswith(".pyc"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    with monkeypatch.context() as patch:
        patch.setattr(fs, "on_effect", full)
        with pytest.raises(OSError, match="No space left"):
            compiled(store, *directories)
    assert litter(store) == []
    assert [result.state for result in compiled(store, *directories)] == ["compiled"] * 3


def test_what_is_raised_is_what_went_wrong_and_not_what_it_stopped(
    store: Store, add: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = add("a", {"a.py": "# the larger one, which is asked first"}), add("b", {"b.py": ""})

    def attempt(_: object, entry: bytecode_parts.Compilation, __: object) -> bool:
        if entry.directory == first:
            raise compilers.StoppedError
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(compiling._Run, "_attempt", attempt)
    with pytest.raises(OSError, match="No space left"):
        compiled(store, first, second)


def test_a_disk_that_the_interpreter_finds_full_is_no_modules_fault(
    store: Store, add: Callable[..., str], tmp_path: Path
) -> None:
    by = wrapper(tmp_path / "python", "    if 'leaf' in name: return 'error 28'")
    directory = add()
    with pytest.raises(OSError, match="No space left"):
        one(store, directory, by)
    assert pycs(store, directory) == litter(store) == []
    # What was asked of the process beside that has been forgotten with it.
    assert one(store, directory).modules == 4


def test_what_somebody_else_compiles_is_waited_for(store: Store, add: Callable[..., str]) -> None:
    directory, other = add(), add("fig")
    events: list[Event] = []
    held = hold(store.layout.of("holds", shard("compile", directory)))
    held.__enter__()

    def watch(event: Event) -> None:
        events.append(event)
        if event.kind == "waiting":
            assert is_compiled(store.layout, other, base())
            held.__exit__(None, None, None)

    results = compiled(store, directory, other, watch=watch)
    assert [result.state for result in results] == ["compiled", "compiled"]
    assert Event(kind="waiting", subject=f"another vrfstore that compiles {directory}") in events


def test_two_at_once_compile_each_entry_once(store: Store, add: Callable[..., str]) -> None:
    directories = [add(name) for name in ("a", "b", "c", "d")]
    found = together(*[lambda: [result.state for result in compiled(store, *directories)]] * 3)
    for states in zip(*found, strict=True):
        assert sorted(states) == ["compiled", "present", "present"]
    assert litter(store) == []


@pytest.mark.slow
def test_a_compilation_killed_anywhere_is_made_good_by_the_next(
    store: Store, add: Callable[..., str]
) -> None:
    directory = add()
    older = replace(base(), magic="00000d0a")
    entry = store.layout.of("entries", directory)
    one(store, directory)
    whole = tree(entry)
    contents = set(whole.values())
    points = 0

    def prepare() -> None:
        remove_record(store, directory, base().cache_tag)
        place = Path(entry, "bytecode")
        place.chmod(0o755)
        Path(record_path(store.layout, directory, older.cache_tag, older.magic)).write_bytes(b"{}")
        place.chmod(0o555)

    for point, _ in each_kill(prepare, lambda _: one(store, directory)):
        points = point
        for place in pycs(store, directory):
            assert tree(entry)[place] in contents, point
        if is_compiled(store.layout, directory, base()):
            assert pycs(store, directory) == expected(base()), point
        one(store, directory)
        assert tree(entry) == whole, point
        wait_until(lambda: not sweep.collect(store, Policy(max_age=3600, grace=3600)).problems)
        assert litter(store) == [], point
    assert points > 20


@root_only
def test_an_ordinary_user_compiles_and_takes_away(add: Callable[..., str], tmp_path: Path) -> None:
    startable = as_nobody(lambda: [path for path in pythons() if os.access(os.path.realpath(path), os.X_OK)])
    if not startable:
        pytest.skip("no python that everybody may start")
    by = probed(startable[0])
    wheel = build_wheel(WheelSpec(name="pear", files=FILES), tmp_path)
    with tempfile.TemporaryDirectory() as name:
        os.chown(name, NOBODY, NOBODY)
        data = wheel.read_bytes()

        def use() -> tuple[int, set[int], list[str], list[str]]:
            copy = Path(name, wheel.name)
            copy.write_bytes(data)
            store = Store.open(f"{name}/store")
            directory = store.add(copy).plan.reference.directory
            done = one(store, directory, by).modules
            modes = {
                stat.S_IMODE(path.stat().st_mode)
                for path in Path(store.layout.of("entries", directory)).rglob("*")
                if path.is_dir()
            }
            remove_record(store, directory, by.cache_tag)
            return done, modes, pycs(store, directory), litter(store)

        assert as_nobody(use) == (4, {0o555}, [], [])


# The worker.


def worker(log: str) -> int | None:
    """Return the process whose stdout a log is, but for shells."""
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            if os.readlink(f"/proc/{pid}/fd/1") == log and os.readlink(f"/proc/{pid}/exe") == base().real:
                return int(pid)
        except OSError:
            continue
    return None


def the_log(store: Store) -> str:
    (name,) = os.listdir(store.layout.of("logs"))
    return store.layout.of("logs", name)


def begin(store: Store, *directories: str) -> bool:
    # The worker would do a real syncfs(2).
    store = Store(store.layout, durable=False)
    with store.session() as lease:
        return start_worker(store, base(), directories, lease=lease)


def test_a_worker_compiles_logs_and_ends(store: Store, add: Callable[..., str]) -> None:
    directories = [add(), add("fig", {"fig.py": "", "bad.py": "(\n"})]
    assert begin(store, *directories)
    log = the_log(store)
    wait_until(lambda: all(is_compiled(store.layout, name, base()) for name in directories))
    wait_until(lambda: worker(log) is None)
    lines = sorted(line.partition("Z ")[2] for line in Path(log).read_text().splitlines())
    assert lines[:2] + lines[2:] == sorted(
        [
            f"{directories[0]}: compiled 4, failed 0",
            f"{directories[1]}: compiled 1, failed 1",
            f"{directories[1]}: site-packages/bad.py: {one_failure(store, directories[1])}",
        ]
    )
    assert litter(store) == []
    assert not begin(store, *directories)


def one_failure(store: Store, directory: str) -> str:
    record = read_record(store.layout, directory, base().cache_tag)
    assert record is not None
    ((_, why),) = record.failed
    return why


def test_a_worker_that_has_nothing_to_say_leaves_no_log(
    store: Store, add: Callable[..., str], tmp_path: Path
) -> None:
    directory = add()
    with hold(store.layout.of("holds", shard("compile", directory))):
        assert begin(store, directory)
        log = the_log(store)
        wait_until(lambda: worker(log))
        # At once, as gc takes it: the worker may be reading it, and would say what it met of one half removed.
        os.rename(store.layout.of("entries", directory), tmp_path / "taken")
    wait_until(lambda: not os.path.exists(log))
    wait_until(lambda: litter(store) == [])


def test_for_one_set_of_entries_there_is_one_worker(store: Store, add: Callable[..., str]) -> None:
    directory, other = add(), add("fig")
    with hold(store.layout.of("holds", shard("compile", directory))):
        assert begin(store, directory, other)
        log = the_log(store)
        wait_until(lambda: is_compiled(store.layout, other, base()))
        assert not begin(store, other, directory)
        assert os.listdir(store.layout.of("logs")) == [os.path.basename(log)]
        assert begin(store, directory)
    wait_until(lambda: is_compiled(store.layout, directory, base()))
    wait_until(lambda: litter(store) == [])
    logged = "".join(
        Path(store.layout.of("logs", name)).read_text() for name in os.listdir(store.layout.of("logs"))
    )
    assert logged.count(f"{directory}: compiled 4") == 1


def opened(pid: int) -> list[str]:
    """The names of all files that a process has open; it may be opening and closing others meanwhile."""
    names = []
    for descriptor in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            names.append(os.readlink(f"/proc/{pid}/fd/{descriptor}"))
    return names


def test_a_worker_outlives_its_parent_and_gives_way_to_everybody(
    store: Store, add: Callable[..., str], tmp_path: Path
) -> None:
    directory = add()
    environment = make_environment(store, next(tmp_path.glob("*.whl"))).directory
    script = (
        "import os, sys, time\n"
        "from vrfstore import interpreter\n"
        "from vrfstore.store.compile_worker import start_worker\n"
        "from vrfstore.store.store import Store\n"
        "store = Store.open(sys.argv[1], durable=False)\n"
        "with store.session() as lease:\n"
        "    base = interpreter.probe(interpreter.default_executable())\n"
        "    print(start_worker(store, base, sys.argv[2:], lease=lease), flush=True)\n"
        "    time.sleep(600)\n"
    )
    held = hold(store.layout.of("holds", shard("compile", directory)))
    with held:
        parent = subprocess.Popen(
            [sys.executable, "-c", script, store.root, directory],
            stdout=subprocess.PIPE,
            process_group=0,
            # As if it were started within the environment.
            env={**os.environ, "VIRTUAL_ENV": store.layout.of("environments", environment)},
        )
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"True\n"
        log = the_log(store)
        wait_until(lambda: worker(log))
        os.killpg(parent.pid, signal.SIGHUP)
        os.killpg(parent.pid, signal.SIGKILL)
        # The worker does not keep the pipe open either.
        assert parent.stdout.read() == b""
        parent.stdout.close()
        parent.wait()
        pid = worker(log)
        assert pid is not None
        wait_until(lambda: Path(f"/proc/{pid}/oom_score_adj").read_text() == "1000\n")
        assert os.getpriority(os.PRIO_PROCESS, pid) == 19
        assert os.sched_getscheduler(pid) == os.SCHED_IDLE
        assert os.getsid(pid) not in {os.getsid(0), parent.pid}
        assert os.path.samefile(f"/proc/{pid}/cwd", "/")
        os.kill(pid, signal.SIGHUP)
        wait_until(lambda: len(os.listdir(store.layout.of("leases"))) == 2)
        assert len([name for name in opened(pid) if "/leases/" in name]) == 1
        assert pid not in {process for used in runtime.names_in_use(store.root).values() for process in used}
    wait_until(lambda: is_compiled(store.layout, directory, base()))
    wait_until(lambda: worker(log) is None)


def test_a_worker_protects_nothing_and_ends_with_its_entry(store: Store, add: Callable[..., str]) -> None:
    directory = add()
    with hold(store.layout.of("holds", shard("compile", directory))):
        assert begin(store, directory)
        log = the_log(store)
        wait_until(lambda: worker(log))
        time.sleep(0.01)
        report = sweep.collect(store, ENTRIES_ONLY)
        assert (report.entries, report.problems) == ((directory,), ())
    wait_until(lambda: worker(log) is None and not os.path.exists(log))
    assert store.entries() == []
    wait_until(lambda: litter(store) == [])


def test_serving_in_a_process_of_our_own(store: Store, add: Callable[..., str], tmp_path: Path) -> None:
    """The same as above, where coverage sees it."""
    missing = Path(store.layout.of("entries", damaged := add("a")), "manifest.json")
    missing.unlink()
    directories = [damaged, add("b"), add("c", {"bad.py": "(\n"})]

    def serve(log: Path, by: Interpreter, names: list[str]) -> tuple[int, int, bool]:
        os.setsid()  # or all of our session would give way to everybody from here on
        monitor = os.dup(1)
        log.touch()
        os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND), 1)
        value = {
            "root": store.root,
            "durable": False,
            "interpreter": asdict(by),
            "directories": names,
            "log": str(log),
        }
        with store.session() as lease:
            job = compile_worker._hand_over(store.layout, lease, codec.dumps(value))
        compile_worker.serve(job)
        os.dup2(monitor, 1)
        return os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0), log.exists()

    log = tmp_path / "log"
    broken = replace(base(), real=str(tmp_path / "nowhere"))
    assert together(lambda: serve(log, broken, directories)) == [(19, os.SCHED_IDLE, True)]
    assert together(lambda: serve(log, base(), directories)) == [(19, os.SCHED_IDLE, True)]
    said = sorted(line.partition("Z ")[2] for line in log.read_text().splitlines())
    bad = f"{directories[2]}: site-packages/bad.py: {one_failure(store, directories[2])}"
    repeated = [line for line in said if line.startswith(damaged)]
    assert sorted(set(said)) == sorted(
        {
            f"error: {broken.real} does not start: No such file or directory",
            f"{directories[1]}: compiled 4, failed 0",
            f"{directories[2]}: compiled 0, failed 1",
            bad,
            repeated[0],
        }
    )
    assert repeated[0].startswith(f"{damaged}: error: {missing}: the manifest cannot be read")
    quiet = tmp_path / "quiet"
    assert together(lambda: serve(quiet, base(), directories[1:])) == [(19, os.SCHED_IDLE, False)]


def test_a_worker_says_what_went_wrong(store: Store, add: Callable[..., str], tmp_path: Path) -> None:
    directory = add()
    by = replace(base(), real=str(tmp_path / "nowhere"))
    with store.session() as lease:
        assert start_worker(store, by, [directory], lease=lease)
    log = the_log(store)
    wait_until(lambda: worker(log) is None and Path(log).read_text())
    assert "nowhere does not start: No such file" in Path(log).read_text()


def test_what_stands_in_the_way_of_a_worker_is_no_error(
    store: Store, add: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = add()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "")
        assert not begin(store, directory)
    fs.remove_tree(store.layout.of("logs"))
    assert not begin(store, directory)
    assert litter(store) == []


def test_many_entries_are_handed_over(store: Store, add: Callable[..., str]) -> None:
    directory = add()
    names = [f"{number:020}-{'x' * 80}-1.0" for number in range(2000)]
    assert begin(store, *names, directory)
    wait_until(lambda: is_compiled(store.layout, directory, base()))


# Records.


def test_remove_record_takes_away_every_pyc_of_a_tag_and_no_other(
    store: Store, add: Callable[..., str]
) -> None:
    directory = add()
    entry = Path(store.layout.of("entries", directory))
    bare = tree(entry)
    one(store, directory)
    other = replace(base(), cache_tag="cpython-39", magic="00000d0a")
    for place in ("site-packages/tree/__pycache__", "bytecode"):
        (entry / place).chmod(0o755)
    kept = entry / pyc_path("site-packages/tree/__init__.py", other.cache_tag)
    kept.write_bytes(b"")
    record = Path(record_path(store.layout, directory, other.cache_tag, other.magic))
    record.write_bytes(b"")
    # One that the record does not know, and one that is no file.
    stranger = entry / pyc_path("site-packages/space/one.py", base().cache_tag)
    stranger.parent.chmod(0o755)
    stranger.unlink()
    stranger.mkdir()
    remove_record(store, directory, base().cache_tag)
    left = tree(entry)
    assert {place for place in left if place not in bare} == {
        str(kept.relative_to(entry)), str(record.relative_to(entry)),
    }  # fmt: skip
    assert {place: left[place] for place in bare} == bare
    remove_record(store, directory, base().cache_tag)
    remove_record(store, "0" * 20 + "-absent-1.0", base().cache_tag)


RECORD = BytecodeRecord(
    cache_tag="cpython-313",
    magic="f30d0d0a",
    version="3.13.0",
    files=(CompiledFile("site-packages/__pycache__/pear.cpython-313.pyc", 16, "0" * 64),),
    failed=(("site-packages/bad.py", "SyntaxError: no"),),
)


def test_a_record_is_read_as_it_was_written() -> None:
    assert BytecodeRecord.from_json(codec.loads(codec.dumps(RECORD.to_json()))) == RECORD


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2}, {"schema": None}, {"cache_tag": 1}, {"magic": None}, {"version": []}, {"files": None},
        {"files": [["x"]]}, {"files": [["x", "y", "z"]]}, {"files": [[1, 1, "z"]]}, {"files": [["x", 1, 1]]},
        {"failed": 3}, {"failed": [["x"]]}, {"failed": [["x", 1]]},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_no_record_is_refused(change: dict[str, object]) -> None:
    with pytest.raises((ValueError, TypeError)):
        BytecodeRecord.from_json(signed(RECORD.to_json() | change))
    for missing in RECORD.to_json():
        if missing != "checksum":
            with pytest.raises(KeyError):
                BytecodeRecord.from_json(
                    signed({key: value for key, value in RECORD.to_json().items() if key != missing})
                )


def test_a_record_that_is_not_what_was_written_is_refused() -> None:
    with pytest.raises(ValueError, match="checksum"):
        BytecodeRecord.from_json(RECORD.to_json() | {"version": "3.13.1"})
    with pytest.raises(KeyError):
        BytecodeRecord.from_json({key: value for key, value in RECORD.to_json().items() if key != "checksum"})


def signed(value: dict[str, object]) -> dict[str, object]:
    """Give a record the checksum that it would have if it were written like this."""
    rest = {key: field for key, field in value.items() if key != "checksum"}
    return {**rest, "checksum": codec.digest_of(rest)}


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"3", b"\xff", b"[" * 100_000, None], ids=repr)
def test_a_record_that_cannot_be_read_is_not_there(
    store: Store, add: Callable[..., str], data: bytes | None
) -> None:
    directory = add()
    assert read_record(store.layout, directory, base().cache_tag) is None
    path = Path(record_path(store.layout, directory, base().cache_tag, base().magic))
    path.parent.chmod(0o755)
    if data is None:
        path.mkdir()
    else:
        path.write_bytes(data)
    assert read_record(store.layout, directory, base().cache_tag) is None
    path = Path(record_path(store.layout, directory, RECORD.cache_tag, "11111111"))
    path.write_bytes(codec.dumps(RECORD.to_json()))
    assert read_records(store.layout, directory) == []  # it says that it is another one
    path.rename(record_path(store.layout, directory, RECORD.cache_tag, RECORD.magic))
    assert read_records(store.layout, directory) == [RECORD]
    assert read_records(store.layout, "absent") == []


def test_where_the_pyc_of_a_module_is() -> None:
    assert pyc_path("site-packages/six.py", "cpython-313") == "site-packages/__pycache__/six.cpython-313.pyc"
    assert pyc_path("a.b.py", "x") == "__pycache__/a.b.x.pyc"
    paths = ["site-packages/a.py", "site-packages/a.pyi", "data/a.py", "site-packages/.py", "links/a.py"]
    assert sources(paths) == ["site-packages/a.py"]
