"""What is known of base interpreters: one probe each, kept until a stat changes; and links to them, ready-made."""

from __future__ import annotations

import contextlib
import os
import time

from vrfstore import codec, fs
from vrfstore import interpreter as probing
from vrfstore.model import Interpreter
from vrfstore.store.layout import DIGEST_LENGTHS, Layout, entry_directory
from vrfstore.store.leases import Lease
from vrfstore.store.memos import replace
from vrfstore.values import asdict

__all__ = ["PIP_MEMO", "deciding_paths", "is_useful", "known", "ready_links", "ready_links_name"]

PIP_MEMO = "pip-"
"""How the names of memos begin that say which pip is for an older Python (``requirements.pip``)."""

_SCHEMA = 3

_TICK = 0.02
"""Seconds. Files are stamped with the time of the kernel's last tick, which is a little behind."""


def deciding_paths(interpreter: Interpreter) -> tuple[str, ...]:
    """Return the paths whose stats tell that an interpreter and its base are still the same."""
    configuration = os.path.join(os.path.dirname(os.path.dirname(interpreter.executable)), "pyvenv.cfg")
    return (interpreter.executable, interpreter.real, configuration, *interpreter.site_directories)


def known(layout: Layout, lease: Lease, executable: str) -> tuple[Interpreter, dict[str, str] | None]:
    """Return what ``executable`` is, from the cache or by starting it once, and the stats that vouch for it.

    The stats are None where nothing may be remembered: ``executable`` is a launcher, or something that decides was
    changed so shortly before that it may have been changed again since.

    Raises:
        InterpreterError: It does not start, or is not suitable.
    """
    if not _is_program(executable):
        # A launcher, such as a shim: what it starts depends on what nobody can list.
        return probing.probe(executable), None
    path = layout.of("interpreters", f"{_name(executable)}.json")
    cached = _read(path)
    if cached is not None:
        return cached
    began = time.time() - _TICK
    found = probing.probe(executable)
    stats = {deciding: fs.stat_token(deciding) for deciding in deciding_paths(found)}
    if any(_changed(deciding) >= began for deciding in stats):
        return found, None
    value = {"schema": _SCHEMA, "interpreter": asdict(found), "stats": stats}
    replace(layout, lease, path, codec.dumps(value))
    return found, stats


def _is_program(path: str) -> bool:
    """Whether a path leads to a program itself and not to a script."""
    try:
        with open(path, "rb") as stream:
            return stream.read(4) == b"\x7fELF"
    except OSError:
        return False


def _changed(path: str) -> float:
    """Return when a path was changed, seconds since the epoch; 0 where it is not there."""
    try:
        return os.stat(path).st_ctime
    except OSError:
        return 0.0


def _name(text: str) -> str:
    return codec.hexdigest(os.fsencode(text))[:32]


def _read(path: str) -> tuple[Interpreter, dict[str, str]] | None:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        value = codec.loads(fs.read_file(path))
        if value["schema"] == _SCHEMA and all(
            fs.stat_token(deciding) == token for deciding, token in value["stats"].items()
        ):
            fields = value["interpreter"]
            fields["site_directories"] = tuple(fields["site_directories"])
            fields["base"] = tuple((name, version) for name, version in fields["base"])
            fields["namespaces"] = tuple(fields["namespaces"])
            return Interpreter(**fields), dict(value["stats"])
    return None


def is_useful(layout: Layout, name: str) -> bool:
    """Whether what is kept under a name is of use still: its interpreter, or the pip for it, is there as it was.

    Args:
        layout: The store's.
        name: In ``interpreters/``: a probe, a memo of an older pip, or a directory of ready-made links.
    """
    path = layout.of("interpreters", name)
    if os.path.isdir(path):
        return os.path.exists(f"{path}/python")
    if not name.startswith(PIP_MEMO):
        return _read(path) is not None
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        known = codec.loads(fs.read_file(path))
        return any(
            os.path.isdir(
                layout.of(
                    "entries",
                    entry_directory(known["digest"], known["name"], known["version"], length=length),
                )
            )
            for length in DIGEST_LENGTHS
        )
    return False


def ready_links_name(interpreter: Interpreter) -> str:
    """Return where the ready-made links to an interpreter are, relative to the store."""
    name = _name(f"{interpreter.real}\n{interpreter.directory_name}")
    return f"interpreters/{name}"


def ready_links(layout: Layout, lease: Lease, interpreter: Interpreter) -> str:
    """Return a directory of symlink inodes that lead to an interpreter, made on first use.

    It holds ``python`` (absolute, to the real path), ``python3``, ``pythonX.Y`` and ``pythonX.Yt`` if it is
    that (to ``python``), ``lib64`` (to ``lib``) and the empty file ``sentinel``.
    """
    path = f"{layout.root}/{ready_links_name(interpreter)}"
    if os.path.isdir(path):
        return path
    staging = layout.of("tmp", f"{lease.id}.{fs.unique_name()}")
    fs.make_directory(staging)
    fs.symlink(interpreter.real, f"{staging}/python")
    fs.symlink("python", f"{staging}/python3")
    # A free-threaded build has both names: python3.13 and python3.13t.
    for name in sorted({f"python{interpreter.short_version}", interpreter.directory_name}):
        fs.symlink("python", f"{staging}/{name}")
    fs.symlink("lib", f"{staging}/lib64")
    fs.write_file(f"{staging}/sentinel", b"", mode=0o444)
    try:
        fs.rename(staging, path)
    except OSError:
        # Somebody else was first. Both are the same.
        fs.remove_tree(staging)
        if not os.path.isdir(path):
            raise
    return path
