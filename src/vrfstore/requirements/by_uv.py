"""Resolving with uv: a quick resolver that does not see the base, and is told of it.

What the base has goes into the file that uv is going to write, as if uv had written it: uv keeps versions that it finds
there where they fit. What it then chose and the base has is dropped. A version that the base has and no index does is
offered as a stand-in (``base.write_stand_ins``), and only where it is missed, since mostly it is not.

uv knows nothing of pip's configuration; it is translated, and uv's own is switched off, so that both resolvers do what
users know from pip. What uv would do otherwise at the door of an index is done for it (``logins``, ``authorities``).
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from vrfstore import fs
from vrfstore.errors import ResolutionError, UsageError, VrfstoreError
from vrfstore.model import Interpreter, LockFile, Requirement
from vrfstore.requirements import base as of_base
from vrfstore.requirements import lockfile, pip, processes
from vrfstore.requirements.budget import Budget
from vrfstore.requirements.credentials import netrc_file
from vrfstore.requirements.keyring import ASKING
from vrfstore.requirements.pip import PipSettings
from vrfstore.requirements.request import Request
from vrfstore.requirements.solution import Attempt, Solution, check_hashes, keep_words
from vrfstore.store.store import Store
from vrfstore.target import marker_environment

__all__ = ["is_installed", "solve"]

_KEPT = frozenset({"UV_CACHE_DIR", "UV_NO_CACHE", "UV_CONCURRENT_DOWNLOADS"})
"""Of uv's own variables, those that have no say in what it finds."""

_PROXIES = frozenset({"ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"})

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


def is_installed() -> bool:
    """Whether uv was installed beside vrfstore (``vrfstore[uv]``)."""
    return importlib.util.find_spec("uv") is not None


def solve(store: Store, request: Request, attempt: Attempt, budget: Budget) -> Solution:
    """Resolve a request with uv; see ``resolve.Resolver``.

    Raises:
        UsageError: uv is not installed.
        ResolutionError, PackageIndexError, WheelError, RequirementsError: See ``resolve.resolve``.
        CapError: The time is over.
    """
    program = _program()
    settings = pip.settings(store, request.interpreter, index_url=request.index_url)
    if settings.keyring in ASKING:
        from vrfstore.requirements import logins  # noqa: PLC0415 - urllib3, 60 ms, for those who have a keyring

        settings = logins.with_passwords(settings, _some_name(request), budget)
    try:
        return _solve(_Run(program, request, attempt, settings, budget))
    except ResolutionError as error:
        if not settings.extra_indexes or error.kind not in _ABSENT:
            raise
        from vrfstore.requirements import explain, logins  # noqa: PLC0415 - as above, where it has failed

        refusal = logins.refusing(settings, error.package or _some_name(request), budget)
        if refusal is None:
            raise
        refused = explain.unreachable(refusal)
        refused.log = error.log
        raise refused from error


_ABSENT = frozenset({"no-version", "package-missing"})
"""What uv says of what only an index has that refuses us."""


def _some_name(request: Request) -> str:
    """Return the name of something that is asked for."""
    return request.requirements.items[0].name


def _solve(run: _Run) -> Solution:
    attempt, base = run.attempt, run.request.base
    error: VrfstoreError | None = None
    try:
        solution = run.solution(stand_ins=False, fresh=attempt.fresh)
    except VrfstoreError as failed:
        # uv may have gone by a page that is minutes old, or have missed what only the base has.
        if failed.exit_code != _CANNOT or (attempt.fresh and not base):
            raise
        error = failed
    else:
        if not solution.versions.keys() & base.keys():
            return solution
    fresh = attempt.fresh or error is not None
    try:
        solution = run.solution(stand_ins=bool(base), fresh=fresh)
        # uv keeps one version of each, which is the base's as long as that may do.
        moved = solution.moved(base, attempt.preferred)
        return run.solution(stand_ins=True, fresh=fresh, kept=moved) if moved else solution
    except VrfstoreError as again:
        raise again from error


_CANNOT = 11
"""The exit code of what cannot be resolved."""


def _program() -> str:
    if not is_installed():
        raise UsageError(
            "the resolver uv is not installed",
            kind="resolver-missing",
            hint="install it with: pip install 'vrfstore[uv]', or leave --resolver out",
        )
    import uv  # noqa: PLC0415 - an extra

    return str(uv.find_uv_bin())


