"""Locks that others made: of real pip and uv, of ours, and of whoever wishes us ill."""

import importlib.metadata
import os
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st
from packaging.markers import Environment, Marker
from packaging.pylock import Package, PackageWheel, Pylock, PylockSelectError
from packaging.specifiers import SpecifierSet
from packaging.tags import Tag
from packaging.utils import canonicalize_name
from packaging.version import Version

from support.index import Index
from support.pythons import pythons
from support.wheels import WheelSpec, build_wheel
from test_lock import LOCKS
from vrfstore import interpreter as interpreters
from vrfstore.errors import RequirementsError, ResolutionError, VrfstoreError
from vrfstore.model import Interpreter, Lock, LockedWheel, LockFile
from vrfstore.requirements import lock as locks
from vrfstore.requirements import lockfile
from vrfstore.tags import allows_python, ordered_tags, supported_tags
from vrfstore.target import marker_environment

PYTHON = Interpreter(
    executable="/usr/bin/python3.12",
    real="/usr/bin/python3.12",
    version="3.12.3",
    implementation="cpython",
    cache_tag="cpython-312",
    abi_flags="",
    magic="",
    platform="linux-x86_64",
    libc="glibc 2.36",
    prefix="/usr",
    virtual=False,
    site_directories=(),
    base=(),
)
PATH = "/project/pylock.toml"
A = "a" * 64
ALPHA = "https://index.example/files/alpha-1.0-py3-none-any.whl"
HEAD = 'lock-version = "1.0"\ncreated-by = "other"\n'


def package(
    name: str = "alpha", *, more: str = "", url: str = "", extra: str = f'hashes = {{sha256 = "{A}"}}'
) -> str:
    """A package of a lock with one wheel."""
    url = url or ALPHA.replace("alpha", name)
    return f'[[packages]]\nname = "{name}"\nversion = "1.0"\n{more}\n[[packages.wheels]]\nurl = "{url}"\n{extra}\n'


def select(text: str, python: Interpreter = PYTHON, **options: Sequence[str]) -> Lock:
    return lockfile.select(LockFile(PATH, text), python, **options)


def refused(text: str, python: Interpreter = PYTHON, **options: Sequence[str]) -> VrfstoreError:
    with pytest.raises(VrfstoreError) as caught:
        select(text, python, **options)
    assert caught.value.path == PATH
    return caught.value


def names(lock: Lock) -> list[str]:
    return [wheel.filename for wheel in lock.wheels]


# --- of real tools

SPECS = [
    WheelSpec(name="alpha", requires=["beta ; python_version < '3.11'", "gamma"]),
    WheelSpec(name="beta", version="2.0", tag="cp39-cp39-manylinux2014_x86_64", root_is_purelib=False),
    WheelSpec(name="beta", version="2.0", tag="cp310-abi3-manylinux2014_x86_64", root_is_purelib=False),
    WheelSpec(name="gamma", version="3.0+local.1", tag="py3-none-any"),
    WheelSpec(name="gamma", version="3.0+local.1", tag="cp312-cp312-manylinux_2_17_x86_64", root_is_purelib=False),
    WheelSpec(name="delta", requires_python=">=3.9"),
]  # fmt: skip
EXPECTED = {
    "3.9": ["alpha-1.0-py3-none-any.whl", "beta-2.0-cp39-cp39-manylinux2014_x86_64.whl",
            "gamma-3.0+local.1-py3-none-any.whl"],
    "3.10": ["alpha-1.0-py3-none-any.whl", "beta-2.0-cp310-abi3-manylinux2014_x86_64.whl",
             "gamma-3.0+local.1-py3-none-any.whl"],
    "3.12": ["alpha-1.0-py3-none-any.whl", "gamma-3.0+local.1-cp312-cp312-manylinux_2_17_x86_64.whl"],
}  # fmt: skip
ELSEWHERE = ["alpha-1.0-py3-none-any.whl", "gamma-3.0+local.1-py3-none-any.whl"]

probed = [interpreters.probe(python) for python in pythons()]
here = [python for python in probed if python.platform == "linux-x86_64" and python.libc.startswith("glibc")]
by_version = {python.short_version: python for python in here}


