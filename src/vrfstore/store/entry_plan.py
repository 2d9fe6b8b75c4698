"""Deciding, once per wheel, what linking will need to know of it. Pure: from names to a plan.

The rules are those of docs/design.md, "Folding". In short: a package directory is one link; a directory that
several wheels share, or that tools write into, is real.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from vrfstore import codec
from vrfstore.errors import StoreDamagedError
from vrfstore.model import Digest, EntryPlan, EntryReference, Libraries, Node, Tree
from vrfstore.store.layout import SITE_PACKAGES, entry_directory
from vrfstore.values import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "DAMAGED",
    "DATA",
    "HEADERS",
    "SCRIPTS",
    "composite_reference",
    "directory_tree",
    "is_module",
    "link_target",
    "plan_from_json",
    "plan_to_json",
    "ready_links",
    "scheme_trees",
]

DATA = "data"
SCRIPTS = "scripts"
HEADERS = "headers"

INSTALLED = {
    SITE_PACKAGES: "lib/pythonX.Y/site-packages",
    DATA: "",
    SCRIPTS: "bin",
    HEADERS: "include/site/pythonX.Y",
}
"""Where each scheme lies below an environment. Only the number of parts matters for a ready-made link."""

SHARED_DATA = frozenset(
    [
        "bin", "include", "lib", "share",
        "share/appdata", "share/applications", "share/doc", "share/icons", "share/info", "share/locale",
        "share/man", "share/metainfo", "share/mime", "share/mime/packages", "share/pixmaps",
        *(f"share/man/man{section}" for section in range(1, 10)),
        "share/bash-completion", "share/fish", "share/icons/hicolor", "share/icons/hicolor/scalable", "share/zsh",
        "share/bash-completion/completions", "share/fish/completions", "share/fish/vendor_completions.d",
        "share/zsh/site-functions", "share/zsh/vendor-completions",
        "share/icons/hicolor/scalable/apps",
        "share/jupyter", "share/jupyter/kernels", "share/jupyter/lab", "share/jupyter/labextensions",
        "share/jupyter/nbconvert", "share/jupyter/nbconvert/templates", "share/jupyter/nbextensions",
        *(f"share/jupyter/lab/{part}" for part in ("extensions", "schemas", "settings")),
    ]
)  # fmt: skip
"""Directories of the data scheme that several wheels fill, or that tools write into: always real."""

_SHARED_BELOW = ("share/icons/", "share/jupyter/labextensions/@", "share/locale/", "share/man/")
"""What has only directories in it is shared below these, as a scope of npm packages. Not elsewhere: a server may be
told to serve such a directory, and then refuse what is behind a link in it."""

_OPAQUE_ABOVE = 64
"""A directory without any module and with more files than this is never listed in a plan."""

_FILES_LISTED = 8
"""A directory of the data scheme with more files than this is never listed in a plan."""

_PLAN_SCHEMA = 3

_COMPOSITE_DIGITS = 40
"""Of a composite's digest in its directory name: so many that plans can name it without looking what is there."""

DAMAGED = "damaged"
"""The key that a repair without a source adds to a plan, with what is wrong, so that no new link uses the entry."""


@dataclass(slots=True)
class _Directory:
    """A directory while its tree is being decided."""

    path: str
    directories: dict[str, _Directory] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)

    def importable(self) -> bool:
        """Whether there is a module anywhere below."""
        return any(is_module(name) for name in self.files) or any(
            child.importable() for child in self.directories.values()
        )

    def regular_package(self) -> bool:
        return any(name.startswith("__init__.") and is_module(name) for name in self.files)


def is_module(name: str) -> bool:
    """Whether a file of this name can be imported."""
    # `libopenblas.so.0` is a library; `x.so`, `x.abi3.so` and `x.cpython-311-….so` can be imported.
    return name.endswith((".py", ".pyc", ".so")) and not name.startswith("lib")


def _directories(paths: Iterable[str]) -> _Directory:
    root = _Directory("")
    for path in paths:
        *parents, name = path.split("/")
        here = root
        for part in parents:
            if part not in here.directories:
                here.directories[part] = _Directory(f"{here.path}/{part}" if here.path else part)
            here = here.directories[part]
        here.files.add(name)
    return root


