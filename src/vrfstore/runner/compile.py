"""``compile``: the bytecode of what is in the store, in the foreground."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from vrfstore import interpreter as probing
from vrfstore.errors import InterpreterError, StoreDamagedError
from vrfstore.model import Interpreter, Watcher
from vrfstore.store import composites, interpreters
from vrfstore.store.compiling import CompiledEntry, compile_entries
from vrfstore.store.leases import Lease
from vrfstore.store.records import EnvironmentRecord
from vrfstore.store.store import Store
from vrfstore.values import dataclass, field

__all__ = ["CompileReport", "Compiled", "compile_store"]


@dataclass(frozen=True, slots=True)
class Compiled:
    """What became of the entries that one interpreter was to compile, in the order of their names."""

    interpreter: Interpreter
    entries: tuple[CompiledEntry, ...]


@dataclass(frozen=True, slots=True)
class CompileReport:
    """What ``compile_store`` did, for each cache tag and magic number, and what it passed over, in words."""

    compiled: tuple[Compiled, ...]
    warnings: tuple[str, ...]


def compile_store(
    store: Store,
    targets: Sequence[str] = (),
    *,
    everything: bool = False,
    python: str | None = None,
    watch: Watcher,
) -> CompileReport:
    """Compile the modules of entries that have not been compiled, and wait for that.

    Args:
        store: The store.
        targets: Environments and entries: paths, directory names, or beginnings of such. An entry is compiled for the
            interpreters of the environments that link to it. By default all environments. What is compiled of an
            environment is its composites, and the entries that are in none.
        everything: Every entry, for every interpreter that an environment has; what is only for another version of
            Python is left out.
        python: Compile with this interpreter, as ``interpreter.find`` knows it, and not with those of environments.
        watch: Is told of progress; see ``compile_entries``.

    Raises:
        UsageError: A target is nothing, or several things.
        InterpreterError: The interpreter does not start or is unsuitable.
        OSError: The disk is full, or worse.
    """
    with store.session() as lease:
        wanted = _Wanted(store, lease)
        fixed = wanted.interpreter(probing.find(python)) if python is not None else None
        if everything:
            wanted.add_everything(fixed)
        elif targets:
            for target in targets:
                wanted.add_target(target, fixed)
        else:
            for record in wanted.environments():
                wanted.add_environment(record, fixed)
        compiled = (
            Compiled(
                interpreter,
                tuple(compile_entries(store, interpreter, sorted(names), lease=lease, watch=watch)),
            )
            for interpreter, names in wanted.groups()
        )
        return CompileReport(tuple(compiled), tuple(dict.fromkeys(wanted.warnings)))


@dataclass(slots=True)
class _Wanted:
    """Which entries are to be compiled by which interpreter; equal bytecode is compiled by whoever comes first."""

    store: Store
    lease: Lease
    warnings: list[str] = field(default_factory=list)
    _names: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    _interpreters: dict[tuple[str, str], Interpreter] = field(default_factory=dict)

    def groups(self) -> Iterator[tuple[Interpreter, set[str]]]:
        for identity, names in self._names.items():
            yield self._interpreters[identity], names

    def interpreter(self, executable: str) -> Interpreter:
        return interpreters.known(self.store.layout, self.lease, executable)[0]

    def environments(self) -> Iterator[EnvironmentRecord]:
        """Yield the records of all environments that can be read."""
        for directory in self.store.environments():
            try:
                yield self.store.record(directory)
            except FileNotFoundError:
                continue
            except StoreDamagedError as error:
                self.warnings.append(f"environments/{directory} is passed over: {error}")

    def add(self, interpreter: Interpreter, directories: Iterable[str]) -> None:
        identity = interpreter.cache_tag, interpreter.magic
        self._interpreters.setdefault(identity, interpreter)
        self._names.setdefault(identity, set()).update(directories)

    def add_environment(self, record: EnvironmentRecord, fixed: Interpreter | None) -> None:
        interpreter = fixed or self._own(record)
        if interpreter is not None:
            self.add(interpreter, composites.module_directories(self.store, record))

    def add_target(self, target: str, fixed: Interpreter | None) -> None:
        part, directory = self.store.find(target)
        if part == "environments":
            self.add_environment(self.store.record(directory), fixed)
            return
        found = [fixed] if fixed else self._all(directory)
        for interpreter in found or [self.interpreter(probing.find(None))]:
            self.add(interpreter, [directory])

    def add_everything(self, fixed: Interpreter | None) -> None:
        found = [fixed] if fixed else self._all()
        for interpreter in found or [self.interpreter(probing.find(None))]:
            self.add(interpreter, self._fitting(interpreter))

    def _own(self, record: EnvironmentRecord) -> Interpreter | None:
        """Return the interpreter of an environment; None, and a warning, where it is gone or another one now."""
        try:
            found = self.interpreter(record.executable)
        except InterpreterError as error:
            self.warnings.append(f"environments/{record.directory} is passed over: {error}")
            return None
        recorded = record.interpreter
        if (found.real, found.cache_tag) != (recorded.get("real"), recorded.get("cache_tag")):
            self.warnings.append(
                f"environments/{record.directory} is passed over: {record.executable} "
                f"is not the Python {recorded.get('version')} that it was"
            )
            return None
        return found

    def _all(self, entry: str | None = None) -> list[Interpreter]:
        """Return the interpreters of all environments, or of those that link to an entry."""
        linking = (record for record in self.environments() if entry is None or entry in record.entries)
        return [found for record in linking if (found := self._own(record)) is not None]

    def _fitting(self, interpreter: Interpreter) -> Iterator[str]:
        for directory in self.store.entries():
            try:
                plan = self.store.plan(directory)
                tags = [self.store.plan(member).tags for member in plan.members] or [plan.tags]
            except FileNotFoundError:
                continue
            except StoreDamagedError as error:
                self.warnings.append(f"entries/{directory} is passed over: {error}")
                continue
            if all(_fits(each, interpreter.short_version) for each in tags):
                yield directory


def _fits(tags: Iterable[str], version: str) -> bool:
    """Whether a wheel of some tags (PEP 425) may be for a version ``X.Y``, wherever it runs."""
    major, minor = version.split(".")
    for tag in tags:
        python, _, rest = tag.partition("-")
        implementation, of_major, of_minor = python[:2], python[2:3], python[3:]
        # `py3`, `py37` and `cp37-abi3` mean that version and all after it, `cp311` that very one.
        later = implementation == "py" or (implementation == "cp" and rest.startswith("abi3-"))
        if implementation not in {"py", "cp"} or of_major != major:
            continue
        if of_minor == minor or (later and _number(of_minor) <= int(minor)):
            return True
    return False


def _number(digits: str) -> int:
    return int(digits) if digits.isdecimal() else 0
