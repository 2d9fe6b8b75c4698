"""Deciding what an environment consists of. Pure: from the plans of its entries to a plan of effects.

The result does not depend on the order of the wheels. Sources are relative to the store, all other paths to the
environment.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

from vrfstore.errors import CollisionError, UsageError
from vrfstore.linker.activation import activation_scripts
from vrfstore.linker.coupling import couple
from vrfstore.model import EntryPlan, EntryReference, Interpreter, LinkOptions, Node, Tree
from vrfstore.store.bytecode import pyc_path
from vrfstore.store.entry_plan import (
    HEADERS,
    INSTALLED,
    composite_reference,
    directory_tree,
    installed_path,
)
from vrfstore.store.layout import SITE_PACKAGES
from vrfstore.values import dataclass, field, replace

__all__ = [
    "ALL",
    "Composite",
    "EnvironmentPlan",
    "Merge",
    "NewRecord",
    "merge",
    "plan_environment",
    "settled",
]

ALL = "*"
"""In place of the names to materialize: whatever there is."""

ENVIRONMENT_RECORD = "vrfstore.json"

SENTINEL = ".vrfstore"
"""An empty file, in no RECORD, in every real directory with a directory link anywhere below: with it there, pip never
takes such a directory as a whole, and with it the links of others, which it does not see."""

BASE_PTH = "_vrfstore_base.pth"
"""Adds the packages of a base that is itself a venv."""

USER_SITE_PTH = "_vrfstore_user_site.pth"
"""Keeps the user's own packages out, which ``include-system-site-packages`` would let in."""

NAMESPACES_PTH = "_vrfstore_namespaces.pth"
"""Adds portions of namespaces that ``*-nspkg.pth`` files of the base make before anybody looks for them."""

_OWN_PTH = (BASE_PTH, USER_SITE_PTH, NAMESPACES_PTH)

_NO_LIB64 = (3, 15)
"""From this version on venv makes no link ``lib64``."""

_LATE_PTH = (3, 15)
"""From this version on, all directories are added before any ``.pth`` file runs (PEP 829)."""

_READY_RECORD = "links/RECORD"
_COLLISIONS_SHOWN = 5


@dataclass(frozen=True, slots=True)
class NewRecord:
    """A RECORD to write for this environment, because it differs from the ready-made one.

    Attributes:
        source: The ready-made one, below the store.
        path: Where it goes.
        skip: How many of its first rows name directory links.
        folded: The directory links of this environment instead, as RECORD has them.
    """

    source: str
    path: str
    skip: int
    folded: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Composite:
    """Entries that have to be in one tree.

    Attributes:
        reference: What names it.
        members: The entries, sorted by name; their places are in the names of the composite's ready-made links.
    """

    reference: EntryReference
    members: tuple[EntryPlan, ...]


@dataclass(frozen=True, slots=True)
class Merge:
    """How an environment is linked, and what follows from that for its entries.

    Attributes:
        options: As ``settled`` returns them.
        composites: What has to be there before the environment is linked.
        unfolded: Names of distributions all of whose directories are real in the environment.
    """

    options: LinkOptions
    composites: tuple[Composite, ...] = ()
    unfolded: frozenset[str] = frozenset()

    def directories(self, plans: Iterable[EntryPlan]) -> list[str]:
        """Return the directory names of what modules come from: composites, and entries that are in none."""
        merged = {member.reference.directory for composite in self.composites for member in composite.members}
        own = [plan.reference.directory for plan in plans if plan.reference.directory not in merged]
        return [*(composite.reference.directory for composite in self.composites), *own]


def settled(options: LinkOptions, names: Collection[str]) -> LinkOptions:
    """Return options with the names that are meant, so that equal environments have equal keys.

    Args:
        options: As they were asked for.
        names: The normalised names of all distributions of the environment.

    Raises:
        UsageError: A distribution is to be materialized that is not there, or options contradict each other.
    """
    if options.isolated and options.user_site:
        raise UsageError("an isolated environment does not see the user's site", kind="options-conflict")
    wanted = set(names if ALL in options.materialize else options.materialize)
    if missing := sorted(wanted.difference(names)):
        raise UsageError(
            f"{', '.join(missing)} cannot be materialized: not in the environment",
            kind="materialize-unknown",
            hint="only what is linked can be; what the base has is not",
        )
    return replace(options, materialize=tuple(sorted(wanted)))


