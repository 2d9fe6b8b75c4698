"""Running pip for a base interpreter: our own copy of it, or the newest that runs there.

pip is started as the base (``BASE …/pip/__pip-runner__.py``), so that it sees what the base has, with the
user's own configuration and ``PIP_*`` variables but for those that would change what is asked. For a target, which
is not here, our own copy runs on our own Python.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from vrfstore import codec, fs
from vrfstore.errors import PackageIndexError, UsageError
from vrfstore.model import Digest, Interpreter
from vrfstore.requirements import processes
from vrfstore.requirements.budget import Budget
from vrfstore.requirements.targets import Target, unknown_pip
from vrfstore.store import interpreters, leases, memos
from vrfstore.store.store import Store
from vrfstore.target import marker_environment, resolver_options
from vrfstore.values import dataclass, replace

__all__ = ["PipSettings", "own_authorities", "pip_for", "run", "run_for_target", "settings"]

_RUNNER = "pip/__pip-runner__.py"
_STARTER = os.path.join(os.path.dirname(__file__), "pip_starter.py")
_STARTER_FAILED = 64

# These say what to install, how and where to, which is ours to say; everything else is the user's.
_OURS = frozenset(
    f"PIP_{option}"
    for option in (
        "ABI", "DRY_RUN", "EDITABLE", "GROUP", "IMPLEMENTATION", "LOG", "NO_BINARY", "ONLY_BINARY", "PLATFORM",
        "PREFIX", "PYTHON", "PYTHON_VERSION", "QUIET", "REPORT", "REQUIREMENT", "ROOT", "TARGET", "VERBOSE",
    )
)  # fmt: skip

_SWITCHED_OFF = tuple(
    f"PIP_{switch}"
    for switch in (
        "FORCE_REINSTALL", "IGNORE_INSTALLED", "NO_DEPS", "REQUIRE_HASHES", "REQUIRE_VIRTUALENV", "UPGRADE", "USER",
    )
)  # fmt: skip

_MOST_DIGITS = 9
"""Of a number; whatever has more is a mistake."""

_SECTIONS = frozenset({"global", "install", ":env:"})
"""Of pip's configuration: what has a say when packages are looked for."""

_TRANSPORT = frozenset(
    f"PIP_{option}"
    for option in (
        "CACHE_DIR", "CERT", "CLIENT_CERT", "DEFAULT_TIMEOUT", "KEYRING_PROVIDER", "NO_CACHE_DIR", "NO_PROXY_ENV",
        "PROXY", "RESUME_RETRIES", "RETRIES", "TIMEOUT", "TRUSTED_HOST", "USE_DEPRECATED", "USE_FEATURE",
    )
)  # fmt: skip
"""How an index is reached, and not which one: what is left of the user's variables where one index is given."""

