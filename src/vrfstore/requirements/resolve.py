"""Resolving a request with pip: a dry run against the base, whose report becomes a lock.

``pip install --dry-run --report`` sees what the base has and leaves it out; only wheels are taken. What pip says
when it fails is sorted into the few things that can be wrong, in the words of whoever wrote the requirements.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from vrfstore import fs
from vrfstore.errors import (
    ResolutionError,
)
from vrfstore.model import Interpreter, Lock, LockedWheel, Requirements, parse_digest
from vrfstore.requirements import pip
from vrfstore.requirements.explain import resolution_error
from vrfstore.requirements.targets import Target, check_environment, write_installed
from vrfstore.store.leases import Lease
from vrfstore.store.store import Store

__all__ = ["lock_from_report", "log_path", "resolve"]


def resolve(
    store: Store,
    lease: Lease,
    requirements: Requirements,
    interpreter: Interpreter,
    log: str,
    *,
    isolated: bool = False,
) -> Lock:
    """Resolve requirements for an interpreter and what it already has.

    Args:
        store: Where pip's files go, and where an older pip is fetched to if this Python needs one.
        lease: Names the files in tmp/.
        requirements: What is asked for; not empty.
        interpreter: The base; a target is not started.
        log: Where pip's own words are kept if it fails.
        isolated: What it already has does not count.

    Raises:
        ResolutionError: There is no such package, version, or wheel, or they conflict; or pip resolved for
            somebody else than a target (``resolver-target``).
        PackageIndexError: The index did not answer.
        WheelError: A hash does not match.
    """
    pip.check_configuration(interpreter)
    names = ("requirements.txt", "report.json", "pip.log")
    directory = store.layout.of("tmp", f"{lease.id}.{fs.unique_name()}")
    fs.make_directory(directory)
    asked, report, words = (f"{directory}/{name}" for name in names)
    try:
        fs.write_file(asked, requirements.canonical.encode())
        with pip.pip_for(store, interpreter) as runner:
            arguments = [
                "install", "--dry-run", "--quiet", "--only-binary", ":all:", "--report", report,
                "--log", words, "--requirement", asked, *(["--ignore-installed"] if isolated else []),
            ]  # fmt: skip
            if isinstance(interpreter, Target):
                installed = f"{directory}/installed"
                write_installed(interpreter, installed)
                done = pip.run_for_target(
                    interpreter, runner, arguments, installed=installed, scratch=directory
                )
            else:
                done = pip.run(interpreter.executable, runner, arguments, scratch=directory)
        if done.returncode != 0:
            kept = _keep(words, log)
            text = _read(words) or done.stderr
            error = resolution_error(done.stderr, text, requirements, interpreter)
            error.log = kept
            raise error
        with open(report, encoding="utf-8") as stream:
            resolved = json.load(stream)
        if isinstance(interpreter, Target):
            check_environment(resolved, interpreter)
        return lock_from_report(resolved, interpreter)
    finally:
        fs.remove_tree(directory)


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""


def _keep(words: str, log: str) -> str | None:
    try:
        shutil.copyfile(words, log)
    except OSError:
        return None
    return log


def lock_from_report(report: Mapping[str, Any], interpreter: Interpreter) -> Lock:
    """Turn pip's installation report (version 1) into a lock.

    Raises:
        ResolutionError: Something in it is not a wheel, or has no SHA-256.
    """
    wheels = sorted((_locked(item) for item in report["install"]), key=lambda wheel: wheel.name)
    return Lock(wheels=tuple(wheels), python=interpreter.short_version)


def _locked(item: Mapping[str, Any]) -> LockedWheel:
    download = item["download_info"]
    url = without_credentials(download["url"])
    filename = unquote(urlsplit(url).path.rpartition("/")[2])
    digest = download.get("archive_info", {}).get("hashes", {}).get("sha256")
    try:
        name, version, _, _ = parse_wheel_filename(filename)
    except InvalidWheelFilename as error:
        raise ResolutionError(f"{filename} is not a wheel", kind="no-wheel") from error
    if not digest:
        raise ResolutionError(
            f"the index gives no SHA-256 for {filename}",
            kind="no-hash",
            hint="use an index that publishes hashes",
        )
    return LockedWheel(
        name=str(name),
        version=str(version),
        filename=filename,
        digest=parse_digest(digest),
        url=url,
        requires_python=item["metadata"].get("requires_python"),
    )


def without_credentials(url: str) -> str:
    """Return a URL without user, password and fragment; nothing that is written down may have them."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, parts.query, ""))


def log_path(store: Store, digest: str) -> str:
    """Return where the words of a failed resolution of this request are kept."""
    return os.path.join(store.layout.of("logs"), f"resolve-{digest[:20]}.log")
