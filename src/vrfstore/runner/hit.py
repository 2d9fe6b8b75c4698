"""The path of a hit: from a requirements file to an environment by one memo and a few stats.

``vrfstore link`` comes here before anything else is loaded, so this module imports only what is cheap: no click,
no packaging, no json, no dataclasses. Whatever it does not fully understand it leaves to the whole way, by
returning None; the tests hold both to the same answer.

The input digest is the SHA-256 of one line of canonical JSON (see ``codec``) and the raw bytes of the file after
it. The line has the keys ``format`` (of the store), ``options`` (``LinkOptions.identity`` and ``Policy.identity``:
those that are not as usual, by name), ``python`` (the absolute path of the interpreter that was asked for, not
resolved) and ``variables`` (those of ``deciding_variables``, by name). Where the file leads to others, or there are
several, it has the key ``input`` as well, which says what was given and where, and no bytes follow (``runner.given``).
"""

from __future__ import annotations

import math
import time

from vrfstore import codec, fs
from vrfstore.store.layout import FORMAT, MEMO_SCHEMA, Layout, lease_until

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Hit", "deciding_variables", "input_digest", "keep", "look_up"]

_CONFIGURATION = ("HOME", "XDG_CONFIG_HOME", "XDG_CONFIG_DIRS", "VRFSTORE_CONFIG")
"""Where pip looks for its configuration, and where ours is."""


class Hit:
    """An environment that stands, found by its memo.

    Attributes:
        directory: The environment's directory name.
        lock: The digest of its lock.
        python: The absolute path of its python.
        size: Bytes of the entries that it links to, as far as that was written down.
        resolved_at: When it was found out what the request resolves to, seconds since the epoch; 0 where nothing had
            to be, or it was not written down.
    """

    __slots__ = ("directory", "lock", "python", "resolved_at", "size")

    def __init__(self, directory: str, lock: str, python: str) -> None:
        self.directory = directory
        self.lock = lock
        self.python = python
        self.size = self.resolved_at = 0


def deciding_variables(variables: Mapping[str, str]) -> dict[str, str]:
    """Return those environment variables that have a say in what a requirements file resolves to."""
    return {
        name: value for name, value in variables.items() if name.startswith("PIP_") or name in _CONFIGURATION
    }


def input_digest(
    data: bytes,
    python: str,
    variables: Mapping[str, str],
    options: Mapping[str, object] | None = None,
    given: Mapping[str, object] | None = None,
) -> str:
    """Return the digest that names the memo of an input.

    Args:
        data: The raw bytes of the requirements file; empty with ``given``.
        python: The absolute path of the interpreter that was asked for.
        variables: All environment variables.
        options: How it is to be linked, as ``LinkOptions.identity``, and resolved; by default as usual.
        given: What was given, where that is more than one file that leads nowhere.
    """
    head = {
        "format": FORMAT,
        "options": dict(options or {}),
        "python": python,
        "variables": deciding_variables(variables),
    }
    if given:
        head["input"] = dict(given)
    return codec.hexdigest(codec.dumps(head) + data)


def look_up(layout: Layout, digest: str) -> Hit | None:
    """Return the environment that a memo leads to, if everything that decided is as it was.

    Refreshes its last use. Costs one read and a stat for each path that had a say; its time does not depend on
    how much is in the store. What is stale by now is none.
    """
    try:
        memo = codec.loads(fs.read_file(layout.of("inputs", f"{digest}.json")))
        if memo["schema"] != MEMO_SCHEMA or 0 < memo["until"] <= time.time():
            return None
        found = _check(layout, memo["environment"], memo["lock"], memo["own"], memo["stats"])
        if found is not None:
            found.size, found.resolved_at = memo.get("size", 0), memo.get("resolved_at", 0)
        return found  # noqa: TRY300 - what a memo holds may be of any type
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        # No memo, or one that cannot be read, which is the same.
        return None


def keep(layout: Layout, found: Hit, seconds: float) -> str:
    """Take a lease on an environment that ends after so long, and return its path.

    As ``store.leases.take_until``, which takes as long to import as the rest of a hit. Whoever calls it has to look
    again afterwards.

    Raises:
        OSError: The store cannot be written, or which boot this is cannot be read.
    """
    boot = fs.read_file("/proc/sys/kernel/random/boot_id").decode().strip().replace("-", "")
    deadline = math.ceil(time.clock_gettime(time.CLOCK_BOOTTIME) + seconds)
    key = found.directory.partition(".")[0]
    name = lease_until(fs.unique_name(), key, boot, deadline, math.ceil(time.time() + seconds))
    path = layout.of("leases", name)
    fs.write_file(path, b"")
    return path


def _check(
    layout: Layout, environment: str, lock: str, own: dict[str, str], stats: dict[str, str]
) -> Hit | None:
    if not fs.stamp(layout.record(environment)):
        return None
    # After the stamp, and before looking whether it is there: see store.condemned.
    if fs.stat_token(layout.condemned) != "-" and _is_condemned(layout, environment):
        return None
    root = layout.of("environments", environment)
    if any(fs.stat_token(f"{root}/{path}") != token for path, token in own.items()):
        return None
    if any(fs.stat_token(path) != token for path, token in stats.items()):
        return None
    return Hit(environment, lock, f"{root}/bin/python")


def _is_condemned(layout: Layout, environment: str) -> bool:
    """Whether an environment is on the list; see ``store.condemned.names``, which takes too long to import.

    A list may be overwritten while it is read. What was on it has had its turn by then, and what comes onto it is
    looked at again, after our stamp.
    """
    try:
        listed = fs.read_file(layout.condemned).partition(b"\0")[0]
    except FileNotFoundError:
        return False
    return f"environments/{environment}".encode() in listed.split(b"\n")
