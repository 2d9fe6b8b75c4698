"""``link``: the parts put together, from a requirements file to an environment that stands.

::

    file ──input digest──▶ memo ──▶ environment                          a hit: see runner.hit
      └─parse─▶ request digest ──▶ memo ──▶ lock                         known: no resolver
                     └──────────resolve──────┘ └─fetch what is missing─▶ entries ─link─▶ environment ─▶ memos
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal

from vrfstore import codec, fs
from vrfstore import interpreter as probing
from vrfstore.errors import StoreDamagedError, UsageError
from vrfstore.linker.compatibility import check_compatible
from vrfstore.linker.composing import composed
from vrfstore.linker.into import Asked, Linked, check_directory, link_into
from vrfstore.linker.link import environment_key
from vrfstore.linker.link import link as link_environment
from vrfstore.linker.plan import Merge, settled
from vrfstore.model import (
    Digest,
    EntryPlan,
    EntryReference,
    EnvironmentKey,
    Event,
    Interpreter,
    LinkOptions,
    Lock,
    Requirements,
    Watcher,
    nobody,
)
from vrfstore.requirements import fetch, pip, resolve, targets
from vrfstore.requirements import lock as locks
from vrfstore.requirements import parse as parsing
from vrfstore.runner import hit
from vrfstore.store import interpreters, leases, memos
from vrfstore.store.bytecode import is_compiled
from vrfstore.store.layout import FORMAT
from vrfstore.store.leases import Lease
from vrfstore.store.records import EnvironmentRecord
from vrfstore.store.store import Store

__all__ = ["CompileMode", "LinkResult", "LinkedPackage", "link", "link_again"]

CompileMode = Literal["eager", "background", "off"]

_DEBIAN = "/lib/python3/dist-packages"
"""Where Debian puts packages of its own, and of all its Pythons."""


@dataclass(frozen=True, slots=True)
class LinkedPackage:
    """One distribution of an environment. ``reused`` says that its entry was there before."""

    name: str
    version: str
    digest: Digest
    reused: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class LinkResult:
    """What ``link`` found or made.

    Attributes:
        status: ``hit`` (nothing had to be done), ``linked`` (all wheels were in the store) or ``built``.
        python: The absolute path of the environment's python.
        environment: The absolute path of the environment.
        lock: The absolute path of its ``pylock.toml``.
        packages: What is in it, sorted by name; not what the base has.
        downloaded: Bytes that were fetched.
        warnings: What the caller should know.
        timings: Seconds by step: ``probe``, ``resolve``, ``fetch``, ``link``, ``total``.
        lease: What keeps the environment, if that was asked for; the caller's to release.
        by_hand: (name, version) of what the user has installed into an environment of his own.
    """

    status: str
    python: str
    environment: str
    lock: str
    packages: tuple[LinkedPackage, ...]
    downloaded: int
    warnings: tuple[str, ...]
    timings: Mapping[str, float]
    lease: Lease | None = None
    by_hand: tuple[tuple[str, str], ...] = ()


def link(  # noqa: PLR0913 - all but the first by keyword
    requirements: str | os.PathLike[str],
    *,
    python: str | None = None,
    store: str | os.PathLike[str] | Store | None = None,
    options: LinkOptions = LinkOptions(),  # noqa: B008 - frozen
    into: str | os.PathLike[str] | None = None,
    force: bool = False,
    target: str | os.PathLike[str] | None = None,
    refresh: bool = False,
    lease: bool = False,
    compile_mode: CompileMode | None = None,
    watch: Watcher | None = None,
) -> LinkResult:
    """Make the environment of a requirements file exist, and say where it is.

    Args:
        requirements: The file.
        python: The base interpreter: a path, or a version or command on PATH; by default the Python that
            vrfstore itself stands on.
        store: The store, or its directory; by default ``$VRFSTORE_HOME``, else the user's data directory.
        options: How the environment is linked.
        into: A directory of the caller's to make the environment in, or to bring up to date, instead of one in the
            store that is shared. What was installed there by hand stays.
        force: Replace what is in the way there, even if the directory is somebody else's.
        target: A file that describes an interpreter that is not here (docs/targets.md), instead of ``python``;
            nothing of it is started, and no bytecode is compiled. Isolated, unless the file lists packages.
        refresh: Resolve again, even if it is known what the file resolved to.
        lease: Keep the environment from gc until the result's ``lease`` is released, or this process and all
            that inherit its descriptor have ended.
        compile_mode: When bytecode is compiled that is not there yet: ``eager``, before this returns;
            ``background``, by a process that outlives this one; or ``off``. By default what
            ``$VRFSTORE_COMPILE`` says, else ``background``.
        watch: Is told what long steps do; called from several threads.

    Raises:
        UsageError: ``$VRFSTORE_COMPILE`` is none of these; or both ``python`` and ``target`` are given.
        RequirementsError: The file cannot be read or parsed, or asks for what it may not.
        InterpreterError: The base is missing or unsuitable, or the file does not describe one.
        StoreError: The store cannot be used.
        ResolutionError, PackageIndexError: No set of wheels, or no answer.
        WheelError, CollisionError: A wheel is not acceptable, or two do not go together.
        OSError: The disk is full, or worse.
    """
    if target is not None and python is not None:
        raise UsageError("an environment is for one interpreter: python or target", kind="options-conflict")
    opened = store if isinstance(store, Store) else Store.open(store)
    path = os.fspath(requirements)
    data = parsing.read(path)
    described = None if target is None else targets.read(os.fspath(target))
    if described is not None:
        python, compile_mode = os.path.abspath(os.fspath(target or "")), "off"
        options = options if described.base else replace(options, isolated=True)
    executable = probing.find(python) if described is None else described.executable
    digest = hit.input_digest(data, executable, os.environ, options.identity)
    clock = _Clock()
    compile_mode = compile_mode or _compile_mode(os.environ)
    place = None if into is None else check_directory(opened, os.fspath(into), force=force)
    if not refresh and compile_mode != "eager" and place is None and described is None:
        found, kept = _look_up(opened, digest, lease=lease)
        if found is not None:
            try:
                return _hit_result(opened, found, clock, kept)
            except (StoreDamagedError, FileNotFoundError):
                # Its record is not what it was; the whole way links the next generation.
                if kept is not None:
                    kept.release()
    asked = parsing.parse(data, path)
    whole = _Link(
        store=opened,
        asked=asked,
        python=python or "",
        executable=executable,
        options=options,
        place=place,
        force=force,
        input_digest=digest,
        clock=clock,
        compile_mode=compile_mode,
        watch=watch or nobody,
        target=described,
    )
    return whole.run(refresh=refresh, lease=lease)


def link_again(
    store: Store,
    asked: Requirements,
    place: str,
    *,
    python: str,
    executable: str,
    options: LinkOptions,
    watch: Watcher,
) -> LinkResult:
    """Link an external environment for another interpreter, from what it was asked to have.

    Args:
        store: Its store.
        asked: Its requirements.
        place: The environment, absolute.
        python: The interpreter in the words of whoever asked.
        executable: What that means now.
        options: As its record has them; what is to be materialized may not be in it any more.
        watch: See ``link``.

    Raises:
        VrfstoreError, OSError: See ``link``.
    """
    whole = _Link(
        store=store,
        asked=asked,
        python=python,
        executable=executable,
        options=options,
        place=place,
        force=False,
        input_digest="",
        clock=_Clock(),
        compile_mode=_compile_mode(os.environ),
        watch=watch,
        lenient=True,
    )
    return whole.run(refresh=False, lease=False)


def _compile_mode(variables: Mapping[str, str]) -> CompileMode:
    match variables.get("VRFSTORE_COMPILE"):
        case "eager":
            return "eager"
        case "off":
            return "off"
        case None | "" | "background":
            return "background"
        case other:
            raise UsageError(f"VRFSTORE_COMPILE is {other!r}; it may be eager, background or off")


def _look_up(store: Store, digest: str, *, lease: bool) -> tuple[hit.Hit | None, Lease | None]:
    found = hit.look_up(store.layout, digest)
    if found is None or not lease:
        return found, None
    # Only now it is known what to lease; after that, everything is looked at again.
    kept = leases.take(store.layout, environment=found.directory.partition(".")[0])
    found = hit.look_up(store.layout, digest)
    if found is None:
        kept.release()
        return None, None
    return found, kept


def _hit_result(store: Store, found: hit.Hit, clock: _Clock, kept: Lease | None) -> LinkResult:
    record = store.record(found.directory)
    packages = (
        LinkedPackage(wheel.name, wheel.version, wheel.digest, reused=True) for wheel in record.wheels
    )
    return LinkResult(
        status="hit",
        python=found.python,
        environment=store.layout.of("environments", found.directory),
        lock=locks.lock_path(store.layout, found.lock),
        packages=tuple(packages),
        downloaded=0,
        warnings=(),
        timings=clock.finish(),
        lease=kept,
    )


@dataclass(slots=True)
class _Clock:
    """Measures steps, in seconds."""

    seconds: dict[str, float] = field(default_factory=dict)
    began: float = field(default_factory=time.perf_counter)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = time.perf_counter() - began

    def finish(self) -> dict[str, float]:
        return {**self.seconds, "total": time.perf_counter() - self.began}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Made:
    """An environment that stands.

    Attributes:
        place: Its absolute path.
        wheels: What it links to, sorted by name.
        lock: The digest of its lock.
        new: Whether anything had to be done.
        record: Of a managed one.
        by_hand: See ``LinkResult``.
        warnings: What the caller should know.
    """

    place: str
    wheels: tuple[EntryReference, ...]
    lock: str
    new: bool
    record: EnvironmentRecord | None = None
    by_hand: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Link:
    """The whole way, for one call."""

    store: Store
    asked: Requirements
    python: str
    executable: str
    options: LinkOptions
    place: str | None
    force: bool
    input_digest: str
    clock: _Clock
    compile_mode: CompileMode
    watch: Watcher
    lenient: bool = False
    target: targets.Target | None = None

    def run(self, *, refresh: bool, lease: bool) -> LinkResult:
        layout = self.store.layout
        with self.store.session() as session:
            with self.clock.step("probe"):
                # No memo for a target: what its file says decides, and not when that was written.
                base, stats = (
                    (self.target, None)
                    if self.target is not None
                    else interpreters.known(layout, session, self.executable)
                )
            if stats is not None:
                # Before any of it is read.
                stats |= {path: fs.stat_token(path) for path in pip.configuration_files(base)}
            lock, lock_digest, warnings = self._lock(session, base, refresh=refresh)
            digests = [wheel.digest for wheel in lock.wheels]
            names = [wheel.name for wheel in lock.wheels]
            options = settled(self._present(names) if self.lenient else self.options, names)
            key = environment_key(digests, base, options)
            with leases.take(layout, environment=key, digests=digests, lock=lock_digest) as working:
                locks.write(layout, working, lock)
                plans, fetched = self._entries(working, lock, base)
                check_compatible(plans, base)
                made = self._make(working, plans, base, options, key, lock_digest)
                # Warnings have to be said every time.
                if made.record is not None and not warnings:
                    self._remember(working, made.record, stats)
                kept = leases.take(layout, environment=key) if lease else None
        return self._result(made, fetched, warnings, kept)

    def _present(self, names: Collection[str]) -> LinkOptions:
        """Return the options without the names of what is not there."""
        wanted = tuple(name for name in self.options.materialize if name in names)
        return replace(self.options, materialize=wanted)

    def _make(
        self,
        working: Lease,
        plans: Sequence[EntryPlan],
        base: Interpreter,
        options: LinkOptions,
        key: EnvironmentKey,
        lock: str,
    ) -> _Made:
        """Link, with bytecode compiled when that is wanted."""
        with composed(self.store, plans, options) as merged:
            directories = merged.directories(plans)
            missing = self.compile_mode != "off" and not all(
                is_compiled(self.store.layout, directory, base) for directory in directories
            )
            if missing and self.compile_mode == "eager":
                from vrfstore.store.compiling import compile_entries  # noqa: PLC0415 - once per wheel

                with self.clock.step("compile"):
                    compile_entries(self.store, base, directories, lease=working, watch=self.watch)
            self.watch(Event(kind="linking", total=len(plans)))
            with self.clock.step("link"):
                made = (
                    self._managed(working, plans, base, merged, key, lock)
                    if self.place is None
                    else self._external(working, plans, base, merged.options, self.place, lock)
                )
        if missing and self.compile_mode == "background":
            from vrfstore.store.compiling import start_worker  # noqa: PLC0415 - once per wheel

            start_worker(self.store, base, directories, lease=working)
        return made

    def _managed(
        self,
        working: Lease,
        plans: Sequence[EntryPlan],
        base: Interpreter,
        merged: Merge,
        key: EnvironmentKey,
        lock: str,
    ) -> _Made:
        record, new = link_environment(
            self.store, working, plans, base, key=key, lock=lock, merged=merged, asked=self.python
        )
        return _Made(
            place=self.store.layout.of("environments", record.directory),
            wheels=record.wheels,
            lock=record.lock,
            new=new,
            record=record,
        )

    def _external(
        self,
        working: Lease,
        plans: Sequence[EntryPlan],
        base: Interpreter,
        options: LinkOptions,
        place: str,
        lock: str,
    ) -> _Made:
        asked = Asked(
            requirements=self.asked.canonical,
            path=os.path.abspath(self.asked.path),
            python=self.python,
            lock=lock,
            options=options,
        )
        linked = link_into(self.store, working, plans, base, place, asked, force=self.force)
        return _Made(
            place=place,
            wheels=linked.record.wheels,
            lock=lock,
            new=not linked.changes.nothing,
            by_hand=tuple((found.name, found.version) for found in linked.by_hand),
            warnings=(
                *linked.warnings,
                *_left(linked, plans),
                *(() if linked.changes.nothing else _pip_that_follows_links(base, options, plans)),
            ),
        )

    def _lock(self, session: Lease, base: Interpreter, *, refresh: bool) -> tuple[Lock, str, tuple[str, ...]]:
        """Return the lock of the request, its digest, and warnings."""
        if not self.asked.items:
            lock = Lock(wheels=(), python=base.short_version)
            warning = f"{self.asked.path} names no packages; the environment has only what {base.real} has"
            return lock, locks.lock_digest(locks.dumps(lock)), (warning,)
        digest = self._request_digest(base)
        known = None if refresh else self._known_lock(digest)
        if known is not None:
            return *known, ()
        waiting = Event(kind="waiting", subject="another vrfstore that resolves the same request")
        with self.store.hold_request(digest, on_wait=lambda: self.watch(waiting)):
            known = None if refresh else self._known_lock(digest)
            if known is not None:
                return *known, ()
            self.watch(Event(kind="resolving", subject=self.asked.path))
            with self.clock.step("resolve"):
                log = resolve.log_path(self.store, digest)
                lock = resolve.resolve(
                    self.store, session, self.asked, base, log, isolated=self.options.isolated
                )
            lock_digest = locks.lock_digest(locks.dumps(lock))
            with leases.take(self.store.layout, lock=lock_digest) as keeping:
                locks.write(self.store.layout, keeping, lock)
                memo = memos.RequestMemo(lock=lock_digest, resolved_at=int(time.time()))
                memos.write_request(self.store.layout, keeping, digest, memo)
        self.watch(Event(kind="resolved", total=len(lock.wheels)))
        return lock, lock_digest, ()

    def _request_digest(self, base: Interpreter) -> str:
        """Name the request: what is asked, for whom, and where it may come from. Not how it is written."""
        return codec.digest_of(
            {
                "base": [] if self.options.isolated else [list(found) for found in base.base],
                "isolated": self.options.isolated,
                "format": FORMAT,
                # What is here keeps its C library; a description may come to name another.
                "interpreter": base.identity | ({"libc": base.libc} if self.target is not None else {}),
                "requirements": self.asked.canonical,
                "configuration": {path: _content(path) for path in pip.configuration_files(base)},
                "variables": {name: value for name, value in os.environ.items() if name.startswith("PIP_")},
            }
        )

    def _known_lock(self, digest: str) -> tuple[Lock, str] | None:
        memo = memos.read_request(self.store.layout, digest)
        lock = None if memo is None else locks.read(self.store.layout, memo.lock)
        return None if lock is None or memo is None else (lock, memo.lock)

    def _entries(
        self, working: Lease, lock: Lock, base: Interpreter
    ) -> tuple[list[EntryPlan], list[fetch.Fetched]]:
        """Return the plans of all wheels of a lock, and what had to be fetched."""
        present, missing = fetch.present(self.store, lock.wheels)
        if not missing:
            return present, []
        with self.clock.step("fetch"):
            fetched = fetch.fetch(self.store, working, missing, pip.settings(self.store, base), self.watch)
        return [*present, *(item.plan for item in fetched)], fetched

    def _remember(self, working: Lease, record: EnvironmentRecord, stats: dict[str, str] | None) -> None:
        """Write the input memo, unless what decided has changed meanwhile: then the next call finds out anew."""
        layout = self.store.layout
        if stats is None or any(fs.stat_token(path) != token for path, token in stats.items()):
            return
        root = layout.of("environments", record.directory)
        memos.write_input(
            layout,
            working,
            self.input_digest,
            environment=record.directory,
            lock=record.lock,
            # The store's own marker too, relative to the environment: a hit must not miss a change of format.
            own={path: fs.stat_token(f"{root}/{path}") for path in (*record.own, "../../store.json")},
            stats=stats,
        )

    def _result(
        self,
        made: _Made,
        fetched: Sequence[fetch.Fetched],
        warnings: tuple[str, ...],
        kept: Lease | None,
    ) -> LinkResult:
        new = frozenset(item.plan.reference.digest for item in fetched if item.size)
        # Said once, when they are unpacked: unlike those of the request they say nothing of the environment.
        odd = (
            f"{item.plan.reference.name} {item.plan.reference.version}: {warning}"
            for item in fetched
            for warning in item.warnings
        )
        return LinkResult(
            status="built" if new else "linked" if made.new else "hit",
            python=f"{made.place}/bin/python",
            environment=made.place,
            lock=locks.lock_path(self.store.layout, made.lock),
            packages=tuple(_package(wheel, new) for wheel in made.wheels),
            downloaded=sum(item.size for item in fetched),
            warnings=(*warnings, *odd, *made.warnings),
            timings=self.clock.finish(),
            lease=kept,
            by_hand=made.by_hand,
        )


def _left(linked: Linked, plans: Sequence[EntryPlan]) -> Iterator[str]:
    """Yield what was not linked because of what the user has put there."""
    there = {found.name: found.version for found in linked.by_hand}
    for plan in plans:
        wheel = plan.reference
        if wheel.name in there:
            yield f"{wheel.name} {there[wheel.name]} was installed by hand and stays; {wheel.version} is not linked"
    for path in linked.changes.kept:
        yield f"{path} was changed by hand and stays as it is"


def _pip_that_follows_links(
    base: Interpreter, options: LinkOptions, plans: Sequence[EntryPlan]
) -> Iterator[str]:
    """Yield a warning where ``python -m pip`` in an environment of one's own would be the pip that Debian patches.

    It asks where a link leads before it removes it, and takes what lies elsewhere for somebody else's.
    """
    names = {plan.reference.name for plan in plans}
    if options.isolated or "pip" in names or names <= set(options.materialize):
        return
    places = (place for place in base.site_directories if os.path.isdir(f"{place}/pip"))
    if next(places, "").endswith(_DEBIAN):
        yield (
            f"the pip of {base.real} is Debian's, which leaves links behind when it uninstalls or upgrades: use uv, "
            "install a pip there first, or link with --materialize all"
        )


def _package(wheel: EntryReference, new: frozenset[Digest]) -> LinkedPackage:
    return LinkedPackage(wheel.name, wheel.version, wheel.digest, reused=wheel.digest not in new)


def _content(path: str) -> str | None:
    """Return a digest of a configuration file, which may hold credentials; None where there is none."""
    try:
        return codec.hexdigest(fs.read_file(path))
    except OSError:
        return None