class _Run:
    """uv, for one request."""

    def __init__(
        self, program: str, request: Request, attempt: Attempt, settings: PipSettings, budget: Budget
    ) -> None:
        self._program = program
        self.request = request
        self.attempt = attempt
        self._settings = settings
        self._budget = budget

    def solution(self, *, stand_ins: bool, fresh: bool, kept: Mapping[str, str] | None = None) -> Solution:
        """Run uv.

        Args:
            stand_ins: Offer what the base has.
            fresh: Nothing counts that uv remembers of an index.
            kept: Versions to keep rather than those of the base.
        """
        request, base = self.request, self.request.base
        directory = f"{self.attempt.scratch}/uv{len(os.listdir(self.attempt.scratch))}"
        fs.make_directory(directory, 0o700)
        asked, limits, found = (
            f"{directory}/{name}" for name in ("asked.txt", "constraints.txt", "pylock.toml")
        )
        links = [f"{directory}/base"] if stand_ins else []
        if stand_ins:
            of_base.write_stand_ins(request.interpreter, base, links[0])
        fs.write_file(asked, self._asked(links).encode(), mode=0o600)
        fs.write_file(limits, self.attempt.constraints.encode())
        fs.write_file(found, _preferences({**self.attempt.preferred, **base, **(kept or {})}).encode())
        done = self._run(directory, asked, limits, found, stand_ins=stand_ins, fresh=fresh)
        if done.returncode != 0:
            from vrfstore.requirements.explain import uv_error  # noqa: PLC0415 - 14 ms that only a failure pays

            error = uv_error(done.stderr, self.attempt.explained, request.interpreter)
            error.log = keep_words(done.stderr, self.attempt.log)
            raise error
        with open(found, encoding="utf-8") as stream:
            return self._read(stream.read())

    def _run(
        self, directory: str, asked: str, limits: str, found: str, *, stand_ins: bool, fresh: bool
    ) -> subprocess.CompletedProcess[str]:
        settings = self._settings
        constraints = [limits, *map(_place, settings.constraints)]
        command = [
            self._program, "pip", "compile", "--no-config", "--quiet", "--color", "never", "--no-header",
            "--python", self.request.interpreter.executable, "--no-python-downloads",
            "--format", "pylock.toml", "--output-file", found,
            *self._strategy(stand_ins=stand_ins),
            *(word for path in constraints for word in ("--constraints", path)),
            *([] if self.request.allow_builds else ["--only-binary", ":all:"]),
            *self._prereleases(),
            *(["--no-index"] if settings.no_index else []),
            *(["--refresh"] if fresh else []),
            *(word for host in settings.trusted_hosts for word in ("--allow-insecure-host", host)),
            *(["--keyring-provider", "subprocess"] if settings.keyring in ASKING else []),
            asked,
        ]  # fmt: skip
        return processes.run(
            command, variables=_variables(settings, directory), budget=self._budget, directory=directory
        )

    def _strategy(self, *, stand_ins: bool) -> list[str]:
        """Return options that let the best version win, wherever it is: to pip all indexes are one.

        uv then takes an index that refuses us for one that does not have the package, and does not say so
        (``logins.refusing``). Of a single index it says so.
        """
        several = self._settings.extra_indexes or self._settings.find_links or stand_ins
        return ["--index-strategy", "unsafe-best-match"] if several else []

    def _prereleases(self) -> list[str]:
        """Return options that let uv take versions that are no releases where pip does.

        To pip they count for whatever is asked for by one, as in ``pear>=2.0b1``. To uv they did so until 0.12, which
        has them where there is no release only; from 0.13 on it can be told for which packages they count.
        """
        if self._settings.prereleases:
            return ["--prerelease", "allow"]
        asked = self.attempt.explained
        named = _named_prereleases(asked.items + asked.constraints, self.request.interpreter)
        if not named or not _knows_packages():
            return []
        return [word for name in sorted(named) for word in ("--prerelease-package", f"{name}=allow")]

    def _asked(self, links: list[str]) -> str:
        """Return the file of requirements, with the indexes: argv would show their credentials to everybody."""
        settings = self._settings
        lines = [f"--index-url {settings.index}"] if settings.index else []
        lines += [f"--extra-index-url {url}" for url in settings.extra_indexes]
        lines += [f"--find-links {place}" for place in (*map(_place, settings.find_links), *links)]
        # Hashes are compared afterwards: uv's compile does not.
        lines += [item.text.partition(" --hash")[0] for item in self.request.requirements.items]
        return "".join(f"{line}\n" for line in lines)

    def _read(self, text: str) -> Solution:
        base = self.request.base
        document = tomllib.loads(text)
        packages = [
            _latest_builds_first(package)
            for package in document.get("packages", [])
            if not of_base.is_same_version(base.get(package["name"]), package.get("version"))
        ]
        solution = lockfile.choose(
            LockFile(self.attempt.log, text),
            self.request.interpreter,
            allow_builds=self.request.allow_builds,
            document=document | {"packages": packages},
        )
        try:
            check_hashes(self.attempt.explained, solution.lock)
        except VrfstoreError as error:
            error.log = keep_words(text, self.attempt.log)
            raise
        return solution


