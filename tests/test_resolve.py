"""What a successful pip reported, as a lock; for a base interpreter and for a target."""

import importlib.metadata
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vrfstore.errors import ResolutionError
from vrfstore.model import Interpreter, Lock, LockedWheel, Requirements
from vrfstore.requirements.by_pip import solution_from_report
from vrfstore.requirements.request import Request
from vrfstore.requirements.targets import Target, check_environment, write_installed
from vrfstore.requirements.urls import without_credentials
from vrfstore.target import marker_environment

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


# --- the report


def item(url: str, *, sha256: str | None = ZEROS, requires_python: str | None = None) -> dict[str, Any]:
    hashes = {} if sha256 is None else {"archive_info": {"hashes": {"sha256": sha256}}}
    metadata = {"name": "Alpha", "version": "1.0"}
    if requires_python is not None:
        metadata["requires_python"] = requires_python
    return {"download_info": {"url": url, **hashes}, "metadata": metadata}


def request(*, allow_builds: bool = False) -> Request:
    asked = Requirements(path="requirements.vrf", items=())
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
