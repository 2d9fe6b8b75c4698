"""Borrowing: entries of a store of our own whose files are those of a shared store that we only read.

::

    <shared store>/entries/<directory>/site-packages/six.py
                                          ▲ symlink
    <own store>/entries/<directory>/site-packages/six.py ◀── hard link ── <own store>/environments/<key>/…

A borrowed entry is an entry as any other to whoever links, collects, verifies or compiles: a tree of its own with
manifest, plan and ready-made links, sealed, and published by a rename. Only that the files of the wheel are symlinks in
it, each to the absolute path of the file in the shared store. So nothing is ever written there: bytecode that it has is
linked as well, what it lacks is compiled into our own ``__pycache__``. The plan says which entry was borrowed, and the
identity that environment keys cover has that too: an environment leads to a shared store only for those who asked for
that store.

What the shared store's owner collects is gone for us. It is told what we refer to (``store.clients``), if it has a
place for that; and all that an environment borrows is looked at again on each hit, by the tokens in its memo.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping

from vrfstore import codec, fs
from vrfstore.errors import StoreDamagedError, StoreError
from vrfstore.model import Borrowed, Digest, EntryPlan, EntryReference, LockedWheel
from vrfstore.store import bytecode, clients, condemned, modules
from vrfstore.store.entry_plan import plan_to_json
from vrfstore.store.layout import BYTECODE, DIGEST_LENGTHS, entry_directory
from vrfstore.store.leases import Lease
from vrfstore.store.manifest import Manifest, StoredFile
from vrfstore.store.store import Store
from vrfstore.values import dataclass, replace

__all__ = ["SharedStore", "is_lost"]

_FILE = 0o444

_LONGEST = 400
"""Characters of a reason that a warning repeats."""


def is_lost(plan: EntryPlan) -> bool:
    """Whether an entry is borrowed, and what it leads to is not there any more, or out of reach."""
    return bool(plan.shared) and not os.path.exists(f"{plan.shared}/plan.json")


@dataclass(frozen=True, slots=True)
class SharedStore:
    """A store that is only read, and lends."""

    store: Store

    @classmethod
    def open(cls, root: str) -> SharedStore:
        """Open the store at ``root``, an absolute path; nothing is changed there.

        Raises:
            StoreError: There is none, it cannot be read, or it is of another format.
        """
        store = Store.open(root, to_look=True)
        if not os.access(store.layout.of("entries"), os.R_OK | os.X_OK):
            raise StoreError("its entries cannot be read", kind="store-access", path=root)
        return cls(store)

    def borrow(self, own: Store, lease: Lease, wheels: Collection[LockedWheel]) -> Borrowed:
        """Have an entry of our own for each wheel that this store has.

        Args:
            own: Our store.
            lease: On all the wheels; names what is on its way.
            wheels: What is wanted.

        Raises:
            BusyError: Our own gc has been at work on one of them for two seconds.
            StoreDamagedError: An entry of ours cannot be read.
            OSError: Our disk is full.
        """
        layout = self.store.layout
        own.await_entries((wheel.digest, wheel.name, wheel.version) for wheel in wheels)
        tokens = {layout.marker: fs.stat_token(layout.marker)}
        plans: dict[Digest, EntryPlan] = {}
        warnings: list[str] = []
        there = list(self._there(wheels, warnings))
        if there:
            clients.register(own.layout, layout, [theirs.reference.directory for theirs in there])
        for theirs in there:
            directory = theirs.reference.directory
            path = f"{layout.of('entries', directory)}/plan.json"
            token = fs.stat_token(path)
            try:
                # After that was written, and before looking whether it is there: see store.condemned.
                if self._is_condemned(directory):
                    continue
                ours = self._borrowed(own, lease, theirs)
            except _LostError as error:
                warnings.append(self._left(directory, str(error)))
                continue
            if fs.stat_token(path) == token and os.path.isfile(path):
                plans[theirs.reference.digest], tokens[path] = ours, token
        return Borrowed(plans=plans, tokens=tokens, warnings=tuple(warnings))

    def _there(self, wheels: Collection[LockedWheel], warnings: list[str]) -> Iterator[EntryPlan]:
        """Yield the plans of those wheels that are there; of what is damaged there, add a warning."""
        for wheel in wheels:
            try:
                plan = self.store.entry(wheel.digest, wheel.name, wheel.version)
            except StoreDamagedError as error:
                warnings.append(self._left(f"{wheel.name} {wheel.version}", error.message))
                continue
            # A store of somebody else's may say anything; what we look at, tell it of and make is called after what
            # we want.
            if plan is not None and plan.reference in _references(wheel):
                yield plan

    def _is_condemned(self, directory: str) -> bool:
        try:
            return f"entries/{directory}" in condemned.names(self.store.layout)
        except OSError as error:
            raise _LostError(f"nobody can tell what its gc takes: {error.strerror}") from error

    def _left(self, what: str, why: str) -> str:
        # In the words of whoever writes that store, who may have chosen them for a terminal, or a million of them.
        words = "".join(filter(str.isprintable, why[:_LONGEST]))
        return f"{what} is not taken from the shared store {self.store.root}: {words}"

    def _borrowed(self, own: Store, lease: Lease, theirs: EntryPlan) -> EntryPlan:
        """Return our entry for one of theirs, which is made unless it is there.

        Raises:
            _LostError: Theirs cannot be read as a whole.
        """
        wheel = theirs.reference
        place = self.store.layout.of("entries", wheel.directory)

        def present() -> EntryPlan | None:
            return own.entry(wheel.digest, wheel.name, wheel.version, shared=place)

        found = present()
        if found is not None:
            return found
        with own.hold_entry(wheel.digest):
            found = present()
            if found is not None:
                return found
            directory = own.free_directory(wheel.digest, wheel.name, wheel.version)
            plan, loan = _read(self.store, theirs, replace(wheel, directory=directory), place)
            staging = own.new_staging(lease)
            try:
                _fill(staging, loan)
            except BaseException:
                fs.remove_tree(staging)
                raise
            own.publish(staging, directory)
            modules.note(own.layout, plan)
            return plan


def _references(wheel: LockedWheel) -> Iterator[EntryReference]:
    """Yield what an entry of a wheel may be called."""
    for length in DIGEST_LENGTHS:
        directory = entry_directory(wheel.digest, wheel.name, wheel.version, length=length)
        yield EntryReference(digest=wheel.digest, name=wheel.name, version=wheel.version, directory=directory)


class _LostError(Exception):
    """Something of an entry in a shared store is not there, or not what it should be."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Loan:
    """A borrowed entry that is to be made.

    Attributes:
        manifest: What it is going to hold.
        contents: The bytes of each file of its own.
        links: Further symlinks, to pycs.
        records: The records of these, by path.
    """

    manifest: Manifest
    contents: Mapping[str, bytes]
    links: Mapping[str, str]
    records: Mapping[str, bytes]