def _place(text: str) -> str:
    """Return a URL as it is, and a path as what it means where we run: uv runs elsewhere."""
    return text if _SCHEME.match(text) else os.path.abspath(os.path.expanduser(text))


def _named_prereleases(asked: Iterable[Requirement], interpreter: Interpreter) -> set[str]:
    """Return the names of what is asked for by a version that is no release."""
    from packaging.requirements import Requirement as ParsedRequirement  # noqa: PLC0415 - loaded by now

    variables = marker_environment(interpreter)
    found = set()
    for item in asked:
        parsed = ParsedRequirement(item.text.partition(" --hash")[0])
        if parsed.specifier.prereleases and (parsed.marker is None or parsed.marker.evaluate(variables)):
            found.add(item.name)
    return found


def _knows_packages() -> bool:
    """Whether the uv that is installed knows ``--prerelease-package``."""
    import importlib.metadata  # noqa: PLC0415 - 12 ms, for those who ask for pre-releases

    major, minor, *_ = importlib.metadata.version("uv").split(".")
    return (int(major), int(minor)) >= (0, 13)


def _latest_builds_first(package: dict[str, Any]) -> dict[str, Any]:
    """Put wheels with a higher build tag first: pip takes the highest, and of equal ones the first is chosen.

    A large set has thousands of wheels, hardly one of them with a build tag; so names are only parsed where one has.
    """
    wheels = package.get("wheels", [])
    if not any(_filename(wheel).count("-") == _WITH_BUILD for wheel in wheels):
        return package
    from packaging.utils import parse_wheel_filename  # noqa: PLC0415 - hardly ever needed

    def build(wheel: Mapping[str, Any]) -> tuple[()] | tuple[int, str]:
        return parse_wheel_filename(_filename(wheel))[2]

    return package | {"wheels": sorted(wheels, key=build, reverse=True)}


_WITH_BUILD = 5
"""Dashes in the file name of a wheel that has a build tag."""


def _filename(wheel: Mapping[str, Any]) -> str:
    place = wheel.get("name") or wheel.get("url") or wheel.get("path") or ""
    return unquote(urlsplit(str(place)).path.rpartition("/")[2])


def _preferences(versions: Mapping[str, str]) -> str:
    """Return a lock that says nothing but which versions there are."""
    import tomli_w  # noqa: PLC0415 - nobody else needs it before there is a lock

    packages = [{"name": name, "version": version} for name, version in sorted(versions.items())]
    return tomli_w.dumps({"lock-version": "1.0", "created-by": "vrfstore", "packages": packages})


def _variables(settings: PipSettings, scratch: str) -> dict[str, str]:
    """Return uv's environment: its own variables out of the way, and pip's settings in its words."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("UV_") or name in _KEPT}
    kept |= {
        "TMPDIR": scratch,
        "UV_HTTP_TIMEOUT": str(max(1, round(settings.timeout))),
        # pip looks at the system's certificates; older uvs know the first of these two.
        "UV_NATIVE_TLS": "1",
        "UV_SYSTEM_CERTS": "1",
        "NO_COLOR": "1",
    }
    if settings.retries is not None:
        kept["UV_HTTP_RETRIES"] = str(settings.retries)
    if settings.certificate:
        from vrfstore.requirements import authorities  # noqa: PLC0415 - ssl, for those who have some of their own

        kept.pop("SSL_CERT_DIR", None)
        kept["SSL_CERT_FILE"] = f"{scratch}/authorities.pem"
        fs.write_file(kept["SSL_CERT_FILE"], authorities.bundle(_place(settings.certificate)))
    if settings.client_certificate:
        kept["SSL_CLIENT_CERT"] = _place(settings.client_certificate)
    if settings.proxy or settings.no_proxy_env:
        kept = {name: value for name, value in kept.items() if name.upper() not in _PROXIES}
    if settings.proxy:
        kept |= dict.fromkeys(_PROXIES - {"NO_PROXY"}, settings.proxy)
    netrc = netrc_file()
    if netrc is not None:
        kept["NETRC"] = netrc
    if settings.keyring == "import" and importlib.util.find_spec("keyring") is not None:
        kept["PATH"] = f"{_keyring_command(scratch)}{os.pathsep}{kept.get('PATH', os.defpath)}"
    return kept


def _keyring_command(scratch: str) -> str:
    """Make the command ``keyring`` of our own Python, which need not be on PATH; return its directory."""
    directory = f"{scratch}/bin"
    fs.make_directory(directory, 0o700)
    text = f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -P -m keyring "$@"\n'
    fs.write_file(f"{directory}/keyring", text.encode(), mode=0o700)
    return directory