@pytest.fixture
def served(index: Index) -> Index:
    """An index with wheels for several Pythons."""
    for spec in SPECS:
        index.add(spec)
    return index


def run(directory: Path, *command: str) -> str:
    """Run a tool of the environment that the tests run in; return its pylock.toml."""
    environment = {**os.environ, "UV_CACHE_DIR": str(directory / "cache"), "UV_PYTHON_DOWNLOADS": "never"}
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=directory, env=environment, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return (directory / "pylock.toml").read_text()


THEIRS = importlib.metadata.metadata("pip")["Requires-Python"] or ""
with_pip = {name: python for name, python in by_version.items() if allows_python(THEIRS, python.version)}


@pytest.mark.parametrize("python", with_pip.values(), ids=with_pip)
def test_a_lock_of_pip_is_for_the_python_that_made_it(
    served: Index, tmp_path: Path, python: Interpreter
) -> None:
    (tmp_path / "asked.in").write_text("alpha")
    options = ["--index-url", served.url, "-r", "asked.in", "-o", "pylock.toml"]
    text = run(tmp_path, "pip", "--python", python.executable, "lock", *options)
    lock = lockfile.select(LockFile(str(tmp_path / "pylock.toml"), text), python)
    assert names(lock) == EXPECTED.get(python.short_version, ELSEWHERE)
    assert all(wheel.url.startswith(served.file_url("")) for wheel in lock.wheels)


@pytest.fixture(scope="module")
def uv_locks(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, tuple[str, str]]:
    """Locks that uv made for all Pythons at once, each with the URL of its index."""
    made: dict[str, tuple[str, str]] = {}
    with Index(SPECS) as served:
        compiled = tmp_path_factory.mktemp("compile")
        (compiled / "asked.in").write_text("alpha")
        options = ["--default-index", served.url, "--no-config"]
        made["compile"] = (
            run(compiled, "uv", "pip", "compile", *options, "--universal", "--python-version", "3.9",
                "--format", "pylock.toml", "--quiet", "-o", "pylock.toml", "asked.in"),
            served.url,
        )  # fmt: skip
        project = tmp_path_factory.mktemp("project")
        (project / "pyproject.toml").write_text(
            '[project]\nname = "report"\nversion = "1"\nrequires-python = ">=3.9"\ndependencies = ["alpha"]\n'
            '[dependency-groups]\ndev = ["delta"]\n'
        )
        made["export"] = (
            run(project, "uv", "export", *options, "--no-dev", "--format", "pylock.toml", "--quiet",
                "-o", "pylock.toml"),
            served.url,
        )  # fmt: skip
    return made


@pytest.mark.parametrize("how", ["compile", "export"])
@pytest.mark.parametrize("python", by_version.values(), ids=by_version)
def test_a_lock_of_uv_is_for_every_python(
    uv_locks: Mapping[str, tuple[str, str]], how: str, python: Interpreter
) -> None:
    text, url = uv_locks[how]
    lock = select(text, python)
    assert names(lock) == EXPECTED.get(python.short_version, ELSEWHERE)
    assert lock.python == python.short_version
    for wheel in lock.wheels:
        assert wheel.url.startswith(url.replace("/simple/", "/files/"))
        assert wheel.size is not None
        assert wheel.size > 0
        assert "%" not in wheel.filename


def test_at_least_two_pythons_were_tried() -> None:
    assert len(by_version) >= 2
    assert len(with_pip) >= 2


def test_a_wheel_that_pip_locked_by_path_is_a_wheel(tmp_path: Path) -> None:
    wheel = build_wheel(WheelSpec(name="local-one", version="1.0"), tmp_path)
    text = run(tmp_path, "pip", "lock", "--no-index", "-o", "pylock.toml", f"./{wheel.name}")
    assert "archive" in text
    (found,) = lockfile.select(LockFile(str(tmp_path / "pylock.toml"), text), PYTHON).wheels
    assert (found.name, found.version, found.filename) == ("local-one", "1.0", wheel.name)
    assert found.url == f"file://{wheel}"


