"""``link``: from files that ask for something to an environment that stands, by a memo or the whole way.

::

    files ──input digest──▶ memo ──▶ environment        a hit: see runner.hit
      ├─digest─▶ recipe ──▶ environment ─▶ memo         see runner.recipe
      └─read─▶ requirements ──▶ environment ─▶ memos    see runner.linking

What only the last of these needs is loaded when it begins.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from vrfstore import fs
from vrfstore import interpreter as probing
from vrfstore.errors import StoreDamagedError, UsageError
from vrfstore.model import (
    LinkOptions,
    Requirements,
    Watcher,
    nobody,
)
from vrfstore.requirements.budget import Budget
from vrfstore.requirements.policy import Policy
from vrfstore.runner import configuration, gate, given, hit, recipe, sharing
from vrfstore.runner.clock import Clock
from vrfstore.runner.given import Given
from vrfstore.runner.keeping import Keeping
from vrfstore.runner.making import CompileMode, Making
from vrfstore.runner.result import LinkedPackage, LinkResult
from vrfstore.store.leases import Lease
from vrfstore.store.records import EnvironmentRecord
from vrfstore.store.store import Store
from vrfstore.values import dataclass, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vrfstore.requirements.targets import Target

__all__ = ["CompileMode", "LinkResult", "LinkedPackage", "link", "link_again"]


def link(  # noqa: PLR0913 - all but the first by keyword
    requirements: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    python: str | None = None,
    store: str | os.PathLike[str] | Store | None = None,
    shared_store: str | os.PathLike[str] | None = None,
    options: LinkOptions = LinkOptions(),  # noqa: B008 - frozen
    policy: Policy = Policy(),  # noqa: B008 - frozen
    trusted: bool | None = None,
    extras: Sequence[str] = (),
    groups: Sequence[str] = (),
    script: bool = False,
    into: str | os.PathLike[str] | None = None,
    force: bool = False,
    target: str | os.PathLike[str] | None = None,
    lease: bool = False,
    lease_pid: int | None = None,
    lease_ttl: float | None = None,
    root: str | None = None,
    compile_mode: CompileMode | None = None,
    watch: Watcher | None = None,
) -> LinkResult:
    """Make the environment of what some files ask for exist, and say where it is.

    Args:
        requirements: A file, or several that count together (docs/requirements.md).
        python: The base interpreter: a path, or a version or command on PATH; by default the Python that
            vrfstore itself stands on.
        store: The store, or its directory; by default ``$VRFSTORE_HOME``, else the user's data directory.
        shared_store: The directory of another store, which is only read: wheels that it has are linked from there
            (docs/sharing.md). By default ``$VRFSTORE_SHARED_STORE``, else what ``vrfstore.toml`` says; an empty path
            for none.
        options: How the environment is linked.
        policy: Where packages may come from, when they are looked for again, and how much that may take. What it does
            not say, ``vrfstore.toml`` does.
        trusted: Whether the files may say where code comes from; by default what their names say.
        extras: The extras that are wanted of projects and locks.
        groups: The dependency groups that are wanted of them.
        script: The file is a script: what it says itself counts, or else a ``requirements.vrf`` beside it.
        into: A directory of the caller's to make the environment in, or to bring up to date, instead of one in the
            store that is shared. What was installed there by hand stays.
        force: Replace what is in the way there, even if the directory is somebody else's.
        target: A file that describes an interpreter that is not here (docs/targets.md), instead of ``python``;
            nothing of it is started, and no bytecode is compiled. Isolated, unless the file lists packages.
        lease: Keep the environment from gc until the result's ``lease`` is released, or this process and all
            that inherit its descriptor have ended.
        lease_pid: Keep it from gc until the process of this number has ended.
        lease_ttl: Keep it from gc for so many seconds, whatever has ended by then. With ``lease_pid``, how long that
            counts for those who cannot see the process, in another pid namespace; by default a week.
        root: Keep it from gc as the newest environment of a project of this name, of which gc keeps the newest ones.
        compile_mode: When bytecode is compiled that is not there yet: ``eager``, before this returns;
            ``background``, by a process that outlives this one; or ``off``. By default what
            ``$VRFSTORE_COMPILE`` says, else ``background``.
        watch: Is told what long steps do; called from several threads.

    Raises:
        UsageError: ``$VRFSTORE_COMPILE`` is none of these; both ``python`` and ``target`` are given; ``vrfstore.toml``
            cannot be read; what is to keep the environment makes no sense (``Keeping.of``); the store is to be shared
            with itself.
        RequirementsError: A file cannot be read or parsed, or asks for what it may not.
        InterpreterError: The base is missing or unsuitable, or the file does not describe one.
        StoreError: The store cannot be used.
        ResolutionError, PackageIndexError: No set of wheels, or no answer.
        NotPermittedError: It is not there, and getting it is not permitted.
        CapError: It would take more than is allowed.
        WheelError, CollisionError: A wheel is not acceptable, or two do not go together.
        OSError: The disk is full, or worse.
    """
    if target is not None and python is not None:
        raise UsageError("an environment is for one interpreter: python or target", kind="options-conflict")
    opened = store if isinstance(store, Store) else Store.open(store)
    keeping = Keeping.of(
        opened, lease=lease, pid=lease_pid, seconds=lease_ttl, root=root, into=into is not None
    )
    stats: dict[str, str] = {}
    for path in configuration.places(os.environ):
        _note(stats, path)
    configured = configuration.read(os.environ)
    policy = configuration.applied(policy, configured)
    shared = sharing.asked(shared_store, os.environ, configured.shared_store, opened.layout)
    paths = [requirements] if isinstance(requirements, (str, os.PathLike)) else requirements
    asked = given.take(
        [os.fspath(path) for path in paths],
        trusted=trusted,
        extras=extras,
        groups=groups,
        service=configured.lock_name,
        script=script,
    )
    with gate.Audit(opened.layout, asked.identity, closed=policy.closed) as audit:
        gate.check(policy, asked.paths[0])
        described = None
        if target is not None:
            from vrfstore.requirements import targets  # noqa: PLC0415 - most interpreters are here

            described = targets.read(os.fspath(target))
            python, compile_mode = os.path.abspath(os.fspath(target or "")), "off"
            options = options if described.base else replace(options, isolated=True)
        executable = probing.find(python) if described is None else described.executable
        # What decides on the wheels; the rest of the options only says how they are linked.
        deciding = (
            LinkOptions(isolated=options.isolated).identity
            | policy.identity
            | gate.identity(configured=configured.install)
            | sharing.identity(shared)
        )
        digests = asked.digests(executable, os.environ, options.identity | deciding)
        making = Making(
            store=opened,
            python=python or "",
            executable=executable,
            options=options,
            input_digest=digests[1],
            recipe_digest="",
            compile_mode=compile_mode or _compile_mode(os.environ),
            clock=Clock(),
            watch=watch or nobody,
            elsewhere=described is not None,
        )
        place = None
        if into is not None:
            from vrfstore.linker.into import check_directory  # noqa: PLC0415 - 20 ms that most links do not pay

            place = check_directory(opened, os.fspath(into), force=force)
        call = _Call(
            making=making,
            asked=asked,
            policy=policy,
            keeping=keeping,
            digests=digests,
            deciding=deciding,
            stats=stats,
            place=place,
            force=force,
            target=described,
            shared=shared,
        )
        return audit.served(call.answer())


@dataclass(frozen=True, kw_only=True, slots=True)
class _Call:
    """One call, when all is known that it asks for; what is not said here, ``Making`` and ``Linking`` say.

    Attributes:
        making: What makes the environment in the end.
        asked: The files.
        policy: Where packages come from, and when they are looked for again.
        keeping: What keeps the environment from gc after that.
        digests: What the memo of the input may be called (``Given.digests``).
        deciding: What decides on the wheels, and so names recipes.
        stats: Of files that have a say; more come as they are read.
        place: The directory of the caller's where it goes.
        force: Replace what is in the way there.
        target: The interpreter, if it is not here.
        shared: The shared store.
    """

    making: Making
    asked: Given
    policy: Policy
    keeping: Keeping
    digests: tuple[str | None, str]
    deciding: Mapping[str, object]
    stats: dict[str, str]
    place: str | None
    force: bool
    target: Target | None
    shared: str | None

    def answer(self) -> LinkResult:
        """Take the shortest way that leads there."""
        straight = self.policy.again or self.place is not None or self.target is not None
        if not straight and self.making.compile_mode != "eager":
            found = self._hit()
            if found is not None:
                return found
        budget = Budget(self.policy.caps)
        recipes = self.asked.digests(self.making.executable, os.environ, {**recipe.IDENTITY, **self.deciding})
        if not straight and not self.shared:
            named = [(memo, name) for memo, name in zip(self.digests, recipes, strict=True) if memo and name]
            found = recipe.relink(self.making, named, budget, self.keeping)
            if found is not None:
                return found
        return self._whole(budget, recipes)

    def _hit(self) -> LinkResult | None:
        store = self.making.store
        found, kept = _look_up(store, self.digests, self.keeping)
        if found is None:
            return None
        try:
            return _hit_result(store, found, self.making.clock, kept)
        except (StoreDamagedError, FileNotFoundError):
            # Its record is not what it was; linking makes the next generation.
            if kept is not None:
                kept.release()
            return None

    def _whole(self, budget: Budget, recipes: tuple[str | None, str]) -> LinkResult:
        read = self.asked.read(lambda path: _note(self.stats, path))
        names = self.digests[1], recipes[1]
        if self.digests[0] is not None and recipes[0] is not None and given.leads_nowhere(read):
            names = self.digests[0], recipes[0]
        memo, name = names
        if self.shared or (self.policy.again and self.policy.stale_ok):
            # What a shared store lends may have changed until then. And what is used because resolving has failed is
            # not what the input comes to.
            name = ""
        making = replace(self.making, input_digest=memo, recipe_digest=name)
        from vrfstore.runner.linking import Linking  # noqa: PLC0415 - 60 ms that shorter ways do not pay

        whole = Linking(
            making=making,
            asked=read,
            policy=self.policy,
            place=self.place,
            force=self.force,
            stats=self.stats,
            budget=budget,
            target=self.target,
            shared=self.shared,
        )
        return whole.run(self.keeping)


def _note(stats: dict[str, str], path: str) -> None:
    """Keep what tells whether a file that has a say is still the same; before it is read."""
    stats[path] = fs.stat_token(path)


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
    policy = configuration.applied(Policy(), configuration.read(os.environ))
    from vrfstore.runner.linking import Linking  # noqa: PLC0415 - as above

    making = Making(
        store=store,
        python=python,
        executable=executable,
        options=options,
        input_digest="",
        recipe_digest="",
        compile_mode=_compile_mode(os.environ),
        clock=Clock(),
        watch=watch,
    )
    whole = Linking(
        making=making,
        asked=asked,
        policy=policy,
        place=place,
        force=False,
        stats={},
        budget=Budget(policy.caps),
        lenient=True,
    )
    return whole.run(Keeping())


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


def _look_up(
    store: Store, digests: Sequence[str | None], keeping: Keeping
) -> tuple[hit.Hit | None, Lease | None]:
    for digest in digests:
        found = None if digest is None else hit.look_up(store.layout, digest)
        if digest is None or found is None:
            continue
        if keeping.nothing:
            return found, None
        # Only now it is known what to keep; after that, everything is looked at again.
        kept = keeping.keep(store, found.directory)
        again = hit.look_up(store.layout, digest)
        if again is not None and again.directory == found.directory:
            return again, kept
        if kept is not None:
            kept.release()
    return None, None


def _hit_result(store: Store, found: hit.Hit, clock: Clock, kept: Lease | None) -> LinkResult:
    record = store.record(found.directory)
    packages = (
        LinkedPackage(
            wheel.name, wheel.version, wheel.digest, reused=True, shared=wheel.directory in record.shared
        )
        for wheel in record.wheels
    )
    return LinkResult(
        status="hit",
        python=found.python,
        environment=store.layout.of("environments", found.directory),
        lock=store.layout.lock(found.lock),
        packages=tuple(packages),
        downloaded=0,
        shared=found.size,
        resolved_at=found.resolved_at or None,
        user_site=record.options.user_site,
        compiled=_is_compiled(store, record),
        warnings=(),
        timings=clock.finish(),
        lease=kept,
    )


def _is_compiled(store: Store, record: EnvironmentRecord) -> bool:
    """Whether all bytecode of an environment is there, where that is of interest: only root could write any."""
    if os.geteuid() != 0:
        return True
    from vrfstore.store.bytecode import record_paths  # noqa: PLC0415 - root only
    from vrfstore.store.composites import module_directories  # noqa: PLC0415

    tag = str(record.interpreter["cache_tag"])
    try:
        return all(
            record_paths(store.layout, directory, tag) for directory in module_directories(store, record)
        )
    except FileNotFoundError:
        return False
