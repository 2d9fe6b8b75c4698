"""From a lock to entries: many wheels at once, each checked while it arrives, each fetched and unpacked once.

However many processes want a wheel, the first to hold its entry fetches it; the others find the entry there.
"""

from __future__ import annotations

import netrc
import os
import ssl
import threading
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit, urlunsplit

from vrfstore import fs
from vrfstore.errors import PackageIndexError, WheelError
from vrfstore.model import EntryPlan, Event, LockedWheel, Watcher
from vrfstore.requirements.pip import PipSettings
from vrfstore.store.leases import Lease
from vrfstore.store.store import Store
from vrfstore.store.unpacking import Unpackers

if TYPE_CHECKING:
    import urllib3

__all__ = ["Fetched", "chunks", "fetch", "present"]

_WORKERS = 8
_ATTEMPTS = 3
_CHUNK = 1 << 18


@dataclass(frozen=True, slots=True)
class Fetched:
    """A wheel of a lock that is an entry now.

    Attributes:
        plan: The entry.
        size: Bytes that were fetched; 0 where the entry was there.
        warnings: What is odd about the wheel, in words.
    """

    plan: EntryPlan
    size: int
    warnings: tuple[str, ...] = ()


def present(store: Store, wheels: Sequence[LockedWheel]) -> tuple[list[EntryPlan], list[LockedWheel]]:
    """Return the plans of those wheels that are entries already, and those that are not; the caller has leased all.

    Raises:
        BusyError: A collector has been at work on one of them for two seconds.
        StoreDamagedError: One is there, but its plan cannot be read.
    """
    store.await_entries((wheel.digest, wheel.name, wheel.version) for wheel in wheels)
    plans: list[EntryPlan] = []
    missing: list[LockedWheel] = []
    for wheel in wheels:
        plan = store.entry(wheel.digest, wheel.name, wheel.version)
        if plan is None:
            missing.append(wheel)
        else:
            plans.append(plan)
    return plans, missing


def fetch(
    store: Store, lease: Lease, wheels: Sequence[LockedWheel], settings: PipSettings, watch: Watcher
) -> list[Fetched]:
    """Make every wheel an entry; those that came whole stay, whatever becomes of the others.

    Args:
        store: The store.
        lease: Protects the wheels' digests, and names what is on its way.
        wheels: What is missing.
        settings: How to reach the indexes.
        watch: Is told how many are ``missing``, and ``received``, ``fetched`` and ``unpacked`` of each.

    Raises:
        PackageIndexError: A wheel could not be fetched.
        WheelError: One is not what the lock says, or not acceptable.
    """
    source = _Source(settings)
    watch(Event(kind="missing", total=len(wheels)))
    with (
        Unpackers(lease, min(len(wheels), len(os.sched_getaffinity(0)))) as unpackers,
        ThreadPoolExecutor(min(_WORKERS, max(len(wheels), 1)), thread_name_prefix="fetch") as pool,
    ):
        futures = [pool.submit(_obtain, store, lease, wheel, source, unpackers, watch) for wheel in wheels]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            failed = next((future for future in done if future.exception() is not None), None)
            if failed is not None:
                failed.result()
            return [future.result() for future in futures]
        except BaseException:
            # What is half-way would be fetched for nothing, and whoever pressed Ctrl-C waits for it.
            source.stop()
            unpackers.stop()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def chunks(wheel: LockedWheel, settings: PipSettings, watch: Watcher) -> Iterator[bytes]:
    """Yield the bytes of one wheel as they come; nobody has checked them.

    Raises:
        PackageIndexError: It could not be fetched.
    """
    import urllib3.exceptions  # noqa: PLC0415 - 60 ms that only fetching pays

    try:
        yield from _Source(settings).chunks(wheel, watch)
    except (urllib3.exceptions.HTTPError, ConnectionError) as error:
        raise _unreachable(wheel, str(error)) from error