def test_a_project_of_its_own_in_a_lock_of_uv_has_no_wheel(served: Index, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "report"\nversion = "1"\nrequires-python = ">=3.9"\ndependencies = ["delta"]\n'
        '[build-system]\nrequires = []\nbuild-backend = "backend"\n[tool.uv]\npackage = true\n'
    )
    options = [
        "--default-index",
        served.url,
        "--no-config",
        "--format",
        "pylock.toml",
        "--quiet",
        "-o",
        "pylock.toml",
    ]
    text = run(tmp_path, "uv", "export", *options)
    error = refused(text)
    assert error.message == "report (it is a directory) has no wheel for Python 3.12.3 on linux-x86_64"
    without = run(tmp_path, "uv", "export", *options, "--no-emit-project")
    assert names(select(without)) == ["delta-1.0-py3-none-any.whl"]


# --- of ours


@given(lock=LOCKS)
def test_our_own_locks_come_back_whole(lock: Lock) -> None:
    wheels = tuple(replace(wheel, requires_python=None) for wheel in lock.wheels)
    text = locks.dumps(replace(lock, wheels=wheels))
    back = select(text, replace(PYTHON, version=f"{lock.python}.1"))
    assert back.python == lock.python
    assert len(back.wheels) == len(wheels)
    for one, other in zip(back.wheels, wheels, strict=True):
        assert replace(one, url="") == replace(other, url="")
        assert where(one) == where(other)
    assert locks.dumps(back) == text


def where(wheel: LockedWheel) -> str:
    """Where a wheel is: a path may have more or fewer escapes, and a query is left out."""
    return unquote(urlsplit(wheel.url).path) if wheel.url.startswith("file:") else wheel.url.partition("?")[0]


def test_what_a_wheel_says_of_pythons_comes_back() -> None:
    (wheel,) = select(HEAD + package(more='requires-python = ">=3.9"')).wheels
    assert wheel.requires_python == ">=3.9"


# --- what of a lock is meant


def test_extras_and_groups_choose() -> None:
    text = (
        HEAD
        + 'extras = ["x"]\ndependency-groups = ["dev", "docs"]\ndefault-groups = ["dev"]\n'
        + package("alpha")
        + package("beta", more="marker = \"'x' in extras\"")
        + package("gamma", more="marker = \"'dev' in dependency_groups\"")
        + package("delta", more="marker = \"'docs' in dependency_groups and sys_platform == 'linux'\"")
    )

    def chosen(extras: Sequence[str] = (), groups: Sequence[str] = ()) -> str:
        return " ".join(wheel.name for wheel in select(text, extras=extras, groups=groups).wheels)

    assert chosen() == "alpha gamma"
    assert chosen(extras=["x"]) == "alpha beta gamma"
    assert chosen(groups=["docs"]) == "alpha delta"
    assert chosen(groups=["dev", "docs"], extras=["x"]) == "alpha beta delta gamma"
    assert chosen(extras=["unknown"], groups=["unknown"]) == "alpha"
    assert lockfile.offered(LockFile(PATH, text)) == (frozenset({"x"}), frozenset({"dev", "docs"}))


def test_a_path_is_relative_to_the_lock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    text = HEAD + package().replace(f'url = "{ALPHA}"', 'path = "../wheel house/alpha-1.0-py3-none-any.whl"')
    (wheel,) = lockfile.select(LockFile("locks/pylock.toml", text), PYTHON).wheels
    assert wheel.url == f"file://{tmp_path}/locks/../wheel%20house/alpha-1.0-py3-none-any.whl"
    text = text.replace("../wheel house", "/wheels")
    (wheel,) = select(text).wheels
    assert wheel.url == "file:///wheels/alpha-1.0-py3-none-any.whl"


def test_credentials_are_dropped() -> None:
    url = "https://me:secret@index.example/alpha-1.0-py3-none-any.whl?a=b#sha256=x"
    (wheel,) = select(HEAD + package(url=url)).wheels
    assert wheel.url == "https://index.example/alpha-1.0-py3-none-any.whl?a=b"