def merge(plans: Sequence[EntryPlan], options: LinkOptions) -> Merge:
    """Decide which entries become composites, because their shared libraries find each other by relative paths."""
    coupling = couple(plans, apart=frozenset(options.materialize))
    composites = tuple(Composite(composite_reference(group), group) for group in coupling.groups)
    return Merge(options, composites, coupling.unfolded)


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvironmentPlan:
    """What to do to make an environment; directories come first, the rest in any order.

    Attributes:
        directories: Directories to make, parents first.
        links: (source, path): a further hard link to an inode of the store.
        own_links: How many of these, the first ones, are of the interpreter and not of a wheel.
        copies: (source, path): a copy of a file of the store.
        files: (path, content): a fresh file.
        records: RECORDs that differ from the ready-made ones.
        bytecode: (source, path): a further hard link to a pyc of the store, if that is there; a module that does
            not compile has none.
        watched: The directories and files that tell whether somebody changed the environment by hand.
        library: The name of the library directory, such as ``python3.11``.
    """

    directories: tuple[str, ...]
    links: tuple[tuple[str, str], ...]
    own_links: int
    copies: tuple[tuple[str, str], ...]
    files: tuple[tuple[str, bytes], ...]
    records: tuple[NewRecord, ...]
    bytecode: tuple[tuple[str, str], ...]
    watched: tuple[str, ...]
    library: str

    @property
    def headers(self) -> str:
        """The name of the directory of headers, which is the same for free-threaded builds."""
        return self.library.removesuffix("t")


Hashes = Callable[[EntryPlan], Mapping[str, str]]
"""Gives the SHA-256 of each file of an entry by its path there, from the manifest."""


def plan_environment(
    plans: Sequence[EntryPlan],
    interpreter: Interpreter,
    merged: Merge,
    *,
    place: str,
    interpreter_links: str,
    hashes_of: Hashes,
    compiled: frozenset[str] = frozenset(),
    real: Collection[str] = (),
) -> EnvironmentPlan:
    """Plan the environment of some entries on an interpreter.

    Args:
        plans: What ``plan.json`` of each entry says, in any order.
        interpreter: The base.
        merged: What ``merge`` says of the same plans.
        place: The absolute path that the environment is going to have.
        interpreter_links: The directory of ready-made links to the interpreter, below the store.
        hashes_of: Asked only where two wheels meet in a directory that is usually whole, or in one file.
        compiled: The directory names of entries and composites that have bytecode for the interpreter.
        real: Directories that are to be real whatever is in them.

    Raises:
        CollisionError: Two wheels have different files at one place.
    """
    ordered = sorted(plans, key=lambda plan: plan.reference.name)
    options = merged.options
    site = f"lib/{interpreter.directory_name}/{SITE_PACKAGES}"
    fresh = dict(_fresh_files(interpreter, options, site))
    scripts = {f"bin/{name}": text for name, text in activation_scripts(place, options.prompt).items()}
    farm = _Farm(
        interpreter.directory_name,
        hashes_of,
        homes=_homes(merged.composites),
        apart=merged.unfolded.union(options.materialize),
        copied=frozenset(options.materialize),
        last_wins=options.allow_collisions,
        optional=frozenset(scripts),
    )
    farm.grow(ordered, real)
    if farm.collisions:
        raise _collision_error(farm.collisions, allowed=farm.last_wins)
    fresh |= {path: text for path, text in scripts.items() if path not in farm.taken}
    if not options.isolated:
        fresh |= _namespaces(farm, interpreter, site)
    bytecode = tuple(_bytecode(farm.links, compiled, interpreter.cache_tag))
    # That of site-packages is there in any case.
    caches = sorted(_caches(farm.links, site) - {f"{site}/__pycache__"})
    records, ready_records = _records(ordered, farm, site)
    names = dict.fromkeys(("python", "python3", f"python{interpreter.short_version}", farm.library))
    own_links = [(name, f"bin/{name}") for name in names]
    if _has_lib64(interpreter):
        own_links.append(("lib64", "lib64"))
    sentinels = [("sentinel", f"{directory}/{SENTINEL}") for directory in sorted(farm.guarded())]
    return EnvironmentPlan(
        directories=(*farm.directories, *caches),
        links=(
            *((f"{interpreter_links}/{source}", path) for source, path in own_links + sentinels),
            *farm.links,
            *ready_records,
        ),
        own_links=len(own_links),
        copies=tuple(farm.copies),
        files=tuple(fresh.items()),
        records=tuple(records),
        bytecode=bytecode,
        watched=(
            # What tools and people write into. Importing changes none of them, because __pycache__ is there in all
            # that have modules. What is copied is there to be written beside; of dist-info, installing changes more.
            *(
                path
                for path in farm.directories
                if path not in farm.private and "/__pycache__" not in path and ".dist-info" not in path
            ),
            # Every fresh file: a power cut may leave it empty.
            *fresh,
            *(path for _, path in farm.copies if path.startswith("etc/")),
            *(new.path for new in records),
        ),
        library=farm.library,
    )


