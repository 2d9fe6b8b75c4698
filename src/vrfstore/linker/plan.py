"""Deciding what an environment consists of. Pure: from the plans of its entries to a plan of effects.

The result does not depend on the order of the wheels. Sources are relative to the store, all other paths to the
environment.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from vrfstore.errors import CollisionError
from vrfstore.model import EntryPlan, Interpreter, Node, Tree
from vrfstore.store.bytecode import pyc_path
from vrfstore.store.entry_plan import HEADERS, INSTALLED, directory_tree, installed_path
from vrfstore.store.layout import SITE_PACKAGES

__all__ = ["EnvironmentPlan", "NewRecord", "plan_environment"]

ENVIRONMENT_RECORD = "vrfstore.json"

SENTINEL = ".vrfstore"
"""An empty file, in no RECORD, in every real directory of site-packages but dist-info: with it there, pip never
takes such a directory for one that only the distribution it uninstalls has put there."""

BASE_PTH = "_vrfstore_base.pth"
"""Adds the packages of a base that is itself a venv."""

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


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvironmentPlan:
    """What to do to make an environment; to be applied in the order of the fields.

    Attributes:
        directories: Directories to make, parents first.
        links: (source, path): a further hard link to an inode of the store.
        copies: (source, path): a copy of a file of the store.
        files: (path, content): a fresh file.
        records: RECORDs that differ from the ready-made ones.
        bytecode: (source, path): a further hard link to a pyc of the store, if that is there; a module that does
            not compile has none.
        library: The name of the library directory, such as ``python3.11``.
    """

    directories: tuple[str, ...]
    links: tuple[tuple[str, str], ...]
    copies: tuple[tuple[str, str], ...]
    files: tuple[tuple[str, bytes], ...]
    records: tuple[NewRecord, ...]
    bytecode: tuple[tuple[str, str], ...]
    library: str


Hashes = Callable[[EntryPlan], Mapping[str, str]]
"""Gives the SHA-256 of each file of an entry by its path there, from the manifest."""


def plan_environment(
    plans: Sequence[EntryPlan],
    interpreter: Interpreter,
    *,
    interpreter_links: str,
    hashes_of: Hashes,
    compiled: frozenset[str] = frozenset(),
) -> EnvironmentPlan:
    """Plan the environment of some entries on an interpreter.

    Args:
        plans: What ``plan.json`` of each entry says, in any order.
        interpreter: The base.
        interpreter_links: The directory of ready-made links to it, below the store.
        hashes_of: Asked only where two wheels meet in a directory that is usually whole, or in one file.
        compiled: The directory names of entries that have bytecode for the interpreter.

    Raises:
        CollisionError: Two wheels have different files at one place.
    """
    ordered = sorted(plans, key=lambda plan: plan.reference.name)
    farm = _Farm(interpreter.directory_name, hashes_of)
    farm.grow(ordered, [BASE_PTH] if interpreter.virtual else [])
    if farm.collisions:
        raise _collision_error(farm.collisions)
    site = f"lib/{farm.library}/{SITE_PACKAGES}"
    bytecode = tuple(_bytecode(farm.links, compiled, interpreter.cache_tag))
    # That of site-packages is there in any case.
    caches = sorted({path.rpartition("/")[0] for _, path in bytecode} - {f"{site}/__pycache__"})
    records, ready_records = _records(ordered, farm, site)
    own_links = [(name, f"bin/{name}") for name in ("python", "python3", farm.library)] + [("lib64", "lib64")]
    sentinels = [
        ("sentinel", f"{directory}/{SENTINEL}")
        for directory in farm.directories
        if directory.startswith(f"{site}/")
        and not directory.endswith("/__pycache__")
        and not any(part.endswith(".dist-info") for part in directory.split("/"))
    ]
    return EnvironmentPlan(
        directories=(*farm.directories, *caches),
        links=(
            *((f"{interpreter_links}/{source}", path) for source, path in own_links + sentinels),
            *farm.links,
            *ready_records,
        ),
        copies=tuple(farm.copies),
        files=tuple(_fresh_files(interpreter, site)),
        records=tuple(records),
        bytecode=bytecode,
        library=farm.library,
    )


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
    directories: list[str] = field(default_factory=list)
    links: list[tuple[str, str]] = field(default_factory=list)
    copies: list[tuple[str, str]] = field(default_factory=list)
    folded: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """By name of the distribution: its directory links, as RECORD has them."""
    unfolded: set[str] = field(default_factory=set)
    """The distributions that are not folded in the usual way."""
    collisions: dict[tuple[str, str], list[str]] = field(default_factory=lambda: defaultdict(list))
    _mounts: dict[str, list[_Provider]] = field(default_factory=lambda: defaultdict(list))

    def grow(self, plans: Sequence[EntryPlan], own: Sequence[str]) -> None:
        """Merge all plans; ``own`` names further files of site-packages that are the environment's."""
        reserved: Tree = {
            "bin": {"python": "", "python3": "", self.library: ""},
            "include": {},
            # __pycache__ is made beforehand, so that importing a top-level module changes no directory.
            "lib": {self.library: {SITE_PACKAGES: {"__pycache__": {}, **dict.fromkeys(own, "")}}},
            "lib64": "",
            "pyvenv.cfg": "",
            ENVIRONMENT_RECORD: "",
        }
        if any(HEADERS in plan.trees for plan in plans):
            reserved["include"] = {"site": {self.library: {}}}
        self._mounts[""].append(_Provider(None, reserved, ""))
        for plan in plans:
            for scheme, tree in plan.trees.items():
                place = INSTALLED[scheme].replace("pythonX.Y", self.library)
                self._mounts[place].append(_Provider(plan, tree, scheme))
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
        if path.startswith(f"lib/{self.library}/{SITE_PACKAGES}/") and SENTINEL in names:
            names[SENTINEL].append(_Provider(None, "", SENTINEL))
        for name, group in sorted(names.items()):
            place = f"{path}/{name}" if path else name
            files = [provider for provider in group if isinstance(provider.node, str)]
            if not files:
                self._directory(place, group, whole=whole)
            elif len(files) == len(group):
                self._file(place, group)
            else:
                self._collide(place, files[0], next(other for other in group if other not in files))

    def _directory(self, path: str, group: Sequence[_Provider], *, whole: bool) -> None:
        if len(group) == 1 and not whole and self._folds(path, group[0]):
            return
        self.directories.append(path)
        whole = whole or any(
            isinstance(provider.node, int) and provider.source.startswith(f"{SITE_PACKAGES}/")
            for provider in group
        )
        self._fill(path, [self._unfolded(provider) for provider in group], whole=whole)

    def _folds(self, path: str, provider: _Provider) -> bool:
        """Link a directory as a whole, where it may be; returns whether it was."""
        node, entry = provider.node, provider.entry
        number = node.get("") if isinstance(node, dict) else node
        if entry is None or not isinstance(number, int):
            return False
        self.links.append((f"entries/{entry.reference.directory}/links/{number}", path))
        recorded = installed_path(provider.source).replace("pythonX.Y", self.library)
        self.folded[entry.reference.name].append(recorded)
        return True

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
            for other in group[1:]:
                self._collide(path, first, other)
            return
        if first.entry is None or first.node == _READY_RECORD:
            return
        source = f"entries/{first.entry.reference.directory}/{first.file}"
        # Configuration is edited in place, by people and by tools; a copy keeps that out of the store.
        (self.copies if path.startswith("etc/") else self.links).append((source, path))

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