def _obtain(
    store: Store, lease: Lease, wheel: LockedWheel, source: _Source, unpackers: Unpackers, watch: Watcher
) -> Fetched:
    def waiting() -> None:
        watch(Event(kind="waiting", subject=f"another vrfstore that fetches {wheel.filename}"))

    with store.hold_entry(wheel.digest, on_wait=waiting, stopped=source.stopped):
        present = store.entry(wheel.digest, wheel.name, wheel.version)
        if present is not None:
            watch(Event(kind="unpacked", subject=wheel.filename))
            return Fetched(present, 0)
        temporary = _receive(store, lease, wheel, source, watch)
        try:
            size = os.path.getsize(temporary)
            watch(Event(kind="fetched", subject=wheel.filename, size=size))
            added = store.ingest_held(
                lease,
                temporary,
                wheel.filename,
                wheel.digest,
                # As a lock has it: what gives access is not written down.
                origin=urlunsplit(urlsplit(wheel.url)._replace(query="")),
                unpack=unpackers.stage,
            )
        finally:
            fs.remove_file(temporary)
        watch(Event(kind="unpacked", subject=wheel.filename))
        return Fetched(added.plan, size, added.warnings)


def _receive(store: Store, lease: Lease, wheel: LockedWheel, source: _Source, watch: Watcher) -> str:
    """Fetch a wheel into tmp/ and check its digest; a connection that breaks half-way is tried again."""
    import urllib3.exceptions  # noqa: PLC0415 - 60 ms that only fetching pays

    for attempt in range(1, _ATTEMPTS + 1):
        try:
            temporary, digest = store.receive(lease, source.chunks(wheel, watch))
        except (urllib3.exceptions.HTTPError, OSError) as error:
            if (
                isinstance(error, OSError)
                and error.errno is not None
                and not isinstance(error, ConnectionError)
            ):
                # The disk's, or a file: source's; trying again will not mend those.
                if wheel.url.startswith("file:") and isinstance(error, FileNotFoundError):
                    raise PackageIndexError(
                        f"{wheel.filename} is not at {wheel.url} any more", kind="wheel-missing"
                    ) from error
                raise
            if attempt == _ATTEMPTS:
                raise _unreachable(wheel, str(error)) from error
            continue
        if digest != wheel.digest:
            fs.remove_file(temporary)
            raise WheelError(
                f"what the index sent has SHA-256 {digest}, the lock says {wheel.digest}",
                kind="hash-mismatch",
                path=wheel.filename,
                hint="the index or something on the way changed the file; do not use it",
            )
        return temporary
    raise AssertionError


def _unreachable(wheel: LockedWheel, reason: str) -> PackageIndexError:
    return PackageIndexError(
        f"{wheel.filename} could not be fetched: {reason}",
        kind="download-failed",
        hint="try again; what has been fetched is kept",
    )


def _proxy_manager(proxy: str, options: dict[str, Any]) -> urllib3.ProxyManager:
    """Return the pool for a proxy as pip takes it: with credentials in its URL, and maybe without a scheme."""
    import urllib3  # noqa: PLC0415

    parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    user, at, _ = parts.netloc.rpartition("@")
    headers = urllib3.make_headers(proxy_basic_auth=unquote(user)) if at else None
    return urllib3.ProxyManager(parts.geturl(), proxy_headers=headers, **options)


