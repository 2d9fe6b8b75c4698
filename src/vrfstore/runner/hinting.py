"""Looking around a failed import, so that ``hint`` can decide. Nothing is installed, and no Python is started for long.

A traceback is anybody's text: paths in it are looked at, and no file that it names is ever read.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from vrfstore import fs
from vrfstore.errors import RequirementsError, UsageError, VrfstoreError
from vrfstore.linker.distributions import Distribution, distributions
from vrfstore.model import Interpreter
from vrfstore.requirements import names
from vrfstore.runner import given, import_failure
from vrfstore.runner.hint import Hint, Known, Surroundings, candidates, decide
from vrfstore.runner.import_failure import ImportFailure
from vrfstore.store import interpreters, modules
from vrfstore.store.entry_plan import is_module
from vrfstore.store.store import Store
from vrfstore.values import dataclass

if TYPE_CHECKING:
    from vrfstore.requirements.budget import Budget

__all__ = [
    "REQUIREMENTS",
    "Around",
    "after_command",
    "base_of",
    "check_requirements",
    "file_to_edit",
    "hint",
    "of_module",
    "read_traceback",
]

REQUIREMENTS = "requirements.vrf"

_HIGHEST = 16
"""Directories above a project's file in which its requirements are looked for."""

_CHUNK = 1 << 18

_LARGEST_RECORD = 4 << 20
"""Bytes of a RECORD that are read, to find out whose a module is."""

_LARGEST_SCRIPT = 16 << 20
"""Bytes; see ``requirements.inputs``."""

_BLOCK = re.compile(rb"(?m)^# /// script\r?$")
_INSTALLED = re.compile(r"(.*?/(?:site|dist)-packages)/")
_LIBRARY = re.compile(r"/(?:site-packages|dist-packages|lib/python\d[\w.]*)/")


@dataclass(frozen=True, kw_only=True, slots=True)
class Around:
    """Where to look.

    Attributes:
        store: Whose wheels are known; None for none.
        keep: Whether what was learned of them may be written down there.
        interpreter: The base; None where it cannot be told.
        environment: The site-packages of the environment that the import failed in; empty where nobody knows.
        requirements: The file that was given; empty to look for one.
        directory: Where the command was run, absolute.
        budget: Ask an index, within this; None to ask nobody.
        index_url: The one index to ask; empty for those that are configured.
    """

    store: Store | None = None
    keep: bool = False
    interpreter: Interpreter | None = None
    environment: str = ""
    requirements: str = ""
    directory: str
    budget: Budget | None = None
    index_url: str = ""


def of_module(module: str) -> ImportFailure:
    """Return the failure of importing a module that is not there.

    Raises:
        UsageError: That is no name of a module.
    """
    if not import_failure.is_name(module):
        raise UsageError(
            f"{module!r} is not the name of a module",
            kind="module-name",
            hint="give it as it is imported, such as cv2 or google.cloud.storage",
        )
    return ImportFailure(kind="module", module=module)


def read_traceback(path: str) -> bytes:
    """Return the end of a file or a pipe, as much as is looked at; ``-`` is stdin.

    Raises:
        OSError: It cannot be read.
    """
    descriptor = 0 if path == "-" else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if stat.S_ISREG(os.fstat(descriptor).st_mode) and path != "-":
            os.lseek(descriptor, max(os.fstat(descriptor).st_size - import_failure.LARGEST, 0), os.SEEK_SET)
        kept = b""
        # However much comes, no more than its end is kept.
        while data := os.read(descriptor, _CHUNK):
            kept = (kept + data)[-import_failure.LARGEST :]
    except OSError as error:
        error.filename = path
        raise
    finally:
        if path != "-":
            os.close(descriptor)
    return kept


def base_of(store: Store | None, executable: str, *, keep: bool) -> Interpreter:
    """Return what an interpreter is, from what a store knows where it may be written, else by starting it once.

    Raises:
        InterpreterError: It does not start, or is not suitable.
    """
    if store is not None and keep:
        with store.session() as lease:
            return interpreters.known(store.layout, lease, executable)[0]
    from vrfstore.interpreter import probe  # noqa: PLC0415 - mostly it is known

    return probe(executable)


def hint(failure: ImportFailure, around: Around) -> Hint:
    """Look, and decide.

    Raises:
        CapError: Asking an index took too long.
    """
    top = failure.module.partition(".")[0]
    projects = list(_projects(failure, around.directory))
    requirements = around.requirements or _nearest(projects)
    if requirements:
        projects.append(os.path.dirname(os.path.abspath(requirements)))
    indexed: tuple[str, ...] = ()
    if around.store is not None and top:
        indexed = modules.look(around.store, keep=around.keep).providers(failure.wanted or failure.module)
    likely = [*indexed, *candidates(failure, indexed)[1]] if top else []
    return decide(
        failure,
        Surroundings(
            local=tuple(_local(dict.fromkeys(projects), top)) if top else (),
            python="" if around.interpreter is None else around.interpreter.version,
            base=_in_base(around.interpreter, top, likely),
            installed=_installed(failure, around.environment, likely),
            indexed=indexed,
            exists=_asked(likely[:1], around) if failure.kind == "module" else {},
            requirements=requirements,
            asked=_lines(requirements) if requirements else {},
        ),
    )