# Of these a variable cannot undo what a configuration file says.
_FOREIGN_OPTION = re.compile(
    r"^(requirements?|editable|target|python|platform|python-version|abi|implementation|group|prefix|root)\s*[=:]",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class PipSettings:
    """What of pip's configuration concerns fetching, and other resolvers.

    Attributes:
        certificate: A file or directory of certificates, or empty.
        client_certificate: A file with a client's certificate and key, or empty.
        index: The URL of the index, or empty for the usual one. Like all URLs here with credentials, and so never to be
            written anywhere.
        extra_indexes: URLs of further indexes.
        find_links: URLs and paths of pages and directories that list files.
        no_index: No index is asked, only ``find_links``.
        timeout: Seconds for one socket operation.
        retries: How often a request is made once more; None for what is usual.
        proxy: The proxy's URL, or empty for what the environment says.
        no_proxy_env: The environment has no say in proxies.
        trusted_hosts: Hosts whose certificates are not looked at.
        constraints: Files that limit versions.
        prereleases: Whether versions that are no releases count.
        keyring: The ``keyring-provider``, or empty.
    """

    certificate: str = ""
    client_certificate: str = ""
    index: str = ""
    extra_indexes: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    no_index: bool = False
    timeout: float = 15.0
    retries: int | None = None
    proxy: str = ""
    no_proxy_env: bool = False
    trusted_hosts: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    prereleases: bool = False
    keyring: str = ""

    @property
    def indexes(self) -> tuple[str, ...]:
        """All URLs that may say who we are."""
        return (*filter(None, (self.index,)), *self.extra_indexes, *self.find_links)


def environment(scratch: str | None = None, *, index_url: str = "") -> dict[str, str]:
    """Return the environment that pip is run with.

    Args:
        scratch: A directory for its temporary files, so that what a killed pip leaves is found by gc.
        index_url: The one index that it may ask: no further index, no page of links, no configuration file has a say.
    """
    kept = {name: value for name, value in os.environ.items() if name not in _OURS}
    if index_url:
        kept = {
            name: value for name, value in kept.items() if not name.startswith("PIP_") or name in _TRANSPORT
        }
        # With this name pip reads no configuration file at all.
        kept |= {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": index_url}
    if scratch is not None:
        kept["TMPDIR"] = scratch
    # A variable beats a configuration file. Many people forbid pip to install outside of a venv, which a dry run
    # does not do; and what is asked for is ours to say there too.
    return (
        kept | dict.fromkeys(_SWITCHED_OFF, "0") | {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
    )


def configuration_files(interpreter: Interpreter, *, index_url: str = "") -> tuple[str, ...]:
    """Return the files that have a say when pip runs for ``interpreter``, there or not (pip's user guide).

    Those are its configuration files, and the constraints that a variable names.
    """
    if index_url:
        return ()
    home = os.path.expanduser("~")
    named = os.environ.get("PIP_CONFIG_FILE")
    if isinstance(interpreter, Target):
        prefix = sys.prefix
    elif interpreter.virtual:
        prefix = os.path.dirname(os.path.dirname(interpreter.executable))
    else:
        prefix = interpreter.prefix
    shared = os.environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(os.pathsep)
    own = os.environ.get("XDG_CONFIG_HOME") or f"{home}/.config"
    return (
        *([os.path.abspath(named)] if named else []),
        *(f"{directory}/pip/pip.conf" for directory in shared if directory),
        "/etc/pip.conf",
        f"{home}/.pip/pip.conf",
        f"{own}/pip/pip.conf",
        f"{prefix}/pip.conf",
        *(
            os.path.abspath(word)
            for word in os.environ.get("PIP_CONSTRAINT", "").split()
            if "://" not in word
        ),
    )


def check_configuration(interpreter: Interpreter, *, index_url: str = "") -> None:
    """Refuse a pip configuration that says what to install, or for whom.

    Raises:
        UsageError: There is one; its file and line are named.
    """
    for path in configuration_files(interpreter, index_url=index_url):
        try:
            text = fs.read_file(path).decode(errors="replace")
        except OSError:
            continue
        found = _FOREIGN_OPTION.search(text)
        if found is not None:
            raise UsageError(
                f"pip is configured with {found[1]!r}, which says what to install, or for whom",
                kind="pip-configuration",
                path=path,
                line=text.count("\n", 0, found.start()) + 1,
                hint="remove that line, or set PIP_CONFIG_FILE to another file",
            )


def run(
    python: str,
    pip: str,
    arguments: Sequence[str],
    *,
    scratch: str | None = None,
    index_url: str = "",
    budget: Budget | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a pip and return how it ended.

    Args:
        python: The interpreter that runs it.
        pip: The path of its ``__pip-runner__.py``.
        arguments: What follows ``pip``.
        scratch: A directory for its temporary files.
        index_url: See ``environment``.
        budget: Whose time it has.

    Raises:
        CapError: The time is over.
    """
    # -I: no user site, no PYTHON* variables. -B: the pip may lie in a sealed entry.
    return processes.run(
        [python, "-I", "-B", pip, *arguments],
        variables=environment(scratch, index_url=index_url),
        budget=budget,
    )


def run_for_target(
    target: Target,
    pip: str,
    arguments: Sequence[str],
    *,
    installed: str,
    scratch: str | None = None,
    index_url: str = "",
    budget: Budget | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a pip on our own Python for another, and return how it ended.

    Args:
        target: Whom for.
        pip: The path of its ``__pip-runner__.py``.
        arguments: What follows ``pip``: a command that chooses wheels, and its options.
        installed: The directory of what it is to take for installed; nothing else is.
        scratch: A directory for its temporary files.
        index_url: See ``environment``.
        budget: Whose time it has.

    Raises:
        ResolutionError: This pip is not known well enough (``resolver-target``).
        CapError: The time is over.
    """
    variables = codec.dumps(marker_environment(target)).decode()
    command, *rest = arguments
    done = processes.run(
        # -S: what is installed beside our pip is not what the target has.
        [sys.executable, "-I", "-S", "-B", _STARTER, pip, sys.prefix, variables, installed,
         command, *resolver_options(target), *rest],
        variables=environment(scratch, index_url=index_url),
        budget=budget,
    )  # fmt: skip
    if done.returncode == _STARTER_FAILED:
        raise unknown_pip(last_line(done.stderr))
    return done


@contextmanager
def pip_for(store: Store, interpreter: Interpreter, *, index_url: str = "") -> Iterator[str]:
    """Give the path of a ``__pip-runner__.py`` that runs on ``interpreter``; for a target, on our own Python.

    That is the pip that vrfstore was installed with. Where it is too new for that Python, the newest that is
    not is fetched into the store, as an entry, and leased while it is used.

    Raises:
        PackageIndexError: It cannot be fetched.
    """
    if isinstance(interpreter, Target):
        yield _own_pip()
        return
    import importlib.metadata  # noqa: PLC0415 - 12 ms that only those who start pip pay

    from packaging.specifiers import SpecifierSet  # noqa: PLC0415 - as above

    needs = importlib.metadata.metadata("pip")["Requires-Python"] or ""
    if SpecifierSet(needs).contains(interpreter.version, prereleases=True):
        yield _own_pip()
        return
    with _older_pip(store, interpreter.short_version, index_url) as directory:
        yield f"{store.layout.of('entries', directory)}/site-packages/{_RUNNER}"


def _own_pip() -> str:
    found = importlib.util.find_spec("pip")
    if found is None or found.origin is None:
        raise PackageIndexError(
            "pip is not installed beside vrfstore", kind="pip-missing", hint="install vrfstore again"
        )
    return os.path.join(os.path.dirname(found.origin), os.path.basename(_RUNNER))


def own_authorities() -> str:
    """Return the path of the authorities that come with our own pip, which those who package it may have left out."""
    return os.path.join(os.path.dirname(_own_pip()), "_vendor", "certifi", "cacert.pem")


@contextmanager
def _older_pip(store: Store, version: str, index_url: str) -> Iterator[str]:
    """Give the directory name of the entry of the newest pip for a Python ``X.Y``, fetched where needed, leased."""
    memo = store.layout.of("interpreters", f"{interpreters.PIP_MEMO}{version}.json")
    for attempt in range(2):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            known = codec.loads(fs.read_file(memo))
            wanted = (Digest(known["digest"]), str(known["name"]), str(known["version"]))
            with leases.take(store.layout, digests=[wanted[0]]):
                store.await_entries([wanted])
                entry = store.entry(*wanted)
                if entry is not None:
                    yield entry.reference.directory
                    return
        if attempt == 0:
            _fetch_pip(store, version, memo, index_url)
    raise PackageIndexError(
        f"the pip for Python {version} was collected as soon as fetched", kind="pip-unavailable"
    )


def _fetch_pip(store: Store, version: str, memo: str, index_url: str) -> None:
    """Make the newest pip for a Python ``X.Y`` an entry, and remember which that is."""
    with store.session() as lease:
        directory = store.layout.of("tmp", f"{lease.id}.{fs.unique_name()}")
        fs.make_directory(directory)
        try:
            done = run(
                sys.executable,
                _own_pip(),
                ["download", "--quiet", "--no-deps", "--only-binary", ":all:", "--python-version", version,
                 "--dest", f"{directory}/wheels", "pip"],
                scratch=directory,
                index_url=index_url,
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
        memos.replace(store.layout, lease, memo, codec.dumps(known))


def last_line(text: str) -> str:
    """Return the last line that says something, without pip's ``ERROR:``."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return re.sub(r"^ERROR:\s*", "", lines[-1]) if lines else "no message"


def settings(store: Store, interpreter: Interpreter, *, index_url: str = "") -> PipSettings:
    """Return what pip's own configuration says of indexes, certificates and proxies when it runs for ``interpreter``.

    pip is asked for it, rather than its files read, because which of them wins is its own affair. Where there is no
    such file nothing but variables have a say, and starting pip to hear that would take longer than some resolvers do.
    Without an answer there are only defaults.
    """
    variables = environment(index_url=index_url)
    silent = variables.get("PIP_CONFIG_FILE") == os.devnull
    if silent or not any(map(os.path.exists, configuration_files(interpreter))):
        return _with_variables(parse_settings(_listing(variables)))
    python = sys.executable if isinstance(interpreter, Target) else interpreter.executable
    with pip_for(store, interpreter, index_url=index_url) as runner:
        listing = run(python, runner, ["config", "list"], index_url=index_url).stdout
    return _with_variables(parse_settings(listing))


def _with_variables(configured: PipSettings) -> PipSettings:
    """Add the certificates that variables name to requests, which pip is made of; not where a proxy is configured."""
    if configured.certificate or configured.proxy or configured.no_proxy_env:
        return configured
    bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or ""
    return replace(configured, certificate=bundle)


def _listing(variables: Mapping[str, str]) -> str:
    """Return what ``pip config list`` says of variables alone."""
    return "".join(
        f":env:.{name.removeprefix('PIP_').lower().replace('_', '-')}={value!r}\n"
        for name, value in sorted(variables.items())
        if name.startswith("PIP_")
    )


def parse_settings(listing: str) -> PipSettings:
    """Parse the output of ``pip config list``: lines such as ``global.cert='/etc/ca.pem'``, later ones winning."""
    found: dict[str, str] = {}
    for line in listing.splitlines():
        key, equals, value = line.partition("=")
        section, _, name = key.rpartition(".")
        if not equals or section not in _SECTIONS:
            continue
        try:
            literal = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            continue
        # In the order in which pip lists, and prefers, them.
        found[name] = str(literal)

    def words(name: str) -> tuple[str, ...]:
        return tuple(found.get(name, "").split())

    return PipSettings(
        certificate=found.get("cert", ""),
        client_certificate=found.get("client-cert", ""),
        index=found.get("index-url", ""),
        extra_indexes=words("extra-index-url"),
        find_links=words("find-links"),
        no_index=_switch(found.get("no-index", "")),
        retries=_count(found.get("retries", "")),
        timeout=_number(found.get("default-timeout", found.get("timeout", "")), 15.0),
        proxy=found.get("proxy", ""),
        no_proxy_env=_switch(found.get("no-proxy-env", "")),
        trusted_hosts=words("trusted-host"),
        constraints=words("constraint"),
        prereleases=_switch(found.get("pre", "")),
        keyring=found.get("keyring-provider", ""),
    )


def _switch(text: str) -> bool:
    return text.strip().lower() in {"1", "true", "yes", "on", "y", "t"}


def _count(text: str) -> int | None:
    return int(text) if text.isdecimal() and len(text) <= _MOST_DIGITS else None


def _number(text: str, default: float) -> float:
    try:
        return float(text)
    except ValueError:
        return default
