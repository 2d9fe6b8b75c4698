"""What a failed pip said, in our words; and what a successful one reported, as a lock.

The messages are those of the real pip on the loopback index, so that a pip with other words is noticed, and a
few captured ones for what a loopback index cannot do.
"""

import hashlib
import importlib.metadata
import os
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pip as installed_pip
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.index import Index
from support.wheels import WheelSpec, wheel_bytes
from vrfstore.errors import PackageIndexError, ResolutionError, VrfstoreError, WheelError
from vrfstore.model import Interpreter, Lock, LockedWheel, Requirements
from vrfstore.requirements import pip
from vrfstore.requirements.by_pip import solution_from_report
from vrfstore.requirements.explain import resolution_error
from vrfstore.requirements.parse import parse
from vrfstore.requirements.request import Request
from vrfstore.requirements.targets import Target, check_environment, write_installed
from vrfstore.requirements.urls import without_credentials
from vrfstore.target import marker_environment

FILE = "project/requirements.vrf"
RUNNER = os.path.join(os.path.dirname(installed_pip.__file__), "__pip-runner__.py")
INTERPRETER = Interpreter(
    executable=sys.executable,
    real=sys.executable,
    version="3.11.9",
    implementation="cpython",
    cache_tag="cpython-311",
    abi_flags="",
    magic="a70d0d0a",
    platform="linux-x86_64",
    prefix=sys.prefix,
    virtual=False,
    site_directories=(),
    base=(),
)
ZEROS, ONES = "0" * 64, "1" * 64

Failure = Callable[[str], VrfstoreError]


@pytest.fixture
def failure(index: Index, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Failure:
    """Give a function that asks the real pip for what cannot be had, and sorts what it says."""
    monkeypatch.setenv("PIP_RETRIES", "0")

    def fail(text: str) -> VrfstoreError:
        asked, log = tmp_path / "requirements.txt", tmp_path / "pip.log"
        requirements = parse(text.encode(), FILE)
        asked.write_text(requirements.canonical)
        done = pip.run(
            sys.executable,
            RUNNER,
            ["install", "--dry-run", "--quiet", "--only-binary", ":all:", "--report", os.devnull,
             "--log", str(log), "--requirement", str(asked)],
        )  # fmt: skip
        assert done.returncode != 0
        error = resolution_error(done.stderr, log.read_text(), requirements, INTERPRETER)
        assert "\n" not in error.message
        return error

    return fail


def publish(index: Index, *specs: WheelSpec) -> None:
    for spec in specs:
        index.add(spec)


ALPHA = [WheelSpec(name="alpha", version=version) for version in ("0.1", "0.2", "0.9", "1.0", "1.5", "2.0")]

Summary = tuple[type[VrfstoreError], str, int | None, str]


def summary(error: VrfstoreError) -> Summary:
    return type(error), error.kind, error.line, error.message


# --- the real pip


def test_a_version_that_does_not_exist_is_told_with_the_newest_that_do(
    index: Index, failure: Failure
) -> None:
    publish(index, *ALPHA)
    error = failure("# numbers\nalpha>=3\n")
    assert summary(error) == (
        ResolutionError,
        "no-version",
        2,
        "no version of alpha satisfies alpha>=3; the newest for this Python are: 0.2, 0.9, 1.0, 1.5, 2.0",
    )
    assert (error.path, error.hint) == (FILE, "ask for one that exists, as in: alpha==2.0")


def test_a_version_that_a_package_needs_in_vain_is_told_with_who_needs_it(
    index: Index, failure: Failure
) -> None:
    publish(index, ALPHA[-1], WheelSpec(name="needs-alpha", requires=["alpha>=3"]))
    error = failure("needs-alpha\n")
    assert error.kind == "no-version"
    assert error.message == (
        "no version of alpha, which needs-alpha needs, satisfies alpha>=3; the newest for this Python are: 2.0"
    )


@pytest.mark.parametrize("name", ["ghost", "Ghost.Writer", "ghost_writer[ink]>=1"])
def test_a_package_that_does_not_exist_is_told_as_that(failure: Failure, name: str) -> None:
    canonical = "ghost" if name == "ghost" else "ghost-writer"
    error = failure(f"{name}\n")
    assert summary(error) == (
        ResolutionError, "package-missing", 1, f"there is no package {canonical} on the index"
    )  # fmt: skip
    assert (error.path, error.hint) == (FILE, "check the spelling of the name")


def test_a_package_that_another_needs_and_that_does_not_exist_is_told_with_it(
    index: Index, failure: Failure
) -> None:
    publish(index, WheelSpec(name="needs-ghost", requires=["ghost>=1"]))
    error = failure("needs-ghost\n")
    assert error.kind == "package-missing"
    assert error.message == "there is no package ghost on the index, which needs-ghost needs"


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        (WheelSpec(name="elsewhere", tag="py3-none-win_amd64"), "elsewhere"),
        (WheelSpec(name="old.only", requires_python="<3"), "old-only"),
        (WheelSpec(name="Other_Python", tag="cp27-cp27m-manylinux1_x86_64"), "other-python"),
    ],
)
def test_a_package_without_a_wheel_for_this_python_is_told_as_that(
    index: Index, failure: Failure, spec: WheelSpec, name: str
) -> None:
    publish(index, spec)
    error = failure(f"{spec.name}\n")
    assert summary(error) == (
        ResolutionError, "no-wheel", 1, f"{name} has no wheel for Python 3.11.9 on linux-x86_64"
    )  # fmt: skip
    assert (error.path, error.hint) == (
        FILE,
        "choose another version or package; vrfstore installs wheels only",
    )


