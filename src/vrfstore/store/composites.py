"""Making a composite: the trees of several entries in one, by hard links.

The shared libraries of some wheels find those of others by paths relative to themselves. The loader follows such a
path through the directories where files really are (ld.so(8), ``$ORIGIN``), so that these wheels have to be in one
tree. A composite has what its members have in site-packages but for dist-info, and for each of them the same
ready-made links as the member has, which lead to the composite instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

from vrfstore import codec, fs
from vrfstore.errors import CollisionError, StoreDamagedError
from vrfstore.model import EntryPlan, EntryReference
from vrfstore.store.entry_plan import plan_to_json
from vrfstore.store.holds import hold, shard
from vrfstore.store.layout import SITE_PACKAGES
from vrfstore.store.leases import Lease
from vrfstore.store.manifest import Manifest, StoredFile, parents
from vrfstore.store.records import EnvironmentRecord
from vrfstore.store.store import Store

__all__ = ["ensure", "hold_members", "is_called_so", "members", "module_directories", "stage", "with_member"]

_FILE = 0o444

_NAME = re.compile(r"[0-9a-f]{40}-composite-[0-9]+")
"""What ``entry_plan.composite_reference`` calls a composite."""


def is_called_so(directory: str) -> bool:
    """Whether an entry has the name of a composite. Only its plan tells whether it is one."""
    return _NAME.fullmatch(directory) is not None


def members(store: Store, directory: str) -> tuple[str, ...]:
    """Return the directory names of what a composite was made of; nothing where it is none, or cannot be read."""
    try:
        return store.plan(directory, even_marked=True).members
    except (FileNotFoundError, StoreDamagedError):
        return ()


def with_member(store: Store, member: str) -> list[str]:
    """Return the directory names of the composites that have this entry in them."""
    return [
        directory
        for directory in store.entries()
        if is_called_so(directory) and member in members(store, directory)
    ]


def module_directories(store: Store, record: EnvironmentRecord) -> list[str]:
    """Return the directory names of what the modules of an environment come from.

    These are its composites, and the entries that are in none; of a composite that cannot be read, its members too.
    """
    own = [composite.directory for composite in record.composites]
    merged = {member for directory in own for member in members(store, directory)}
    return [*own, *(wheel.directory for wheel in record.wheels if wheel.directory not in merged)]


@contextmanager
def hold_members(store: Store, directories: Iterable[str]) -> Iterator[None]:
    """Hold entries as they are: none is exchanged while a composite of them is made, nor the other way round.

    A composite with the files of before would look new, and whoever has exchanged the entry would not know of it.
    The caller takes no other hold of a member inside.
    """
    with ExitStack() as stack:
        # In one order, whoever asks, so that no two can wait for each other.
        for name in sorted({shard("member", directory) for directory in directories}):
            stack.enter_context(hold(store.layout.of("holds", name)))
        yield


def ensure(store: Store, lease: Lease, reference: EntryReference, merged: Sequence[EntryPlan]) -> bool:
    """Make a composite, unless it is there.

    Args:
        store: The store.
        lease: On the composite and on its members.
        reference: What names it, from ``entry_plan.composite_reference``.
        merged: The members, sorted by name.

    Returns:
        Whether it was made now.

    Raises:
        StoreDamagedError: A member's manifest cannot be read, a file of it is missing, or the composite is damaged.
        CollisionError: What is a file in one member is a directory in another.
        OSError: The disk is full.
    """
    store.await_composite(reference)
    if _stands(store, reference):
        return False
    with store.hold_entry(reference.digest):
        if _stands(store, reference):
            return False
        with hold_members(store, (member.reference.directory for member in merged)):
            store.publish(stage(store, lease, reference, merged), reference.directory)
        return True


def _stands(store: Store, reference: EntryReference) -> bool:
    try:
        found = store.plan(reference.directory)
    except FileNotFoundError:
        return False
    if found.reference != reference:
        raise StoreDamagedError(
            "something else has the name of a composite", path=store.layout.of("entries", reference.directory)
        )
    return True


def stage(store: Store, lease: Lease, reference: EntryReference, merged: Sequence[EntryPlan]) -> str:
    """Make a composite beside its place; return the path of what was staged, sealed but for its own top.

    The caller has ``hold_members``, until what was staged has its name.

    Raises:
        StoreDamagedError: A member's manifest cannot be read, or a file of it is missing. Nothing is left behind.
        CollisionError: What is a file in one member is a directory in another.
        OSError: The disk is full.
    """
    staging = store.new_staging(lease)
    try:
        _fill(store, staging, reference, merged)
    except BaseException:
        fs.remove_tree(staging)
        raise
    return staging


def _fill(store: Store, staging: str, reference: EntryReference, merged: Sequence[EntryPlan]) -> None:
    sources: dict[str, str] = {}
    owners: dict[str, EntryReference] = {}
    files: dict[str, StoredFile] = {}
    links: dict[str, str] = {}
    lent: dict[str, str | None] = {}
    for number, member in enumerate(merged):
        directory = member.reference.directory
        manifest = store.manifest(directory)
        for file in manifest.files:
            if _is_merged(file.path, member):
                # Of two different files at one place, which environments of these members have only if they
                # allow collisions, the last wins, as there.
                files[file.path] = file
                sources[file.path] = f"{store.layout.of('entries', directory)}/{file.path}"
                lent[file.path] = manifest.links.get(file.path)
                owners[file.path] = member.reference
        here, there = (f"entries/{name}/{SITE_PACKAGES}/" for name in (directory, reference.directory))
        links |= {
            f"links/{number}/{path.removeprefix('links/')}": target.replace(here, there)
            for path, target in manifest.links.items()
            if path.startswith("links/") and here in target
        }
    links |= {path: target for path, target in lent.items() if target is not None}
    _check_collisions(owners)
    plan = EntryPlan(
        reference=reference,
        dist_info="",
        tags=(),
        requires_python=None,
        unpacked=sum(file.size for file in files.values()),
        trees={},
        record_links=0,
        record_ready=False,
        members=tuple(member.reference.directory for member in merged),
    )
    data = codec.dumps(plan_to_json(plan))
    own_plan = StoredFile(path="plan.json", size=len(data), mode=_FILE, sha256=codec.hexdigest(data))
    manifest = Manifest(
        reference=reference,
        filename="",
        origin="",
        files=tuple(sorted([*files.values(), own_plan], key=lambda file: file.path)),
        links=links,
    )
    fs.make_directory(staging)
    for directory in sorted(manifest.directories):
        fs.make_directory(f"{staging}/{directory}")
    for path, source in sources.items():
        if path in links:  # of a shared store: a link of its own leads there
            continue
        try:
            fs.hard_link_or_copy(source, f"{staging}/{path}")
        except FileNotFoundError as error:
            hint = f"mend it with: vrfstore verify --repair {owners[path].directory}"
            raise StoreDamagedError("a file is missing", path=source, hint=hint) from error
    for path, target in links.items():
        fs.symlink(target, f"{staging}/{path}")
    fs.write_file(f"{staging}/plan.json", data, mode=_FILE)
    fs.write_file(f"{staging}/manifest.json", codec.dumps(manifest.to_json()), mode=_FILE)
    for directory in sorted(manifest.directories, reverse=True):
        fs.seal_directory(f"{staging}/{directory}")


def _is_merged(path: str, member: EntryPlan) -> bool:
    """Whether a file of a member is part of the composite."""
    inside = path.startswith(f"{SITE_PACKAGES}/")
    return inside and not path.startswith(f"{SITE_PACKAGES}/{member.dist_info}/")


def _check_collisions(owners: Mapping[str, EntryReference]) -> None:
    for path in sorted(parents(owners) & owners.keys()):
        inside = next(other for other in sorted(owners) if other.startswith(f"{path}/"))
        one, other = sorted(f"{owners[place].name} {owners[place].version}" for place in (path, inside))
        raise CollisionError(
            f"{one} and {other} both bring {path.removeprefix(f'{SITE_PACKAGES}/')}, one as a directory",
            hint="ask for only one of them",
        )
