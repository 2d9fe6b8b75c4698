"""Asking a keyring who we are, where pip would: by the ``keyring`` of our own Python, or by the command of that name.

pip asks one by itself where it can ask people too, and else only where its ``keyring-provider`` names which; it is run
without anybody to ask (``PIP_NO_INPUT``), so ``auto`` means none, here as there. Either way the asking is done by a
process of its own: what a keyring prints does not get between our answers, it has no terminal to wait for somebody at,
and it can be ended.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Sequence

from vrfstore.requirements import processes

__all__ = ["ASKING", "Keyring", "Login"]

Login = tuple[str, str]
"""User and password."""

ASKING = frozenset({"import", "subprocess"})
"""The ``keyring-provider`` that mean that one is asked."""

_ASKER = os.path.join(os.path.dirname(__file__), "keyring_asker.py")
_NO_KEYRING = 69
"""The exit code of ``keyring_asker.py`` where its Python has no keyring."""

_LONGEST = 60.0
"""Seconds that one answer may take: enough for somebody to unlock a keyring in a window of its own."""

_FAILED = "the keyring failed"
"""In no words of its own: nobody knows what it puts there."""

_REFUSED_ARGUMENTS = 2
"""The exit code of argparse."""


class Keyring:
    """A keyring as pip's configuration names it; asked from several threads, once for each question.

    Args:
        provider: The ``keyring-provider``: ``import`` or ``subprocess``; with anything else nobody is asked.
        check: Is called a few times a second while a keyring is waited for; what it raises ends that.
    """

    def __init__(self, provider: str, check: Callable[[], None]) -> None:
        self._provider = provider
        self._check = check
        self._guard = threading.Lock()
        self._known: dict[tuple[str, str | None], Login | None] = {}
        self._trouble = ""

    @property
    def hint(self) -> str:
        """Where to look if an index refuses us."""
        places = (
            "check user and password: in the index URL of pip's configuration, in ~/.netrc, or in a keyring"
        )
        if self._provider not in ASKING:
            return f"{places}, which is asked only where pip's keyring-provider is import or subprocess"
        return f"{places}{self._trouble and f'; {self._trouble}'}"

    def ask(self, service: str, user: str | None) -> Login | None:
        """Return what it has; None where it has nothing, fails, or takes too long. After a failure it rests.

        Args:
            service: A URL without credentials, or a host with its port, if that is not the usual one.
            user: Whose password; None for anybody.

        Raises:
            Exception: What ``check`` raises.
        """
        # One question after the other: whoever has to unlock it first does not want to do so eight times.
        with self._guard:
            key = (service, user)
            if key not in self._known and not self._trouble:
                self._known[key] = self._answer(service, user)
            return self._known.get(key)

    def _answer(self, service: str, user: str | None) -> Login | None:
        words = [service] if user is None else [service, user]
        if self._provider == "import":
            # -P: nothing that lies beside the program is taken for a module.
            return self._run([sys.executable, "-P", _ASKER, *words])
        if self._provider == "subprocess":
            program = shutil.which("keyring")
            if program is not None:
                return self._run([program, "--mode=creds", "--output=json", "get", *words])
            self._trouble = "there is no command keyring on PATH, which keyring-provider asks for"
        return None

    def _run(self, command: Sequence[str]) -> Login | None:
        end = time.monotonic() + _LONGEST

        def check() -> None:
            self._check()
            if time.monotonic() > end:
                raise TimeoutError

        self._check()
        try:
            done = processes.run(command, variables={**os.environ, "PYTHONIOENCODING": "utf-8"}, check=check)
            if done.returncode == 0:
                return _login(done.stdout)
        except TimeoutError:
            self._trouble = f"the keyring did not answer in {_LONGEST:g} s"
        except (OSError, ValueError):
            self._trouble = _FAILED
        else:
            self._trouble = self._meaning(done.returncode, done.stderr)
        return None

    def _meaning(self, code: int, stderr: str) -> str:
        """Return what is wrong with a keyring that ended with a code other than 0; nothing if it just has no entry."""
        if self._provider == "import":
            missing = f"keyring-provider asks for the package keyring, which {sys.executable} does not have"
            return missing if code == _NO_KEYRING else _FAILED
        if code == _REFUSED_ARGUMENTS and "--mode" in stderr:
            return "the command keyring on PATH is older than 25.2.1, which is too old"
        return ""


def _login(answer: str) -> Login | None:
    """Return what a keyring answered as JSON: an object with ``username`` and ``password``, or nothing.

    Raises:
        ValueError: It is something else.
    """
    found = json.loads(answer)
    if found is None:
        return None
    if not isinstance(found, dict):
        raise ValueError  # noqa: TRY004 - of the same kind as what is no JSON
    user, password = found.get("username"), found.get("password")
    if not isinstance(user, str) or not isinstance(password, str):
        raise ValueError  # noqa: TRY004 - as above
    return user, password