def test_a_file_name_in_a_url_is_decoded() -> None:
    url = "https://index.example/a%20b/alpha-1.0%2Bcpu-py3-none-any.whl"
    text = HEAD + package(url=url).replace('version = "1.0"\n', "")
    (wheel,) = select(text).wheels
    assert (wheel.filename, wheel.version, wheel.url) == ("alpha-1.0+cpu-py3-none-any.whl", "1.0+cpu", url)


TAGS = ["py3-none-any", "cp312-cp312-manylinux_2_17_x86_64", "cp39-abi3-manylinux2014_x86_64", "cp312-cp312-win_amd64",
        "py2.py3-none-any", "cp313-cp313-musllinux_1_2_x86_64"]  # fmt: skip
VERSIONS = st.sampled_from(["3.9.18", "3.12.3", "3.13.0"])
MARKERS = st.sampled_from([None, "python_version < '3.12'", "'x' in extras", "os_name == 'nt'"])
REQUIRES = st.sampled_from([None, ">=3.10", "<3.13"])
PACKAGES = st.lists(
    st.tuples(
        st.sampled_from(["alpha", "beta"]),
        MARKERS,
        REQUIRES,
        st.lists(st.sampled_from(TAGS), min_size=1, max_size=3, unique=True),
    ),
    max_size=3,
)


@given(packages=PACKAGES, version=VERSIONS, requires=REQUIRES, extras=st.sampled_from([(), ("x",)]))
def test_the_choice_is_that_of_packaging(
    packages: Sequence[tuple[str, str | None, str | None, Sequence[str]]],
    version: str,
    requires: str | None,
    extras: tuple[str, ...],
) -> None:
    python = replace(PYTHON, version=version)
    pylock = Pylock(
        lock_version=Version("1.0"),
        created_by="test",
        requires_python=SpecifierSet(requires) if requires else None,
        packages=[
            Package(
                name=canonicalize_name(name),
                version=Version("1.0"),
                marker=Marker(marker) if marker else None,
                requires_python=SpecifierSet(bound) if bound else None,
                wheels=[
                    PackageWheel(url=f"https://index.example/{name}-1.0-{tag}.whl", hashes={"sha256": A})
                    for tag in tags
                ],
            )
            for name, marker, bound, tags in packages
        ],
    )
    text = tomli_w.dumps(pylock.to_dict())
    try:
        expected = sorted(
            (found.name, wheel.filename)
            for found, wheel in pylock.select(
                environment=Environment(**marker_environment(python)),  # type: ignore[typeddict-item]
                tags=[Tag(*tag.split("-")) for tag in ordered_tags(python)],
                extras=extras,
            )
            if isinstance(wheel, PackageWheel)
        )
    except PylockSelectError:
        assert refused(text, python, extras=extras).kind in {"requires-python", "no-wheel", "lock-invalid"}
    else:
        chosen = select(text, python, extras=extras)
        assert [(wheel.name, wheel.filename) for wheel in chosen.wheels] == expected


def test_tags_have_an_order_and_are_those_that_links_check() -> None:
    for python in here:
        assert set(ordered_tags(python)) == supported_tags(python)
    assert ordered_tags(PYTHON)[0].startswith("cp312-cp312-")
    assert ordered_tags(PYTHON)[-1] == "py30-none-any"


# --- what does not fit


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            HEAD + 'requires-python = ">=3.13"\npackages = []\n',
            "the lock is for Python >=3.13",
        ),
        (
            HEAD + "environments = [\"os_name == 'nt'\", \"python_version < '3.9'\"]\npackages = []\n",
            'the lock is for environments with os_name == "nt" or python_version < "3.9"',
        ),
        (
            HEAD + package(more='requires-python = "<3.12"') + package("beta", more='requires-python = ">3.12.5"'),
            "alpha is for Python <3.12; beta is for Python >3.12.5",
        ),
    ],
)  # fmt: skip
def test_a_lock_for_other_pythons_is_refused(text: str, message: str) -> None:
    error = refused(text)
    assert isinstance(error, ResolutionError)
    assert error.message == f"{message}, and /usr/bin/python3.12 is 3.12.3 on linux-x86_64"
    assert (error.kind, error.exit_code) == ("requires-python", 11)