def _homes(composites: Iterable[Composite]) -> dict[str, tuple[str, str]]:
    """Return, for each member by directory name, the composite's directory and where its own links are there."""
    return {
        member.reference.directory: (composite.reference.directory, f"links/{number}")
        for composite in composites
        for number, member in enumerate(composite.members)
    }


@dataclass(frozen=True, slots=True)
class _Provider:
    """One entry's part in a path; ``entry`` is None for what every environment has of itself.

    ``source`` is the path in the entry. ``listed`` says that the entry's plan keeps this directory folded, and
    the node was made from its manifest.
    """

    entry: EntryPlan | None
    node: Node
    source: str
    listed: bool = False

    def child(self, name: str, node: Node) -> _Provider:
        return _Provider(self.entry, node, f"{self.source}/{name}", self.listed)

    @property
    def file(self) -> str:
        """Where the entry has the file that this node is."""
        return self.node if isinstance(self.node, str) and self.node else self.source

    @property
    def owner(self) -> str:
        if self.entry is None:
            return "the environment itself"
        return f"{self.entry.reference.name} {self.entry.reference.version}"


@dataclass(slots=True)
class _Farm:
    """Merges the trees of all entries into one, and notes what each place becomes."""

    library: str
    hashes_of: Hashes
    homes: Mapping[str, tuple[str, str]]
    """For the members of composites, by directory name: that of the composite, and where their links are there."""
    apart: Collection[str]
    """The names of distributions without directory links."""
    copied: Collection[str]
    """Those of them that are copied."""
    last_wins: bool
    optional: Collection[str]
    """Files of the environment's own that give way to those of a wheel."""
    directories: list[str] = field(default_factory=list)
    links: list[tuple[str, str]] = field(default_factory=list)
    copies: list[tuple[str, str]] = field(default_factory=list)
    folded: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """By name of the distribution: its directory links, as RECORD has them."""
    unfolded: set[str] = field(default_factory=set)
    """The distributions that are not folded in the usual way."""
    private: set[str] = field(default_factory=set)
    """Directories with nothing but copies."""
    parents_of_links: set[str] = field(default_factory=set)
    """The directories that have a directory link in them."""
    taken: set[str] = field(default_factory=set)
    """Those of ``optional`` that a wheel brings."""
    collisions: dict[tuple[str, str], list[str]] = field(default_factory=lambda: defaultdict(list))
    _mounts: dict[str, list[_Provider]] = field(default_factory=lambda: defaultdict(list))

    def grow(self, plans: Sequence[EntryPlan], real: Collection[str]) -> None:
        """Merge all plans, what every environment has of itself, and directories that have to be real."""
        headers = self.library.removesuffix("t")
        reserved: Tree = {
            "bin": {"python": "", "python3": "", headers: "", self.library: ""},
            "include": {},
            # __pycache__ is made beforehand, so that importing a top-level module changes no directory.
            "lib": {self.library: {SITE_PACKAGES: {"__pycache__": {}, **dict.fromkeys(_OWN_PTH, "")}}},
            "lib64": "",
            "pyvenv.cfg": "",
            ENVIRONMENT_RECORD: "",
        }
        if any(HEADERS in plan.trees for plan in plans):
            reserved["include"] = {"site": {headers: {}}}
        self._mounts[""].append(_Provider(None, reserved, ""))
        for plan in plans:
            for scheme, tree in plan.trees.items():
                place = INSTALLED[scheme].replace("pythonX.Y", headers if scheme == HEADERS else self.library)
                self._mounts[place].append(_Provider(plan, tree, scheme))
        for path in real:
            parent, _, name = path.rpartition("/")
            self._mounts[parent].append(_Provider(None, {name: {}}, parent))
        self._fill("", [])

    def _fill(self, path: str, providers: Sequence[_Provider], *, whole: bool = False) -> None:
        """Decide what is inside a real directory to which all ``providers`` contribute.

        ``whole`` says that it belongs to a package that one of them keeps whole: then nothing in it is folded,
        because libraries and tools take a package for one tree.
        """
        names: dict[str, list[_Provider]] = defaultdict(list)
        for provider in (*providers, *self._mounts.get(path, ())):
            inside = provider.node if isinstance(provider.node, dict) else {}
            for name, node in inside.items():
                if name:
                    names[name].append(provider.child(name, node))
        if SENTINEL in names and path not in self.unguarded:
            names[SENTINEL].append(_Provider(None, "", SENTINEL))
        for name, group in sorted(names.items()):
            place = f"{path}/{name}" if path else name
            if place in self.optional:
                self.taken.add(place)
            files = sum(isinstance(provider.node, str) for provider in group)
            if not files:
                self._directory(place, group, whole=whole)
            elif files == len(group):
                self._file(place, group)
            else:
                one = next(provider for provider in group if isinstance(provider.node, str))
                other = next(provider for provider in group if not isinstance(provider.node, str))
                self._collide(place, one, other)

    def _directory(self, path: str, group: Sequence[_Provider], *, whole: bool) -> None:
        if len(group) == 1 and not whole:
            provider = group[0]
            if self._folds(path, provider):
                return
            entry, node = provider.entry, provider.node
            dist_info = entry is not None and provider.source == f"{SITE_PACKAGES}/{entry.dist_info}"
            if dist_info and entry is not None and isinstance(node, dict):
                self._dist_info(path, f"entries/{entry.reference.directory}", provider.source, node)
                return
        self.directories.append(path)
        if all(self._name(provider) in self.copied for provider in group):
            self.private.add(path)
        whole = whole or any(
            isinstance(provider.node, int) and provider.source.startswith(f"{SITE_PACKAGES}/")
            for provider in group
        )
        self._fill(path, [self._unfolded(provider) for provider in group], whole=whole)

    def _dist_info(self, path: str, entry: str, source: str, tree: Tree) -> None:
        """Make a dist-info that one wheel brings real all the way down; a third of all files are in one of these."""
        self.directories.append(path)
        for name, node in sorted(tree.items()):
            if isinstance(node, dict):
                self._dist_info(f"{path}/{name}", entry, f"{source}/{name}", node)
            elif node != _READY_RECORD:
                self.links.append((f"{entry}/{node or f'{source}/{name}'}", f"{path}/{name}"))

    def _folds(self, path: str, provider: _Provider) -> bool:
        """Link a directory as a whole, where it may be; returns whether it was."""
        node, entry = provider.node, provider.entry
        number = node.get("") if isinstance(node, dict) else node
        if entry is None or not isinstance(number, int) or entry.reference.name in self.apart:
            return False
        directory, links = self._home(entry, provider.source)
        self.links.append((f"entries/{directory}/{links}/{number}", path))
        self.parents_of_links.add(path.rpartition("/")[0])
        recorded = installed_path(provider.source).replace("pythonX.Y", self.library.removesuffix("t"))
        self.folded[entry.reference.name].append(recorded)
        return True

    def _name(self, provider: _Provider) -> str:
        return "" if provider.entry is None else provider.entry.reference.name

    def _home(self, entry: EntryPlan, source: str) -> tuple[str, str]:
        """Return the directory below entries/ that has a part of an entry, and that of its links there."""
        own = entry.reference.directory
        merged = self.homes.get(own)
        place = f"{SITE_PACKAGES}/"
        if merged is None or not source.startswith(place) or source.startswith(f"{place}{entry.dist_info}/"):
            return own, "links"
        return merged

    @property
    def unguarded(self) -> frozenset[str]:
        """The directories that every venv has."""
        return frozenset(("", "lib", f"lib/{self.library}", f"lib/{self.library}/{SITE_PACKAGES}"))

    def guarded(self) -> set[str]:
        """Return the real directories that have a directory link anywhere below, but for those of every venv."""
        found = set(self.unguarded)
        for path in self.parents_of_links:
            parent = path
            while parent not in found:
                found.add(parent)
                parent = parent.rpartition("/")[0]
        return found - self.unguarded

    def _unfolded(self, provider: _Provider) -> _Provider:
        node, entry = provider.node, provider.entry
        if entry is None or (isinstance(node, dict) and "" not in node):
            return provider
        self.unfolded.add(entry.reference.name)
        if isinstance(node, dict):
            return provider
        # Only now it matters what is in there: a package that is shared after all.
        listing = directory_tree(self.hashes_of(entry), provider.source)
        return _Provider(entry, listing, provider.source, listed=True)

    def _file(self, path: str, group: Sequence[_Provider]) -> None:
        first = group[0]
        if len(group) > 1 and not self._interchangeable(path, group):
            if not self.last_wins or first.entry is None:
                for other in group[1:]:
                    self._collide(path, first, other)
                return
            first = max(group, key=lambda provider: provider.owner)
        if first.entry is None or first.node == _READY_RECORD:
            return
        source = f"entries/{self._home(first.entry, first.file)[0]}/{first.file}"
        # Configuration is edited in place, by people and by tools; a copy keeps that out of the store.
        copied = path.startswith("etc/") or self._is_copied(first)
        (self.copies if copied else self.links).append((source, path))

    def _is_copied(self, provider: _Provider) -> bool:
        """Whether a file belongs to a distribution that is copied, but for dist-info and what is ready-made."""
        entry = provider.entry
        if entry is None or entry.reference.name not in self.copied:
            return False
        prepared = provider.file != provider.source
        return not prepared and not provider.source.startswith(f"{SITE_PACKAGES}/{entry.dist_info}/")

    def _interchangeable(self, path: str, group: Sequence[_Provider]) -> bool:
        entries = [(provider.entry, provider.file) for provider in group if provider.entry is not None]
        if len(entries) < len(group):
            return False
        # Every wheel of a pkgutil namespace brings the same few lines, if not to the letter.
        in_site = all(provider.source.startswith(f"{SITE_PACKAGES}/") for provider in group)
        if in_site and path.endswith("/__init__.py") and not any(provider.listed for provider in group):
            return True
        return len({self.hashes_of(entry)[file] for entry, file in entries}) == 1

    def _collide(self, path: str, one: _Provider, other: _Provider) -> None:
        first, second = sorted((one.owner, other.owner))
        self.collisions[first, second].append(path)


