"""Building wheels of source distributions, where that is allowed: by pip, in isolation, each by itself.

What a build runs is the package's own code. A built wheel becomes an entry under its own digest; where it came from is
in the lock.
"""

from __future__ import annotations

import os

from packaging.utils import parse_wheel_filename

from vrfstore import fs
from vrfstore.errors import ResolutionError, UsageError
from vrfstore.model import Event, LockedWheel, Watcher
from vrfstore.requirements import pip
from vrfstore.requirements.budget import Budget
from vrfstore.requirements.request import Request
from vrfstore.requirements.solution import Attempt, SourceFile, keep_words
from vrfstore.requirements.targets import Target
from vrfstore.store.store import Store

__all__ = ["build"]


def build(
    store: Store, request: Request, attempt: Attempt, source: SourceFile, budget: Budget, watch: Watcher
) -> LockedWheel:
    """Build a wheel of a source distribution, and make it an entry.

    Args:
        store: Where the entry goes.
        request: For whom.
        attempt: Its scratch directory, and where the words of a build that fails are kept.
        source: What is built; pip compares its SHA-256.
        budget: Whose time it has.
        watch: Is told.

    Raises:
        ResolutionError: It could not be built (``build-failed``).
        UsageError: The interpreter is not here.
        WheelError: What came out is not acceptable.
        CapError: The time is over.
    """
    base = request.interpreter
    if isinstance(base, Target):
        raise UsageError(
            f"{source.name} {source.version} would have to be built, which only its own interpreter can",
            kind="build-target",
            hint="build it where the interpreter is, and give the wheel",
        )
    watch(Event(kind="building", subject=source.filename))
    scratch = f"{attempt.scratch}/build-{source.name}"
    wheels = f"{scratch}/wheels"
    fs.make_directory(scratch)
    words = f"{scratch}/pip.log"
    with pip.pip_for(store, base, index_url=request.index_url) as runner:
        done = pip.run(
            base.executable,
            runner,
            ["wheel", "--quiet", "--no-deps", "--no-binary", source.name, "--wheel-dir", wheels, "--log", words,
             f"{source.name} @ {source.url}#sha256={source.digest}"],
            scratch=scratch,
            index_url=request.index_url,
            budget=budget,
        )  # fmt: skip
    made = sorted(os.listdir(wheels)) if done.returncode == 0 else []
    if not made:
        error = ResolutionError(
            f"{source.name} {source.version} has no wheel, and could not be built: {pip.last_line(done.stderr)}",
            kind="build-failed",
            hint="the log has the build's own words; it may need a compiler or a library of the system",
        )
        error.log = keep_words(_read(words) or done.stderr, attempt.log)
        raise error
    plan = store.add(f"{wheels}/{made[0]}").plan
    _, version, _, _ = parse_wheel_filename(made[0])
    return LockedWheel(
        name=source.name,
        version=str(version),
        filename=made[0],
        digest=plan.reference.digest,
        url=source.url,
        requires_python=plan.requires_python,
        built_from=source.digest,
    )


def _read(words: str) -> str:
    """Return what pip has written down, which is nothing where it could not even begin."""
    try:
        return fs.read_file(words).decode(errors="replace")
    except OSError:
        return ""