def _collision_error(collisions: Mapping[tuple[str, str], Sequence[str]]) -> CollisionError:
    parts = []
    for (one, other), paths in sorted(collisions.items()):
        more = len(paths) - _COLLISIONS_SHOWN
        shown = ", ".join(paths[:_COLLISIONS_SHOWN]) + (f" and {more} more" if more > 0 else "")
        parts.append(f"{one} and {other} both bring {shown}")
    return CollisionError("; ".join(parts), hint="ask for only one of them")


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


def _fresh_files(interpreter: Interpreter, site: str) -> Iterator[tuple[str, bytes]]:
    """Yield the files that belong to no wheel; venv rewrites pyvenv.cfg in place, so it is nobody else's inode."""
    lines = [
        f"home = {interpreter.real.rpartition('/')[0]}",
        # A venv as base has packages that the Python it stands on has not; they are added by name below.
        f"include-system-site-packages = {'false' if interpreter.virtual else 'true'}",
        f"version = {interpreter.version}",
        f"executable = {interpreter.real}",
    ]
    yield "pyvenv.cfg", "".join(f"{line}\n" for line in lines).encode()
    if interpreter.virtual:
        added = (f"import site; site.addsitedir({path!r})\n" for path in interpreter.site_directories)
        yield f"{site}/{BASE_PTH}", "".join(added).encode()