def _read(store: Store, theirs: EntryPlan, reference: EntryReference, place: str) -> tuple[EntryPlan, _Loan]:
    """Decide what a borrowed entry consists of, and read the little that is copied.

    Returns:
        Our plan, and what is to be made.

    Raises:
        _LostError: See ``SharedStore._borrowed``.
    """
    from vrfstore.store import lent as taking  # noqa: PLC0415 - installer, packaging: once per wheel

    directory = theirs.reference.directory
    try:
        manifest = store.manifest(directory)
        lent = taking.lent(theirs, manifest, reference, place)
        contents = {file.path: _content(place, file) for file in lent.copied}
    except (OSError, StoreDamagedError, taking.UnbelievableError) as error:
        raise _LostError(error) from error
    source = {"filename": manifest.filename, "origin": manifest.origin}
    contents[taking.RECORD] = lent.record
    contents["plan.json"] = codec.dumps(plan_to_json(lent.plan) | source)
    made = (taking.stored(path, contents[path]) for path in (taking.RECORD, "plan.json"))
    files = {file.path: file for file in (*lent.files, *made)}
    loan = replace(
        manifest,
        reference=reference,
        files=tuple(files[path] for path in sorted(files)),
        links={**lent.links, **{path: f"{place}/{path}" for path in files if path not in contents}},
    )
    pycs, records = _compiled(store, directory, loan)
    return lent.plan, _Loan(
        manifest=loan,
        contents=contents,
        links={path: f"{place}/{path}" for path in pycs},
        records=records,
    )


def _content(place: str, file: StoredFile) -> bytes:
    data = fs.read_file(f"{place}/{file.path}", limit=file.size)
    if codec.hexdigest(data) != file.sha256:
        raise StoreDamagedError(f"{file.path} has other bytes than were published")
    return data


def _compiled(store: Store, directory: str, loan: Manifest) -> tuple[frozenset[str], dict[str, bytes]]:
    """Return the pycs that an entry has, and the records that name them; of a record that lies, nothing."""
    from vrfstore.store.lent import is_pyc  # noqa: PLC0415 - see above

    pycs: set[str] = set()
    records: dict[str, bytes] = {}
    place = store.layout.of("entries", directory)
    directories, known = loan.directories, {file.path for file in loan.files}
    for record in bytecode.read_records(store.layout, directory):
        named = {pyc.path for pyc in record.files}
        if all(
            is_pyc(path, known)
            and path.rpartition("/")[0] in directories
            and os.path.isfile(f"{place}/{path}")
            for path in named
        ):
            pycs |= named
            name = f"{BYTECODE}/{record.cache_tag}-{record.magic}.json"
            records[name] = codec.dumps(record.to_json())
    return frozenset(pycs), records


def _fill(staging: str, loan: _Loan) -> None:
    """Make a borrowed entry at a path where nothing is, sealed but for its own top."""
    manifest = loan.manifest
    modes = {file.path: file.mode for file in manifest.files}
    fs.make_directory(staging)
    for directory in sorted(manifest.directories):
        fs.make_directory(f"{staging}/{directory}")
    for path, target in {**manifest.links, **loan.links}.items():
        fs.symlink(target, f"{staging}/{path}")
    for path, data in {**loan.contents, **loan.records}.items():
        fs.write_file(f"{staging}/{path}", data, mode=modes.get(path, _FILE))
    fs.write_file(f"{staging}/manifest.json", codec.dumps(manifest.to_json()), mode=_FILE)
    for directory in sorted(manifest.directories, reverse=True):
        fs.seal_directory(f"{staging}/{directory}")