def test_a_package_of_which_there_is_only_source_has_no_wheel(index: Index, failure: Failure) -> None:
    index.add(b"not looked into", "source-only-1.0.tar.gz")
    assert summary(failure("source-only\n"))[:3] == (ResolutionError, "no-wheel", 1)


def test_a_wheel_that_a_package_needs_in_vain_is_told_with_who_needs_it(
    index: Index, failure: Failure
) -> None:
    publish(
        index,
        WheelSpec(name="elsewhere", tag="py3-none-win_amd64"),
        WheelSpec(name="needs-elsewhere", requires=["elsewhere"]),
    )
    error = failure("needs-elsewhere\n")
    assert error.kind == "no-wheel"
    assert error.message == (
        "elsewhere, which needs-elsewhere needs, has no wheel for Python 3.11.9 on linux-x86_64"
    )


CONFLICTING = [
    *ALPHA,
    WheelSpec(name="beta", requires=["alpha<2"]),
    WheelSpec(name="gamma", requires=["alpha>=2"]),
]


@pytest.mark.parametrize(
    ("text", "line", "sides"),
    [
        ("# pin\nalpha==2.0\nbeta\n", 2, ["the file asks for alpha==2.0", "beta 1.0 depends on alpha<2"]),
        ("alpha==2.0\nalpha<2\n", 1, ["the file asks for alpha==2.0", "the file asks for alpha<2"]),
        ("\nbeta\ngamma\n", 2, ["beta 1.0 depends on alpha<2", "gamma 1.0 depends on alpha>=2"]),
    ],
)
def test_both_sides_of_a_conflict_are_told(
    index: Index, failure: Failure, text: str, line: int, sides: list[str]
) -> None:
    publish(index, *CONFLICTING)
    error = failure(text)
    heading, _, told = error.message.partition(": ")
    assert heading == "the requirements contradict each other"
    assert sorted(told.split("; ")) == sorted(sides)
    assert (type(error), error.kind, error.path, error.line, error.hint) == (
        ResolutionError, "conflict", FILE, line, "loosen or remove one of them"
    )  # fmt: skip


def test_other_bytes_than_the_file_pins_are_told_with_both_hashes(index: Index, failure: Failure) -> None:
    publish(index, ALPHA[-1])
    error = failure(f"# pins\nalpha==2.0 --hash=sha256:{ZEROS} --hash=sha256:{ONES}\n")
    assert (type(error), error.kind, error.path, error.line) == (WheelError, "hash-mismatch", FILE, 2)
    assert error.message.startswith("the wheel of alpha has another hash (")
    assert error.message.endswith(f") than the file asks for ({ZEROS[:12]}…, {ONES[:12]}…)")
    assert error.hint == "if the version was changed on purpose, write its own hash"


