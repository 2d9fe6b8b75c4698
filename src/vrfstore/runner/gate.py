"""The gate: who may have something installed is the caller's decision; what is decided is kept here, and written down.

Closed, only what is there is served: no network, no resolver, no builds. It is closed by ``--no-install``, or by a
deployment whose ``vrfstore.toml`` says so, where ``--install`` opens it. Nothing of a project has a say.

::

    <store>/logs/audit.log       a line of JSON for each answer of a closed gate; gc puts it aside when it is large
    <store>/logs/audit.log.1     the one before

Each line is one write(2) at the end of the file, so that lines of many processes do not mix. It says
when (``at``), for whom (``uid``, ``pid``, ``parent``), of which ``files`` (path and SHA-256), the ``decision``
(``served`` or ``refused``), the ``status`` of what was served or the kind of the error, and the ``environment``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from types import TracebackType

from vrfstore import codec, fs
from vrfstore.errors import NotPermittedError, VrfstoreError
from vrfstore.requirements.policy import Policy
from vrfstore.runner.result import LinkResult
from vrfstore.store.layout import Layout
from vrfstore.units import moment_text
from vrfstore.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

__all__ = ["Audit", "check", "identity"]


def identity(*, configured: bool | None) -> dict[str, object]:
    """Return what names the memos of inputs where a deployment's gate is closed.

    Those are found by nobody who does not know of the gate: the short ways to a hit, which write no line.

    Args:
        configured: Whether ``vrfstore.toml`` gives leave to install; None where it says nothing.
    """
    return {"gate": "closed"} if configured is False else {}


def check(policy: Policy, path: str) -> None:
    """Refuse what a closed gate never lets through, whatever is there.

    Args:
        policy: What the caller has decided.
        path: The file that asks.

    Raises:
        NotPermittedError: It is to be resolved again.
    """
    if policy.closed and policy.again:
        raise NotPermittedError(
            "resolving again is not permitted here",
            path=path,
            hint="leave out --refresh and --upgrade, or ask whoever may give leave (--install)",
        )


class Audit:
    """Writes down what a closed gate lets through and what it does not; use it in a ``with`` statement.

    Who may only read a store gets what is there all the same: the result then has a warning.

    Args:
        layout: The store's.
        files: The absolute path and the SHA-256 of each file that was given.
        closed: Whether the gate is; else nothing is written.
    """

    def __init__(self, layout: Layout, files: Sequence[tuple[str, str]], *, closed: bool) -> None:
        self._layout = layout
        self._files = files
        self._closed = closed

    def served(self, result: LinkResult) -> LinkResult:
        """Write down that an environment is handed out, and return it."""
        if not self._closed:
            return result
        problem = self._write("served", result.status, result.environment)
        return result if problem is None else replace(result, warnings=(*result.warnings, problem))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._closed and error is not None:
            self._write("refused", error.kind if isinstance(error, VrfstoreError) else "internal", None)

    def _write(self, decision: str, status: str, environment: str | None) -> str | None:
        """Add a line; return what is wrong where that is not possible."""
        line = {
            "at": moment_text(time.time()),
            "uid": os.getuid(),
            "pid": os.getpid(),
            "parent": os.getppid(),
            "files": [{"path": path, "sha256": digest} for path, digest in self._files],
            "decision": decision,
            "status": status,
            "environment": environment,
        }
        try:
            fs.append_line(self._layout.audit, codec.dumps(line))
        except OSError as error:
            return f"{self._layout.audit}: the line of this audit cannot be written: {error.strerror}"
        return None
