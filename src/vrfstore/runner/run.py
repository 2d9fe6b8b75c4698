"""``run``: a command in an environment, which stays as long as the command does."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Mapping, Sequence

from vrfstore import fs
from vrfstore.errors import DriftError, StoreError, UsageError, VrfstoreError
from vrfstore.model import Watcher
from vrfstore.store import condemned, leases
from vrfstore.store.externals import ExternalRecord
from vrfstore.store.leases import Lease
from vrfstore.store.store import Store
from vrfstore.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from vrfstore.runner.inspection import Found
    from vrfstore.runner.runnable import Runnable

__all__ = [
    "Prepared",
    "base_variables",
    "changed_variables",
    "command_environment",
    "mend",
    "named",
    "prepare",
    "replace_process",
    "stay_beside",
]


_PIP = frozenset({"pip", "pip3"})


@dataclass(frozen=True, slots=True)
class Prepared:
    """An environment that was there already.

    Attributes:
        environment: Its absolute path.
        python: Its python.
        lease: What keeps it; None where its store may only be read.
        user_site: Whether it sees the user's own packages.
        warnings: What was mended, and what could not be.
        compiled: Whether all its bytecode is there; taken for granted.
    """

    environment: str
    python: str
    lease: Lease | None
    user_site: bool
    warnings: tuple[str, ...] = ()
    compiled: bool = True


def named(name: str, given: str | None) -> str | None:
    """Return the path of a managed environment by its name or the beginning of one; None where there is none.

    Args:
        name: No path: what has a slash names nothing.
        given: The store that was given, if it was.

    Raises:
        UsageError: It may be several things.
    """
    if not name or "/" in name:
        return None
    # Where there is no store, there are no environments in it.
    with contextlib.suppress(StoreError):
        store = Store.open(given, to_look=True)
        if any(each.startswith(name) for each in store.environments()):
            part, directory = store.find(name)
            return store.layout.of(part, directory)
    return None


def prepare(place: str, given: str | None, *, heal: bool, watch: Watcher) -> Prepared:
    """Return an environment of vrfstore to run a command in, one of the user's own or a managed one.

    Args:
        place: Its directory.
        given: The store that was given, if it was.
        heal: Mend what has drifted, as far as that goes without the network.
        watch: Is told what long steps do.

    Raises:
        UsageError: There is none of vrfstore; or it is for an interpreter that is not here.
        DriftError: It has no python that could be started.
        StoreDamagedError: Its record cannot be read.
    """
    from vrfstore.runner import inspection  # noqa: PLC0415 - not for the environments of requirements files

    try:
        found = inspection.find(place, given, to_look=False)
    except StoreError:
        found = inspection.find(place, given, to_look=True)
    may_write = inspection.may_write(found.store)
    lease = _keep(found) if may_write else None
    warnings: tuple[str, ...] = ()
    if heal and may_write:
        warnings = mend(found, watch)
    python = f"{found.place}/bin/python"
    if found.record.interpreter.get("target"):
        raise UsageError(
            "the environment is for an interpreter that is not here",
            kind="environment-target",
            path=found.place,
            hint="link the requirements for one that is here",
        )
    if not os.access(python, os.X_OK):
        raise DriftError(
            "the python of the environment leads nowhere",
            path=python,
            hint=f"mend it with: vrfstore env heal {found.place}",
        )
    return Prepared(found.place, python, lease, found.record.options.user_site, warnings)


def _keep(found: Found) -> Lease:
    """Keep an environment, and what it links to."""
    layout, record = found.store.layout, found.record
    if isinstance(record, ExternalRecord):
        digests = [reference.digest for reference in (*record.wheels, *record.composites)]
        return leases.take(layout, digests=digests, lock=record.lock)
    # In this order: see store.condemned.
    fs.stamp(layout.record(record.directory))
    lease = leases.take(layout, environment=record.key)
    condemned.wait_until_clear(layout, {f"environments/{record.directory}"})
    found.store.record(record.directory)
    return lease


def mend(found: Found, watch: Watcher) -> tuple[str, ...]:
    """Mend what has drifted, as far as that goes without the network; return what was done, and what was not."""
    from vrfstore.runner.heal import heal  # noqa: PLC0415 - as above

    advice = f"mend it with: vrfstore env heal {found.place}"
    try:
        healed = heal(found, network=False, requirements=False, watch=watch)
    except (VrfstoreError, OSError) as error:
        # A command may well run in an environment that is not as it should be.
        return (f"the environment could not be mended: {error}; {advice}",)
    return (
        *(f"mended in {healed.place}: {each.message}" for each in healed.mended),
        *(f"wrong in {healed.place}: {each.message}; {advice}" for each in healed.left),
    )


def command_environment(result: Runnable, variables: Mapping[str, str]) -> dict[str, str]:
    """Return all environment variables for a command that runs in a linked environment.

    Args:
        result: The linked environment.
        variables: Those of the caller.
    """
    kept = {name: value for name, value in variables.items() if name != "PYTHONHOME"}
    return kept | {
        name: value for name, value in changed_variables(result, variables).items() if name != "PYTHONHOME"
    }


def changed_variables(result: Runnable, variables: Mapping[str, str]) -> dict[str, str]:
    """Return those environment variables that a command in a linked environment needs otherwise than the caller has.

    Args:
        result: The linked environment.
        variables: Those of the caller.
    """
    changed = _of_python(f"{result.environment}/bin", result.python, variables)
    changed["VIRTUAL_ENV"] = result.environment
    if not result.user_site:
        # Resolving did not see the user's site; with it, other versions might come first.
        changed["PYTHONNOUSERSITE"] = "1"
    if not result.compiled and os.geteuid() == 0:
        # Root's pycs would go into sealed entries, before those that are being compiled.
        changed["PYTHONDONTWRITEBYTECODE"] = "1"
    cache, name = variables.get("JUPYTERCACHE"), os.path.basename(result.environment)
    if cache and os.path.basename(cache.rstrip("/")) != name:
        # What is cached is found by the code of a document alone, whatever packages it ran with.
        changed["JUPYTERCACHE"] = os.path.join(cache, name)
    return changed


def base_variables(python: str, variables: Mapping[str, str]) -> dict[str, str]:
    """Return the same for a command that runs on an interpreter in the place of an environment.

    Args:
        python: The absolute path of the interpreter.
        variables: Those of the caller.
    """
    changed = _of_python(os.path.dirname(python), python, variables)
    prefix = os.path.dirname(os.path.dirname(python))
    if os.path.exists(f"{prefix}/pyvenv.cfg"):
        changed["VIRTUAL_ENV"] = prefix
    elif variables.get("VIRTUAL_ENV"):
        changed["VIRTUAL_ENV"] = ""
    return changed


def _of_python(directory: str, python: str, variables: Mapping[str, str]) -> dict[str, str]:
    path = variables.get("PATH")
    changed = {
        "PATH": f"{directory}{os.pathsep}{path}" if path else directory,
        "QUARTO_PYTHON": python,
        # A kernelspec in the user's own directory would otherwise come before the environment's.
        "JUPYTER_PREFER_ENV_PATH": "1",
    }
    if variables.get("PYTHONHOME"):
        # To Python, an empty one is none; it would be another Python's standard library.
        changed["PYTHONHOME"] = ""
    return changed


def replace_process(result: Runnable, command: Sequence[str]) -> NoReturn:
    """Become the command (execve(2)); the lease goes with it, through its descriptor.

    An environment of ours has no ``pip`` of its own, and the next one on PATH would change somebody else's packages:
    in its place comes ``python -m pip``.

    Raises:
        UsageError: There is no such command, or it cannot be executed.
    """
    _let_inherit(result)
    variables = command_environment(result, os.environ)
    command = _command_line(result, command)
    # Python ignores these; the command expects them as they usually are.
    usual = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGPIPE, signal.SIGXFSZ)}
    try:
        os.execvpe(command[0], list(command), variables)  # noqa: S606 - no shell is what is wanted
    except OSError as error:
        raise _not_executed(command[0], error) from error
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)


def stay_beside(result: Runnable, command: Sequence[str], then: Callable[[bytes], object]) -> int:
    """Run the command beside us, and end as it did; see ``supervise``.

    Args:
        result: The environment.
        command: What to run, as for ``replace_process``.
        then: Called with the end of its stderr, if it fails.

    Returns:
        The exit code; where a signal ended the command, it ends us as well.

    Raises:
        UsageError: There is no such command, or it cannot be executed.
    """
    from vrfstore.runner import supervise  # noqa: PLC0415 - only where it is asked for

    _let_inherit(result)
    variables = command_environment(result, os.environ)
    command = _command_line(result, command)
    try:
        ended = supervise.supervise(
            command,
            variables,
            () if result.lease is None else (result.lease.descriptor,),
            lambda ended: then(ended.tail) if ended.failed else None,
        )
    except OSError as error:
        raise _not_executed(command[0], error) from error
    return supervise.end_alike(ended.status)


def _let_inherit(result: Runnable) -> None:
    if result.lease is not None:
        os.set_inheritable(result.lease.descriptor, True)


def _command_line(result: Runnable, command: Sequence[str]) -> Sequence[str]:
    if command[0] in _PIP and not os.access(f"{result.environment}/bin/{command[0]}", os.X_OK):
        return [result.python, "-m", "pip", *command[1:]]
    return command


def _not_executed(command: str, error: OSError) -> UsageError:
    if isinstance(error, FileNotFoundError):
        return UsageError(
            f"there is no command {command!r} in the environment or on PATH", kind="command-missing"
        )
    return UsageError(f"{command!r} cannot be executed: {error.strerror}", kind="command-not-executable")
