"""Unpacking one wheel into a staged entry, through installer.

``installer.install`` drives; ``CheckedWheel`` is its source and ``EntryWriter`` its destination::

    wheel ──CheckedWheel──▶ installer.install ──EntryWriter──▶ entries/.new-<lease>.<random>/
                                                                │ links/, plan.json, manifest.json
                                                                ▼ sealed, synced, renamed by the store

Nothing here publishes, and nothing outside the staged directory is touched.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, BinaryIO, NoReturn

from installer import install
from installer.destinations import WheelDestination
from installer.records import Hash, RecordEntry
from installer.utils import Scheme

from vrfstore import codec, fs
from vrfstore.errors import WheelError
from vrfstore.model import EntryPlan, EntryReference
from vrfstore.store import elf, entry_plan, scripts
from vrfstore.store.entry_plan import DATA, HEADERS, SCRIPTS
from vrfstore.store.layout import BYTECODE, SITE_PACKAGES
from vrfstore.store.libraries import libraries_of
from vrfstore.store.manifest import Manifest, StoredFile, bytecode_directories
from vrfstore.store.record_file import ready_record
from vrfstore.store.wheel import CheckedStream, checked_wheel
from vrfstore.store.zip_structure import Limits
from vrfstore.values import dataclass

if TYPE_CHECKING:
    from installer.scripts import ScriptSection

__all__ = ["EntryWriter", "Job", "Staged", "WheelFacts", "stage"]

_SCHEME_DIRECTORIES = {
    "purelib": SITE_PACKAGES,
    "platlib": SITE_PACKAGES,
    "data": DATA,
    "scripts": SCRIPTS,
    "headers": HEADERS,
}

_CHUNK = 1 << 18
_FILE = 0o444
_PROGRAM = 0o555
_NAMESPACE_LIMIT = 4096
"""Bytes. An ``__init__.py`` that only declares a pkgutil namespace is a few lines."""

_HEAD = 8
"""Bytes that tell what a file is."""

_MOST_WORDS = 1 << 18
"""What all shared libraries of a wheel may need and search. The most that was seen is 60,000."""

_LARGEST_SCRIPT = 1 << 24
"""Bytes of a ``#!python`` script, which is written anew with another first line."""

