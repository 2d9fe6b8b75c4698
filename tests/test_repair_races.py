"""Repairs beside compiling, linking, using and changing by hand: nobody runs what was damaged, nothing is lost."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from support.crash import LOCK, base, die, killed_at, make_environment, wheel_digest
from support.wheels import WheelSpec, build_wheel
from vrfstore import fs
from vrfstore.linker.link import environment_key, link
from vrfstore.runner.verify import verify
from vrfstore.store import leases, records
from vrfstore.store.compiling import compile_entries
from vrfstore.store.records import EnvironmentRecord
from vrfstore.store.store import Store

PEAR = WheelSpec(name="pear", files={"pear.py": "X = 'good'\n", "orchard/__init__.py": "Y = 'good'\n"})
SHOW = "import pear, orchard; print(pear.X, orchard.Y)"


pytestmark = pytest.mark.usefixtures("without_sync")


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    return build_wheel(PEAR, tmp_path)


def entry(store: Store, wheel: Path) -> Path:
    return Path(store.layout.of("entries", store.add(wheel).plan.reference.directory))


def spoil(path: Path) -> None:
    """Change a file in place, at equal length, as a bad disk would."""
    data = path.read_bytes()
    assert b"good" in data
    path.chmod(0o644)
    path.write_bytes(data.replace(b"good", b"evil"))
    path.chmod(0o444)


def compiled(store: Store, directory: str) -> None:
    with store.session() as lease:
        compile_entries(store, base(), [directory], lease=lease, watch=lambda _: None)


def shown(store: Store, record: EnvironmentRecord) -> str:
    python = f"{store.layout.of('environments', record.directory)}/bin/python"
    done = subprocess.run([python, "-c", SHOW], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_spoilt_pyc_is_taken_out_of_environments_as_well(store: Store, wheel: Path) -> None:
    root = entry(store, wheel)
    compiled(store, root.name)
    record = make_environment(store, wheel)
    (pyc,) = root.rglob("pear.*.pyc")
    assert pyc.stat().st_nlink > 1
    spoil(pyc)
    assert shown(store, record) == "evil good"
    assert verify(store, mend=True).sound
    assert shown(store, record) == "good good"
    assert verify(store).findings == ()


def test_pycs_of_damaged_modules_are_taken_out_of_environments(store: Store, wheel: Path) -> None:
    root = entry(store, wheel)
    for module in ("pear.py", "orchard/__init__.py"):
        spoil(root / "site-packages" / module)
    compiled(store, root.name)
    record = make_environment(store, wheel)
    assert shown(store, record) == "evil evil"
    assert verify(store, mend=True).sound
    assert shown(store, record) == "good good"
    assert verify(store).findings == ()
    assert make_environment(store, wheel).directory == record.directory


def test_who_compiles_a_damaged_entry_puts_nothing_into_the_sound_one(
    store: Store, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = entry(store, wheel)
    spoil(root / "site-packages/pear.py")
    begun, proceed = threading.Event(), threading.Event()

    def wait(effect: str, path: str) -> None:
        if effect == "chmod" and "__pycache__" in path and threading.current_thread() is not repairing:
            begun.set()
            proceed.wait(30)

    results: list[bool] = []
    repairing = threading.Thread(target=lambda: results.append(verify(store, mend=True).sound))
    compiling = threading.Thread(target=lambda: compiled(store, root.name))
    monkeypatch.setattr(fs, "on_effect", wait)
    compiling.start()
    assert begun.wait(30)
    repairing.start()
    time.sleep(0.3)  # it waits for the compiler, or would be through by now
    proceed.set()
    compiling.join()
    repairing.join()
    assert results == [True]
    assert verify(store).findings == ()
    assert shown(store, make_environment(store, wheel)) == "good good"


def test_a_note_without_its_exchange_changes_no_environment(store: Store, wheel: Path) -> None:
    root = entry(store, wheel)
    record = make_environment(store, wheel)
    # The damage has an inode of its own: the environment still has the sound one.
    module = root / "site-packages/pear.py"
    module.parent.chmod(0o755)
    module.unlink()
    module.write_text("X = 'evil'\n")
    module.chmod(0o444)
    module.parent.chmod(0o555)

    def until_the_exchange() -> None:
        def watch(effect: str, _path: str) -> None:
            if effect == "exchange":
                die()

        fs.on_effect = watch
        verify(store, mend=True)

    assert killed_at(1 << 30, until_the_exchange)
    assert os.listdir(store.layout.of("repairs")) == [f"{root.name}.json"]
    wheel.unlink()
    assert not verify(store, mend=True).sound
    assert os.listdir(store.layout.of("repairs")) == []
    assert shown(store, record) == "good good"


def test_what_is_changed_by_hand_after_a_kill_is_not_taken_for_the_repairs(store: Store, wheel: Path) -> None:
    root = entry(store, wheel)
    record = make_environment(store, wheel)
    spoil(root / "site-packages/pear.py")

    def until_it_links() -> None:
        def watch(effect: str, path: str) -> None:
            if effect == "link" and path.startswith(store.layout.of("tmp")):
                die()

        fs.on_effect = watch
        verify(store, mend=True)

    assert killed_at(1 << 30, until_it_links)
    site = f"{store.layout.of('environments', record.directory)}/lib/{record.library}/site-packages"
    Path(site, "mine.py").write_text("")
    assert verify(store, mend=True).sound
    assert not records.unchanged(store.layout, store.record(record.directory))
    assert shown(store, record) == "good good"
    assert make_environment(store, wheel).directory != record.directory


def test_a_use_while_its_record_is_written_anew_is_not_lost(
    store: Store, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = entry(store, wheel)
    record = make_environment(store, wheel)
    spoil(root / "site-packages/pear.py")
    path = store.layout.record(record.directory)
    os.utime(path, (0, 0))

    def use(effect: str, target: str) -> None:
        if effect == "rename" and target == path:
            os.utime(path, (1_000_000, 1_000_000))

    monkeypatch.setattr(fs, "on_effect", use)
    assert verify(store, mend=True).sound
    assert os.stat(path).st_mtime == 1_000_000
    monkeypatch.setattr(fs, "on_effect", None)
    assert make_environment(store, wheel).directory == record.directory


def test_a_link_that_meets_an_exchange_has_the_sound_files(
    store: Store, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = store.add(wheel).plan
    spoil(Path(store.layout.of("entries", plan.reference.directory), "site-packages/pear.py"))
    key = environment_key([plan.identity], base())
    met: list[bool] = []

    def repair(effect: str, path: str) -> None:
        if effect == "rename" and path == store.layout.of("environments", key) and not met:
            met.append(True)
            met.append(verify(store, mend=True).sound)

    monkeypatch.setattr(fs, "on_effect", repair)
    digests = [wheel_digest(wheel)]
    with leases.take(store.layout, environment=key, digests=digests) as lease:
        record, made = link(store, lease, [plan], base(), key=key, lock=LOCK)
    assert (made, met) == (True, [True, True])
    assert shown(store, record) == "good good"
    assert records.unchanged(store.layout, store.record(record.directory))
