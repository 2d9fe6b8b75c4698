"""Every error that vrfstore raises on purpose, each with an exit code and a ``kind``.

Several causes share an exit code (docs/design.md, "Command line"); ``kind`` tells them apart for machines.
An error says what happened, where, and what to do; it carries fields and survives pickling. ``OSError``
is not wrapped here: it passes through, and the command line translates it.

::

    VrfstoreError
    ├── UsageError                 2
    ├── RequirementsError         10
    ├── ResolutionError           11
    ├── NotPermittedError         12
    ├── CapError                  13
    ├── PackageIndexError         14
    ├── BusyError                 15
    ├── DiskFullError             16
    ├── StoreDamagedError         17
    ├── WheelError                18
    ├── CollisionError            19
    ├── BudgetError               20
    ├── StoreError                21
    ├── InterpreterError          22
    └── DriftError                23
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing takes 5 ms to import, and the path of a hit comes through here
    from typing import ClassVar

__all__ = [
    "BudgetError",
    "BusyError",
    "CapError",
    "CollisionError",
    "DiskFullError",
    "DriftError",
    "InterpreterError",
    "NotPermittedError",
    "PackageIndexError",
    "RequirementsError",
    "ResolutionError",
    "StoreDamagedError",
    "StoreError",
    "UsageError",
    "VrfstoreError",
    "WheelError",
]


class VrfstoreError(Exception):
    """The base of every error of vrfstore.

    Attributes:
        message: What happened, one sentence, without a trailing full stop.
        kind: A stable word for machines, such as ``hash-mismatch``.
        path: The file that the error is about, if there is one.
        line: The 1-based line in that file, if there is one.
        hint: What to do about it, if we know.
        log: The file that has the whole story in other programs' words, if there is one.
        exit_code: The command's exit code, fixed per class.
    """

    exit_code: ClassVar[int] = 70
    default_kind: ClassVar[str] = "internal"

    def __init__(
        self,
        message: str,
        *,
        kind: str | None = None,
        path: str | None = None,
        line: int | None = None,
        hint: str | None = None,
        log: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.kind = kind or self.default_kind
        self.path = path
        self.line = line
        self.hint = hint
        self.log = log

    @property
    def where(self) -> str | None:
        """``file:line``, ``file``, or nothing."""
        if self.path is None:
            return None
        return self.path if self.line is None else f"{self.path}:{self.line}"

    def fields(self) -> dict[str, object]:
        """Return all there is to say, as an object of JSON."""
        return {
            "code": self.exit_code,
            "kind": self.kind,
            "message": self.message,
            "path": self.path,
            "line": self.line,
            "member": getattr(self, "member", None),
            "hint": self.hint,
            "log": self.log,
        }

    def __str__(self) -> str:
        return self.message if self.where is None else f"{self.where}: {self.message}"

    def __reduce__(self) -> tuple[object, ...]:
        # Exception's own way would call the class with the message only and lose the fields.
        return (_restore, (type(self), self.message, self.__dict__.copy()))


def _restore(cls: type[VrfstoreError], message: str, fields: dict[str, object]) -> VrfstoreError:
    error = cls.__new__(cls, message)
    Exception.__init__(error, message)
    error.__dict__.update(fields)
    return error


class UsageError(VrfstoreError):
    """The command line, or a call, does not make sense."""

    exit_code = 2
    default_kind = "usage"


class RequirementsError(VrfstoreError):
    """A requirements file is missing, cannot be parsed, or asks for what it may not."""

    exit_code = 10
    default_kind = "requirement-syntax"


class ResolutionError(VrfstoreError):
    """The index answered, but no set of wheels satisfies the request.

    Attributes:
        package: The normalised name of what cannot be had, if it is one package; ``line`` may be that of another, which
            needs it.
    """

    exit_code = 11
    default_kind = "resolution-failed"
    package: str | None = None


class NotPermittedError(VrfstoreError):
    """What is asked for is not there, and getting it is not permitted."""

    exit_code = 12
    default_kind = "not-permitted"


class CapError(VrfstoreError):
    """It would take more than the caller allowed: packages, bytes or time."""

    exit_code = 13
    default_kind = "cap"


class PackageIndexError(VrfstoreError):
    """The package index or the network did not deliver."""

    exit_code = 14
    default_kind = "network"


class BusyError(VrfstoreError):
    """Somebody else holds what is needed, and waiting was not wanted or took too long."""

    exit_code = 15
    default_kind = "busy"


class DiskFullError(VrfstoreError):
    """There is no room left, or no quota. Raised by the command line only; elsewhere it is an ``OSError``."""

    exit_code = 16
    default_kind = "disk-full"


class StoreDamagedError(VrfstoreError):
    """Something that was published whole is not whole any more."""

    exit_code = 17
    default_kind = "store-damaged"


class WheelError(VrfstoreError):
    """A wheel was refused. ``path`` names the wheel; ``member`` the file inside it, if one is to blame."""

    exit_code = 18
    default_kind = "wheel-refused"

    def __init__(
        self,
        message: str,
        *,
        kind: str | None = None,
        path: str | None = None,
        member: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, kind=kind, path=path, hint=hint)
        self.member = member


class CollisionError(VrfstoreError):
    """Two wheels of one environment ship different files at the same place."""

    exit_code = 19
    default_kind = "collision"


class BudgetError(VrfstoreError):
    """The store is over its budget, and all that is left is in use or too young."""

    exit_code = 20
    default_kind = "over-budget"


class StoreError(VrfstoreError):
    """The store cannot be used: no access, or a format this version does not know."""

    exit_code = 21
    default_kind = "store-unusable"


class InterpreterError(VrfstoreError):
    """The base interpreter is missing, does not start, or is not one that can be linked for."""

    exit_code = 22
    default_kind = "interpreter-unsuitable"


class DriftError(VrfstoreError):
    """An environment is not as it was linked, and cannot be used or mended as it is."""

    exit_code = 23
    default_kind = "drift"