def file_to_edit(path: str) -> str:
    """Return what says which packages a script gets: itself (PEP 723), or the requirements beside it; "" for neither.

    Args:
        path: What was given to ``run``, absolute; what is no script says it itself.
    """
    if not path.endswith(".py"):
        return path
    with contextlib.suppress(OSError, ValueError):
        if _BLOCK.search(fs.read_file(path, _LARGEST_SCRIPT)):
            return path
    beside = f"{os.path.dirname(path)}/{REQUIREMENTS}"
    return beside if os.path.isfile(beside) else ""


def after_command(tail: bytes, environment: str, given: str | None, requirements: str) -> Hint | None:
    """Return what there is to say about a command that failed in an environment; None for nothing.

    Args:
        tail: The end of what it wrote to stderr.
        environment: Where it ran.
        given: The store that was given, if it was.
        requirements: The file that the environment is for, maybe a script, absolute; empty where that is not known.

    Raises:
        VrfstoreError, OSError: It cannot be found out.
    """
    failure = import_failure.find(tail)
    if failure is None:
        return None
    from vrfstore.runner import inspection  # noqa: PLC0415 - most commands do not fail so

    found = inspection.find(environment, given, to_look=True)
    keep = inspection.may_write(found.store)
    return hint(
        failure,
        Around(
            store=found.store,
            keep=keep,
            interpreter=base_of(found.store, found.record.executable, keep=keep),
            environment=f"{found.place}/lib/{found.record.library}/site-packages",
            requirements=file_to_edit(requirements),
            directory=os.getcwd(),
        ),
    )


def _projects(failure: ImportFailure, directory: str) -> Iterator[str]:
    """Yield the directories of the project, the nearest first: of the traceback's files, and where the command ran."""
    for file in reversed(failure.files):
        path = os.path.join(directory, os.path.expanduser(file) if file.startswith("~/") else file)
        if not file.startswith("<") and not _LIBRARY.search(path) and os.path.isfile(path):
            yield os.path.dirname(os.path.abspath(path))
    yield directory


def _nearest(directories: Iterable[str]) -> str:
    """Return the requirements file in one of some directories, or above it; empty where there is none."""
    for start in directories:
        place = start
        for _ in range(_HIGHEST):
            path = f"{place.rstrip('/')}/{REQUIREMENTS}"
            if os.path.isfile(path):
                return path
            if place == (place := os.path.dirname(place)):
                break
    return ""


def _local(directories: Iterable[str], top: str) -> Iterator[str]:
    """Yield the files and packages of a project that are called like a module."""
    for directory in directories:
        for place in (directory, f"{directory}/src"):
            if os.path.isfile(f"{place}/{top}.py"):
                yield f"{place}/{top}.py"
            elif os.path.isdir(f"{place}/{top}") and any(map(is_module, _names(f"{place}/{top}"))):
                yield f"{place}/{top}"


def _names(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []


def _in_base(interpreter: Interpreter | None, top: str, likely: Sequence[str]) -> Known | None:
    if interpreter is None or not top:
        return None
    found = (_provider(site, top, likely) for site in interpreter.site_directories)
    return next((known for known in found if known is not None), None)


def _installed(failure: ImportFailure, environment: str, likely: Sequence[str]) -> Known | None:
    """Return what provides a module where a traceback found it, else in the environment."""
    top = failure.module.partition(".")[0]
    match = _INSTALLED.match(failure.path)
    site = match[1] if match is not None else environment
    return _provider(site, top, likely) if site and top else None


def _provider(site: str, top: str, likely: Sequence[str]) -> Known | None:
    """Return the distribution whose module it is in a directory of packages; None where there is no such module."""
    if not any(name.partition(".")[0] == top and (is_module(name) or name == top) for name in _names(site)):
        return None
    there = distributions(site)
    wanted = [names.normalised(name) for name in likely]
    # The likely ones are looked at first: a RECORD may have ten thousand lines.
    for each in sorted(there, key=lambda found: found.name not in wanted):
        if _brings(f"{site}/{each.directory}/RECORD", top):
            return Known(each.name, each.version)
    return _called(there, wanted) or Known(top, "")


def _called(there: Iterable[Distribution], wanted: Sequence[str]) -> Known | None:
    found = (Known(each.name, each.version) for each in there if each.name in wanted)
    return next(found, None)


def _brings(record: str, top: str) -> bool:
    """Whether a RECORD (recording installed projects) names a module, or in an environment of ours a link to it."""
    try:
        data = fs.read_file(record, _LARGEST_RECORD)
    except (OSError, ValueError):
        return False
    return re.search(rb"(?m)^" + re.escape(top.encode()) + rb"(?:/|,|\.[^,/]*,)", data) is not None


def _lines(path: str) -> dict[str, int]:
    """Return the lines on which a file asks for distributions; nothing where it cannot be understood."""
    with contextlib.suppress(VrfstoreError, OSError):
        asked = given.take([path], trusted=False).read(lambda _: None)
        return {item.name: 0 if item.path else item.line or 0 for item in asked.items}
    return {}


def _asked(likely: Sequence[str], around: Around) -> dict[str, bool]:
    """Ask the configured indexes whether they have a name, where that is allowed."""
    if around.budget is None or around.store is None or around.interpreter is None:
        return {}
    from vrfstore.requirements import existing, pip  # noqa: PLC0415 - only --online pays for HTTP

    settings = pip.settings(around.store, around.interpreter, index_url=around.index_url)
    return existing.existing(likely, settings, around.budget)


def check_requirements(path: str) -> str:
    """Return a requirements file that was given, absolute.

    Raises:
        RequirementsError: There is none.
    """
    if not os.path.isfile(path):
        raise RequirementsError(
            "there is no such file", kind="requirements-missing", path=path, hint="check the path"
        )
    return os.path.abspath(path)
