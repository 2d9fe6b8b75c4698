"""How large wheels are of which a resolver does not say it: pip's report has no sizes, though indexes often know them.

What is known before anything is fetched can be held against a cap, and shown. What is not known stays unknown; nothing
fails for that.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from urllib.parse import unquote, urlsplit

from vrfstore.errors import PackageIndexError
from vrfstore.model import Digest, LockedWheel
from vrfstore.requirements.budget import Budget
from vrfstore.requirements.pip import PipSettings
from vrfstore.values import replace

__all__ = ["with_sizes"]

_WORKERS = 8
_OK = 200


def with_sizes(wheels: Sequence[LockedWheel], settings: PipSettings, budget: Budget) -> list[LockedWheel]:
    """Return wheels with their sizes, as far as a file or a server tells.

    Args:
        wheels: Of a lock.
        settings: How to reach the indexes.
        budget: Whose time it takes.

    Raises:
        CapError: The time is over.
    """
    unknown = [wheel for wheel in wheels if wheel.size is None and not wheel.built_from]
    local = [wheel for wheel in unknown if wheel.url.startswith("file:")]
    remote = [wheel for wheel in unknown if not wheel.url.startswith("file:")]
    found: dict[Digest, int] = {
        wheel.digest: size for wheel in local if (size := _on_disk(wheel)) is not None
    }
    if remote:
        found |= _told(remote, settings, budget)
    return [replace(wheel, size=found.get(wheel.digest, wheel.size)) for wheel in wheels]


def _on_disk(wheel: LockedWheel) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        return os.path.getsize(unquote(urlsplit(wheel.url).path))
    return None


def _told(wheels: Sequence[LockedWheel], settings: PipSettings, budget: Budget) -> dict[Digest, int]:
    """Return what servers say (RFC 9110, HEAD): once each, and only where the wheel itself is."""
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - as below

    # urllib3 takes 60 ms to import, which only this pays.
    from vrfstore.requirements.patience import parsed  # noqa: PLC0415
    from vrfstore.requirements.source import BrokenError, Source  # noqa: PLC0415
    from vrfstore.threads import outcomes  # noqa: PLC0415 - as below

    def ask(wheel: LockedWheel) -> int | None:
        url = parsed(wheel.url)
        if url is None:
            return None
        headers = {"Accept-Encoding": "identity"}
        with contextlib.suppress(BrokenError, PackageIndexError), source.attending() as (line, pace):
            answer = source.ask(url, headers, line, pace, method="HEAD")
            answer.drain_conn()
            answer.release_conn()
            length = answer.headers.get("Content-Length", "")
            return int(length) if answer.status == _OK and length.isdecimal() else None
        return None

    with (
        Source(settings, budget, workers=_WORKERS) as source,
        ThreadPoolExecutor(min(_WORKERS, len(wheels)), thread_name_prefix="size") as pool,
    ):
        try:
            sizes = outcomes(pool, ask, wheels)
        except BaseException:
            # Nobody wants the other answers any more, and whoever pressed Ctrl-C waits for them.
            source.stop()
            raise
    return {wheel.digest: size for wheel, size in zip(wheels, sizes, strict=True) if size is not None}