def _collision_error(collisions: Mapping[tuple[str, str], Sequence[str]], *, allowed: bool) -> CollisionError:
    parts = []
    for (one, other), paths in sorted(collisions.items()):
        more = len(paths) - _COLLISIONS_SHOWN
        shown = ", ".join(paths[:_COLLISIONS_SHOWN]) + (f" and {more} more" if more > 0 else "")
        parts.append(f"{one} and {other} both bring {shown}")
    # Of a file and a directory at one place, none can win.
    more_hint = "" if allowed else ", or let the last by name win with --allow-collisions"
    return CollisionError("; ".join(parts), hint=f"ask for only one of them{more_hint}")


def _records(
    plans: Sequence[EntryPlan], farm: _Farm, site: str
) -> tuple[list[NewRecord], list[tuple[str, str]]]:
    """Return the RECORDs to write, and the ready-made ones to link."""
    new: list[NewRecord] = []
    ready: list[tuple[str, str]] = []
    for plan in plans:
        name = plan.reference.name
        source = f"entries/{plan.reference.directory}/{_READY_RECORD}"
        path = f"{site}/{plan.dist_info}/RECORD"
        if plan.record_ready and name not in farm.unfolded:
            ready.append((source, path))
        else:
            new.append(NewRecord(source, path, plan.record_links, tuple(sorted(farm.folded[name]))))
    return new, ready


