"""Running pip for a base interpreter: our own copy of it, or the newest that runs there.

pip is started as the base (``BASE …/pip/__pip-runner__.py``), so that it sees what the base has, with the
user's own configuration and ``PIP_*`` variables but for those that would change what is asked.
"""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from vrfstore import codec, fs
from vrfstore.errors import PackageIndexError, StoreDamagedError
from vrfstore.model import Digest, Interpreter
from vrfstore.store import leases
from vrfstore.store.leases import Lease
from vrfstore.store.memos import replace
from vrfstore.store.store import Store

__all__ = ["PipSettings", "pip_for", "run", "settings"]

_RUNNER = "pip/__pip-runner__.py"

# These say what to install, how and where to, which is ours to say; everything else is the user's.
_OURS = frozenset(
    f"PIP_{option}"
    for option in (
        "DRY_RUN", "EDITABLE", "FORCE_REINSTALL", "IGNORE_INSTALLED", "LOG", "NO_BINARY",
        "NO_DEPS", "ONLY_BINARY", "PREFIX", "PYTHON", "QUIET", "REPORT", "REQUIREMENT", "REQUIRE_HASHES", "ROOT",
        "TARGET", "UPGRADE", "USER", "VERBOSE",
    )
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class PipSettings:
    """What of pip's configuration concerns fetching.

    Attributes:
        certificate: A file or directory of certificates, or empty.
        client_certificate: A file with a client's certificate and key, or empty.
        indexes: All index URLs, credentials included; never to be written anywhere.
        timeout: Seconds for one socket operation.
        proxy: The proxy's URL, or empty for what the environment says.
    """

    certificate: str = ""
    client_certificate: str = ""
    indexes: tuple[str, ...] = ()
    timeout: float = 15.0
    proxy: str = ""


def environment(scratch: str | None = None) -> dict[str, str]:
    """Return the environment that pip is run with.

    Args:
        scratch: A directory for its temporary files, so that what a killed pip leaves is found by gc.
    """
    kept = {name: value for name, value in os.environ.items() if name not in _OURS}
    if scratch is not None:
        kept["TMPDIR"] = scratch
    # Many people forbid pip to install outside of a venv. A dry run installs nothing.
    return kept | {"PIP_REQUIRE_VIRTUALENV": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}


def configuration_files(interpreter: Interpreter) -> tuple[str, ...]:
    """Return where pip looks for its configuration when it runs on ``interpreter``, there or not (pip's user guide)."""
    home = os.path.expanduser("~")
    named = os.environ.get("PIP_CONFIG_FILE")
    prefix = (
        os.path.dirname(os.path.dirname(interpreter.executable))
        if interpreter.virtual
        else interpreter.prefix
    )
    shared = os.environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(os.pathsep)
    own = os.environ.get("XDG_CONFIG_HOME") or f"{home}/.config"
    return (
        *([os.path.abspath(named)] if named else []),
        *(f"{directory}/pip/pip.conf" for directory in shared if directory),
        "/etc/pip.conf",
        f"{home}/.pip/pip.conf",
        f"{own}/pip/pip.conf",
        f"{prefix}/pip.conf",
    )


def run(
    python: str, pip: str, arguments: Sequence[str], *, scratch: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a pip and return how it ended.

    Args:
        python: The interpreter that runs it.
        pip: The path of its ``__pip-runner__.py``.
        arguments: What follows ``pip``.
        scratch: A directory for its temporary files.
    """
    # -I: no user site, no PYTHON* variables. -B: the pip may lie in a sealed entry.
    return subprocess.run(
        [python, "-I", "-B", pip, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        env=environment(scratch),
        check=False,
    )


@contextmanager
def pip_for(store: Store, interpreter: Interpreter) -> Iterator[str]:
    """Give the path of a ``__pip-runner__.py`` that runs on ``interpreter``.

    That is the pip that vrfstore was installed with. Where it is too new for that Python, the newest that is
    not is fetched into the store, as an entry, and leased while it is used.

    Raises:
        PackageIndexError: It cannot be fetched.
    """
    from packaging.specifiers import SpecifierSet  # noqa: PLC0415 - 20 ms that a hit does not pay

    needs = importlib.metadata.metadata("pip")["Requires-Python"] or ""
    if SpecifierSet(needs).contains(interpreter.version, prereleases=True):
        yield _own_pip()
        return
    with store.session() as lease:
        digest, directory = _older_pip(store, lease, interpreter.short_version)
        with leases.take(store.layout, digests=[digest]):
            yield f"{store.layout.of('entries', directory)}/site-packages/{_RUNNER}"


def _own_pip() -> str:
    found = importlib.util.find_spec("pip")
    if found is None or found.origin is None:
        raise PackageIndexError(
            "pip is not installed beside vrfstore", kind="pip-missing", hint="install vrfstore again"
        )
    return os.path.join(os.path.dirname(found.origin), os.path.basename(_RUNNER))


def _older_pip(store: Store, lease: Lease, version: str) -> tuple[Digest, str]:
    """Return digest and directory of the entry of the newest pip for a Python ``X.Y``, fetched where needed."""
    memo = store.layout.of("interpreters", f"pip-{version}.json")
    try:
        with open(memo, "rb") as stream:
            known = codec.loads(stream.read())
        entry = store.entry(Digest(known["digest"]), known["name"], known["version"])
        if entry is not None:
            return entry.reference.digest, entry.reference.directory
    except (OSError, ValueError, KeyError, TypeError, StoreDamagedError):
        pass
    directory = store.layout.of("tmp", f"{lease.id}.{fs.unique_name()}")
    fs.make_directory(directory)
    try:
        done = run(
            sys.executable,
            _own_pip(),
            ["download", "--quiet", "--no-deps", "--only-binary", ":all:", "--python-version", version,
             "--dest", f"{directory}/wheels", "pip"],
            scratch=directory,
        )  # fmt: skip
        wheels = os.listdir(f"{directory}/wheels") if done.returncode == 0 else []
        if not wheels:
            raise PackageIndexError(
                f"no pip for Python {version} could be fetched: {last_line(done.stderr)}",
                kind="pip-unavailable",
                hint="check the network and pip's configuration",
            )
        reference = store.add(f"{directory}/wheels/{wheels[0]}").plan.reference
    finally:
        fs.remove_tree(directory)
    known = {"digest": reference.digest, "name": reference.name, "version": reference.version}
    replace(store.layout, lease, memo, codec.dumps(known))
    return reference.digest, reference.directory


def last_line(text: str) -> str:
    """Return the last line that says something, without pip's ``ERROR:``."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return re.sub(r"^ERROR:\s*", "", lines[-1]) if lines else "no message"


def settings() -> PipSettings:
    """Return what pip's own configuration says of indexes, certificates and proxies.

    pip is asked for it, rather than its files read, because where they are and which of them wins is its own
    affair. Without an answer there are only defaults.
    """
    return parse_settings(run(sys.executable, _own_pip(), ["config", "list"]).stdout)


def parse_settings(listing: str) -> PipSettings:
    """Parse the output of ``pip config list``: lines such as ``global.cert='/etc/ca.pem'``, later ones winning."""
    found: dict[str, str] = {}
    for line in listing.splitlines():
        key, equals, value = line.partition("=")
        if not equals:
            continue
        try:
            literal = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            continue
        # `global.`, `install.` and `:env:.` in the order in which pip lists, and prefers, them.
        found[key.rpartition(".")[2]] = str(literal)
    return PipSettings(
        certificate=found.get("cert", ""),
        client_certificate=found.get("client-cert", ""),
        indexes=tuple(_urls(found)),
        timeout=_number(found.get("default-timeout", found.get("timeout", "")), 15.0),
        proxy=found.get("proxy", ""),
    )


def _urls(found: Mapping[str, str]) -> Iterator[str]:
    for key in ("index-url", "extra-index-url", "find-links"):
        yield from found.get(key, "").split()


def _number(text: str, default: float) -> float:
    try:
        return float(text)
    except ValueError:
        return default