def test_hashes_for_some_requirements_only_are_told_with_what_lacks_one(
    index: Index, failure: Failure, tmp_path: Path
) -> None:
    publish(index, *CONFLICTING)
    digest = hashlib.sha256(wheel_bytes(ALPHA[-1])).hexdigest()
    error = failure(f"alpha==2.0 --hash=sha256:{digest}\ngamma\n")
    assert (error.path, error.line) == (FILE, 2)
    assert "gamma" in error.message
    assert "hash" in error.message
    assert str(tmp_path) not in error.message


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
def test_an_index_that_fails_is_not_a_package_that_is_missing(
    index: Index, failure: Failure, status: int
) -> None:
    publish(index, *ALPHA)
    index.status["/simple/"] = status
    error = failure("alpha\n")
    assert (type(error), error.kind) == (PackageIndexError, "index-unreachable")
    assert error.message.startswith("the package index did not answer")
    assert error.hint == "check the network, the proxy and pip's configuration (pip config list)"


def test_an_index_that_fails_on_a_file_is_not_a_package_that_is_missing(
    index: Index, failure: Failure
) -> None:
    publish(index, *ALPHA)
    index.status["/files/"] = 503
    assert summary(failure("alpha\n"))[:2] == (PackageIndexError, "index-unreachable")


def test_an_index_that_refuses_to_say_more_names_its_answer(index: Index, failure: Failure) -> None:
    index.status["/simple/"] = 403
    assert failure("alpha\n").message == ("the package index did not answer: 403 Client Error: Forbidden")