def _bytecode(
    links: Sequence[tuple[str, str]], compiled: frozenset[str], cache_tag: str
) -> Iterator[tuple[str, str]]:
    """Yield the pycs of the modules that lie in real directories; those of a folded package come with it."""
    for source, path in links:
        _, directory, place = source.split("/", 2)
        if directory in compiled and place.startswith(f"{SITE_PACKAGES}/") and place.endswith(".py"):
            yield f"entries/{directory}/{pyc_path(place, cache_tag)}", pyc_path(path, cache_tag)


def _caches(links: Iterable[tuple[str, str]], site: str) -> set[str]:
    """Return the ``__pycache__`` of every real directory of site-packages that has modules."""
    return {
        f"{path.rpartition('/')[0]}/__pycache__"
        for _, path in links
        if path.endswith(".py") and path.startswith(f"{site}/")
    }


def _fresh_files(interpreter: Interpreter, options: LinkOptions, site: str) -> Iterator[tuple[str, bytes]]:
    """Yield the files that belong to no wheel; venv rewrites pyvenv.cfg in place, so it is nobody else's inode."""
    # A venv as base has packages that the Python it stands on has not; they are added by name below. So are those of
    # any base from 3.15 on, where site.py has added the user's own before it runs the first line of a .pth file.
    named = interpreter.virtual or (_is_from(interpreter, _LATE_PTH) and not options.user_site)
    system = not named and not options.isolated
    lines = [
        f"home = {interpreter.real.rpartition('/')[0]}",
        f"include-system-site-packages = {'true' if system else 'false'}",
        f"version = {interpreter.version}",
        f"executable = {interpreter.real}",
        *([f"prompt = {options.prompt!r}"] if options.prompt else []),
    ]
    yield "pyvenv.cfg", "".join(f"{line}\n" for line in lines).encode()
    if named and not options.isolated:
        # As site.py does it: what is not there is not added, and -s and -I keep the user's own out. ASCII, because
        # the encoding that .pth files are read in depends on the version and on the locale.
        own = "site.check_enableusersite() and os.path.isdir(p := site.getusersitepackages()) and site.addsitedir(p)"
        added = [
            f"os.path.isdir({path!a}) and site.addsitedir({path!a})" for path in interpreter.site_directories
        ]
        calls = [own, *added] if options.user_site else added
        yield f"{site}/{BASE_PTH}", "".join(f"import os, site; {call}\n" for call in calls).encode()
    if system and not options.user_site:
        # site.py looks whether somebody has decided already, after it has read the .pth files of a venv.
        yield f"{site}/{USER_SITE_PTH}", b"import site; site.ENABLE_USER_SITE = False\n"