def test_one_environment_that_fits_is_enough() -> None:
    markers = "environments = [\"os_name == 'nt'\", \"python_version > '3.9'\"]\n"
    assert names(select(HEAD + markers + package())) == ["alpha-1.0-py3-none-any.whl"]


def test_a_prerelease_of_python_counts_as_of_its_release() -> None:
    text = HEAD + 'requires-python = ">=3.14"\n' + package(more='requires-python = ">=3.14"')
    assert len(select(text, replace(PYTHON, version="3.14.0rc2")).wheels) == 1


SOURCES = {
    "alpha": (
        '[packages.vcs]\ntype = "git"\nurl = "https://a/b"\ncommit-id = "1"\n',
        "it is fetched from git",
    ),
    "beta": ('[packages.directory]\npath = "."\n', "it is a directory"),
    "gamma": (
        f'[packages.archive]\nurl = "https://a/gamma-1.tar.gz"\nhashes = {{sha256 = "{A}"}}\n',
        "it is an archive of sources",
    ),
    "delta": (
        f'[packages.sdist]\nurl = "https://a/delta-1.0.tar.gz"\nhashes = {{sha256 = "{A}"}}\n',
        "it is a source distribution",
    ),
    "epsilon": (
        f'[[packages.wheels]]\nurl = "https://a/epsilon-1.0-cp312-cp312-win_amd64.whl"\nhashes = {{sha256 = "{A}"}}\n',
        "only epsilon-1.0-cp312-cp312-win_amd64.whl",
    ),
    "zeta": (
        f'[packages.archive]\nurl = "https://a/zeta-1.0-cp39-cp39-any.whl"\nhashes = {{sha256 = "{A}"}}\n',
        "only zeta-1.0-cp39-cp39-any.whl",
    ),
    "eta": (
        f'[[packages.wheels]]\nurl = "ftp://a/eta-1.0-py3-none-any.whl"\nhashes = {{sha256 = "{A}"}}\n',
        "only eta-1.0-py3-none-any.whl",
    ),
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_package_without_a_wheel_is_named_with_the_reason(name: str) -> None:
    body, reason = SOURCES[name]
    error = refused(HEAD + package("other") + f'[[packages]]\nname = "{name}"\n{body}')
    assert isinstance(error, ResolutionError)
    assert error.message == f"{name} ({reason}) has no wheel for Python 3.12.3 on linux-x86_64"
    rest = ", or allow builds with --allow-builds" if name == "delta" else "; vrfstore installs wheels only"
    assert (error.kind, error.hint) == ("no-wheel", f"lock again for this interpreter{rest}")


def test_all_packages_without_a_wheel_are_named() -> None:
    error = refused(
        HEAD + "".join(f'[[packages]]\nname = "{name}"\n{body}' for name, (body, _) in SOURCES.items())
    )
    assert all(name in error.message for name in SOURCES)


def test_a_package_that_is_not_wanted_needs_no_wheel() -> None:
    unwanted = f'[[packages]]\nname = "beta"\nmarker = "os_name == \'nt\'"\n{SOURCES["beta"][0]}'
    assert names(select(HEAD + package() + unwanted)) == ["alpha-1.0-py3-none-any.whl"]


def test_a_wheel_without_sha256_is_named() -> None:
    error = refused(HEAD + package(extra=f'hashes = {{sha512 = "{A}{A}"}}') + package("beta"))
    assert isinstance(error, ResolutionError)
    assert (error.message, error.kind) == ("alpha has no SHA-256", "no-hash")


# --- what is no lock


@pytest.mark.parametrize(
    "marker",
    ["extra == 'x'", "extras == 'x'", "extras > '1'", "'x' in python_version", "python_version in extras",
     "python_version ~= 'x'", "dependency_groups not in 'x'", "'1' < extras", "extras in extras"],
)  # fmt: skip
def test_a_marker_without_meaning_is_no_accident(marker: str) -> None:
    try:
        select(HEAD + package(more=f'marker = "{marker}"'))
    except RequirementsError as error:
        assert (error.kind, error.path) == ("lock-invalid", PATH)  # noqa: PT017 - some mean something


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a lock that can be read: Missing required value in 'lock-version'"),
        ("not toml", "this is not TOML: "),
        ("x = " + "[" * 100_000, "this is not TOML: it is nested too deeply"),
        ("a." * 100_000 + "a = 1", "this is not TOML: a key may be endless"),
        (HEAD.replace("1.0", "2.0") + "packages = []\n", "not a lock that can be read: pylock version 2.0 is"),
        (HEAD, "not a lock that can be read: Missing required value in 'packages'"),
        (HEAD + "packages = 1\n", "not a lock that can be read: Unexpected type int"),
        (HEAD + "packages = [1]\n", "not a lock that can be read: Unexpected type int"),
        (HEAD + package("Alpha"), "not a lock that can be read: Name 'Alpha' is not normalized"),
        (HEAD + '[[packages]]\nname = "alpha"\n', "not a lock that can be read: Exactly one of vcs"),
        (HEAD + package(url="https://a/beta-1.0-py3-none-any.whl"), "not a lock that can be read: Name in"),
        (HEAD + package(url="https://a/alpha-2.0-py3-none-any.whl"), "not a lock that can be read: Version in"),
        (HEAD + package(url="https://a/alpha.zip"), "not a lock that can be read: Invalid wheel filename"),
        (HEAD + package(extra="hashes = {}"), "not a lock that can be read: At least one hash"),
        (HEAD + package(extra='hashes = {sha256 = "../.."}'), "not a lock that can be read: the hash of alpha is none"),
        (HEAD + package() + package(), "not a lock that can be read: more than one alpha is for this interpreter"),
        (HEAD + package(more="marker = \"extra == 'x'\""), "not a lock that can be read: the marker"),
        (HEAD + package(more=f'marker = "{"(" * 20_000}"'), "not a lock that can be read: "),
        (HEAD + package(extra=f'hashes = {{sha256 = "{A}"}}\nname = "alpha-1.0-py3.x/../y-none-any.whl"'),
         "not a lock that can be read: "),
        (HEAD + "environments = [\"extra == 'x'\"]\npackages = []\n", "not a lock that can be read: the marker"),
    ],
)  # fmt: skip
def test_what_is_no_lock_is_refused(text: str, message: str) -> None:
    began = time.perf_counter()
    error = refused(text)
    assert time.perf_counter() - began < 2
    assert isinstance(error, RequirementsError)
    assert error.message.startswith(message)
    assert error.kind == "lock-invalid"


