"""Sizes of wheels that a resolver did not say: from files and from servers, and never at the price of a failure."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from support.index import Index
from support.wheels import WheelSpec, build_wheel, wheel_bytes, wheel_filename
from vrfstore.errors import CapError
from vrfstore.model import Digest, LockedWheel
from vrfstore.requirements.budget import Budget, Caps
from vrfstore.requirements.pip import PipSettings
from vrfstore.requirements.sizes import with_sizes

APPLE, PEAR = WheelSpec(name="apple"), WheelSpec(name="pear", files={"pear.py": "ripe = True\n" * 9})


def locked(spec: WheelSpec, url: str, size: int | None = None) -> LockedWheel:
    digest = Digest(hashlib.sha256(wheel_bytes(spec)).hexdigest())
    return LockedWheel(
        name=spec.name, version="1.0", filename=wheel_filename(spec), digest=digest, url=url, size=size
    )


def test_servers_and_files_say_how_large_wheels_are(tmp_path: Path) -> None:
    path = build_wheel(PEAR, tmp_path)
    with Index([APPLE], credentials=("gardener", "hunter2")) as index:
        wheels = [locked(APPLE, index.file_url(wheel_filename(APPLE))), locked(PEAR, path.as_uri())]
        found = with_sizes(wheels, PipSettings(index=index.url_with_credentials), Budget())
        assert [method for method, _ in index.requests] == ["HEAD"]
    assert [wheel.size for wheel in found] == [len(wheel_bytes(APPLE)), path.stat().st_size]


def test_what_is_known_is_not_asked_for() -> None:
    with Index([APPLE]) as index:
        wheel = locked(APPLE, index.file_url(wheel_filename(APPLE)), size=7)
        assert with_sizes([wheel], PipSettings(), Budget()) == [wheel]
        assert index.requests == []


@pytest.mark.parametrize("status", [401, 404, 405, 503])
def test_what_nobody_says_stays_unknown(status: int, tmp_path: Path) -> None:
    with Index([APPLE]) as index:
        index.status["/files/"] = status
        wheels = [
            locked(APPLE, index.file_url(wheel_filename(APPLE))),
            locked(PEAR, (tmp_path / "gone.whl").as_uri()),
        ]
        assert with_sizes(wheels, PipSettings(), Budget()) == wheels
    assert with_sizes(wheels, PipSettings(), Budget()) == wheels, "the server is down"


def test_the_time_ends_it() -> None:
    with Index([APPLE]) as index:
        wheel = locked(APPLE, index.file_url(wheel_filename(APPLE)))
        with pytest.raises(CapError):
            with_sizes([wheel], PipSettings(), Budget(Caps(seconds=0)))
