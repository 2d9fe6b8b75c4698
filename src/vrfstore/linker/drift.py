"""What has become of an environment since it was linked. Pure: from what is recorded and what was seen to problems.

Looking is in ``runner.inspection``, mending in ``runner.heal``. The kinds are stable words:

======================= ================================================================================
link-missing            a link that was put there is gone
link-dangling           it leads to what is not there
link-repointed          it leads elsewhere
file-missing            a file that was put there is gone, or empty
frame-changed           ``bin/python`` and the like, or what ``pyvenv.cfg`` says, is not what it was
package-behind-link     installed by hand, but written through a link of ours, into the store
directory-missing       a directory that was put there is gone, or something else
unfinished              whoever linked it last was killed in the middle of it
entry-missing           what it links to is gone from the store
interpreter-missing     its interpreter is gone, and what was asked for leads to none
interpreter-moved       its interpreter is somewhere else, or its files name another place
interpreter-upgraded    the same X.Y, another release
interpreter-changed     another X.Y, or another kind of Python
stale-interpreter-link  ``bin/pythonX.Y`` of an interpreter that is gone, or not this one
requirement-unmet       what ``pip check`` would say
moved                   it is somewhere else than it was
unregistered            its store does not know of it, so that gc may take what it links to
record-unreadable       nobody can tell what it was linked as
file-changed            by hand; stays. No drift
package-added           by hand; stays. No drift
package-changed         by hand; stays. No drift
package-removed         by hand; stays away. No drift
gone                    it is registered, and not there; ``env forget`` lets it go. No drift
======================= ================================================================================
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from vrfstore.linker.distributions import Distribution
from vrfstore.linker.plan import BASE_PTH, NAMESPACES_PTH, USER_SITE_PTH
from vrfstore.model import EntryReference, Interpreter
from vrfstore.values import dataclass, field

__all__ = [
    "BY_HAND",
    "EMPTY",
    "Drift",
    "Recorded",
    "Registered",
    "Seen",
    "compare",
    "frame",
    "interpreter_links",
    "removed",
]

BY_HAND = frozenset({"file-changed", "package-added", "package-changed", "package-removed", "gone"})
"""Kinds that are shown, and that nobody has to do anything about: what people do in an environment is theirs."""

EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
"""The SHA-256 of nothing: what a power cut may leave of a file."""


@dataclass(frozen=True, slots=True)
class Drift:
    """One thing that is not as it was linked.

    Attributes:
        kind: One of the words above.
        path: What it is about, relative to the environment; empty for all of it.
        message: The same for people, one sentence without a full stop.
    """

    kind: str
    path: str
    message: str

    @property
    def drifted(self) -> bool:
        """Whether it needs mending."""
        return self.kind not in BY_HAND


@dataclass(frozen=True, slots=True)
class Registered:
    """What the store knows of an external environment.

    Attributes:
        path: Where; empty where it knows nothing.
        copied: Whether that path has the same environment still, so that this one is a copy of it.
        complete: Whether all that the environment links to is named.
    """

    path: str
    copied: bool = False
    complete: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Recorded:
    """What an environment was linked as, external or managed.

    Attributes:
        expected: What was put there, by path, as ``Made.what``.
        wheels: The entries that it links to.
        composites: The composites that it links to.
        interpreter: The identity of its interpreter.
        library: The name of its library directory.
        owners: The name of the distribution that a path belongs to, as far as that is known.
        finished: Whether all of it had been put there.
        configuration: What its ``pyvenv.cfg`` has to say, as ``external.configuration`` reads it; empty where that is
            not known.
    """

    expected: Mapping[str, str]
    wheels: tuple[EntryReference, ...]
    composites: tuple[EntryReference, ...]
    interpreter: Mapping[str, object]
    library: str
    owners: Mapping[str, str] = field(default_factory=dict)
    finished: bool = True
    configuration: Mapping[str, str] = field(default_factory=dict)

    @property
    def site_packages(self) -> str:
        """Its site-packages, relative to the environment."""
        return f"lib/{self.library}/site-packages"


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What is there now.

    Attributes:
        place: The environment, absolute.
        found: What is at each expected path, as ``Made.what``; None for nothing.
        nowhere: The links, as expected, at whose end nothing is.
        gone: Directory names of the entries and composites that are not in the store.
        interpreter: What its interpreter, or what was asked for, is now; None where there is none.
        trouble: Why there is none.
        home: What ``pyvenv.cfg`` names as home, links resolved; empty where it says nothing.
        configuration: All that it says, as ``external.configuration`` reads it.
        stale: Names of links in ``bin`` to interpreters of another X.Y that are gone, or that are this one.
        distributions: What is installed.
        by_hand: Those of them that vrfstore has not put there.
        behind: Those that were installed by hand through links of ours.
        registered: What the store knows of it; None for a managed one.
        elsewhere: Whether it was linked at another place, which its activation scripts name.
        unmet: What ``needs.unmet`` says.
    """

    place: str
    found: Mapping[str, str | None]
    nowhere: Collection[str] = ()
    gone: Collection[str] = ()
    interpreter: Interpreter | None
    trouble: str = ""
    home: str = ""
    configuration: Mapping[str, str] = field(default_factory=dict)
    stale: Sequence[str] = ()
    distributions: Sequence[Distribution] = ()
    by_hand: Sequence[Distribution] = ()
    behind: Sequence[Distribution] = ()
    registered: Registered | None = None
    elsewhere: bool = False
    unmet: Sequence[str] = ()


