"""``env heal --adopt`` and ``env undo``: a venv, or a directory of packages, becomes an environment of ours; and back.

::

    look ─▶ interpreter ─┬─ the same X.Y: packages stay as they are ──────┐
                         └─ another X.Y: resolve, fetch ─▶ link beside ───┤
                                                                          ▼
              journal ─▶ keep what is replaced ─▶ link the frame ─▶ mend scripts ─▶ journal

The *frame* is what makes a directory an environment: the links to the interpreter, ``pyvenv.cfg``, scripts that
activate it. Of the user's packages nothing is changed but the first lines of scripts that lead nowhere.

What is replaced gets a further name in ``.vrfstore-undo`` first, so that it is never missing. The journal there says,
before anything is changed, what is going to be. Where a kill came in between, the next call takes everything back by
the journal, and begins again.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import itertools
import os
import re
import shutil
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress

from vrfstore import fs
from vrfstore import interpreter as probing
from vrfstore.errors import (
    BusyError,
    CollisionError,
    InterpreterError,
    ResolutionError,
    StoreDamagedError,
    StoreError,
    UsageError,
    VrfstoreError,
)
from vrfstore.linker import adoption, external
from vrfstore.linker.adoption import UNDO, Configuration, Journal, Kept
from vrfstore.linker.distributions import distributions
from vrfstore.linker.drift import interpreter_links
from vrfstore.linker.external import Changes
from vrfstore.linker.into import Asked, Linked, by_hand, installed_files, link_into
from vrfstore.linker.plan import merge, plan_environment, settled
from vrfstore.model import (
    EntryPlan,
    Event,
    Interpreter,
    LinkOptions,
    Lock,
    Requirement,
    Requirements,
    Watcher,
    nobody,
)
from vrfstore.store import externals, interpreters, leases
from vrfstore.store.externals import ExternalRecord, Made
from vrfstore.store.holds import hold, shard
from vrfstore.store.layout import SITE_PACKAGES
from vrfstore.store.leases import Lease
from vrfstore.store.store import Store
from vrfstore.values import dataclass, field, replace

__all__ = ["Adopted", "Undone", "adopt", "undo"]

_JOURNAL = "journal.json"
_CONFIGURATION = "pyvenv.cfg"
_LARGEST_CONFIGURATION = 1 << 20
_LARGEST_SCRIPT = 1 << 24
_LARGEST_JOURNAL = 1 << 28
_PYTHON = re.compile(r"python(3(\.\d+)?t?)?")
_VERSIONED = re.compile(r"python\d+\.\d+t?")
_SEED = frozenset({"pip", "setuptools", "wheel"})
"""What comes with an environment and fits its Python; an older one may not even start on a newer Python."""

_SYSTEM = frozenset({"/", "/bin", "/etc", "/home", "/lib", "/opt", "/usr", "/usr/local", "/var"})
_FRAME = frozenset({"bin", "include", "lib", "lib64", UNDO})
_MOST_PATHS = 500_000
"""So many paths of a directory are written down. Beside packages, one such as ``~/.local`` may have anything."""

_RELAXABLE = frozenset({"no-version", "no-wheel", "package-missing", "requires-python"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Adopted:
    """What ``adopt`` did.

    Attributes:
        place: The environment.
        python: Its python.
        version: The version of its interpreter.
        kind: ``venv``, or ``user`` for a directory such as ``~/.local``.
        packages: (name, version) of what was linked for another X.Y than it was for.
        done: What was done, one sentence each.
        warnings: What the caller should know.
    """

    place: str
    python: str
    version: str
    kind: str
    packages: tuple[tuple[str, str], ...]
    done: tuple[str, ...]
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """Return it as an object of JSON."""
        return {
            "path": self.place,
            "python": self.python,
            "version": self.version,
            "kind": self.kind,
            "packages": [{"name": name, "version": version} for name, version in self.packages],
            "done": list(self.done),
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Undone:
    """What ``undo`` did.

    Attributes:
        place: The directory.
        restored: What was put back, relative to it.
        removed: What was taken away, the topmost paths.
        stays: What is there now and was not before, or was changed since; the topmost paths.
        warnings: What the caller should know.
    """

    place: str
    restored: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    stays: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Return it as an object of JSON."""
        return {
            "path": self.place,
            "restored": list(self.restored),
            "removed": list(self.removed),
            "stays": list(self.stays),
            "warnings": list(self.warnings),
        }


def adopt(
    store: Store, path: str | os.PathLike[str], *, python: str | None = None, watch: Watcher = nobody
) -> Adopted:
    """Make an environment that vrfstore knows of a venv, or of a directory of packages such as ``~/.local``.

    Args:
        store: Where it is registered.
        path: The directory.
        python: The interpreter that it is to be for; by default the one that it was made for, one of the same X.Y,
            or what has taken its place, in this order.
        watch: Is told what long steps do.

    Raises:
        UsageError: It is not an environment that can be adopted.
        InterpreterError: There is no interpreter for it.
        BusyError: Somebody else adopts it.
        VrfstoreError: For another X.Y, resolving or fetching failed; nothing has been changed.
        OSError: The disk is full, or worse; ``undo``, or doing it again, makes it whole.
    """
    place = os.path.realpath(path)
    _check_place(store, place)
    with _hold(store, place, watch):
        journal = _read_journal(place)
        if journal is not None and (journal.state != "adopted" or externals.read(place) is None):
            _Undo(place, journal).run()
        elif journal is not None or externals.read(place) is not None:
            raise UsageError(
                "it is an environment of vrfstore already; there is nothing to adopt",
                kind="adopt-ours",
                path=place,
                hint="see what has drifted with: vrfstore env check PATH",
            )
        with store.session() as session:
            look = _look(place)
            base = _Search(store, session, look).find(python)
            look = replace(look, library=_library_for(look, base))
            _check_directories(place, (base.directory_name,))
            _check_interpreters(look, base)
            return _Adopt(store, session, look, base, python, watch).run()


