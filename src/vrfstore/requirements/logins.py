"""Who may enter where: what indexes answer whoever asks for a page, before uv is run, and after it found nothing.

uv asks a keyring only where the index URL has a user, and of several indexes it takes one that refuses us for one that
does not have the package. pip does neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import SplitResult, quote, urlsplit, urlunsplit

from vrfstore.errors import PackageIndexError
from vrfstore.requirements.budget import Budget
from vrfstore.requirements.existing import answered, page
from vrfstore.requirements.failures import Unreachable
from vrfstore.requirements.keyring import ASKING
from vrfstore.requirements.pip import PipSettings
from vrfstore.requirements.source import BrokenError, Source
from vrfstore.requirements.urls import without_credentials
from vrfstore.values import replace

__all__ = ["refusing", "with_passwords"]

_PROXY = 407
_PHRASES = {401: "Unauthorized", 403: "Forbidden", _PROXY: "Proxy Authentication Required"}


def with_passwords(settings: PipSettings, name: str, budget: Budget) -> PipSettings:
    """Return settings whose index URLs have in them what a keyring says to indexes that refuse us without.

    Nothing is asked where no keyring may be, or where every index URL has a password.

    Args:
        settings: How to reach the indexes.
        name: Of a distribution, in any form: its page is asked for.
        budget: Whose time it takes.

    Raises:
        CapError: The time is over.
    """
    wanting = [index for index in _indexes(settings) if urlsplit(index).password is None]
    if settings.keyring not in ASKING or not wanting:
        return settings
    with Source(settings, budget) as source:
        # Only those that a keyring told us how to enter: uv reads netrc by itself.
        told = {
            index: _with_login(index, *login)
            for index, url in _pages(wanting, name)
            if _answer(source, url) is not None and (login := source.told(url)) is not None
        }
    return _with(settings, told)


def refusing(settings: PipSettings, name: str, budget: Budget) -> Unreachable | None:
    """Return which index refuses us the page of a distribution, and how; None where none does.

    Raises:
        CapError: The time is over.
    """
    with Source(settings, budget) as source:
        for index, url in _pages(_indexes(settings), name):
            status = _answer(source, url)
            if status in _PHRASES:
                reason = f"{status} Client Error: {_PHRASES[status]} for {without_credentials(index)}"
                return Unreachable(reason=reason, cause="proxy" if status == _PROXY else "credentials")
    return None


def _indexes(settings: PipSettings) -> list[str]:
    return (
        [] if settings.no_index else [index for index in (settings.index, *settings.extra_indexes) if index]
    )


def _pages(indexes: Iterable[str], name: str) -> Iterator[tuple[str, SplitResult]]:
    for index in indexes:
        url = page(index, name)
        if url is not None:
            yield index, url


def _answer(source: Source, url: SplitResult) -> int | None:
    """Return the status of an answer; None where there is none, which is the resolver's to say."""
    try:
        return answered(source, url)
    except (BrokenError, PackageIndexError, ValueError):
        return None


def _with_login(index: str, user: str, password: str) -> str:
    parts = urlsplit(index)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{quote(user, safe='')}:{quote(password, safe='')}@{host}"))


def _with(settings: PipSettings, told: Mapping[str, str]) -> PipSettings:
    return replace(
        settings,
        index=told.get(settings.index, settings.index),
        extra_indexes=tuple(told.get(index, index) for index in settings.extra_indexes),
    )
