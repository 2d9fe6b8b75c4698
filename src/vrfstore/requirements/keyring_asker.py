"""Asks the ``keyring`` of the Python that runs it; run as a program, by its path.

::

    python -P keyring_asker.py SERVICE [USER]

What it answers is JSON on stdout: ``{"username": …, "password": …}``, or ``null``. Whatever a backend prints goes to
stderr.
"""

from __future__ import annotations

import json
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_NO_KEYRING = 69
"""The exit code where there is none (sysexits.h, EX_UNAVAILABLE). ``keyring.py`` knows it."""


def answer(keyring: Any, service: str, user: str | None) -> dict[str, str] | None:
    """Return what a keyring has for a service, and for a user if there is one."""
    if hasattr(keyring, "get_credential"):
        found = keyring.get_credential(service, user)
        return None if found is None else {"username": found.username, "password": found.password}
    # Older than 15.2: it has to be told who.
    password = None if user is None else keyring.get_password(service, user)
    return None if user is None or password is None else {"username": user, "password": password}


def main(service: str, user: str | None = None) -> None:
    """Ask, and answer."""
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        import keyring  # noqa: PLC0415 - there or not
    except ImportError:
        sys.exit(_NO_KEYRING)
    os.write(stdout, json.dumps(answer(keyring, service, user)).encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