class _Source:
    """Where wheels come from; keeps connections, and knows who we are to whom."""

    def __init__(self, settings: PipSettings) -> None:
        self._settings = settings
        self._proxies = urllib.request.getproxies()
        self._pools: dict[str, urllib3.PoolManager] = {}
        self._guard = threading.Lock()
        self._stopped = threading.Event()

    def stopped(self) -> bool:
        """Whether ``stop`` has been called."""
        return self._stopped.is_set()

    def stop(self) -> None:
        """Let every fetch that is under way fail with its next chunk."""
        self._stopped.set()

    def chunks(self, wheel: LockedWheel, watch: Watcher) -> Iterator[bytes]:
        """Yield the bytes of a wheel as they come.

        Raises:
            PackageIndexError: The server says no.
            urllib3.exceptions.HTTPError: The connection broke.
            OSError: A local file cannot be read.
        """
        parts = urlsplit(wheel.url)
        chunks = self._local(unquote(parts.path)) if parts.scheme == "file" else self._remote(wheel)
        for chunk in chunks:
            if self._stopped.is_set():
                raise _unreachable(wheel, "another wheel failed")
            watch(Event(kind="received", subject=wheel.filename, size=len(chunk)))
            yield chunk

    def _local(self, path: str) -> Iterator[bytes]:
        with open(path, "rb") as stream:
            yield from iter(lambda: stream.read(_CHUNK), b"")

    def _remote(self, wheel: LockedWheel) -> Iterator[bytes]:
        response = self._pool(wheel.url).request(
            "GET", wheel.url, headers=self._headers(wheel.url), preload_content=False
        )
        try:
            if response.status != 200:  # noqa: PLR2004 - OK
                raise _unreachable(
                    wheel, f"the server answers {response.status} {response.reason or ''}".strip()
                )
            # The wheel as it is, never a transfer encoding undone: the digest is over these bytes.
            yield from response.stream(_CHUNK, decode_content=False)
        finally:
            response.release_conn()

    def _headers(self, url: str) -> dict[str, str]:
        import urllib3  # noqa: PLC0415

        headers = {"Accept-Encoding": "identity", "User-Agent": "vrfstore"}
        who = self._credentials(urlsplit(url).netloc)
        if who is not None:
            headers |= urllib3.make_headers(basic_auth=":".join(who))
        return headers

    def _credentials(self, host: str) -> tuple[str, str] | None:
        """Return who we are to a host: as an index URL of pip's configuration has it, else as ~/.netrc has."""
        for index in self._settings.indexes:
            parts = urlsplit(index)
            user, at, netloc = parts.netloc.rpartition("@")
            if at and netloc == host:
                name, _, password = user.partition(":")
                return unquote(name), unquote(password)
        try:
            found = netrc.netrc().authenticators(host.partition(":")[0])
        except (OSError, netrc.NetrcParseError):
            return None
        return None if found is None else (found[0], found[2] or "")

    def _pool(self, url: str) -> urllib3.PoolManager:
        parts = urlsplit(url)
        bypass = urllib.request.proxy_bypass(parts.hostname or "")
        proxy = "" if bypass else self._settings.proxy or self._proxies.get(parts.scheme, "")
        with self._guard:
            return self._pools.get(proxy) or self._new_pool(proxy)

    def _new_pool(self, proxy: str) -> urllib3.PoolManager:
        import urllib3  # noqa: PLC0415

        options: dict[str, Any] = {
            "maxsize": _WORKERS,
            "timeout": urllib3.Timeout(self._settings.timeout),
            "retries": urllib3.Retry(
                total=_ATTEMPTS, backoff_factor=0.2, status_forcelist=(429, 500, 502, 503, 504),
                raise_on_status=False,
            ),
            "ssl_context": self._ssl(),
        }  # fmt: skip
        pool = _proxy_manager(proxy, options) if proxy else urllib3.PoolManager(**options)
        self._pools[proxy] = pool
        return pool

    def _ssl(self) -> ssl.SSLContext:
        chosen = self._settings.certificate or os.environ.get("REQUESTS_CA_BUNDLE", "")
        if not chosen:
            context = ssl.create_default_context()
        elif os.path.isdir(chosen):
            context = ssl.create_default_context(capath=chosen)
        else:
            context = ssl.create_default_context(cafile=chosen)
        if self._settings.client_certificate:
            context.load_cert_chain(self._settings.client_certificate)
        return context
