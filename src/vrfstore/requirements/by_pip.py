"""Resolving with pip: a dry run as the base, whose report becomes a lock.

``pip install --dry-run --report`` sees what the base has and leaves it out. pip knows no preferences, so versions to
keep are constraints, of which those that are in the way are given up, a few at a time.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from vrfstore import fs
from vrfstore.errors import ResolutionError, VrfstoreError
from vrfstore.model import Lock, LockedWheel, parse_digest
from vrfstore.requirements import pip
from vrfstore.requirements.budget import Budget
from vrfstore.requirements.request import Request
from vrfstore.requirements.solution import Attempt, Solution, SourceFile, keep_words, no_hash, source_file
from vrfstore.requirements.targets import Target, check_environment, write_installed
from vrfstore.requirements.urls import without_credentials
from vrfstore.store.store import Store

__all__ = ["solution_from_report", "solve"]

_ROUNDS = 4
"""How often versions that are in the way are given up one by one; after that, all are."""


def solve(store: Store, request: Request, attempt: Attempt, budget: Budget) -> Solution:
    """Resolve a request with pip; see ``solution.Resolver``.

    Raises:
        ResolutionError: There is no such package, version, or wheel, or they conflict; or pip resolved for
            somebody else than a target (``resolver-target``).
        PackageIndexError: The index did not answer.
        WheelError: A hash does not match.
        CapError: The time is over.
    """
    base = request.base
    preferred = {name: version for name, version in attempt.preferred.items() if name not in base}
    with pip.pip_for(store, request.interpreter, index_url=request.index_url) as runner:
        run = functools.partial(_run, request, attempt, budget, runner=runner)
        solution, preferred = _keeping(run, preferred)
        # What the base has comes first; of what it cannot serve with, the version of the last time.
        moved = solution.moved(base, attempt.preferred)
        if moved:
            solution, _ = _keeping(run, {**preferred, **moved})
    return solution


def _keeping(run: Callable[..., Solution], preferred: dict[str, str]) -> tuple[Solution, dict[str, str]]:
    """Return what pip finds with as many of the preferred versions as it takes, and those.

    Raises:
        VrfstoreError: See ``solve``.
    """
    for number in range(_ROUNDS + 1):
        try:
            return run(preferred=preferred), preferred
        except _FailedError as failed:
            if not preferred or failed.error.exit_code != ResolutionError.exit_code:
                raise failed.error from None
            in_the_way = _named(failed.words) & preferred.keys() if number + 1 < _ROUNDS else set()
            preferred = (
                {name: preferred[name] for name in preferred.keys() - in_the_way} if in_the_way else {}
            )
    raise AssertionError


class _FailedError(Exception):
    """pip gave up.

    Attributes:
        error: What that means.
        words: What it said.
    """

    def __init__(self, error: VrfstoreError, words: str) -> None:
        super().__init__(str(error))
        self.error = error
        self.words = words


def _run(
    request: Request,
    attempt: Attempt,
    budget: Budget,
    *,
    runner: str,
    preferred: Mapping[str, str],
) -> Solution:
    base = request.interpreter
    scratch = f"{attempt.scratch}/pip{len(os.listdir(attempt.scratch))}"
    fs.make_directory(scratch)
    asked, limits, report, words = (
        f"{scratch}/{name}" for name in ("requirements.txt", "constraints.txt", "report.json", "pip.log")
    )
    fs.write_file(asked, request.requirements.canonical.encode())
    kept = "".join(f"{name}=={version}\n" for name, version in sorted(preferred.items()))
    fs.write_file(limits, f"{attempt.constraints}{kept}".encode())
    arguments = [
        "install", "--dry-run", "--quiet", "--report", report, "--log", words,
        "--requirement", asked, "--constraint", limits,
        *([] if request.allow_builds else ["--only-binary", ":all:"]),
        *(["--ignore-installed"] if request.isolated else []),
    ]  # fmt: skip
    if isinstance(base, Target):
        installed = f"{scratch}/installed"
        write_installed(base, installed)
        done = pip.run_for_target(
            base,
            runner,
            arguments,
            installed=installed,
            scratch=scratch,
            index_url=request.index_url,
            budget=budget,
        )
    else:
        done = pip.run(
            base.executable, runner, arguments, scratch=scratch, index_url=request.index_url, budget=budget
        )
    if done.returncode != 0:
        text = _read(words) or done.stderr
        from vrfstore.requirements.explain import resolution_error  # noqa: PLC0415 - only a failure needs it

        error = resolution_error(done.stderr, text, attempt.explained, base)
        error.log = keep_words(text, attempt.log)
        raise _FailedError(error, f"{done.stderr}\n{text}")
    with open(report, encoding="utf-8") as stream:
        resolved = json.load(stream)
    if isinstance(base, Target):
        check_environment(resolved, base)
    return solution_from_report(resolved, request)


def _read(words: str) -> str:
    try:
        with open(words, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""


def _named(words: str) -> set[str]:
    """Return the names of all that pip complains of."""
    _, _, causes = words.partition("The conflict is caused by:")
    missing = re.findall(r"No matching distribution found for ([\w.-]+)", words)
    constrained = re.findall(r"The user requested \(constraint\) ([\w.-]+?)==", causes or words)
    return {str(canonicalize_name(name)) for name in (*missing, *constrained)}


def solution_from_report(report: Mapping[str, Any], request: Request) -> Solution:
    """Turn pip's installation report (version 1) into a solution.

    Raises:
        ResolutionError: Something in it is not a wheel and may not be built, or has no SHA-256.
    """
    found = [_found(item, allow_builds=request.allow_builds) for item in report["install"]]
    wheels = sorted((one for one in found if isinstance(one, LockedWheel)), key=lambda wheel: wheel.name)
    sources = sorted((one for one in found if isinstance(one, SourceFile)), key=lambda file: file.name)
    return Solution(Lock(wheels=tuple(wheels), python=request.interpreter.short_version), tuple(sources))


def _found(item: Mapping[str, Any], *, allow_builds: bool) -> LockedWheel | SourceFile:
    download, metadata = item["download_info"], item["metadata"]
    url = without_credentials(download["url"])
    filename = unquote(urlsplit(url).path.rpartition("/")[2])
    digest = download.get("archive_info", {}).get("hashes", {}).get("sha256")
    if allow_builds and not filename.endswith(".whl"):
        return source_file(str(canonicalize_name(metadata["name"])), metadata["version"], url, digest)
    try:
        name, version, _, _ = parse_wheel_filename(filename)
    except InvalidWheelFilename as error:
        raise ResolutionError(f"{filename} is not a wheel", kind="no-wheel") from error
    if not digest:
        raise no_hash(filename)
    return LockedWheel(
        name=str(name),
        version=str(version),
        filename=filename,
        digest=parse_digest(digest),
        url=url,
        requires_python=metadata.get("requires_python"),
    )