def undo(path: str | os.PathLike[str]) -> Undone:
    """Give back what a directory was before it was adopted. What was added since stays.

    Raises:
        UsageError: It has not been adopted.
        StoreDamagedError: The journal cannot be read.
        OSError: The path cannot be reached; or something could not be put back, and doing it again goes on.
    """
    place = os.path.realpath(path)
    with suppress(FileNotFoundError):
        os.stat(place)  # whether it can be looked into at all
    directory = f"{place}/{UNDO}"
    journal = _read_journal(place)
    if journal is None:
        if not os.path.lexists(directory) or not _swept(place):
            raise UsageError("it has not been adopted", kind="adopt-none", path=place)
        return Undone(place=place)
    store = _store_of(journal)
    with ExitStack() as stack:
        if store is not None:
            stack.enter_context(_hold(store, place, nobody))
            journal = _read_journal(place)
            if journal is None:
                return Undone(place=place)
        return _Undo(place, journal).run()


@contextmanager
def _hold(store: Store, place: str, watch: Watcher) -> Iterator[None]:
    """Hold a directory against others who adopt it; linking into it holds it in another way."""
    waiting = Event(kind="waiting", subject="another vrfstore that adopts the same directory")
    path = store.layout.of("holds", shard("adopt", externals.hold_key(place)))
    with hold(path, on_wait=lambda: watch(waiting)):
        yield


def _store_of(journal: Journal) -> Store | None:
    with suppress(StoreError, OSError):
        if os.path.lexists(f"{journal.store}/store.json"):
            return Store.open(journal.store)
    return None


def _read_journal(place: str) -> Journal | None:
    path = f"{place}/{UNDO}/{_JOURNAL}"
    if os.path.islink(f"{place}/{UNDO}"):
        raise UsageError(f"{UNDO} there is a link", kind="adopt-layout", path=place)
    try:
        return adoption.journal_from_json(fs.read_file(path, _LARGEST_JOURNAL))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreDamagedError(
            f"the journal of what was adopted cannot be read: {error}",
            kind="journal-unreadable",
            path=path,
            hint=f"what was replaced is beside it, in {UNDO}",
        ) from error


def _write_journal(place: str, journal: Journal) -> None:
    temporary = f"{place}/{UNDO}/{_JOURNAL}.{fs.unique_name()}"
    try:
        fs.write_file(temporary, adoption.journal_to_json(journal), sync=True)
        fs.rename(temporary, f"{place}/{UNDO}/{_JOURNAL}")
    except BaseException:
        fs.remove_file(temporary)
        raise


def _swept(place: str) -> bool:
    """Remove what a kill has left before there was a journal, or after; returns whether nothing else was there."""
    directory = f"{place}/{UNDO}"
    try:
        for name in os.listdir(directory):
            if name.startswith(f"{_JOURNAL}."):
                fs.remove_file(f"{directory}/{name}")
        return fs.remove_directory(directory)
    except FileNotFoundError:
        return True
    except NotADirectoryError:
        return False


@dataclass(frozen=True, kw_only=True, slots=True)
class _Look:
    """A directory that may become an environment.

    Attributes:
        place: Where, absolute and without links.
        kind: See ``Adopted``.
        configuration: What ``pyvenv.cfg`` says.
        libraries: The names of its library directories, those with packages first, the newest of them first.
        library: That of the packages that count; empty where there are none.
    """

    place: str
    kind: str
    configuration: Configuration
    libraries: tuple[str, ...]
    library: str

    def site(self, library: str) -> str:
        """Return the site-packages of a library directory, relative."""
        return f"lib/{library}/{SITE_PACKAGES}"


def _check_place(store: Store, place: str) -> None:
    root = os.path.realpath(store.root)
    # A store may well be in ~/.local/share, but not where packages are.
    within = root.removeprefix(f"{place.rstrip('/')}/").partition("/")[0]
    if f"{place}/".startswith(f"{root}/") or within in _FRAME:
        raise UsageError(f"it and the store {root} are in each other", kind="adopt-store", path=place)
    if "/environments/" in place and _in_some_store(place):
        raise UsageError("it is an environment in a store", kind="adopt-store", path=place)
    if not os.path.isdir(place):
        raise _refused(place, "there is no such directory")
    if place in _SYSTEM or place == os.path.realpath(os.path.expanduser("~")):
        raise UsageError("it is the system's, or a home directory", kind="adopt-system", path=place)
    _check_owner(place)


def _check_owner(place: str) -> None:
    """Refuse what somebody else has made: it says which interpreter is started to find out what it is."""
    for path in ("", "/bin", "/lib", f"/{_CONFIGURATION}"):
        with suppress(FileNotFoundError, NotADirectoryError):
            if os.lstat(f"{place}{path}").st_uid not in {0, os.geteuid()}:
                raise UsageError(
                    "it belongs to somebody else",
                    kind="adopt-owner",
                    path=f"{place}{path}",
                    hint="let its owner adopt it",
                )


def _in_some_store(place: str) -> bool:
    above = place.rpartition("/environments/")[0]
    return os.path.lexists(f"{above}/store.json")


def _refused(place: str, reason: str) -> UsageError:
    return UsageError(
        f"{reason}; a venv can be adopted, or a directory with lib/python3.X/site-packages",
        kind="adopt-foreign",
        path=place,
    )