def interpreter_links(library: str) -> frozenset[str]:
    """Return the paths of the links that lead to the interpreter, of an environment with this library directory."""
    return frozenset(("bin/python", "bin/python3", f"bin/{library}"))


def frame(library: str) -> frozenset[str]:
    """Return the paths that make a directory an environment, and that are ours there, whoever has changed them."""
    site = f"lib/{library}/site-packages"
    own = (f"{site}/{name}" for name in (BASE_PTH, USER_SITE_PTH, NAMESPACES_PTH))
    short = f"bin/{library.removesuffix('t')}"
    return interpreter_links(library) | {"pyvenv.cfg", "lib64", short, *own}


def compare(recorded: Recorded, seen: Seen) -> tuple[Drift, ...]:
    """Return what is not as it was linked, in the order in which it matters."""
    interpreter = tuple(_interpreter(recorded, seen))
    return (
        *_registration(seen),
        *interpreter,
        *(() if interpreter else _configuration(recorded, seen)),
        *_entries(recorded, seen),
        *_paths(recorded, seen, unwanted=interpreter_links(recorded.library) if interpreter else ()),
        *(
            Drift(
                "stale-interpreter-link", f"bin/{name}", f"bin/{name} is of an interpreter that it is not for"
            )
            for name in seen.stale
        ),
        *_packages(recorded, seen),
        *(Drift("requirement-unmet", "", message) for message in seen.unmet),
    )


def _registration(seen: Seen) -> Iterator[Drift]:
    known = seen.registered
    if known is not None and not known.path:
        yield Drift("unregistered", "", "the store does not know of it; gc may take what it links to")
    elif known is not None and known.copied:
        yield Drift("unregistered", "", f"it is a copy of {known.path}, and not registered itself")
    elif known is not None and known.path != seen.place:
        yield Drift("moved", "", f"it was at {known.path}")
    elif known is not None and not known.complete:
        yield Drift("unregistered", "", "the store does not know of all that it links to")
    elif seen.elsewhere:
        yield Drift("moved", "", "its activation scripts name the place where it was")


def _interpreter(recorded: Recorded, seen: Seen) -> Iterator[Drift]:
    identity, now = recorded.interpreter, seen.interpreter
    real, version = str(identity.get("real")), str(identity.get("version"))
    if now is None:
        yield Drift("interpreter-missing", "", f"Python {version} at {real} cannot be had: {seen.trouble}")
    elif now.directory_name != recorded.library or any(
        now.identity[key] != identity.get(key)
        for key in ("abi_flags", "cache_tag", "implementation", "platform")
    ):
        yield Drift(
            "interpreter-changed", "", f"Python {version} at {real} is now {now.version} at {now.real}"
        )
    elif now.version != version:
        yield Drift("interpreter-upgraded", "", f"Python {version} is now {now.version}, at {now.real}")
    elif now.real != real:
        yield Drift("interpreter-moved", "", f"Python {version} at {real} is now at {now.real}")
    elif now.identity != identity:
        yield Drift("interpreter-moved", "", f"the packages of {now.executable} are elsewhere than they were")
    elif seen.home and _is_changed(recorded, seen, "pyvenv.cfg") and seen.home != real.rpartition("/")[0]:
        yield Drift(
            "interpreter-moved", "pyvenv.cfg", f"pyvenv.cfg names {seen.home}, and not where {real} is"
        )