class _Numbers:
    """Hands out the numbers of ready-made links, and remembers what each leads to."""

    def __init__(self) -> None:
        self.links: list[tuple[str, str]] = []

    def next(self, scheme: str, path: str) -> int:
        self.links.append((scheme, path))
        return len(self.links) - 1


def scheme_trees(
    paths: Mapping[str, Sequence[str]],
    *,
    dist_info: str,
    pkgutil_namespaces: frozenset[str],
    ready: Mapping[str, str],
) -> tuple[dict[str, Tree], list[tuple[str, str]]]:
    """Decide the trees of an entry, and its ready-made links.

    Args:
        paths: For each scheme directory, the files below it.
        dist_info: The name of the dist-info directory.
        pkgutil_namespaces: Directories of site-packages whose ``__init__.py`` declares a shared namespace.
        ready: For ``<scheme>/<path>`` of a file that has been prepared, its path in the entry.

    Returns:
        The trees, and (scheme, path) of each link by its number.
    """
    numbers = _Numbers()
    trees: dict[str, Tree] = {}
    site = _directories(paths.get(SITE_PACKAGES, ()))
    trees[SITE_PACKAGES] = {
        **{name: ready.get(f"{SITE_PACKAGES}/{name}", "") for name in sorted(site.files)},
        **{
            name: _real_throughout(SITE_PACKAGES, child, ready)
            if name == dist_info
            else _site_directory(child, numbers, pkgutil_namespaces, top=True)
            for name, child in sorted(site.directories.items())
        },
    }
    data = _directories(paths.get(DATA, ()))
    if data.files or data.directories:
        trees[DATA] = _data_directory(data, numbers)
    scripts = _directories(paths.get(SCRIPTS, ()))
    if scripts.files or scripts.directories:
        trees[SCRIPTS] = {
            **{name: ready.get(f"{SCRIPTS}/{name}", "") for name in sorted(scripts.files)},
            **{
                name: numbers.next(SCRIPTS, child.path) for name, child in sorted(scripts.directories.items())
            },
        }
    headers = _directories(paths.get(HEADERS, ()))
    if headers.directories:
        trees[HEADERS] = {
            name: numbers.next(HEADERS, child.path) for name, child in headers.directories.items()
        }
    return trees, numbers.links


def _site_directory(
    directory: _Directory, numbers: _Numbers, pkgutil_namespaces: frozenset[str], *, top: bool
) -> Node:
    name = directory.path.rpartition("/")[2]
    shared = directory.path in pkgutil_namespaces
    importable = directory.importable()
    # A name that is no identifier (`numpy.libs`) cannot be a namespace package.
    if not shared and (directory.regular_package() or not name.isidentifier()):
        return numbers.next(SITE_PACKAGES, directory.path)
    if not importable and (not top or len(directory.files) > _OPAQUE_ABOVE):
        return numbers.next(SITE_PACKAGES, directory.path)
    tree: Tree = {}
    if not shared and not importable:
        tree[""] = numbers.next(SITE_PACKAGES, directory.path)
    tree.update(dict.fromkeys(sorted(directory.files), ""))
    for child_name, child in sorted(directory.directories.items()):
        tree[child_name] = _site_directory(child, numbers, pkgutil_namespaces, top=False)
    return tree


def _is_shared(directory: _Directory) -> bool:
    """Whether a directory of data is not one wheel's own."""
    path = directory.path
    if path in SHARED_DATA or path.split("/")[0] == "etc":
        return True
    return not directory.files and path.startswith(_SHARED_BELOW)


def _data_directory(directory: _Directory, numbers: _Numbers) -> Tree:
    tree: Tree = dict.fromkeys(sorted(directory.files), "")
    for name, child in sorted(directory.directories.items()):
        if _is_shared(child):
            tree[name] = _data_directory(child, numbers)
        elif len(child.files) > _FILES_LISTED:
            tree[name] = numbers.next(DATA, child.path)
        else:
            whole = numbers.next(DATA, child.path)
            tree[name] = {"": whole, **_data_directory(child, numbers)}
    return tree


def _real_throughout(scheme: str, directory: _Directory, ready: Mapping[str, str]) -> Tree:
    tree: Tree = {
        name: ready.get(f"{scheme}/{directory.path}/{name}", "") for name in sorted(directory.files)
    }
    for name, child in sorted(directory.directories.items()):
        tree[name] = _real_throughout(scheme, child, ready)
    return tree


