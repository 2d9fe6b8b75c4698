"""A keyring with a backend of our own, for whoever imports it and for whoever runs the command."""

import json
import os
import sys
from pathlib import Path

import keyring
import pytest

__all__ = ["Keyring"]

_BACKEND = """\
import json
import os
import time
from pathlib import Path

import keyring.backend
import keyring.credentials

HERE = Path(__file__).parent


class Keyring(keyring.backend.KeyringBackend):
    priority = 1

    def get_credential(self, service, username):
        at_a_terminal = os.getsid(0) == json.loads((HERE / "session.json").read_text())
        with open(HERE / "asked", "a") as stream:
            stream.write(json.dumps([service, username, at_a_terminal]) + "\\n")
        mood = (HERE / "mood").read_text()
        if mood == "sleeps":
            time.sleep(60)
        if mood == "fails":
            raise RuntimeError("hush-7f3a9")
        if mood == "talks":
            print("a backend that talks")
        for known, user, password in json.loads((HERE / "known.json").read_text()):
            if known == service and username in (None, user):
                return keyring.credentials.SimpleCredential(user, password)
        return None

    def get_password(self, service, username):
        found = self.get_credential(service, username)
        return None if found is None else found.password

    def set_password(self, service, username, password):
        raise NotImplementedError
"""

_COMMAND = """\
#!/bin/sh
echo "$*" >> '{log}'
exec '{python}' -m keyring "$@"
"""


class Keyring:
    """What the keyrings that vrfstore can find know.

    Attributes:
        directory: Where its backend is.
        packages: The directory where the package ``keyring`` is.

    Args:
        directory: An empty directory.
        monkeypatch: Points everybody to it.
    """

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory = directory
        self.packages = Path(keyring.__file__).parents[1]
        self._monkeypatch = monkeypatch
        directory.mkdir()
        (directory / "garden.py").write_text(_BACKEND)
        (directory / "known.json").write_text("[]")
        (directory / "session.json").write_text(str(os.getsid(0)))
        self.mood("willing")
        monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "garden.Keyring")
        monkeypatch.setenv("PYTHONPATH", str(directory))

    def knows(self, *entries: tuple[str, str, str]) -> None:
        """Says what it knows: services, users and passwords."""
        (self.directory / "known.json").write_text(json.dumps(entries))

    def mood(self, mood: str) -> None:
        """Lets its backend be ``willing``, or one that ``talks``, ``fails`` or ``sleeps``."""
        (self.directory / "mood").write_text(mood)

    def on_path(self) -> None:
        """Puts the command on PATH."""
        (self.directory / "bin").mkdir()
        command = self.directory / "bin/keyring"
        command.write_text(_COMMAND.format(log=self.directory / "started", python=sys.executable))
        command.chmod(0o755)
        self._monkeypatch.setenv("PATH", f"{command.parent}{os.pathsep}{os.environ['PATH']}")

    @property
    def asked(self) -> list[tuple[str, str | None]]:
        """Services and users that it was asked for."""
        return [(service, user) for service, user, _ in self._questions()]

    @property
    def has_terminal(self) -> bool:
        """Whether any that was asked was in our own session, and so could have asked at our terminal."""
        return any(at_a_terminal for _, _, at_a_terminal in self._questions())

    @property
    def started(self) -> str:
        """What the command has been started with."""
        log = self.directory / "started"
        return log.read_text() if log.exists() else ""

    def _questions(self) -> list[tuple[str, str | None, bool]]:
        log = self.directory / "asked"
        return [tuple(json.loads(line)) for line in log.read_text().splitlines()] if log.exists() else []
