"""Locks as ``pylock.toml`` (PEP 751): the resolved set of wheels, in a form that pip and uv read too."""

from __future__ import annotations

import functools
import hashlib
import os
import tomllib
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from vrfstore import fs
from vrfstore.errors import RequirementsError, UsageError
from vrfstore.model import Lock, LockedWheel, parse_digest
from vrfstore.store import condemned
from vrfstore.store.layout import Layout
from vrfstore.store.leases import Lease
from vrfstore.store.memos import replace

if TYPE_CHECKING:
    from packaging.pylock import Package, PackageSdist, PackageWheel, Pylock

__all__ = ["dumps", "lock_digest", "read", "write"]

_TOOL = "vrfstore"
"""The table of ours in ``[packages.tool]``."""


@functools.lru_cache(
    maxsize=2
)  # a new lock is named, written and shown; each time takes as long as linking it
def dumps(lock: Lock) -> str:
    """Return a lock as the text of a ``pylock.toml``; equal locks give equal text."""
    import tomli_w  # noqa: PLC0415 - only a new lock pays
    from packaging.pylock import Pylock  # noqa: PLC0415
    from packaging.specifiers import SpecifierSet  # noqa: PLC0415
    from packaging.version import Version  # noqa: PLC0415

    pylock = Pylock(
        lock_version=Version("1.0"),
        created_by="vrfstore",
        requires_python=SpecifierSet(f"=={lock.python}.*"),
        packages=[_package(wheel) for wheel in lock.wheels],
    )
    pylock.validate()
    return tomli_w.dumps(pylock.to_dict())


def _package(wheel: LockedWheel) -> Package:
    from packaging.pylock import Package, PackageSdist, PackageWheel  # noqa: PLC0415
    from packaging.specifiers import SpecifierSet  # noqa: PLC0415
    from packaging.utils import canonicalize_name  # noqa: PLC0415
    from packaging.version import Version  # noqa: PLC0415

    # The query of a URL may be what gives access; it serves for the fetch of this run and is not written down.
    parts = urlsplit(wheel.url)._replace(query="")
    local = parts.scheme == "file"
    place: dict[str, Any] = {"path": unquote(parts.path)} if local else {"url": urlunsplit(parts)}
    common: dict[str, Any] = {
        "name": canonicalize_name(wheel.name),
        "version": Version(wheel.version),
        "requires_python": SpecifierSet(wheel.requires_python) if wheel.requires_python else None,
    }
    if wheel.built_from:
        # Whoever else reads this builds a wheel himself; which one was built here is for us alone.
        sdist = PackageSdist(
            name=os.path.basename(unquote(parts.path)), hashes={"sha256": wheel.built_from}, **place
        )
        return Package(
            sdist=sdist, tool={_TOOL: {"built": {"name": wheel.filename, "sha256": wheel.digest}}}, **common
        )
    file = PackageWheel(name=wheel.filename, size=wheel.size, hashes={"sha256": wheel.digest}, **place)
    return Package(wheels=[file], **common)


def loads(text: str, path: str) -> Lock:
    """Return the lock that a ``pylock.toml`` of ours holds.

    Raises:
        RequirementsError: It is not one.
    """
    from packaging.pylock import Pylock, PylockValidationError  # noqa: PLC0415

    try:
        return _from_pylock(Pylock.from_dict(tomllib.loads(text)))
    except (PylockValidationError, UsageError, KeyError, ValueError) as error:
        raise RequirementsError(f"not a lock: {error}", kind="lock-invalid", path=path) from error


def _from_pylock(pylock: Pylock) -> Lock:
    python = str(pylock.requires_python or "").removeprefix("==").removesuffix(".*")
    return Lock(wheels=tuple(map(_locked, pylock.packages)), python=python)


def _locked(package: Package) -> LockedWheel:
    if package.version is None:
        raise ValueError(f"{package.name} has no version")
    built = (package.tool or {}).get(_TOOL, {}).get("built")
    file: PackageSdist | PackageWheel
    if built is not None and package.sdist is not None:
        file, filename, digest = package.sdist, str(built["name"]), str(built["sha256"])
    elif package.wheels is not None:
        (file,) = package.wheels
        filename, digest = file.filename, file.hashes["sha256"]
    else:
        raise ValueError(f"{package.name} has no wheel")
    return LockedWheel(
        name=package.name,
        version=str(package.version),
        filename=filename,
        digest=parse_digest(digest),
        url=file.url or f"file://{quote(file.path or '')}",
        requires_python=str(package.requires_python) if package.requires_python else None,
        size=file.size if built is None else None,
        built_from=parse_digest(file.hashes["sha256"]) if built is not None else "",
    )


def lock_digest(text: str) -> str:
    """Return what names a lock in ``locks/``: the SHA-256 of its text."""
    return hashlib.sha256(text.encode()).hexdigest()


def write(layout: Layout, lease: Lease, lock: Lock) -> str:
    """Keep a lock in the store, unless it is there; return its digest."""
    text = dumps(lock)
    digest = lock_digest(text)
    path = layout.lock(digest)
    # The caller's lease has been taken; whatever is there after this stays as long as the lease.
    condemned.wait_until_clear(layout, {f"locks/{digest}"})
    if not os.path.exists(path):
        replace(layout, lease, path, text.encode())
    return digest


def read(layout: Layout, digest: str) -> Lock | None:
    """Return the lock of this digest, if it is in the store and whole."""
    path = layout.lock(digest)
    try:
        data = fs.read_file(path)
    except OSError:
        return None
    if hashlib.sha256(data).hexdigest() != digest:
        fs.remove_file(path)
        return None
    try:
        return loads(data.decode(), path)
    except RequirementsError:
        return None