def test_a_refused_connection_is_told_as_that_and_nothing_more(
    failure: Failure, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Index() as closed:
        monkeypatch.setenv("PIP_INDEX_URL", closed.url)
    error = failure("alpha\n")
    assert (type(error), error.kind) == (PackageIndexError, "index-unreachable")
    assert error.message.startswith("the package index did not answer: [Errno 111] Connection refused")
    assert "Skipping" not in error.message


# --- captured words

NO_DNS = (
    "2025-01-01T10:00:00,000 Could not fetch URL https://index.example/simple/alpha/: connection error: "
    "HTTPSConnectionPool(host='index.example', port=443): Max retries exceeded with url: /simple/alpha/ "
    "(Caused by NameResolutionError(\"<HTTPSConnection(host='index.example', port=443)>: Failed to resolve "
    "'index.example' ([Errno -2] Name or service not known)\")) - skipping\n"
)
NO_CERTIFICATE = (
    "2025-01-01T10:00:00,000 Could not fetch URL https://index.example/simple/alpha/: There was a problem "
    "confirming the ssl certificate: HTTPSConnectionPool(host='index.example', port=443): Max retries exceeded "
    "with url: /simple/alpha/ (Caused by SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] "
    "certificate verify failed: self-signed certificate (_ssl.c:1006)'))) - skipping\n"
)
NOTHING_FOUND = (
    "ERROR: Could not find a version that satisfies the requirement alpha (from versions: none)\n"
    "ERROR: No matching distribution found for alpha\n"
)
TIMED_OUT = (
    "ERROR: Exception:\nTraceback (most recent call last):\n  ...\n"
    "pip._vendor.urllib3.exceptions.ReadTimeoutError: HTTPSConnectionPool(host='index.example', port=443): "
    "Read timed out.\n"
)
NO_PROXY = (
    "ERROR: Could not install packages due to an OSError: HTTPSConnectionPool(host='index.example', port=443): "
    "Max retries exceeded with url: /files/alpha-1.0-py3-none-any.whl (Caused by ProxyError('Unable to connect "
    "to proxy', OSError('Tunnel connection failed: 407 Proxy Authentication Required')))\n"
)


@pytest.mark.parametrize(
    ("stderr", "log", "reason"),
    [
        (NOTHING_FOUND, NO_DNS, ": [Errno -2] Name or service not known"),
        (NOTHING_FOUND, NO_CERTIFICATE, ""),
        (TIMED_OUT, TIMED_OUT, ""),
        (NO_PROXY, NO_PROXY, ""),
    ],
    ids=["no name", "certificate", "timeout", "proxy"],
)
def test_trouble_on_the_way_to_the_index_is_told_as_that(stderr: str, log: str, reason: str) -> None:
    error = resolution_error(stderr, log, parse(b"alpha\n", FILE), INTERPRETER)
    assert (type(error), error.kind) == (PackageIndexError, "index-unreachable")
    assert error.message == f"the package index did not answer{reason}"


def test_the_index_lacks_one_package_and_fails_for_none() -> None:
    log = (
        "2025-01-01T10:00:00,000 Could not fetch URL https://index.example/simple/alpha/: 404 Client Error: "
        "Not Found for url: https://index.example/simple/alpha/ - skipping\n"
        "2025-01-01T10:00:00,001 Skipping link: not a file: https://index.example/simple/alpha/\n"
    )
    error = resolution_error(NOTHING_FOUND, log, parse(b"alpha\n", FILE), INTERPRETER)
    assert error.kind == "package-missing"


def test_a_neighbour_s_wheel_that_was_skipped_says_nothing_of_this_package() -> None:
    log = (
        "2025-01-01T10:00:00,000   Skipping link: none of the wheel's tags (py3-none-win_amd64) are compatible "
        "(run pip debug --verbose to show compatible tags): https://index.example/files/"
        "alphabet-1.0-py3-none-win_amd64.whl (from https://index.example/simple/alphabet/)\n"
        "2025-01-01T10:00:00,001 Could not fetch URL https://index.example/simple/alpha/: 404 Client Error: "
        "Not Found for url: https://index.example/simple/alpha/ - skipping\n"
    )
    error = resolution_error(NOTHING_FOUND, log, parse(b"alpha\nalphabet\n", FILE), INTERPRETER)
    assert error.kind == "package-missing"


@pytest.mark.parametrize(
    ("stderr", "said"),
    [
        ("WARNING: slow\nERROR: something new\n\n", "something new"),
        ("", "no message"),
    ],
)
def test_what_nobody_knows_is_told_in_pip_s_own_last_words(stderr: str, said: str) -> None:
    error = resolution_error(stderr, "", parse(b"alpha\n", FILE), INTERPRETER)
    assert summary(error) == (ResolutionError, "resolution-failed", None, f"pip failed: {said}")


def test_a_conflict_without_a_log_is_still_a_conflict() -> None:
    error = resolution_error("ERROR: ResolutionImpossible: see", "", parse(b"alpha\n", FILE), INTERPRETER)
    assert (error.kind, error.message) == ("conflict", "the requirements contradict each other")


@given(stderr=st.text(), log=st.text())
def test_any_words_become_an_error_with_an_exit_code(stderr: str, log: str) -> None:
    error = resolution_error(stderr, log, parse(b"alpha\n", FILE), INTERPRETER)
    assert error.exit_code in {11, 14, 18}


# --- the report


def item(url: str, *, sha256: str | None = ZEROS, requires_python: str | None = None) -> dict[str, Any]:
    hashes = {} if sha256 is None else {"archive_info": {"hashes": {"sha256": sha256}}}
    metadata = {"name": "Alpha", "version": "1.0"}
    if requires_python is not None:
        metadata["requires_python"] = requires_python
    return {"download_info": {"url": url, **hashes}, "metadata": metadata}


def request(*, allow_builds: bool = False) -> Request:
    asked = Requirements(path=FILE, items=())
    return Request(requirements=asked, interpreter=INTERPRETER, allow_builds=allow_builds)


def lock_from_report(report: dict[str, Any]) -> Lock:
    solution = solution_from_report(report, request())
    assert solution.sources == ()
    return solution.lock


def test_a_report_becomes_a_lock_sorted_by_name() -> None:
    report = {
        "install": [
            item("https://user:secret@index.example/files/Zope.Event-6.0-py3-none-any.whl#sha256=ab"),
            item(
                "https://index.example/alpha-1.0%2Blocal-1-py3-none-any.whl",
                sha256=ONES,
                requires_python=">=3.9",
            ),
        ]
    }
    lock = lock_from_report(report)
    assert lock.python == "3.11"
    assert [(wheel.name, wheel.version, wheel.digest) for wheel in lock.wheels] == [
        ("alpha", "1.0+local", ONES),
        ("zope-event", "6.0", ZEROS),
    ]
    assert lock.wheels[1] == LockedWheel(
        name="zope-event",
        version="6.0",
        filename="Zope.Event-6.0-py3-none-any.whl",
        digest=lock.wheels[1].digest,
        url="https://index.example/files/Zope.Event-6.0-py3-none-any.whl",
    )
    assert lock.wheels[0].filename == "alpha-1.0+local-1-py3-none-any.whl"
    assert lock.wheels[0].requires_python == ">=3.9"


def test_what_may_be_built_is_a_source() -> None:
    reported = item("https://user:secret@index.example/alpha-1.0.tar.gz")
    (source,) = solution_from_report({"install": [reported]}, request(allow_builds=True)).sources
    assert (source.name, source.version, source.digest) == ("alpha", "1.0", ZEROS)
    assert (source.filename, source.url) == ("alpha-1.0.tar.gz", "https://index.example/alpha-1.0.tar.gz")


def test_an_empty_report_is_an_empty_lock() -> None:
    assert lock_from_report({"install": []}).wheels == ()


@pytest.mark.parametrize(
    ("reported", "kind", "message"),
    [
        (item("https://index.example/alpha-1.0.tar.gz"), "no-wheel", "alpha-1.0.tar.gz is not a wheel"),
        (item("https://index.example/alpha.whl"), "no-wheel", "alpha.whl is not a wheel"),
        (
            item("https://index.example/alpha-1.0-py3-none-any.whl", sha256=None),
            "no-hash",
            "the index gives no SHA-256 for alpha-1.0-py3-none-any.whl",
        ),
    ],
)
def test_what_cannot_be_locked_is_refused(reported: dict[str, Any], kind: str, message: str) -> None:
    with pytest.raises(ResolutionError) as caught:
        lock_from_report({"install": [reported]})
    assert (caught.value.kind, caught.value.message) == (kind, message)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://index.example/a.whl", "https://index.example/a.whl"),
        (
            "https://user:p%40ss@index.example:8443/a.whl?x=1#sha256=ab",
            "https://index.example:8443/a.whl?x=1",
        ),
        ("https://token@index.example/a@1.whl", "https://index.example/a@1.whl"),
        ("https://us@er:pa@ss@index.example/a.whl", "https://index.example/a.whl"),
        ("file:///wheels/a%20b.whl", "file:///wheels/a%20b.whl"),
        ("http://[::1]:80/a.whl", "http://[::1]:80/a.whl"),
    ],
)
def test_credentials_and_fragments_are_taken_out_of_a_url(url: str, expected: str) -> None:
    assert without_credentials(url) == expected