INSTALLER = b"vrfstore\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A wheel to unpack.

    Attributes:
        path: Where the wheel is, a file that nobody else changes.
        filename: Its file name.
        origin: Where it came from, for the manifest.
        size: Bytes of the wheel.
        reference: What the entry is going to be called. Its digest is what the caller has computed; its
            directory is where the ready-made links lead.
        staging: The path to unpack to; its parent is ``entries/``.
        limits: What is too much.
    """

    path: str
    filename: str
    origin: str
    size: int
    reference: EntryReference
    staging: str
    limits: Limits


@dataclass(frozen=True, slots=True)
class Staged:
    """A wheel that has been unpacked: its plan, and what its owner should be told, in words."""

    plan: EntryPlan
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class WheelFacts:
    """What an entry's plan says of its wheel, beside its files.

    Attributes:
        filename: The wheel's file name.
        dist_info: The name of its dist-info directory.
        tags: Its tags, sorted.
        requires_python: From METADATA.
        record: Its RECORD, where that does not come as one of the files.
    """

    filename: str
    dist_info: str
    tags: tuple[str, ...]
    requires_python: str | None
    record: bytes | None = None


def stage(job: Job) -> Staged:
    """Unpack a wheel into a new directory, complete and sealed but for its own top.

    Raises:
        WheelError: The wheel is not acceptable. What was staged is left to the caller to remove.
    """
    with checked_wheel(job.path, job.filename, job.limits) as wheel:
        facts = WheelFacts(
            filename=wheel.filename,
            dist_info=wheel.dist_info_dir,
            tags=wheel.tags,
            requires_python=wheel.requires_python,
            record=wheel.read_dist_info("RECORD").encode(),
        )
        fs.make_directory(job.staging, 0o755)
        writer = EntryWriter(job.staging, facts, job.reference, origin=job.origin)
        install(wheel, writer, {})
        return Staged(writer.finish(), wheel.warnings)


class EntryWriter(WheelDestination):
    """Writes a wheel by scheme into a staged directory that is there, and prepares what environments link to.

    Args:
        staging: The directory.
        facts: What is known of the wheel.
        reference: What the entry is going to be called.
        origin: Where the wheel came from; see ``Manifest``.
        claimed: See ``EntryPlan``.
    """

    def __init__(
        self,
        staging: str,
        facts: WheelFacts,
        reference: EntryReference,
        *,
        origin: str = "",
        claimed: str = "",
    ) -> None:
        self._staging = staging
        self._facts = facts
        self._reference = reference
        self._origin = origin
        self._claimed = claimed
        self._files: dict[str, StoredFile] = {}
        self._directories: set[str] = {""}
        self._namespaces: set[str] = set()
        self._sections: dict[str, elf.DynamicSection] = {}
        self._words = 0
        self._ready: dict[str, str] = {}
        self._make_parents("links/x")

    def write_script(self, name: str, module: str, attr: str, section: ScriptSection) -> RecordEntry:  # noqa: ARG002 - installer's port; gui scripts are as console scripts on POSIX
        """Prepare the script of an entry point."""
        return self._prepare_script(name, scripts.entry_point_script(module, attr))

    def write_file(
        self,
        scheme: Scheme,
        path: str | os.PathLike[str],
        stream: BinaryIO,
        is_executable: bool,  # noqa: FBT001 - installer's port
    ) -> RecordEntry:
        """Write one file of the wheel."""
        place = self._place(scheme, os.fspath(path))
        if place in self._files:
            self._refuse(place)
        keep = _NAMESPACE_LIMIT if place.endswith("/__init__.py") else _HEAD
        mode = _PROGRAM if is_executable or scheme == "scripts" else _FILE
        stored, head = self._write(place, stream, mode, keep)
        if elf.is_elf(head):
            with open(f"{self._staging}/{place}", "rb") as program:
                section = elf.read_dynamic(program)
            if section is not None:
                self._note_section(place, section)
        elif scheme == "scripts" and scripts.is_python_script(head):
            if stored.size > _LARGEST_SCRIPT:
                raise WheelError(
                    f"the script {place!r} has {stored.size} bytes; {_LARGEST_SCRIPT} are allowed",
                    kind="wheel-bomb",
                    path=self._facts.filename,
                    member=place,
                )
            with open(f"{self._staging}/{place}", "rb") as script:
                self._prepare_script(os.fspath(path), scripts.trampolined(script.read()))
        elif keep > _HEAD and stored.size < _NAMESPACE_LIMIT and _declares_namespace(head):
            self._namespaces.add(place.removeprefix(f"{SITE_PACKAGES}/").removesuffix("/__init__.py"))
        return RecordEntry(os.fspath(path), Hash("sha256", stored.sha256), stored.size)

    def finalize_installation(
        self, scheme: Scheme, record_file_path: str, records: Iterable[tuple[Scheme, RecordEntry]]
    ) -> None:
        """Keep the wheel's own RECORD as it is; ``finish`` prepares the one for environments."""
        del scheme, records
        self._write_bytes(f"{SITE_PACKAGES}/{record_file_path}", self._facts.record or b"")

    def finish(self) -> EntryPlan:
        """Write links, RECORD, manifest and plan, and seal all but the top directory."""
        reference = self._reference
        dist_info = self._facts.dist_info
        record = f"{dist_info}/RECORD"
        self._ready[f"{SITE_PACKAGES}/{record}"] = "links/RECORD"
        self._ready[f"{SITE_PACKAGES}/{dist_info}/INSTALLER"] = "links/INSTALLER"
        trees, links = entry_plan.scheme_trees(
            self._paths(),
            dist_info=dist_info,
            pkgutil_namespaces=frozenset(self._namespaces),
            ready=self._ready,
        )
        self._write_bytes("links/INSTALLER", INSTALLER)
        data, record_links = ready_record(self._files.values(), trees, ready=self._ready, record=record)
        self._write_bytes("links/RECORD", data)
        targets = {
            f"links/{name}": target for name, target in entry_plan.ready_links(reference.directory, links)
        }
        for path, target in targets.items():
            fs.symlink(target, f"{self._staging}/{path}")
        plan = EntryPlan(
            reference=reference,
            dist_info=dist_info,
            tags=self._facts.tags,
            requires_python=self._facts.requires_python,
            unpacked=sum(file.size for file in self._files.values()),
            trees=trees,
            record_links=record_links,
            record_ready=HEADERS not in trees,
            libraries=libraries_of(self._sections, self._files),
            claimed=self._claimed,
        )
        # Once more beside the manifest: a repair of an entry that has lost that needs them.
        source = {"filename": self._facts.filename, "origin": self._origin}
        self._write_bytes("plan.json", codec.dumps(entry_plan.plan_to_json(plan) | source))
        manifest = Manifest(
            reference=reference,
            filename=self._facts.filename,
            origin=self._origin,
            files=tuple(sorted(self._files.values(), key=lambda file: file.path)),
            links=targets,
        )
        fs.write_file(f"{self._staging}/manifest.json", codec.dumps(manifest.to_json()), mode=_FILE)
        for directory in (BYTECODE, *sorted(bytecode_directories(self._files))):
            fs.make_directory(f"{self._staging}/{directory}")
            self._directories.add(directory)
        for directory in sorted(self._directories - {""}, reverse=True):
            fs.seal_directory(f"{self._staging}/{directory}")
        return plan

    def _note_section(self, place: str, section: elf.DynamicSection) -> None:
        self._sections[place] = section
        self._words += len(section.needed) + len(section.search)
        if self._words > _MOST_WORDS:
            raise WheelError(
                f"its shared libraries name more than {_MOST_WORDS} others and directories",
                kind="wheel-bomb",
                path=self._facts.filename,
                member=place,
            )

    def _place(self, scheme: Scheme, path: str) -> str:
        directory = _SCHEME_DIRECTORIES[scheme]
        # Headers of all distributions share one directory of an environment, each below its own name.
        return f"{directory}/{self._reference.name}/{path}" if directory == HEADERS else f"{directory}/{path}"

    def _paths(self) -> dict[str, list[str]]:
        paths: dict[str, list[str]] = {}
        # A prepared file takes the place of the wheel's own, or has a place that the wheel knows nothing of.
        for place in {*self._files, *self._ready}:
            scheme, _, path = place.partition("/")
            paths.setdefault(scheme, []).append(path)
        return paths

    def _prepare_script(self, name: str, data: bytes) -> RecordEntry:
        place = f"{SCRIPTS}/{name}"
        source = f"links/bin/{name}"
        if source not in self._files:
            self._write_bytes(source, data, _PROGRAM)
        # Where an entry point and a script have one name, installers let the entry point win.
        self._ready.setdefault(place, source)
        return RecordEntry(name, None, None)

    def _write_bytes(self, place: str, data: bytes, mode: int = _FILE) -> None:
        self._make_parents(place)
        with self._new_file(place, mode) as file:
            file.write(data)
        self._files[place] = StoredFile(
            path=place, size=len(data), mode=mode, sha256=hashlib.sha256(data).hexdigest()
        )

    def _write(self, place: str, stream: BinaryIO, mode: int, keep: int) -> tuple[StoredFile, bytes]:
        """Write a stream, and return what it was with up to ``keep`` of its first bytes."""
        self._make_parents(place)
        # A wheel's own stream has usually computed the same already, to compare it with RECORD.
        checked = isinstance(stream, CheckedStream) and stream.algorithm == "sha256"
        sha256 = hashlib.sha256()
        head = b""
        with self._new_file(place, mode) as file:
            while data := stream.read(_CHUNK):
                if not checked:
                    sha256.update(data)
                file.write(data)
                if len(head) < keep:
                    head += data[: keep - len(head)]
            size = file.size
        digest = stream.hexdigest() if isinstance(stream, CheckedStream) and checked else sha256.hexdigest()
        stored = StoredFile(path=place, size=size, mode=mode, sha256=digest)
        self._files[place] = stored
        return stored, head

    def _new_file(self, place: str, mode: int) -> fs.NewFile:
        try:
            return fs.NewFile(f"{self._staging}/{place}", mode=mode)
        except FileExistsError:
            # The file system does not tell two names apart that differ in case, or in Unicode normalisation.
            self._refuse(place)

    def _refuse(self, place: str) -> NoReturn:
        raise WheelError(
            f"two members would become {place!r}",
            kind="wheel-member-duplicate",
            path=self._facts.filename,
            member=place,
        )

    def _make_parents(self, place: str) -> None:
        """Make the directories above a new file, which no other file of the wheel may stand in the way of."""
        if place in self._files or place in self._directories:
            # By different schemes: `.data/purelib/x` and `x` become the same file.
            self._refuse(place)
        parent = place.rpartition("/")[0]
        if parent in self._directories:
            return
        self._make_parents(parent)
        try:
            fs.make_directory(f"{self._staging}/{parent}")
        except FileExistsError:
            self._refuse(parent)
        self._directories.add(parent)


def _declares_namespace(source: bytes) -> bool:
    """Whether an ``__init__.py`` shares its package with other wheels (pkgutil or pkg_resources style)."""
    return (b"__path__" in source and b"extend_path" in source) or b"declare_namespace" in source
