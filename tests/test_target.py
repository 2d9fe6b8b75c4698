"""Interpreters that are not here: descriptions in both forms, every error named, and what pip is told of them."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from packaging.markers import Marker, default_environment

from support.pythons import pythons
from vrfstore.errors import InterpreterError
from vrfstore.model import Interpreter
from vrfstore.target import describe, marker_environment, resolver_options

DOCUMENT = Path(__file__).parent.parent / "docs/targets.md"

SMALLEST: dict[str, Any] = {
    "version": "3.12.3",
    "platform": "linux-aarch64",
    "executable": "/usr/bin/python3.12",
}
OWN: dict[str, Any] = {
    **SMALLEST,
    "libc": "glibc 2.31",
    "abi_flags": "",
    "site_directories": ["/usr/lib/python3/dist-packages"],
    "base": {"NumPy": "1.26.4", "a_b": "2"},
}
VERSION = {"major": 3, "minor": 14, "micro": 1, "releaselevel": "final", "serial": 0}
DETAILS: dict[str, Any] = {
    "schema_version": "1.0",
    "base_prefix": "/usr/local",
    "base_interpreter": "/usr/local/bin/python3.14",
    "platform": "linux-x86_64",
    "language": {"version": "3.14", "version_info": VERSION},
    "implementation": {
        "name": "cpython",
        "cache_tag": "cpython-314",
        "version": VERSION,
        "hexversion": 51249648,
        "_multiarch": "x86_64-linux-gnu",
    },
    "abi": {
        "flags": [],
        "extension_suffix": ".cpython-314-x86_64-linux-gnu.so",
        "stable_abi_suffix": ".abi3.so",
    },
    "suffixes": {"source": [".py"], "bytecode": [".pyc"], "extensions": [".abi3.so", ".so"]},
    "libpython": {"static": "/usr/local/lib/libpython3.14.a"},
    "c_api": {"headers": "/usr/local/include/python3.14"},
}
GONE = object()


def changed(value: dict[str, Any], key: str, new: object) -> dict[str, Any]:
    """Return a copy in which a dotted key has another value, or is gone."""
    result: dict[str, Any] = copy.deepcopy(value)
    *outer, last = key.split(".")
    inner = result
    for part in outer:
        inner = inner[part]
    if new is GONE:
        del inner[last]
    else:
        inner[last] = new
    return result


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "target.json"


def described(file: Path, value: object) -> Interpreter:
    file.write_text(json.dumps(value))
    return describe(str(file))


def refused(file: Path, data: bytes) -> InterpreterError:
    file.write_bytes(data)
    with pytest.raises(InterpreterError) as caught:
        describe(str(file))
    assert (caught.value.kind, caught.value.path, caught.value.exit_code) == ("target-invalid", str(file), 22)
    assert caught.value.hint
    return caught.value


def test_little_has_to_be_said(file: Path) -> None:
    assert described(file, SMALLEST) == Interpreter(
        executable="/usr/bin/python3.12",
        real="/usr/bin/python3.12",
        version="3.12.3",
        implementation="cpython",
        cache_tag="cpython-312",
        abi_flags="",
        magic="",
        platform="linux-aarch64",
        libc="glibc 2.17",
        prefix="/usr",
        virtual=False,
        site_directories=(),
        base=(),
    )


def test_all_may_be_said(file: Path) -> None:
    found = described(file, {**OWN, "abi_flags": "t", "version": "3.13.0rc1", "libc": "musl 1.2"})
    assert (found.version, found.abi_flags, found.libc) == ("3.13.0rc1", "t", "musl 1.2")
    assert (found.directory_name, found.cache_tag) == ("python3.13t", "cpython-313")
    assert found.site_directories == ("/usr/lib/python3/dist-packages",)
    assert found.base == (("a-b", "2"), ("numpy", "1.26.4"))


def test_build_details_of_cpython_are_read(file: Path) -> None:
    assert described(file, DETAILS) == Interpreter(
        executable="/usr/local/bin/python3.14",
        real="/usr/local/bin/python3.14",
        version="3.14.1",
        implementation="cpython",
        cache_tag="cpython-314",
        abi_flags="",
        magic="",
        platform="linux-x86_64",
        libc="glibc 2.17",
        prefix="/usr/local",
        virtual=False,
        site_directories=(),
        base=(),
    )


def test_paths_of_build_details_may_be_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = tmp_path / "usr/lib/python3.14"
    library.mkdir(parents=True)
    relative = {**DETAILS, "base_prefix": "../..", "base_interpreter": "./bin/python3.14"}
    (library / "build-details.json").write_text(json.dumps(relative))
    monkeypatch.chdir(library)
    found = describe("build-details.json")
    assert (found.prefix, found.executable) == (f"{tmp_path}/usr", f"{tmp_path}/usr/bin/python3.14")


def test_build_details_tell_musl_and_free_threaded_builds(file: Path) -> None:
    musl = changed(DETAILS, "implementation._multiarch", "x86_64-linux-musl")
    found = described(file, changed(musl, "abi.flags", ["t", "d"]))
    assert (found.libc, found.abi_flags) == ("musl 1.2", "td")


def test_what_build_details_do_not_tell_may_be_added(file: Path) -> None:
    found = described(
        file, {**DETAILS, "libc": "glibc 2.39", "base": {"numpy": "2.3"}, "site_directories": ["/s"]}
    )
    assert (found.libc, found.base, found.site_directories) == ("glibc 2.39", (("numpy", "2.3"),), ("/s",))


def test_build_details_of_a_later_schema_may_say_more(file: Path) -> None:
    found = described(file, {**DETAILS, "schema_version": "1.1", "more": [1]})
    assert found.version == "3.14.1"


@pytest.mark.parametrize(
    ("level", "serial", "expected"),
    [
        ("alpha", 7, "3.14.1a7"),
        ("beta", 1, "3.14.1b1"),
        ("candidate", 2, "3.14.1rc2"),
        ("final", 0, "3.14.1"),
    ],
)
def test_versions_are_written_as_python_writes_them(
    file: Path, level: str, serial: int, expected: str
) -> None:
    version = {**VERSION, "releaselevel": level, "serial": serial}
    assert described(file, changed(DETAILS, "implementation.version", version)).version == expected


def test_the_documented_descriptions_are_read(tmp_path: Path) -> None:
    blocks = re.findall(r"^```json\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    found = []
    for number, block in enumerate(blocks):
        path = tmp_path / f"{number}.json"
        path.write_text(block)
        found.append(describe(str(path)))
    assert [(item.version, item.platform) for item in found] == [
        ("3.12.3", "linux-aarch64"),
        ("3.14.0", "linux-x86_64"),
    ]


@pytest.mark.parametrize(
    ("start", "key", "value", "message"),
    [
        (OWN, "version", GONE, "version is missing"),
        (OWN, "version", 3.12, "version is not a text"),
        (OWN, "version", None, "version is not a text"),
        (OWN, "version", "3.12", "version is '3.12'"),
        (OWN, "version", "3.12.3\n", "version has characters that cannot be printed"),
        (OWN, "version", "3.12.99999", "version is '3.12.99999'"),
        (OWN, "version", "3.8.19", "version is 3.8.19; 3.9 or newer is needed"),
        (OWN, "version", "2.7.18", "version is 2.7.18; 3.9 or newer is needed"),
        (OWN, "platform", GONE, "platform is missing"),
        (OWN, "platform", "win-amd64", "platform is 'win-amd64'"),
        (OWN, "platform", "linux-../x", "platform is 'linux-../x'"),
        (OWN, "executable", GONE, "executable is missing"),
        (OWN, "executable", "python3", "executable is 'python3', which is not the absolute path of a file"),
        (OWN, "executable", "/usr/bin/", "executable is '/usr/bin/', which is not the absolute path of a file"),
        (OWN, "executable", "/a\nhome = /b", "executable has characters that cannot be printed"),
        (OWN, "executable", "/a\x00b", "executable has characters that cannot be printed"),
        (OWN, "executable", "/a\ud800b", "executable has characters that cannot be printed"),
        (OWN, "libc", "glibc", "libc is 'glibc'"),
        (OWN, "libc", "glibc 2.99999999", "libc is 'glibc 2.99999999'"),
        (OWN, "libc", "", "libc is ''"),
        (OWN, "abi_flags", "m", "abi_flags is 'm'"),
        (OWN, "abi_flags", ["t"], "abi_flags is not a text"),
        (OWN, "site_directories", "/a", "site_directories is not an array"),
        (OWN, "site_directories", ["/a", 1], "site_directories[1] is not a text"),
        (OWN, "site_directories", ["/a", "b"], "site_directories[1] is 'b', which is not an absolute path"),
        (DETAILS, "site_directories", [""], "site_directories[0] is '', which is not an absolute path"),
        (OWN, "base", ["numpy"], "base is not an object"),
        (OWN, "base", {"numpy": 1}, "base.numpy is not a text"),
        (OWN, "base", {"numpy": "one"}, "base.numpy is 'one', which is not a version"),
        (OWN, "base", {"../x": "1"}, "base has '../x', which is not the name of a distribution"),
        (OWN, "base", {"a-b": "1", "A.B": "1"}, "base.A.B is there twice, as a-b"),
        (OWN, "extra", 1, "extra means nothing in a description"),
        (DETAILS, "schema_version", 1, "schema_version is not a text"),
        (DETAILS, "schema_version", "2.0",
         "schema_version is 2.0; only 1.0 and what is compatible with it can be read"),
        (DETAILS, "base_prefix", GONE, "base_prefix is missing"),
        (DETAILS, "base_interpreter", GONE, "base_interpreter is missing"),
        (DETAILS, "base_interpreter", "/usr/bin/",
         "base_interpreter is '/usr/bin/', which is not the absolute path of a file"),
        (DETAILS, "platform", "macosx-11.0-arm64", "platform is 'macosx-11.0-arm64'"),
        (DETAILS, "language", GONE, "language is missing"),
        (DETAILS, "language.version", "3.13", "language.version is '3.13', and the implementation's is 3.14.1"),
        (DETAILS, "implementation", [], "implementation is not an object"),
        (DETAILS, "implementation.name", "pypy", "implementation.name is 'pypy'; only CPython can be linked for"),
        (DETAILS, "implementation.cache_tag", None, "implementation.cache_tag is not a text"),
        (DETAILS, "implementation.cache_tag", "a/b", "implementation.cache_tag is 'a/b'"),
        (DETAILS, "implementation.version", "3.14.1", "implementation.version is not an object"),
        (DETAILS, "implementation.version.minor", True,
         "implementation.version.minor is not a whole number from 0 to 999"),
        (DETAILS, "implementation.version.micro", 1.0,
         "implementation.version.micro is not a whole number from 0 to 999"),
        (DETAILS, "implementation.version.major", 10**9,
         "implementation.version.major is not a whole number from 0 to 999"),
        (DETAILS, "implementation.version.releaselevel", "gamma",
         "implementation.version.releaselevel is 'gamma'; it may be alpha, beta, candidate, final"),
        (DETAILS, "abi.flags", ["m"], "abi.flags are 'm'; only t and d are known"),
        (DETAILS, "abi.flags", "t", "abi.flags is not an array"),
        (DETAILS, "libc", 2, "libc is not a text"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(
    file: Path, start: dict[str, Any], key: str, value: object, message: str
) -> None:
    assert refused(file, json.dumps(changed(start, key, value)).encode()).message == message


def test_several_unknown_keys_are_named_together(file: Path) -> None:
    error = refused(file, json.dumps({**OWN, "one": 1, "an\nother": 2}).encode())
    assert error.message == "an\\nother, one mean nothing in a description"
    assert error.hint is not None
    assert "executable" in error.hint


def test_build_details_of_a_python_too_old_are_refused(file: Path) -> None:
    old = changed(DETAILS, "implementation.version", {**VERSION, "minor": 8})
    error = refused(file, json.dumps(changed(old, "language.version", "3.8")).encode())
    assert error.message == "implementation.version is 3.8.1; 3.9 or newer is needed"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"version": "3.12.1", "version": "3.12.3"}', "'version' is there twice"),
        (b'{"version": ' + b"9" * 5000 + b"}", "not JSON"),
        (b" " * (1 << 20) + b"{}", "File too large"),
    ],
)
def test_what_is_no_description_is_refused(file: Path, data: bytes, message: str) -> None:
    assert message in refused(file, data).message


def test_what_cannot_be_read_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name in ("absent", "fifo", ".", "nul\0"):
        with pytest.raises(InterpreterError, match="cannot be read") as caught:
            describe(str(tmp_path / name))
        assert caught.value.kind == "target-invalid"


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["3.9.1", "/x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
keys = st.sampled_from([(OWN, key) for key in OWN] + [(DETAILS, key) for key in DETAILS]) | st.sampled_from(
    [(DETAILS, f"{key}.{inner}") for key in ("language", "implementation", "abi") for inner in DETAILS[key]]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(keys, values)
def test_whatever_stands_there_is_read_or_refused(
    file: Path, where: tuple[dict[str, Any], str], value: object
) -> None:
    start, key = where
    data = json.dumps(changed(start, key, value)).encode()
    file.write_bytes(data)
    try:
        found = describe(str(file))
    except InterpreterError:
        refused(file, data)
    else:
        assert re.fullmatch(r"3\.\d+\.\d+", found.version)
        assert os.path.isabs(found.executable)


def test_pip_is_told_whom_to_choose_for(file: Path) -> None:
    assert resolver_options(described(file, {**OWN, "libc": "glibc 2.18", "version": "3.13.0rc2"})) == [
        "--python-version", "3.13.0", "--implementation", "cp", "--abi", "cp313",
        "--platform", "linux_aarch64", "--platform", "manylinux_2_18_aarch64",
        "--platform", "manylinux_2_17_aarch64", "--platform", "manylinux2014_aarch64", "--only-binary=:all:",
    ]  # fmt: skip


@pytest.mark.network
def test_pip_finds_wheels_for_another_machine(file: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    options = resolver_options(described(file, SMALLEST))
    subprocess.run(
        [sys.executable, "-I", "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--report",
         report, *options, "markupsafe", "numpy<2.3"],
        check=True,
    )  # fmt: skip
    urls = [item["download_info"]["url"] for item in json.loads(report.read_text())["install"]]
    assert len(urls) == 2
    assert all(re.search(r"-cp312-cp312-manylinux\S*_aarch64\.whl$", url) for url in urls)


QUESTION = """
import json, platform, sys, sysconfig
sys.path.insert(0, sys.argv[1])
from packaging.markers import default_environment
print(json.dumps([platform.python_version(), sysconfig.get_platform(), default_environment()]))
"""


@pytest.mark.parametrize("python", pythons())
def test_markers_have_the_values_that_they_have_in_that_interpreter(python: str, file: Path) -> None:
    import packaging

    root = Path(packaging.__file__).parent.parent
    done = subprocess.run([python, "-I", "-B", "-c", QUESTION, root], capture_output=True, check=True)
    version, platform, variables = json.loads(done.stdout)
    target = described(file, {"version": version, "platform": platform, "executable": python})
    kernel = {"platform_release": "", "platform_version": ""}
    assert marker_environment(target) == variables | kernel


def test_markers_are_about_the_target(file: Path) -> None:
    variables = marker_environment(described(file, {**OWN, "version": "3.13.0rc1"}))
    assert variables.keys() == default_environment().keys()
    for marker, expected in [
        ("platform_machine == 'aarch64'", True),
        ("python_version == '3.13'", True),
        ("python_full_version >= '3.13.0'", False),
        ("implementation_version >= '3.13.0'", False),
        ("sys_platform == 'win32' or platform_system == 'Darwin'", False),
    ]:
        assert Marker(marker).evaluate(dict(variables)) is expected, marker


def test_a_build_between_two_releases_counts_as_the_former(file: Path) -> None:
    target = described(file, {**OWN, "version": "3.12.3+"})
    assert marker_environment(target)["python_full_version"] == "3.12.3"
    assert resolver_options(target)[1] == "3.12.3"