SECRET = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=8)


@given(user=SECRET, password=SECRET)
def test_no_secret_survives(user: str, password: str) -> None:
    cleaned = without_credentials(f"https://{user}:{password}@index.example/A.whl#{password}")
    assert cleaned == "https://index.example/A.whl" == without_credentials(cleaned)


# --- for a target

TARGET = Target(
    **{field.name: getattr(INTERPRETER, field.name) for field in fields(INTERPRETER)}
    | {"version": "3.12.3", "platform": "linux-aarch64", "magic": "", "libc": "glibc 2.31"}
    | {"base": (("a-b", "1!2.0+local"), ("numpy", "1.26.4"))}
)


def test_a_report_for_the_target_is_taken() -> None:
    check_environment({"environment": marker_environment(TARGET)}, TARGET)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"python_version": "3.11"}, "python_version was '3.11', and is '3.12'"),
        ({"os_name": "nt", "python_version": "3.11"}, "os_name was 'nt', and is 'posix'"),
        ({"a_new_marker": "x"}, "a_new_marker was 'x', and is None"),
    ],
)
def test_a_report_for_somebody_else_is_refused(changes: dict[str, str], said: str) -> None:
    with pytest.raises(ResolutionError) as caught:
        check_environment({"environment": marker_environment(TARGET) | changes}, TARGET)
    assert (caught.value.kind, caught.value.exit_code) == ("resolver-target", 11)
    assert caught.value.message == f"pip did not resolve for the target: {said}"


@pytest.mark.parametrize("report", [{}, {"environment": None}, {"environment": []}])
def test_a_report_that_does_not_say_for_whom_is_refused(report: dict[str, Any]) -> None:
    with pytest.raises(ResolutionError, match="implementation_name was None, and is 'cpython'"):
        check_environment(report, TARGET)


def test_what_a_target_has_looks_installed(tmp_path: Path) -> None:
    write_installed(TARGET, str(tmp_path / "installed"))
    found = importlib.metadata.distributions(path=[str(tmp_path / "installed")])
    assert sorted((each.metadata["Name"], each.version) for each in found) == list(TARGET.base)


def test_a_target_is_told_apart_by_its_identity() -> None:
    assert TARGET.identity.pop("target") is True
    assert "target" not in INTERPRETER.identity
    assert "libc" not in TARGET.identity