def _namespaces(farm: _Farm, interpreter: Interpreter, site: str) -> dict[str, bytes]:
    """Return the file that answers ``*-nspkg.pth`` of the base, where the environment has portions of the same."""
    if not interpreter.namespaces:
        return {}
    files = {path for _, path in (*farm.links, *farm.copies)}
    places = {*farm.directories, *files}
    lines = []
    for name in sorted(interpreter.namespaces):
        path = f"{site}/{name.replace('.', '/')}"
        if path not in places or f"{path}/__init__.py" in files:
            continue
        parent, _, child = name.rpartition(".")
        attribute = f"; setattr(sys.modules[{parent!a}], {child!a}, m)" if parent else ""
        # With a spec, like what importing makes: importlib.util.find_spec fails for a module that has none.
        lines.append(
            "import sys, importlib.machinery, importlib.util; "
            f"s = importlib.machinery.ModuleSpec({name!a}, None, is_package=True); "
            f"m = sys.modules.setdefault({name!a}, importlib.util.module_from_spec(s)); "
            f"m.__path__ = [sys.prefix + {'/' + path!a}, *getattr(m, '__path__', [])]; "
            f"m.__spec__ = m.__spec__ or s; m.__spec__.submodule_search_locations = m.__path__{attribute}\n"
        )
    return {f"{site}/{NAMESPACES_PTH}": "".join(lines).encode()} if lines else {}


def _has_lib64(interpreter: Interpreter) -> bool:
    """Whether venv makes that link for this version."""
    return not _is_from(interpreter, _NO_LIB64)


def _is_from(interpreter: Interpreter, version: tuple[int, int]) -> bool:
    return tuple(map(int, interpreter.short_version.split("."))) >= version
