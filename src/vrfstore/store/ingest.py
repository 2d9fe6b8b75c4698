"""Unpacking one wheel into a staged entry, through installer.

``installer.install`` drives; ``CheckedWheel`` is its source and ``_EntryDestination`` its destination::

    wheel ──CheckedWheel──▶ installer.install ──_EntryDestination──▶ entries/.new-<lease>.<random>/
                                                                      │ manifest.json, plan.json, links/
                                                                      ▼ sealed, synced, renamed by the store

Nothing here publishes, and nothing outside the staged directory is touched.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, BinaryIO

from installer import install
from installer.destinations import WheelDestination
from installer.records import Hash, RecordEntry
from installer.utils import Scheme

from vrfstore import codec, fs
from vrfstore.model import EntryPlan, EntryReference
from vrfstore.store import entry_plan, scripts
from vrfstore.store.entry_plan import DATA, HEADERS, SCRIPTS, StoredFile
from vrfstore.store.layout import SITE_PACKAGES
from vrfstore.store.wheel import CheckedWheel, checked_wheel

if TYPE_CHECKING:
    from installer.scripts import ScriptSection

__all__ = ["stage"]

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
_SEALED = 0o555
_NAMESPACE_LIMIT = 4096
"""Bytes. An ``__init__.py`` that only declares a pkgutil namespace is a few lines."""

INSTALLER = b"vrfstore\n"
_MANIFEST_SCHEMA = 1


def stage(wheel_path: str, filename: str, reference: EntryReference, staging: str) -> EntryPlan:
    """Unpack a wheel into the new directory ``staging``, complete and sealed but for its own top.

    Args:
        wheel_path: Where the wheel is.
        filename: Its file name.
        reference: What the entry is going to be called. Its digest is what the caller has computed; its
            directory is where the ready-made links lead.
        staging: The path to unpack to; its parent is ``entries/``.

    Raises:
        WheelError: The wheel is not acceptable. What was staged is left to the caller to remove.
    """
    with checked_wheel(wheel_path, filename) as wheel:
        fs.make_directory(staging, 0o755)
        destination = _EntryDestination(staging, wheel, reference)
        install(wheel, destination, {})
        return destination.finish()


class _EntryDestination(WheelDestination):
    """Writes a wheel by scheme, and prepares what environments will link to."""

    def __init__(self, staging: str, wheel: CheckedWheel, reference: EntryReference) -> None:
        self._staging = staging
        self._wheel = wheel
        self._reference = reference
        self._files: dict[str, StoredFile] = {}
        self._directories: set[str] = {""}
        self._namespaces: set[str] = set()
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
            self._wheel.refuse(
                f"two members would become {place!r}", kind="wheel-member-duplicate", member=place
            )
        keep = _NAMESPACE_LIMIT if place.endswith("/__init__.py") else 8 if scheme == "scripts" else 0
        mode = _PROGRAM if is_executable or scheme == "scripts" else _FILE
        stored, head = self._write(place, stream, mode, keep)
        if keep and scheme == "scripts" and scripts.is_python_script(head):
            with open(f"{self._staging}/{place}", "rb") as script:
                self._prepare_script(os.fspath(path), scripts.trampolined(script.read()))
        elif keep and stored.size < _NAMESPACE_LIMIT and _declares_namespace(head):
            self._namespaces.add(place.removeprefix(f"{SITE_PACKAGES}/").removesuffix("/__init__.py"))
        return RecordEntry(os.fspath(path), Hash("sha256", stored.sha256), stored.size)

    def finalize_installation(
        self, scheme: Scheme, record_file_path: str, records: Iterable[tuple[Scheme, RecordEntry]]
    ) -> None:
        """Keep the wheel's own RECORD as it is; ``finish`` prepares the one for environments."""
        del scheme, records
        self._write_bytes(
            f"{SITE_PACKAGES}/{record_file_path}", self._wheel.read_dist_info("RECORD").encode()
        )

    def finish(self) -> EntryPlan:
        """Write links, RECORD, manifest and plan, and seal all but the top directory."""
        reference = self._reference
        dist_info = self._wheel.dist_info_dir
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
        data, record_links = entry_plan.ready_record(
            self._files.values(), trees, ready=self._ready, record=record
        )
        self._write_bytes("links/RECORD", data)
        targets = dict(entry_plan.ready_links(reference.directory, links))
        for name, target in targets.items():
            fs.symlink(target, f"{self._staging}/links/{name}")
        plan = EntryPlan(
            reference=reference,
            dist_info=dist_info,
            tags=self._wheel.tags,
            requires_python=self._wheel.requires_python,
            unpacked=sum(file.size for file in self._files.values()),
            trees=trees,
            record_links=record_links,
            record_ready=HEADERS not in trees,
        )
        self._write_bytes("plan.json", codec.dumps(entry_plan.plan_to_json(plan)))
        manifest = codec.dumps(self._manifest(targets))
        fs.write_file(f"{self._staging}/manifest.json", manifest, mode=_FILE)
        for directory in sorted(self._directories - {""}, reverse=True):
            fs.change_mode(f"{self._staging}/{directory}", _SEALED)
        return plan

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

    def _manifest(self, links: dict[str, str]) -> dict[str, object]:
        reference = self._reference
        files = sorted(self._files.values(), key=lambda file: file.path)
        return {
            "schema": _MANIFEST_SCHEMA,
            "digest": reference.digest,
            "name": reference.name,
            "version": reference.version,
            "filename": self._wheel.filename,
            "files": [[file.path, file.size, file.mode, file.sha256] for file in files],
            "links": links,
        }

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
        fs.write_file(f"{self._staging}/{place}", data, mode=mode)
        self._files[place] = StoredFile(
            path=place, size=len(data), mode=mode, sha256=hashlib.sha256(data).hexdigest()
        )

    def _write(self, place: str, stream: BinaryIO, mode: int, keep: int) -> tuple[StoredFile, bytes]:
        """Write a stream, and return what it was with up to ``keep`` of its first bytes."""
        self._make_parents(place)
        sha256 = hashlib.sha256()
        head = b""
        with fs.NewFile(f"{self._staging}/{place}", mode=mode) as file:
            while data := stream.read(_CHUNK):
                sha256.update(data)
                file.write(data)
                if len(head) < keep:
                    head += data[: keep - len(head)]
            size = file.size
        stored = StoredFile(path=place, size=size, mode=mode, sha256=sha256.hexdigest())
        self._files[place] = stored
        return stored, head

    def _make_parents(self, place: str) -> None:
        """Make the directories above a new file, which no other file of the wheel may stand in the way of."""
        if place in self._files or place in self._directories:
            # By different schemes: `.data/purelib/x` and `x` become the same file.
            self._wheel.refuse(
                f"two members would become {place!r}", kind="wheel-member-duplicate", member=place
            )
        parent = place.rpartition("/")[0]
        if parent in self._directories:
            return
        self._make_parents(parent)
        fs.make_directory(f"{self._staging}/{parent}")
        self._directories.add(parent)


def _declares_namespace(source: bytes) -> bool:
    """Whether an ``__init__.py`` shares its package with other wheels (pkgutil or pkg_resources style)."""
    return (b"__path__" in source and b"extend_path" in source) or b"declare_namespace" in source
