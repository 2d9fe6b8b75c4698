"""Looking at an environment: its record, what is there now, and its interpreter. Changes nothing in it.

At most one interpreter is started, and only where nothing is known of it yet.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping

from vrfstore import fs
from vrfstore import interpreter as probing
from vrfstore.errors import InterpreterError, StoreDamagedError, UsageError, VrfstoreError
from vrfstore.linker import drift, external, into
from vrfstore.linker.check import leads_nowhere
from vrfstore.linker.distributions import distributions
from vrfstore.linker.drift import Drift, Recorded, Registered, Seen
from vrfstore.linker.plan import EnvironmentPlan, merge, plan_environment
from vrfstore.linker.realise import new_record
from vrfstore.model import EntryPlan, EntryReference, Interpreter
from vrfstore.needs import Described, described, unmet
from vrfstore.requirements.targets import Target
from vrfstore.store import externals, interpreters, records
from vrfstore.store.externals import ExternalRecord
from vrfstore.store.records import EnvironmentRecord
from vrfstore.store.shared import is_lost
from vrfstore.store.store import Store
from vrfstore.target import marker_environment
from vrfstore.values import dataclass, replace

__all__ = [
    "Found",
    "Inspection",
    "current_interpreter",
    "find",
    "inspect",
    "managed_record",
    "may_write",
    "store_of",
]

_LARGEST_METADATA = 1 << 24
_STALE = re.compile(r"python(\d+)\.(\d+)t?")
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Found:
    """An environment that somebody means.

    Attributes:
        store: The store that it links to.
        place: Where it is, absolute and without links.
        record: What it was linked as.
        managed: Its directory name in the store; empty for one of the user's own.
    """

    store: Store
    place: str
    record: ExternalRecord | EnvironmentRecord
    managed: str = ""


@dataclass(frozen=True, slots=True)
class Inspection:
    """An environment, and what was seen there.

    Attributes:
        found: Which one.
        recorded: What it was linked as.
        seen: What is there.
        drifts: What is not the same, in the order in which it matters.
        sources: Of a managed environment, for its links and copies: the file that each comes from.
        plan: Of a managed environment: what it consists of; None where an entry is gone.
    """

    found: Found
    recorded: Recorded
    seen: Seen
    drifts: tuple[Drift, ...]
    sources: Mapping[str, str]
    plan: EnvironmentPlan | None = None

    @property
    def drifted(self) -> bool:
        """Whether anything needs mending."""
        return any(each.drifted for each in self.drifts)


def store_of(place: str, given: str | None) -> str | None:
    """Return the store that an external environment names, if that is there, else the one that was given."""
    with contextlib.suppress(StoreDamagedError):
        record = externals.read(place)
        if record is not None and os.path.lexists(f"{record.store}/store.json"):
            return record.store
    return given


def find(target: str, given: str | None, *, to_look: bool) -> Found:
    """Return the environment that a user means.

    Args:
        target: The directory of one of his own; or a managed one by path, name or its beginning.
        given: The store that was given, if it was.
        to_look: Nothing will be changed.

    Raises:
        UsageError: It is none.
        StoreDamagedError: Its record cannot be read.
        StoreError: Its store cannot be used.
    """
    place = os.path.realpath(target)
    managed = _managed_at(place)
    if managed is not None:
        store = Store.open(managed, to_look=to_look)
        name = os.path.basename(place)
        return Found(store, place, managed_record(store, name), name)
    if os.path.isdir(place):
        record = externals.read(place)
        if record is not None:
            return Found(Store.open(store_of(place, given), to_look=to_look), place, record)
        raise UsageError(
            "there is no environment of vrfstore",
            kind="environment-foreign",
            path=place,
            hint="take it over with: vrfstore env heal --adopt PATH",
        )
    if "/" in target:
        raise UsageError("there is no such directory", kind="environment-missing", path=place)
    store = Store.open(given, to_look=to_look)
    part, name = store.find(target)
    if part != "environments":
        raise UsageError(f"{target!r} is an entry and no environment", kind="target-unknown")
    return Found(store, store.layout.of("environments", name), managed_record(store, name), name)


def _managed_at(place: str) -> str | None:
    """Return the store that has a managed environment at a path."""
    parent, _, _ = place.rpartition("/")
    root, _, part = parent.rpartition("/")
    return root if part == "environments" and os.path.lexists(f"{root}/store.json") else None


def managed_record(store: Store, name: str) -> EnvironmentRecord:
    """Return the record of a managed environment, by its directory name.

    Raises:
        UsageError: There is none.
        StoreDamagedError: It cannot be read.
    """
    try:
        record = store.record(name)
        _remembered(record)
    except (KeyError, TypeError, ValueError) as error:
        path = store.layout.record(name)
        raise StoreDamagedError("the record cannot be read", kind="record-unreadable", path=path) from error
    except FileNotFoundError as error:
        raise UsageError(
            f"there is no environment {name!r} in the store", kind="target-unknown", hint="see: vrfstore list"
        ) from error
    return record


def may_write(store: Store) -> bool:
    """Whether a store may be written by this user and is his own."""
    owner = os.stat(store.layout.marker).st_uid
    return os.access(store.layout.of("leases"), os.W_OK) and os.geteuid() == owner


def current_interpreter(store: Store, record: ExternalRecord | EnvironmentRecord) -> Interpreter:
    """Return what the interpreter of an environment is now. That of a target is as it was described.

    The path that was found for what was asked for comes first; where that is not there any more, what was asked for
    is looked up again; at last comes the real path. As long as that one is there, nothing follows what was asked for
    to another X.Y.

    Raises:
        InterpreterError: There is none.
    """
    if record.interpreter.get("target"):
        return _remembered(record)
    executable = _leads_to(record)
    if may_write(store):
        with store.session() as lease:
            found, _ = interpreters.known(store.layout, lease, executable)
    else:
        found = probing.probe(executable)
    real = str(record.interpreter.get("real"))
    if found.directory_name != record.library and os.access(real, os.X_OK) and found.real != real:
        return _remembered(record)
    return found


def _leads_to(record: ExternalRecord | EnvironmentRecord) -> str:
    if os.access(record.executable, os.X_OK):
        return record.executable
    # A relative path meant another directory than the one where we are.
    if "/" not in record.asked or os.path.isabs(record.asked):
        with contextlib.suppress(InterpreterError):
            return probing.find(record.asked)
    real = str(record.interpreter.get("real"))
    if os.access(real, os.X_OK) and not record.interpreter.get("virtual"):
        return real
    raise InterpreterError(f"there is nothing at {record.executable}", kind="interpreter-missing")


def _unstarted(record: ExternalRecord | EnvironmentRecord) -> Interpreter:
    real = str(record.interpreter.get("real"))
    if not os.access(real, os.X_OK):
        raise InterpreterError(f"there is nothing at {real}", kind="interpreter-missing")
    return _remembered(record)


def _remembered(record: ExternalRecord | EnvironmentRecord) -> Interpreter:
    """Return the interpreter of an environment as far as its record knows it."""
    kind = Target if record.interpreter.get("target") else Interpreter
    return kind.of_identity(record.interpreter, record.executable)


def inspect(found: Found, *, requirements: bool = False, wary: bool = False) -> Inspection:
    """Look at an environment.

    Args:
        found: From ``find``.
        requirements: Also at what its distributions require, as ``pip check`` does.
        wary: Do not start what a record names of which the store knows nothing: anybody may have written it.
    """
    record = found.record
    registered = _registered(found, record) if isinstance(record, ExternalRecord) else None
    now, trouble = None, ""
    try:
        # The record says which store it is, and so does not vouch for itself where that store is somebody else's.
        vouched = may_write(found.store) and (registered is None or bool(registered.path))
        now = _unstarted(record) if wary and not vouched else current_interpreter(found.store, record)
    except InterpreterError as error:
        trouble = error.message
    same = now is not None and now.directory_name == record.library
    plan, sources = _planned(found, now if same and now is not None else _remembered(record))
    if isinstance(record, ExternalRecord):
        recorded, there = _external(found, record, sources)
        by_hand = into.by_hand(found.place, record, record.library)
        behind = into.behind_links(found.place, record, record.library)
        elsewhere = record.place != found.place
    else:
        recorded, there = _managed(found, record, plan, sources)
        by_hand, behind, elsewhere = (), (), False
    if plan is not None:
        planned = dict(plan.files).get("pyvenv.cfg", b"")
        recorded = replace(recorded, configuration=external.configuration(planned))
    configuration = _configuration(found.place)
    site = f"{found.place}/{recorded.site_packages}"
    installed = distributions(site)
    if isinstance(record, EnvironmentRecord):
        linked = {(wheel.name, wheel.version) for wheel in record.wheels}
        by_hand = tuple(each for each in installed if (each.name, each.version) not in linked)
    unmet: tuple[str, ...] = ()
    # What a target has is in its file only.
    known = record.options.isolated or not record.interpreter.get("target")
    if requirements and now is not None and same and known:
        unmet = _unmet(site, [each.directory for each in installed], now, isolated=record.options.isolated)
    seen = Seen(
        place=found.place,
        found=there,
        nowhere={
            path
            for path, what in recorded.expected.items()
            # Those beside another link, as python3, are right where that one is.
            if what[0] == "l"
            and "/" in what
            and there.get(path) == what
            and not (record.interpreter.get("target") and path in drift.interpreter_links(record.library))
            and leads_nowhere(f"{found.place}/{path}")
        },
        gone={
            reference.directory
            for reference in (*recorded.wheels, *recorded.composites)
            if _is_gone(found.store, reference.directory)
        },
        interpreter=now,
        trouble=trouble,
        home=configuration.get("home", ""),
        configuration=configuration,
        stale=tuple(_stale(found.place, recorded)),
        distributions=installed,
        by_hand=by_hand,
        behind=behind,
        registered=registered,
        elsewhere=elsewhere,
        unmet=unmet,
    )
    return Inspection(found, recorded, seen, drift.compare(recorded, seen), sources, plan)


def _is_gone(store: Store, directory: str) -> bool:
    """Whether an entry is not there, or what it borrows from a shared store is not."""
    if not os.path.isdir(store.layout.of("entries", directory)):
        return True
    try:
        return is_lost(store.plan(directory, even_marked=True))
    except FileNotFoundError:
        return True
    except StoreDamagedError:
        return False  # which is said where entries are looked at


def _planned(found: Found, base: Interpreter) -> tuple[EnvironmentPlan | None, dict[str, str]]:
    """Return what an environment consists of, and for each path that comes from the store, from where."""
    store, record = found.store, found.record
    hashes = functools.cache(store.manifest_hashes)

    def hashes_of(entry: EntryPlan) -> Mapping[str, str]:
        return hashes(entry.reference.directory)

    try:
        plans = [store.plan(wheel.directory, even_marked=True) for wheel in record.wheels]
        plan = plan_environment(
            plans,
            base,
            merge(plans, record.options),
            place=found.place,
            interpreter_links=interpreters.ready_links_name(base),
            hashes_of=hashes_of,
        )
    except (OSError, VrfstoreError, KeyError, TypeError, ValueError, AttributeError):
        return None, {}  # an entry is gone, or damaged; that is said where entries are looked at
    sources = {path: source for source, path in (*plan.links, *plan.copies)}
    return plan, sources | {record.path: record.source for record in plan.records}


def _owners(wheels: Iterable[EntryReference], sources: Mapping[str, str]) -> dict[str, str]:
    names = {wheel.directory: wheel.name for wheel in wheels}
    found = {}
    for path, source in sources.items():
        part, _, rest = source.partition("/")
        name = names.get(rest.partition("/")[0]) if part == "entries" else None
        if name is not None:
            found[path] = name
    return found


def _external(
    found: Found, record: ExternalRecord, sources: Mapping[str, str]
) -> tuple[Recorded, dict[str, str | None]]:
    expected = {path: made.what for path, made in record.made.items()}
    owners = _owners(record.wheels, sources)
    site = record.site_packages
    names = {
        f"{wheel.name.replace('-', '_')}-{wheel.version}.dist-info": wheel.name for wheel in record.wheels
    }
    entries = {f"{record.store}/entries/{wheel.directory}": wheel.name for wheel in record.wheels}
    for path, what in expected.items():
        if path in owners or what == "d":
            continue
        # A directory that was left real for what the user has put into it has links that no plan knows.
        target = what[2:].split("/site-packages/")[0] if what[0] == "l" else ""
        dist_info = path[len(site) + 1 :].partition("/")[0] if path.startswith(f"{site}/") else ""
        name = entries.get(target) or names.get(dist_info) or _owner_above(path, owners)
        if name is not None:
            owners[path] = name
    recorded = Recorded(
        expected=expected,
        wheels=record.wheels,
        composites=record.composites,
        interpreter=record.interpreter,
        library=record.library,
        owners=owners,
        finished=record.finished,
    )
    return recorded, external.found_at(found.place, expected, record.made)


def _owner_above(path: str, owners: Mapping[str, str]) -> str | None:
    while path := path.rpartition("/")[0]:
        if path in owners:
            return owners[path]
    return None


def _registered(found: Found, record: ExternalRecord) -> Registered:
    if record.store != found.store.root:
        return Registered("")
    try:
        known = externals.read_registration(found.store.layout, record.token)
    except StoreDamagedError:
        known = None
    if known is None:
        return Registered("")
    if known.path != found.place:
        return Registered(known.path, copied=externals.token_at(known.path) == record.token)
    named = {reference.directory for reference in known.references}
    wanted = {reference.directory for reference in (*record.wheels, *record.composites)}
    return Registered(known.path, complete=wanted <= named)


def _managed(
    found: Found, record: EnvironmentRecord, plan: EnvironmentPlan | None, sources: Mapping[str, str]
) -> tuple[Recorded, dict[str, str | None]]:
    """Return what a managed environment was linked as, from its plan: its record does not list that."""
    expected: dict[str, str] = {}
    contents: dict[str, bytes] = {}
    real = str(record.interpreter["real"])
    if plan is not None:
        expected |= dict.fromkeys(plan.directories, "d")
        contents |= dict(plan.files)
        for path, source in sources.items():
            what = _what_of(f"{found.store.root}/{source}", source, real)
            if what is not None:
                expected[path] = what
        for each in plan.records:
            with contextlib.suppress(OSError):
                contents[each.path] = new_record(each, found.store.root, plan.headers)
        expected |= {
            path: f"f:644:{hashlib.sha256(content).hexdigest()}" for path, content in contents.items()
        }
    recorded = Recorded(
        expected=expected,
        wheels=record.wheels,
        composites=record.composites,
        interpreter=record.interpreter,
        library=record.library,
        owners=_owners(record.wheels, sources),
    )
    there = external.found_at(found.place, (path for path, what in expected.items() if what == "d"), {})
    for path in sorted(expected.keys() - there.keys()):
        hidden = there.get(path.rpartition("/")[0], "d") != "d"
        there[path] = None if hidden else _what_at(found, record, path, expected[path], sources.get(path))
    return recorded, there


def _what_of(origin: str, source: str, real: str) -> str | None:
    """Return what a path is to be that comes from the store; None where nothing can tell."""
    if source.startswith("interpreters/"):
        name = source.rpartition("/")[2]
        if name == "sentinel":
            return f"f:={origin}"
        return f"l:{real}" if name == "python" else "l:lib" if name == "lib64" else "l:python"
    try:
        if os.path.islink(origin):
            return f"l:{os.readlink(origin)}"
        return f"f:={origin}" if os.path.isfile(origin) else None
    except OSError:
        return None


def _what_at(found: Found, record: EnvironmentRecord, path: str, what: str, source: str | None) -> str | None:
    """Return what is at a path of a managed environment: what is expected, if it is as it was or the same."""
    place = f"{found.place}/{path}"
    with contextlib.suppress(OSError):
        if path in record.own and records.own_token(place) == record.own[path]:
            return what
        if source is not None and what.startswith("f:=") and _same(place, f"{found.store.root}/{source}"):
            return what
    return external.found_at(found.place, [path], {})[path]


def _same(path: str, source: str) -> bool:
    if os.path.samefile(path, source):
        return True
    if not stat.S_ISREG(os.lstat(path).st_mode) or os.path.getsize(path) != os.path.getsize(source):
        return False
    with fs.open_regular(path) as one, fs.open_regular(source) as other:
        return all(data == other.read(_CHUNK) for data in iter(lambda: one.read(_CHUNK), b""))


def _configuration(place: str) -> dict[str, str]:
    """Return what ``pyvenv.cfg`` says; nothing where it cannot be read."""
    with contextlib.suppress(OSError):
        return external.configuration(fs.read_file(f"{place}/pyvenv.cfg", 1 << 20))
    return {}


def _stale(place: str, recorded: Recorded) -> Iterator[str]:
    """Yield the names of links in ``bin`` that look like interpreters of another X.Y and are none."""
    try:
        names = sorted(os.listdir(f"{place}/bin"))
    except OSError:
        return
    own = os.path.realpath(f"{place}/bin/python")
    for name in names:
        path = f"{place}/bin/{name}"
        other = _STALE.fullmatch(name) and name != recorded.library and f"bin/{name}" not in recorded.expected
        if other and os.path.islink(path) and (leads_nowhere(path) or os.path.realpath(path) == own):
            yield name


def _unmet(site: str, directories: Iterable[str], base: Interpreter, *, isolated: bool) -> tuple[str, ...]:
    seen = () if isolated else base.site_directories
    below = (
        _described(f"{directory}/{found.directory}", found.name, found.version)
        for directory in seen
        for found in distributions(directory)
    )
    own = (_described(f"{site}/{name}", *_named(name)) for name in directories)
    return unmet(
        [found for found in own if found is not None],
        [found for found in below if found is not None],
        {} if isolated else dict(base.base),
        marker_environment(base),
    )


def _named(directory: str) -> tuple[str, str]:
    name, _, version = directory.removesuffix(".dist-info").rpartition("-")
    return re.sub(r"[-_.]+", "-", name).lower(), version


def _described(dist_info: str, name: str, version: str) -> Described | None:
    """Return what METADATA says; None where it cannot be read. Its headers end at the first empty line."""
    try:
        head = fs.read_file(f"{dist_info}/METADATA", _LARGEST_METADATA)
    except OSError:
        return None
    return described(head, name, version)