@pytest.mark.parametrize("url", ["https://[/alpha-1.0-py3-none-any.whl", "file://there/alpha-1.0-py3-none-any.whl",
                                 "https://a/\\u0000/alpha-1.0-py3-none-any.whl"])  # fmt: skip
def test_a_url_that_leads_nowhere_is_no_wheel(url: str) -> None:
    assert refused(HEAD + package(url=url)).kind in {"no-wheel", "lock-invalid"}


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.integers(), st.booleans(), st.text(max_size=8), st.sampled_from(["1.0", "alpha", ALPHA, A])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["name", "version", "marker", "wheels", "url", "path", "hashes", "sha256", "packages",
                             "size", "lock-version", "created-by", "archive", "extras", "environments",
                             "requires-python"]),
            inner,
            max_size=5,
        ),
    ),
    max_leaves=20,
)  # fmt: skip


@given(
    value=st.dictionaries(st.sampled_from(["packages", "environments", "extras", "requires-python"]), VALUES)
)
def test_any_toml_is_a_lock_or_refused(value: dict[str, Any]) -> None:
    text = HEAD + tomli_w.dumps(value)
    assert tomllib.loads(text)
    for call in (lambda: select(text), lambda: lockfile.offered(LockFile(PATH, text))):
        outcome(call)


def outcome(call: Callable[[], object]) -> None:
    try:
        call()
    except VrfstoreError as error:
        assert error.path == PATH  # noqa: PT017 - there may be no error, too
