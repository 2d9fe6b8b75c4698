"""The command ``vrfstore``: parse, make one call, render the answer.

``main`` first tries the path of a hit, which loads next to nothing; see ``quick``. Everything else goes to ``running``.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # what signal gives names to, which takes a millisecond
import os
import sys

__all__ = ["main", "quick"]

_LARGEST = 1 << 20
"""Bytes. The whole command refuses a larger file."""


_ENDING = (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP)


def main() -> None:
    """Run the command with the arguments of the process, and exit."""
    # What tells us to end while nothing is loaded that could answer has to wait for it, some tens of milliseconds.
    mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, _ENDING)
    python = quick(sys.argv[1:])
    if python is not None:
        try:
            os.write(1, python + b"\n")
            # Nothing is open, buffered or running: skip the interpreter's own farewell.
            os._exit(0)
        except OSError:
            pass  # the whole command fails at the same thing, and says so
    from vrfstore.cli.running import leave, run  # noqa: PLC0415 - 30 ms that a hit does not pay

    leave(run(sys.argv[1:], mask))


def quick(arguments: list[str]) -> bytes | None:
    """Return the path that ``vrfstore [--store DIR] link [--python X] FILE`` prints on a hit; else None.

    ``--lease-ttl`` with a length of time such as 15m is understood as well. A shared store, if ``--shared-store`` names
    one, or its variable, is part of the question (``runner.sharing``).

    Only exactly this is understood. Anything else, and anything that goes wrong, is left to the whole command,
    which finds it again and says so properly.
    """
    parsed = _parse(arguments)
    if parsed is None:
        return None
    store, asked, shared, seconds, path = parsed
    if path.endswith((".py", ".toml")):
        return None  # a script or a lock, whose bytes may be those of a requirements text and mean something else
    from vrfstore import fs  # noqa: PLC0415
    from vrfstore.interpreter import find  # noqa: PLC0415
    from vrfstore.runner import hit  # noqa: PLC0415
    from vrfstore.store.layout import Layout  # noqa: PLC0415

    try:
        # Only a regular file: what is read from a pipe would be gone for the whole command.
        data = fs.read_file(path, _LARGEST)
        executable = find(asked)
        layout = Layout(os.path.abspath(store))
        options = {"shared_store": os.path.abspath(shared)} if shared else {}
        digest = hit.input_digest(data, executable, os.environ, options)
        found = hit.look_up(layout, digest)
        if found is not None and seconds:
            kept = hit.keep(layout, found, seconds)
            # Only what is there after that has a lease.
            again = hit.look_up(layout, digest)
            if again is None or again.directory != found.directory:
                fs.remove_file(kept)
                return None
    except Exception:  # noqa: BLE001 - whatever it is, the whole command meets it too
        return None
    return None if found is None else os.fsencode(found.python)


def _default_store() -> str:
    """Return where the store is when nothing is said, as ``store.default_root`` does.

    That asks platformdirs, which takes twice as long to import as Python takes to start. This is its answer on
    Linux (XDG base directory specification); elsewhere there is no memo at this path, and so no harm.
    """
    data = os.environ.get("XDG_DATA_HOME", "").strip()
    if not os.path.isabs(data):
        data = os.path.expanduser("~/.local/share")
    return f"{data}/vrfstore"


_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST = 365 * 86400
"""Seconds of a lease that are understood here; the whole command has other ways to write them, and a limit."""


def _seconds(text: str) -> int | None:
    """Return the seconds of a length of time such as 90s or 12h; None of any other."""
    number, unit = text[:-1], text[-1:]
    if unit not in _SECONDS or not (number.isascii() and number.isdecimal() and len(number) < 10):  # noqa: PLR2004
        return None
    seconds = int(number) * _SECONDS[unit]
    return seconds if 0 < seconds <= _LONGEST else None


def _parse(arguments: list[str]) -> tuple[str, str | None, str | None, int, str] | None:
    """Return store, interpreter, shared store, seconds of a lease and file; None unless exactly of the form above."""
    options: dict[str, str | None] = {
        "--store": os.environ.get("VRFSTORE_HOME") or _default_store(),
        "--python": os.environ.get("VRFSTORE_PYTHON"),
        "--shared-store": os.environ.get("VRFSTORE_SHARED_STORE"),
        "--lease-ttl": None,
    }
    words: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.partition("=")
        if name in options and (words or name == "--store"):
            options[name] = value if equals else next(rest, "")
            if not options[name]:
                return None
        elif argument.startswith("-"):
            return None
        else:
            words.append(argument)
    store, length = options["--store"], options["--lease-ttl"]
    seconds = 0 if length is None else _seconds(length)
    if seconds is None:
        return None
    if len(words) != 2 or words[0] != "link" or not store:  # noqa: PLR2004 - the command, and the file
        return None
    return store, options["--python"], options["--shared-store"], seconds, words[1]
