"""Whether the indexes have a project at all: one question to each (PEP 503), and nothing that is fetched."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from urllib.parse import SplitResult

from packaging.utils import canonicalize_name

from vrfstore.errors import PackageIndexError
from vrfstore.requirements.budget import Budget
from vrfstore.requirements.patience import REDIRECTS, next_url, parsed, same_host
from vrfstore.requirements.pip import PipSettings
from vrfstore.requirements.source import BrokenError, Source

__all__ = ["answered", "existing", "page"]

_HEADERS = {"Accept": "application/vnd.pypi.simple.v1+json, text/html;q=0.5"}
_OK, _ABSENT, _NO_HEAD = frozenset({200}), frozenset({404, 410}), frozenset({405, 501})


def existing(names: Sequence[str], settings: PipSettings, budget: Budget) -> dict[str, bool]:
    """Return for each name whether an index has it; names of which no index says either are not there.

    Args:
        names: Of distributions, in any form.
        settings: Which indexes, and how to reach them; ``find_links`` are not asked.
        budget: Whose time it takes.

    Raises:
        CapError: The time is over.
    """
    indexes = [] if settings.no_index else [settings.index or _usual_index(), *settings.extra_indexes]
    found: dict[str, bool] = {}
    with Source(settings, budget) as source:
        for name in names:
            told = [_has(source, index, name) for index in indexes if index]
            if True in told or (told and None not in told):
                found[name] = True in told
    return found


def _usual_index() -> str:
    """Return the index that pip asks when nobody says which; empty where this pip does not tell."""
    try:
        return str(importlib.import_module("pip._internal.models.index").PyPI.simple_url)
    except (ImportError, AttributeError):
        return ""


def _has(source: Source, index: str, name: str) -> bool | None:
    url = page(index, name)
    if url is None:
        return None
    try:
        status = answered(source, url)
    except (BrokenError, PackageIndexError, ValueError):
        return None
    return True if status in _OK else False if status in _ABSENT else None


def page(index: str, name: str) -> SplitResult | None:
    """Return where an index lists the files of a project (PEP 503); None where its URL is none."""
    return parsed(f"{index.rstrip('/')}/{canonicalize_name(name)}/")


def answered(source: Source, url: SplitResult) -> int:
    """Return the status of what an index answers for a page, wherever that leads; the page itself is not read.

    Raises:
        BrokenError, PackageIndexError: It does not answer.
        ValueError: It leads nowhere.
    """
    status = _status(source, url, "HEAD")
    return _status(source, url, "GET") if status in _NO_HEAD else status


def _status(source: Source, url: SplitResult, method: str) -> int:
    at_home = True
    for _ in range(source.patience.redirects + 1):
        with source.attending() as (line, pace):
            answer = source.ask(url, _HEADERS, line, pace, known=at_home, method=method)
            # The page may be of any length, and nobody wants it.
            answer.close()
            answer.release_conn()
        if answer.status not in REDIRECTS:
            return answer.status
        target = next_url(url, answer.headers.get("Location"))
        at_home, url = at_home and same_host(url, target), target
    raise ValueError("the server redirects too often")