def _look(place: str) -> _Look:
    """Look at a directory, and refuse what is no environment or not one of ours to change.

    Raises:
        UsageError: See ``adopt``.
    """
    kept = f"{place}/{UNDO}"
    if os.path.lexists(kept) and (not os.path.isdir(kept) or not _may_be_swept(kept)):
        raise UsageError(f"{UNDO} there is in the way", kind="adopt-layout", path=place)
    if os.path.lexists(f"{place}/conda-meta"):
        raise UsageError("it is conda's; conda looks after it", kind="adopt-conda", path=place)
    is_venv = os.path.lexists(f"{place}/{_CONFIGURATION}")
    if is_venv and os.path.isdir(f"{place}/Scripts") and not os.path.lexists(f"{place}/bin"):
        raise UsageError("it was made on Windows", kind="adopt-windows", path=place)
    libraries = _libraries(place)
    for library in libraries:
        if os.path.lexists(f"{place}/lib/{library}/os.py"):
            raise UsageError("it is a Python itself", kind="adopt-system", path=place)
    settings = _configured(place) if is_venv else Configuration()
    if not libraries and not (is_venv and settings.home):
        raise _refused(place, "it is no environment")
    wanted = f"python{settings.version}"
    own = [name for name in libraries if settings.version and name in {wanted, f"{wanted}t"}]
    library = own[0] if own else libraries[0] if libraries else wanted if settings.version else ""
    look = _Look(
        place=place,
        kind="venv" if is_venv else "user",
        configuration=settings,
        libraries=libraries,
        library=library,
    )
    _check_directories(place, libraries)
    return look


def _may_be_swept(directory: str) -> bool:
    return all(name.startswith(f"{_JOURNAL}.") for name in os.listdir(directory))


def _libraries(place: str) -> tuple[str, ...]:
    try:
        names = [name for name in os.listdir(f"{place}/lib") if adoption.library_of(name)]
    except (FileNotFoundError, NotADirectoryError):
        return ()
    found = [name for name in names if os.path.isdir(f"{place}/lib/{name}/{SITE_PACKAGES}")]

    def rank(name: str) -> tuple[bool, tuple[int, bool]]:
        return _has_packages(place, name), adoption.library_version(name)

    return tuple(sorted(found, key=rank, reverse=True))


def _has_packages(place: str, library: str) -> bool:
    """Whether there is anything in a library directory but what comes with every environment."""
    return any(found.name not in _SEED for found in distributions(f"{place}/lib/{library}/{SITE_PACKAGES}"))


def _configured(place: str) -> Configuration:
    path = f"{place}/{_CONFIGURATION}"
    try:
        return adoption.configuration(fs.read_file(path, _LARGEST_CONFIGURATION))
    except FileNotFoundError:  # a link that leads nowhere
        return Configuration()
    except OSError as error:
        raise _refused(place, f"its {_CONFIGURATION} cannot be read: {error.strerror}") from error


def _check_directories(place: str, libraries: Collection[str]) -> None:
    """Refuse a frame that is partly elsewhere, or that may not be changed."""
    sites = (f"lib/{library}/{SITE_PACKAGES}" for library in libraries)
    for path in ("", "bin", "lib", *(f"lib/{library}" for library in libraries), *sites):
        full = f"{place}/{path}".rstrip("/")
        if not os.path.lexists(full):
            continue
        if os.path.islink(full) or not os.path.isdir(full):
            raise UsageError(f"{path} there is a link, or no directory", kind="adopt-layout", path=place)
        if not os.access(full, os.R_OK | os.W_OK | os.X_OK):
            raise UsageError(f"{full} may not be written", kind="adopt-access", path=place)


def _library_for(look: _Look, base: Interpreter) -> str:
    """Return the library directory whose packages count, now that the interpreter is known."""
    own = base.directory_name
    if not look.library or (look.kind == "user" and own in look.libraries):
        return own
    first = next(iter(look.libraries), own)
    # `python -m venv --upgrade` with another Python leaves the packages behind.
    left_behind = look.kind == "venv" and look.library == own and not _has_packages(look.place, own)
    return first if left_behind and _has_packages(look.place, first) else look.library


def _check_interpreters(look: _Look, base: Interpreter) -> None:
    """Refuse what would change other programs: beside ``pyvenv.cfg``, every python takes itself for a venv's."""
    if look.place in {os.path.realpath(base.prefix), os.path.dirname(os.path.dirname(base.real))}:
        raise UsageError("it is the prefix of an interpreter", kind="adopt-system", path=look.place)
    if look.kind != "user":
        return
    for name in _names(f"{look.place}/bin"):
        path = f"{look.place}/bin/{name}"
        if _PYTHON.fullmatch(name) and os.access(path, os.X_OK) and os.path.realpath(path) != base.real:
            raise UsageError(
                f"bin/{name} there is another interpreter, which would no longer be what it is",
                kind="adopt-interpreters",
                path=look.place,
                hint="make an environment elsewhere with: vrfstore link FILE --into DIRECTORY",
            )