def _configuration(recorded: Recorded, seen: Seen) -> Iterator[Drift]:
    path = "pyvenv.cfg"
    # What is gone or empty is said as of any other file.
    there = seen.found.get(path)
    if not recorded.finished or there is None or there.endswith(f":{EMPTY}"):
        return
    for key, value in recorded.configuration.items():
        if _is_changed(recorded, seen, path) and seen.configuration.get(key) != value:
            said = seen.configuration.get(key, "nothing")
            yield Drift("frame-changed", path, f"{path} says {said} for {key}, and said {value}")
            return


def _is_changed(recorded: Recorded, seen: Seen, path: str) -> bool:
    return seen.found.get(path) not in (None, recorded.expected.get(path))


def _entries(recorded: Recorded, seen: Seen) -> Iterator[Drift]:
    if not recorded.finished:
        yield Drift("unfinished", "", "whoever linked it last did not get to the end")
    for entry in (*recorded.wheels, *recorded.composites):
        if entry.directory in seen.gone:
            yield Drift("entry-missing", "", f"{entry.name} {entry.version} is gone from the store")


def removed(recorded: Recorded, seen: Seen) -> frozenset[str]:
    """Return the names of the distributions that somebody has uninstalled: nothing of them is left."""
    if not recorded.finished or seen.found.get(recorded.site_packages) != "d":
        return frozenset()
    left = {recorded.owners[path] for path, there in seen.found.items() if there and path in recorded.owners}
    there = {found.name for found in seen.distributions}
    owning = frozenset(recorded.owners.values())
    names = (wheel.name for wheel in recorded.wheels)
    return frozenset(name for name in names if name in owning and name not in there and name not in left)


def _paths(recorded: Recorded, seen: Seen, *, unwanted: Collection[str]) -> Iterator[Drift]:
    if not recorded.finished:
        return
    theirs = {found.name for found in seen.by_hand} | removed(recorded, seen)
    needless = _needless(recorded, theirs)
    own = frame(recorded.library) - {"pyvenv.cfg"}
    for path, what in sorted(recorded.expected.items()):
        # What is inside a directory that is not there need not be said.
        hidden = seen.found.get(path.rpartition("/")[0], "d") != "d"
        if hidden or path in unwanted or path in needless:
            continue
        drift = _path(path, what, seen.found.get(path))
        if drift is not None and drift.kind == "file-changed" and path in own:
            drift = Drift("frame-changed", path, f"{path} is not what was linked any more")
        if drift is not None:
            yield drift
        elif path in seen.nowhere and not any(f"/entries/{gone}/" in f"{what}/" for gone in seen.gone):
            yield Drift("link-dangling", path, f"{path} leads to {what[2:]}, which is not there")


def _needless(recorded: Recorded, theirs: Collection[str]) -> set[str]:
    """Return the paths that only distributions have that are somebody's own, or gone: files, and their directories."""
    needed: set[str] = set()
    others: set[str] = set()
    for path, what in recorded.expected.items():
        if what != "d":
            group = others if recorded.owners.get(path) in theirs else needed
            while path not in group and path:
                group.add(path)
                path = path.rpartition("/")[0]  # noqa: PLW2901 - upwards
    return others - needed


def _path(path: str, what: str, there: str | None) -> Drift | None:
    if there == what:
        return None
    if there is None:
        name = {"d": "directory", "l": "link", "f": "file"}[what[0]]
        return Drift(f"{name}-missing", path, f"{path} is gone")
    if what == "d":
        return Drift("directory-missing", path, f"{path} is no directory any more")
    if what[0] == "l" and there[0] == "l":
        return Drift("link-repointed", path, f"{path} leads to {there[2:]}, and led to {what[2:]}")
    if there.endswith(f":{EMPTY}") and not what.endswith(EMPTY):
        return Drift("file-missing", path, f"{path} is empty")
    return Drift("file-changed", path, f"{path} was changed by hand")


def _packages(recorded: Recorded, seen: Seen) -> Iterator[Drift]:
    linked = {wheel.name: wheel for wheel in recorded.wheels}
    for found in sorted(seen.behind, key=lambda each: each.name):
        message = f"{found.name} {found.version} was installed through a link into the store"
        yield Drift("package-behind-link", "", message)
    for found in sorted(seen.by_hand, key=lambda each: each.name):
        wheel = linked.get(found.name)
        if wheel is None:
            yield Drift("package-added", "", f"{found.name} {found.version} was installed by hand")
        else:
            message = f"{found.name} {found.version} was installed by hand in place of {wheel.version}"
            yield Drift("package-changed", "", message)
    for name in sorted(removed(recorded, seen)):
        yield Drift("package-removed", "", f"{name} {linked[name].version} was uninstalled by hand")