def directory_tree(files: Iterable[str], below: str) -> Tree:
    """Return everything below one directory of an entry, file by file: for what a plan keeps folded.

    Args:
        files: All files of the entry, as in its manifest.
        below: A directory of the entry, such as ``site-packages/tests``.
    """
    prefix = f"{below}/"
    inside = _directories(path[len(prefix) :] for path in files if path.startswith(prefix))
    return _real_throughout(below, inside, {})


def link_target(directory: str, scheme: str, path: str) -> str:
    """Return the relative target of a link in an environment that leads to a directory of an entry.

    Args:
        directory: The entry's directory name.
        scheme: ``site-packages``, ``data``, ``scripts`` or ``headers``.
        path: The directory below the scheme; empty for the scheme as a whole.
    """
    place = "/".join(filter(None, [INSTALLED[scheme], path]))
    up = place.count("/") + 2  # the parents inside the environment, then `environments/<key>`
    return "../" * up + "/".join(filter(None, ["entries", directory, scheme, path]))


def ready_links(directory: str, links: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield the name and the target of every ready-made link of an entry."""
    for number, (scheme, path) in enumerate(links):
        yield str(number), link_target(directory, scheme, path)


def installed_path(place: str) -> str:
    """Return ``<scheme>/<path>`` as RECORD has it: relative to site-packages (recording installed projects).

    Headers lie below a directory that is named after the interpreter; its name is left as ``pythonX.Y``.
    """
    scheme, _, path = place.partition("/")
    if scheme == SITE_PACKAGES:
        return path
    place = "/".join(filter(None, [INSTALLED[scheme], path]))
    # site-packages lies below lib, and a relative path does not go up further than it has to.
    return f"../../{place.removeprefix('lib/')}" if place.startswith("lib/") else f"../../../{place}"


def composite_reference(members: Sequence[EntryPlan]) -> EntryReference:
    """Return what names the composite of some entries: equal members give the same one, in any order."""
    identities = sorted(member.identity for member in members)
    digest = Digest(codec.digest_of({"composite": identities}))
    version = str(len(members))
    return EntryReference(
        digest=digest,
        name="composite",
        version=version,
        directory=entry_directory(digest, "composite", version, length=_COMPOSITE_DIGITS),
    )


def plan_to_json(plan: EntryPlan) -> dict[str, object]:
    """Return a plan as ``plan.json`` holds it."""
    return {
        "schema": _PLAN_SCHEMA,
        "digest": plan.reference.digest,
        "name": plan.reference.name,
        "version": plan.reference.version,
        "directory": plan.reference.directory,
        "dist_info": plan.dist_info,
        "tags": list(plan.tags),
        "requires_python": plan.requires_python,
        "unpacked": plan.unpacked,
        "trees": plan.trees,
        "record_links": plan.record_links,
        "record_ready": plan.record_ready,
        "libraries": [plan.libraries.shipped, plan.libraries.needs, plan.libraries.escapes],
        "members": list(plan.members),
        "claimed": plan.claimed,
        **({"shared": plan.shared} if plan.shared else {}),
    }


def plan_from_json(value: Mapping[str, Any]) -> EntryPlan:
    """Return the plan that ``plan.json`` holds.

    Raises:
        ValueError: It is of another schema.
        StoreDamagedError: The entry has been marked as damaged.
        KeyError, TypeError: It is not a plan.
    """
    if DAMAGED in value:
        raise StoreDamagedError(f"the entry is damaged: {value[DAMAGED]}", kind="entry-damaged")
    if value["schema"] != _PLAN_SCHEMA:
        raise ValueError(f"plan of schema {value['schema']!r}")
    shipped, needs, escapes = value["libraries"]
    return EntryPlan(
        reference=EntryReference(
            digest=Digest(value["digest"]),
            name=value["name"],
            version=value["version"],
            directory=value["directory"],
        ),
        dist_info=value["dist_info"],
        tags=tuple(value["tags"]),
        requires_python=value["requires_python"],
        unpacked=value["unpacked"],
        trees=value["trees"],
        record_links=value["record_links"],
        record_ready=value["record_ready"],
        libraries=Libraries(
            {directory: tuple(names) for directory, names in shipped.items()},
            tuple((directory, name) for directory, name in needs),
            tuple(escapes),
        ),
        members=tuple(value["members"]),
        claimed=value["claimed"],
        shared=value.get("shared", ""),
    )