def _names(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []


@dataclass(frozen=True, slots=True)
class _Search:
    """Looks for the interpreter of a directory."""

    store: Store
    lease: Lease
    look: _Look

    def find(self, asked: str | None) -> Interpreter:
        """Return the interpreter that an environment is going to have; never a venv's."""
        if asked:
            return self._known(probing.find(asked))
        wanted = self.look.libraries if self.look.kind == "user" else (self.look.library,)
        for library in filter(None, wanted):
            for path in self._same(library):
                found = self._suitable(path)
                if found is not None and found.directory_name == library:
                    return found
        for path in self._other():
            found = self._suitable(path)
            if found is not None:
                return found
        version = self.look.library.removeprefix("python") or "3"
        raise InterpreterError(
            f"there is no Python {version} for {self.look.place} any more, nor what took its place",
            kind="interpreter-missing",
            hint="say which one it is to be for with --python",
        )

    def _known(self, path: str) -> Interpreter:
        found, _ = interpreters.known(self.store.layout, self.lease, path)
        return interpreters.known(self.store.layout, self.lease, found.real)[0] if found.virtual else found

    def _suitable(self, path: str) -> Interpreter | None:
        """Return what a program is that calls itself python; None where it is nothing for us."""
        if not _PYTHON.fullmatch(os.path.basename(path)) or not os.access(path, os.X_OK):
            return None
        if os.path.realpath(path).startswith(f"{self.look.place}/bin/"):
            return None
        with suppress(InterpreterError):
            return self._known(path)
        return None

    def _same(self, library: str) -> Iterator[str]:
        """Yield where an interpreter of one X.Y may be, the likeliest first."""
        said = self.look.configuration
        if said.executable:
            yield said.executable
        if said.home:
            yield from (f"{said.home}/{name}" for name in (library, "python3", "python"))
        for name in sorted(interpreter_links(library)):
            yield os.path.realpath(f"{self.look.place}/{name}")
        for home in filter(None, (said.home, os.path.dirname(said.executable))):
            yield from _siblings(home, library)
        yield from _on_path((library,))

    def _other(self) -> Iterator[str]:
        """Yield what may have taken the place of an interpreter that is gone."""
        if self.look.configuration.home:
            yield from (f"{self.look.configuration.home}/{name}" for name in ("python3", "python"))
        yield from _on_path(("python3", "python"))


def _siblings(home: str, library: str) -> Iterator[str]:
    """Yield the pythons of other releases of one X.Y, where each has a directory of its own; the newest first."""
    version = re.escape(library.removeprefix("python").removesuffix("t"))
    versions = os.path.dirname(os.path.dirname(home))
    found = [name for name in _names(versions) if re.search(rf"(?<![\d.]){version}(?!\d)", name)]
    for name in sorted(found, key=_natural, reverse=True):
        yield f"{versions}/{name}/bin/{library}"


def _natural(name: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d{1,9}", name)]


def _on_path(names: Sequence[str]) -> Iterator[str]:
    for directory in os.environ.get("PATH", os.defpath).split(os.pathsep):
        yield from (os.path.abspath(os.path.join(directory, name)) for name in names)


@dataclass(frozen=True, slots=True)
class _Script:
    """A script to be run by another python: what it is going to be."""

    path: str
    content: bytes
    mode: int

    @property
    def what(self) -> str:
        return f"f:{self.mode:o}:{hashlib.sha256(self.content).hexdigest()}"


@dataclass(frozen=True, slots=True)
class _Adopt:
    """One directory that becomes an environment."""

    store: Store
    session: Lease
    look: _Look
    base: Interpreter
    python: str | None
    watch: Watcher
    done: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def place(self) -> str:
        return self.look.place

    @property
    def same(self) -> bool:
        """Whether the packages are for this X.Y."""
        return self.look.library == self.base.directory_name

    def run(self) -> Adopted:
        asked, lock = self._resolved()
        from vrfstore.requirements import lock as locks  # noqa: PLC0415 - pip comes with it

        options = settled(self._options(), ())
        digests = [wheel.digest for wheel in lock.wheels]
        with leases.take(
            self.store.layout, digests=digests, lock=locks.lock_digest(locks.dumps(lock))
        ) as lease:
            digest = locks.write(self.store.layout, lease, lock)
            plans = self._entries(lease, lock)
            options = self._colliding(plans, options)
            linked = self._perform(
                lease,
                plans,
                Asked(
                    requirements=asked.canonical,
                    path=asked.path,
                    python=self.python or self.base.directory_name.removeprefix("python"),
                    lock=digest,
                    options=options,
                ),
            )
        return Adopted(
            place=self.place,
            python=f"{self.place}/bin/python",
            version=self.base.version,
            kind=self.look.kind,
            packages=tuple((wheel.name, wheel.version) for wheel in linked.record.wheels),
            done=tuple(self.done),
            warnings=tuple(self.warnings),
        )

    def _options(self) -> LinkOptions:
        if self.look.kind == "user":
            # Whoever has it as his user base sees the packages of the system beside it.
            return LinkOptions(user_site=True)
        said = self.look.configuration
        return LinkOptions(isolated=not said.system, user_site=said.system, prompt=said.prompt)

    def _resolved(self) -> tuple[Requirements, Lock]:
        """Return what is to be linked: nothing where the packages are for this X.Y."""
        asked = Requirements(path=self.place, items=())
        if not self.same:
            pins, left = _pins(f"{self.place}/{self.look.site(self.look.library)}")
            self.warnings.extend(left)
            if pins:
                resolution = _Resolution(self.store, self.session, self.base, self.place, self._options())
                self.watch(Event(kind="resolving", subject=self.place))
                asked, lock = resolution.run(pins)
                self.watch(Event(kind="resolved", total=len(lock.wheels)))
                self.warnings.extend(resolution.notes)
                return asked, lock
        return asked, Lock(wheels=(), python=self.base.short_version)

    def _entries(self, lease: Lease, lock: Lock) -> list[EntryPlan]:
        if not lock.wheels:
            return []
        from vrfstore.linker.compatibility import check_compatible  # noqa: PLC0415 - as above
        from vrfstore.requirements import fetch, pip  # noqa: PLC0415

        plans, missing = fetch.present(self.store, lock.wheels)
        if missing:
            settings = pip.settings(self.store, self.base)
            plans += [item.plan for item in fetch.fetch(self.store, lease, missing, settings, self.watch)]
        check_compatible(plans, self.base)
        return plans

    def _colliding(self, plans: Sequence[EntryPlan], options: LinkOptions) -> LinkOptions:
        """Return options with which wheels go together that have been installed one over the other."""
        hashes = functools.cache(self.store.manifest_hashes)
        try:
            plan_environment(
                plans,
                self.base,
                merge(plans, options),
                place=self.place,
                interpreter_links="",
                hashes_of=lambda entry: hashes(entry.reference.directory),
            )
        except CollisionError as error:
            self.warnings.append(f"{error.message}; the last by name wins")
            return replace(options, allow_collisions=True)
        return options

    def _perform(self, lease: Lease, plans: Sequence[EntryPlan], asked: Asked) -> Linked:
        """Change the directory; everything that can be refused has been."""
        again = self._replaced()
        scripts = self._scripts()
        stale = self._stale()
        journal = self._journal(again, scripts, stale)
        _swept(self.place)
        try:
            fs.make_directory(f"{self.place}/{UNDO}", 0o700)
        except FileExistsError as error:
            raise BusyError("somebody else adopts it", kind="environment-busy", path=self.place) from error
        try:
            _write_journal(self.place, journal)
            linked = self._change(lease, plans, asked, journal, again, scripts)
        except (VrfstoreError, OSError, KeyboardInterrupt):
            with suppress(VrfstoreError, OSError):
                if not _swept(self.place):
                    _Undo(self.place, journal).run()
            raise
        self._say(linked, again)
        return linked

    def _change(
        self,
        lease: Lease,
        plans: Sequence[EntryPlan],
        asked: Asked,
        journal: Journal,
        again: Collection[str],
        scripts: Sequence[_Script],
    ) -> Linked:
        for kept in journal.kept:
            if kept.how != "remove":
                _keep(self.place, kept)
        self.watch(Event(kind="linking", total=len(plans)))
        linked = link_into(self.store, lease, plans, self.base, self.place, asked, again=frozenset(again))
        ours = linked.record.made
        for script in scripts:
            if script.path not in ours:
                self._mend(script)
        for kept in journal.kept:
            if kept.how == "remove":
                _keep(self.place, kept)
                self.done.append(f"{kept.path} is removed: it leads to no such interpreter")
        _write_journal(
            self.place,
            replace(journal, state="adopted", made={path: made.what for path, made in ours.items()}),
        )
        return linked

    def _journal(self, again: Collection[str], scripts: Sequence[_Script], stale: Sequence[str]) -> Journal:
        kept: list[Kept] = []
        copied = sorted({*again, *(script.path for script in scripts)})
        for path in copied:
            full = f"{self.place}/{path}"
            if os.path.lexists(full):
                mode = os.lstat(full).st_mode
                how = "copy" if stat.S_ISREG(mode) or stat.S_ISLNK(mode) else "move"
                kept.append(Kept(path, str(len(kept)), how))
        kept += [Kept(path, str(len(kept) + number), "remove") for number, path in enumerate(stale)]
        return Journal(
            state="adopting",
            store=self.store.root,
            kept=tuple(kept),
            scripts={script.path: script.what for script in scripts},
            there=frozenset(_listing(self.place, self.store.root)),
            made={},
        )

    def _replaced(self) -> set[str]:
        """Return the paths where something of ours is going to be, whatever is there."""
        found = {*interpreter_links(self.base.directory_name), _CONFIGURATION}
        lib64 = f"{self.place}/lib64"
        if os.path.islink(lib64) and not os.path.isdir(lib64):
            found.add("lib64")
        for name in adoption.ACTIVATION:
            if self._misleads(f"{self.place}/bin/{name}"):
                found.add(f"bin/{name}")
        if not self.same:
            found.update(_owned(self.place, self.look.site(self.look.library)))
        return found

    def _misleads(self, path: str) -> bool:
        """Whether an activation script is for another directory, or leads nowhere itself."""
        try:
            named = adoption.named_directories(fs.read_file(path, _LARGEST_SCRIPT))
        except FileNotFoundError:
            return os.path.islink(path)
        except OSError:
            return False
        return bool(named) and not any(os.path.realpath(name) == self.place for name in named)

    def _scripts(self) -> list[_Script]:
        found = []
        for name in _names(f"{self.place}/bin"):
            path = f"{self.place}/bin/{name}"
            with suppress(OSError):
                mode = os.lstat(path).st_mode
                if not stat.S_ISREG(mode):
                    continue
                shebang = adoption.shebang(fs.read_file(path, _LARGEST_SCRIPT))
                if shebang is not None and not self._is_right(os.fsdecode(shebang.interpreter)):
                    content = adoption.retargeted(shebang, f"{self.place}/bin/python")
                    found.append(_Script(f"bin/{name}", content, stat.S_IMODE(mode)))
        return found

    def _is_right(self, interpreter: str) -> bool:
        """Whether a script may go on being run by the python that it names."""
        directory, name = os.path.split(interpreter)
        if os.path.realpath(directory) == f"{self.place}/bin":
            return f"bin/{name}" in interpreter_links(self.base.directory_name) or (
                os.access(interpreter, os.X_OK) and f"bin/{name}" not in self._stale()
            )
        if not os.access(interpreter, os.X_OK):
            return False
        # Scripts beside the packages of a user are run by whatever he likes; those in a venv, by that venv.
        return self.look.kind == "user" or not os.path.lexists(
            os.path.join(os.path.dirname(directory), _CONFIGURATION)
        )

    def _stale(self) -> list[str]:
        """Return the links to interpreters of another X.Y that are gone, or that will be this one."""
        own = {
            os.path.realpath(f"{self.place}/{path}") for path in interpreter_links(self.base.directory_name)
        }
        found = []
        for name in _names(f"{self.place}/bin"):
            path = f"bin/{name}"
            full = f"{self.place}/{path}"
            other = _VERSIONED.fullmatch(name) and path not in interpreter_links(self.base.directory_name)
            leads = os.path.realpath(full)
            if (
                other
                and os.path.islink(full)
                and (not os.path.exists(leads) or leads in {*own, self.base.real})
            ):
                found.append(path)
        return found

    def _mend(self, script: _Script) -> None:
        temporary = f"{self.place}/{UNDO}/{_JOURNAL}.{fs.unique_name()}"
        try:
            fs.write_file(temporary, script.content, mode=script.mode)
            fs.rename(temporary, f"{self.place}/{script.path}")
        except BaseException:
            fs.remove_file(temporary)
            raise
        self.done.append(f"{script.path} is run by bin/python")

    def _say(self, linked: Linked, again: Collection[str]) -> None:
        first = [f"bin/python leads to {self.base.real}, Python {self.base.version}"]
        first += [f"{_CONFIGURATION} is written anew"]
        written = sorted(path for path in again if path.startswith("bin/activate") or path.endswith(".ps1"))
        first += [f"{path} is written anew, for this directory" for path in written]
        if not self.same and linked.record.wheels:
            first += [
                f"{wheel.name} {wheel.version} is linked into lib/{self.base.directory_name}"
                for wheel in linked.record.wheels
            ]
            first.append(f"lib/{self.look.library} stays as it is")
        self.done[:0] = first
        self.warnings.extend(
            f"{each.name} {each.version} was in lib/{self.base.directory_name} already and stays"
            for each in linked.by_hand
            if not self.same
        )
        others = [
            name for name in self.look.libraries if name not in {self.look.library, self.base.directory_name}
        ]
        self.warnings.extend(f"lib/{name} is for another Python, and stays as it is" for name in others)
        if self.look.kind == "user":
            ours = [name for name in ("python", "python3") if self._comes_first(name)]
            mean = "mean" if len(ours) > 1 else "means"
            if ours:
                self.warnings.append(
                    f"{self.place}/bin is on PATH: {' and '.join(ours)} {mean} this environment now"
                )

    def _comes_first(self, name: str) -> bool:
        """Whether a command on PATH is the environment's, and not the system's."""
        found = shutil.which(name)
        return found is not None and os.path.realpath(os.path.dirname(found)) == f"{self.place}/bin"


def _listing(place: str, store: str) -> Iterator[str]:
    """Yield the paths below a directory, but for bytecode, what is kept, and what is in the store.

    In the order of their names, at most ``_MOST_PATHS``: those of ``bin`` and ``lib`` first.
    """
    return itertools.islice(
        _walk(place, {UNDO, os.path.relpath(os.path.realpath(store), place)}), _MOST_PATHS
    )


def _walk(place: str, without: Collection[str]) -> Iterator[str]:
    for directory, names, files in os.walk(place):
        inside = os.path.relpath(directory, place)
        prefix = "" if inside == "." else f"{inside}/"
        names[:] = sorted(name for name in names if f"{prefix}{name}" not in without)
        yield from (f"{prefix}{name}" for name in (*names, *files))
        names[:] = [name for name in names if name != "__pycache__"]


def _keep(place: str, kept: Kept) -> None:
    """Give something a name in ``UNDO``: a further one, or that one only."""
    origin, saved = f"{place}/{kept.path}", f"{place}/{UNDO}/{kept.name}"
    if kept.how != "copy":
        fs.rename(origin, saved)
        return
    found = os.lstat(origin)
    if stat.S_ISLNK(found.st_mode):
        fs.hard_link(origin, saved)
        return
    fs.hard_link_or_copy(origin, saved)
    if os.lstat(saved).st_ino != found.st_ino:
        fs.set_times(saved, found.st_atime_ns, found.st_mtime_ns)


def _pins(site: str) -> tuple[dict[str, str], list[str]]:
    """Return the requirements that ask for what is installed, by name; and what cannot be asked for, in words."""
    from packaging.version import InvalidVersion, Version  # noqa: PLC0415 - for another X.Y only

    pins: dict[str, str] = {}
    left: list[str] = []
    for found in distributions(site):
        if os.path.lexists(f"{site}/{found.directory}/direct_url.json"):
            left.append(
                f"{found.name} {found.version} is left out: it came from a URL or a path, not an index"
            )
            continue
        try:
            version = Version(found.version)
        except InvalidVersion:
            version = None
        if version is None or not re.fullmatch(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?", found.name):
            left.append(f"{found.directory} is left out: it is not named as a distribution is")
            continue
        pins[found.name] = found.name if found.name in _SEED else f"{found.name}=={version}"
    left += [
        f"{name} is left out: it was not installed from a wheel"
        for name in _names(site)
        if name.endswith((".egg-info", ".egg-link", ".egg"))
    ]
    return pins, left


def _owned(place: str, site: str) -> Iterator[str]:
    """Yield what the distributions of a library directory have outside of it, as they have brought it."""
    for found in distributions(f"{place}/{site}"):
        try:
            record = fs.read_file(f"{place}/{site}/{found.directory}/RECORD").decode(
                "utf-8", "surrogateescape"
            )
            rows = [row for row in csv.reader(record.splitlines()) if len(row) > 1]
        except (OSError, csv.Error):
            continue
        for name, digest, *_ in rows:
            path = os.path.normpath(os.path.join(site, name))
            if os.path.isabs(name) or "\0" in name or path.partition("/")[0] in {"..", ".", "lib", UNDO}:
                continue
            if os.path.realpath(os.path.dirname(f"{place}/{path}")) != os.path.dirname(f"{place}/{path}"):
                continue
            if os.path.isdir(f"{place}/{path}") or path == externals.RECORD:
                continue
            if path.startswith("bin/") or _has_digest(f"{place}/{path}", digest):
                yield path


def _has_digest(path: str, digest: str) -> bool:
    """Whether a file has the bytes that a row of RECORD says."""
    import base64  # noqa: PLC0415 - for another X.Y only

    try:
        with fs.open_regular(path) as stream:
            found = hashlib.file_digest(stream, "sha256").digest()
    except OSError:
        return False
    return digest == f"sha256={base64.urlsafe_b64encode(found).rstrip(b'=').decode()}"


@dataclass(frozen=True, slots=True)
class _Resolution:
    """Resolves what was installed for another X.Y: the same versions, or the newest where those cannot be had."""

    store: Store
    lease: Lease
    base: Interpreter
    place: str
    options: LinkOptions
    notes: list[str] = field(default_factory=list)

    def run(self, pins: Mapping[str, str]) -> tuple[Requirements, Lock]:
        """Resolve.

        Raises:
            VrfstoreError: See ``requirements.resolve``; here, no versions at all go together, or no index answers.
        """
        from vrfstore.requirements import resolve  # noqa: PLC0415 - pip comes with it
        from vrfstore.requirements.request import Request  # noqa: PLC0415
        from vrfstore.runner import configuration  # noqa: PLC0415

        wanted = dict(pins)
        while True:
            asked = self._requirements(wanted)
            if not asked.items:
                return asked, Lock(wheels=(), python=self.base.short_version)
            try:
                log = resolve.log_path(self.store, externals.hold_key(self.place))
                request = Request(
                    requirements=asked,
                    interpreter=self.base,
                    isolated=self.options.isolated,
                    index_url=configuration.read(os.environ).index_url,
                )
                # pip's errors name the requirement to blame, by which ``_loosen`` goes.
                resolver = resolve.choose("pip", request)
                lock = resolve.resolve(self.store, self.lease, request, log=log, resolver=resolver)
            except ResolutionError as error:
                if not self._loosen(wanted, asked, error):
                    raise
            else:
                self._compare(pins, wanted, lock)
                return asked, lock

    def _requirements(self, wanted: Mapping[str, str]) -> Requirements:
        items = sorted((text, name) for name, text in wanted.items())
        return Requirements(
            path=self.place,
            items=tuple(
                Requirement(name=name, text=text, line=line) for line, (text, name) in enumerate(items, 1)
            ),
        )

    def _loosen(self, wanted: dict[str, str], asked: Requirements, error: ResolutionError) -> bool:
        """Ask for less of what cannot be had; returns whether there was anything to give up."""
        blamed = next((item.name for item in asked.items if item.line == error.line), None)
        if error.kind in _RELAXABLE and blamed is not None and error.package == blamed:
            if wanted[blamed] != blamed:
                wanted[blamed] = blamed
            else:
                del wanted[blamed]
                self.notes.append(f"{blamed} is left out: {error.message}")
            return True
        if error.kind != "conflict" and error.kind not in _RELAXABLE:
            return False
        # Versions that had to be others do not go with those that could stay.
        pinned = [name for name, text in wanted.items() if text != name]
        chosen = [name for name in pinned if name == blamed] or pinned
        wanted.update((name, name) for name in chosen)
        return bool(chosen)

    def _compare(self, pins: Mapping[str, str], wanted: Mapping[str, str], lock: Lock) -> None:
        """Note what is another version now."""
        versions = {wheel.name: wheel.version for wheel in lock.wheels}
        for name, text in pins.items():
            before = text.removeprefix(f"{name}==")
            if name in wanted and name in versions and before not in {name, versions[name]}:
                self.notes.append(
                    f"{name} {before} cannot be had for Python {self.base.short_version}; "
                    f"{versions[name]} is linked instead"
                )


@dataclass(frozen=True, slots=True)
class _Undo:
    """One directory that is given back."""

    place: str
    journal: Journal
    restored: list[str] = field(default_factory=list)
    stays: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def run(self) -> Undone:
        store = _store_of(self.journal)
        if store is None:
            self.warnings.append(
                f"the store at {self.journal.store} cannot be used; it may still name {self.place}"
            )
        with ExitStack() as stack:
            if store is not None:
                stack.enter_context(store.hold_environment(externals.hold_key(self.place)))
            return self._run(store)

    def _run(self, store: Store | None) -> Undone:
        # What was not adopted to the end needs no such note, for which a full disk may have no room.
        if self.journal.state == "adopted":
            _write_journal(self.place, replace(self.journal, state="undoing"))
        record = self._record()
        made = {} if record is None else dict(record.made)
        for path, what in self.journal.made.items():
            mine = made.get(path)
            made[path] = Made(what) if mine is None else replace(mine, before=(*mine.before, what))
        external.sweep(self.place)
        theirs = self._by_hand(record)
        removed = self._remove({path: mine for path, mine in made.items() if path not in theirs})
        for kept in reversed(self.journal.kept):
            self._restore(kept, made)
        if store is not None:
            self._forget(store, record)
        fs.remove_file(f"{self.place}/{externals.RECORD}")
        self.stays.extend(adoption.topmost(self._added()))
        directory = f"{self.place}/{UNDO}"
        for name in _names(directory):
            if name != _JOURNAL and not os.path.isdir(f"{directory}/{name}"):
                fs.remove_file(f"{directory}/{name}")
        fs.remove_file(f"{directory}/{_JOURNAL}")
        fs.remove_directory(directory)
        return Undone(
            place=self.place,
            restored=tuple(sorted(self.restored)),
            removed=tuple(adoption.topmost(removed)),
            stays=tuple(sorted(set(self.stays))),
            warnings=tuple(self.warnings),
        )

    def _by_hand(self, record: ExternalRecord | None) -> set[str]:
        """Return what belongs to distributions that somebody has installed by hand."""
        libraries = filter(adoption.library_of, _names(f"{self.place}/lib"))
        return {
            path
            for library in libraries
            for path in installed_files(self.place, by_hand(self.place, record, library), library)
        }

    def _added(self) -> Iterator[str]:
        """Yield what is there and was not before."""
        there = self.journal.there
        for path in _listing(self.place, self.journal.store):
            # Where not everything was written down, little can be said of what lies beside packages.
            told = len(there) < _MOST_PATHS or path.partition("/")[0] in _FRAME
            if told and path not in there and not _is_bytecode(path):
                yield path

    def _record(self) -> ExternalRecord | None:
        with suppress(StoreDamagedError):
            return externals.read(self.place)
        return None

    def _remove(self, made: Mapping[str, Made]) -> list[str]:
        """Take away what was put where nothing was; returns what."""
        kept = {each.path for each in self.journal.kept}
        ours = {
            path: mine for path, mine in made.items() if path not in self.journal.there and path not in kept
        }
        found = external.found_at(self.place, ours, made)
        gone = [path for path, mine in ours.items() if found[path] in (mine.what, *mine.before)]
        gone = [path for path in gone if path.rpartition("/")[2] != externals.RECORD]
        external.apply(self.place, Changes(remove=tuple(sorted(gone, reverse=True))), {}, made, found)
        return [path for path in gone if not os.path.lexists(f"{self.place}/{path}")]

    def _restore(self, kept: Kept, made: Mapping[str, Made]) -> None:
        """Put one thing back, unless there is something now that is neither it nor of ours."""
        path, saved = f"{self.place}/{kept.path}", f"{self.place}/{UNDO}/{kept.name}"
        if not os.path.lexists(saved):
            return
        if self._is_untouched(path, saved, kept):
            fs.remove_file(saved)
            return
        now = external.found_at(self.place, [kept.path], made)[kept.path]
        if now is None and kept.path in self.journal.scripts:
            self.warnings.append(f"{kept.path} was removed since, and stays away")
            fs.remove_file(saved)
            return
        mine = made.get(kept.path)
        ours = {None, self.journal.scripts.get(kept.path)}
        ours.update(() if mine is None else (mine.what, *mine.before))
        if now not in ours or not self._make_parents(kept.path):
            self._put_beside(kept, saved)
            return
        if now is not None and os.path.isdir(saved) and not os.path.islink(saved):
            fs.remove_file(path)
        fs.rename(saved, path)
        self.restored.append(kept.path)

    def _is_untouched(self, path: str, saved: str, kept: Kept) -> bool:
        """Whether what is kept is still in its place, under its other name or as what a copy was made of."""
        if kept.how != "copy" or not os.path.lexists(path):
            return False
        now, then = os.lstat(path), os.lstat(saved)
        if (now.st_dev, now.st_ino) == (then.st_dev, then.st_ino):
            return True
        same = external.found_at(os.path.dirname(path), [os.path.basename(path)], {})
        copy = external.found_at(os.path.dirname(saved), [os.path.basename(saved)], {})
        return [*same.values()] == [*copy.values()] and now.st_mtime_ns == then.st_mtime_ns

    def _make_parents(self, path: str) -> bool:
        """Have the directory of a path there; returns False where something else is in its place."""
        parent = path.rpartition("/")[0]
        if not parent:
            return True
        full = f"{self.place}/{parent}"
        if not self._make_parents(parent):
            return False
        if not os.path.lexists(full):
            fs.make_directory(full)
        return os.path.isdir(full) and not os.path.islink(full)

    def _put_beside(self, kept: Kept, saved: str) -> None:
        """Keep what was changed since; what it was before gets a name of its own if there is no other copy of it."""
        self.stays.append(kept.path)
        if kept.path in self.journal.scripts:
            fs.remove_file(saved)
            return
        beside = f"{kept.path.replace('/', '-')}.before-adopting"
        if os.path.lexists(f"{self.place}/{beside}"):
            beside = f"{beside}.{fs.unique_name()}"
        self.warnings.append(f"{kept.path} was changed since, and stays; what it was before is {beside}")
        fs.rename(saved, f"{self.place}/{beside}")

    def _forget(self, store: Store, record: ExternalRecord | None) -> None:
        """Let no store know of it any more: those it is registered with, and this one by its path."""
        for found in externals.registrations(store.layout):
            if isinstance(found, externals.Registration) and found.path == self.place:
                externals.forget(store.layout, found.token)
        if record is None:
            return
        with suppress(StoreError, StoreDamagedError, OSError):
            named = store if record.store == store.root else Store.open(record.store, to_look=True)
            known = externals.read_registration(named.layout, record.token)
            # A copy of the environment has the same token, and is not this one.
            if known is not None and (
                known.path == self.place or externals.token_at(known.path) != record.token
            ):
                externals.forget(named.layout, record.token)


def _is_bytecode(path: str) -> bool:
    return "__pycache__" in path.split("/")
