"""Locks: a ``pylock.toml`` that others read, that says the same for the same set, and that comes back whole."""

import tomllib
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.pylock import Pylock

from vrfstore.errors import RequirementsError
from vrfstore.model import Digest, Lock, LockedWheel
from vrfstore.requirements import lock as locks
from vrfstore.store import leases
from vrfstore.store.store import Store


def locked(
    name: str = "alpha",
    version: str = "1.0",
    *,
    url: str = "https://index.example/files/{}",
    digest: str = "a" * 64,
    requires_python: str | None = None,
) -> LockedWheel:
    filename = f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    return LockedWheel(
        name=name,
        version=version,
        filename=filename,
        digest=Digest(digest),
        url=url.format(filename),
        requires_python=requires_python,
    )


WHEELS = st.builds(
    locked,
    name=st.from_regex(r"[a-z0-9]+(-[a-z0-9]+)*", fullmatch=True),
    version=st.sampled_from(["1.0", "1!2.0rc1", "2024.1.post1", "1.0+local.2"]),
    url=st.sampled_from(
        [
            "https://index.example/files/{}",
            "https://index.example:8443/a%20b/{}?token=1",
            "http://127.0.0.1:8080/{}",
            "file:///wheels/{}",
            "file:///wheel%20house/caf%C3%A9/100%25/{}",
        ]
    ),
    digest=st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
    requires_python=st.sampled_from([None, ">=3.9", ">=3.9,<4", "!=3.0.*,>=2.7"]),
)
LOCKS = st.builds(
    Lock,
    wheels=st.lists(WHEELS, max_size=4, unique_by=lambda wheel: wheel.name).map(
        lambda wheels: tuple(sorted(wheels, key=lambda wheel: wheel.name))
    ),
    python=st.sampled_from(["3.9", "3.11", "3.14"]),
)


def requires(wheel: LockedWheel) -> set[str]:
    return set((wheel.requires_python or "").split(","))


def location(wheel: LockedWheel) -> str:
    """Where a wheel is: a path may have more or fewer escapes, and a query, which may give access, is left out."""
    return unquote(urlsplit(wheel.url).path) if wheel.url.startswith("file:") else wheel.url.partition("?")[0]


@given(lock=LOCKS)
def test_a_lock_comes_back_whole(lock: Lock) -> None:
    back = locks.loads(locks.dumps(lock), "lock.toml")
    assert back.python == lock.python
    assert len(back.wheels) == len(lock.wheels)
    for one, other in zip(back.wheels, lock.wheels, strict=True):
        assert (one.name, one.version, one.filename, one.digest) == (
            other.name, other.version, other.filename, other.digest
        )  # fmt: skip
        assert location(one) == location(other)
        assert requires(one) == requires(other)


@given(lock=LOCKS)
def test_the_text_of_a_lock_is_a_fixed_point(lock: Lock) -> None:
    text = locks.dumps(lock)
    assert locks.dumps(locks.loads(text, "lock.toml")) == text


@given(one=LOCKS, other=LOCKS)
def test_equal_locks_have_equal_digests_and_others_have_not(one: Lock, other: Lock) -> None:
    first, second = (locks.lock_digest(locks.dumps(lock)) for lock in (one, other))
    assert (first == second) == (one == other)


@given(lock=LOCKS)
def test_a_lock_is_a_valid_pylock_of_wheels_with_hashes(lock: Lock) -> None:
    pylock = Pylock.from_dict(tomllib.loads(locks.dumps(lock)))
    assert str(pylock.lock_version) == "1.0"
    assert str(pylock.requires_python) == f"=={lock.python}.*"
    for package in pylock.packages:
        (wheel,) = package.wheels or ()
        assert set(wheel.hashes) == {"sha256"}
        assert (wheel.url is None) != (wheel.path is None)


def test_the_form_is_stable() -> None:
    text = locks.dumps(Lock(wheels=(locked(requires_python=">=3.9"),), python="3.11"))
    assert tomllib.loads(text) == {
        "lock-version": "1.0",
        "created-by": "vrfstore",
        "requires-python": "==3.11.*",
        "packages": [
            {
                "name": "alpha",
                "version": "1.0",
                "requires-python": ">=3.9",
                "wheels": [
                    {
                        "name": "alpha-1.0-py3-none-any.whl",
                        "url": "https://index.example/files/alpha-1.0-py3-none-any.whl",
                        "hashes": {"sha256": "a" * 64},
                    }
                ],
            }
        ],
    }


HEAD = 'lock-version = "1.0"\ncreated-by = "other"\n'
PACKAGE = '[[packages]]\nname = "alpha"\nversion = "1.0"\n'
WHEEL = '[[packages.wheels]]\nurl = "https://index.example/alpha-1.0-py3-none-any.whl"\n'


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not toml",
        'lock-version = "9.0"\ncreated-by = "other"\npackages = []\n',
        HEAD,
        HEAD + PACKAGE,
        HEAD + PACKAGE.replace('version = "1.0"\n', "") + WHEEL + f'hashes = {{sha256 = "{"a" * 64}"}}\n',
        HEAD + PACKAGE + WHEEL + 'hashes = {sha512 = "aa"}\n',
        HEAD + PACKAGE + WHEEL + 'hashes = {sha256 = "../../etc/passwd"}\n',
        HEAD + PACKAGE + (WHEEL + f'hashes = {{sha256 = "{"a" * 64}"}}\n') * 2,
        HEAD + '[[packages]]\nname = "alpha"\n[packages.directory]\npath = "."\n',
    ],
    ids=[
        "empty", "no toml", "later version", "no packages", "no wheel", "no version", "other hash", "no digest",
        "two wheels", "a directory",
    ],
)  # fmt: skip
def test_what_is_no_lock_of_ours_is_refused(text: str) -> None:
    with pytest.raises(RequirementsError, match="not a lock") as caught:
        locks.loads(text, "lock.toml")
    assert (caught.value.kind, caught.value.path) == ("lock-invalid", "lock.toml")


# --- in the store

LOCK = Lock(wheels=(locked(),), python="3.11")


def written(store: Store) -> tuple[str, Path]:
    with leases.take(store.layout) as lease:
        digest = locks.write(store.layout, lease, LOCK)
    return digest, Path(store.layout.lock(digest))


def test_a_lock_is_kept_once_by_the_digest_of_its_text(store: Store) -> None:
    digest, path = written(store)
    assert locks.lock_digest(path.read_text()) == digest
    assert locks.read(store.layout, digest) == LOCK
    inode = path.stat().st_ino
    assert written(store) == (digest, path)
    assert path.stat().st_ino == inode


def test_a_lock_that_is_not_there_is_none(store: Store) -> None:
    assert locks.read(store.layout, "a" * 64) is None


@pytest.mark.parametrize("content", [b"", b"\xff", b"lock-version = '1.0'\n"])
def test_a_damaged_lock_is_none_and_makes_room_for_a_good_one(store: Store, content: bytes) -> None:
    digest, path = written(store)
    path.chmod(0o644)
    path.write_bytes(content)
    assert locks.read(store.layout, digest) is None
    written(store)
    assert locks.read(store.layout, digest) == LOCK
