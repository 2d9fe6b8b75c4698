"""Many at once, and killed at any moment: whole processes on a loopback index, nothing simulated."""

from __future__ import annotations

import functools
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support.crash import together
from support.index import Index
from support.wheels import WheelSpec, build_wheel
from vrfstore import fs
from vrfstore.gc.policy import Policy
from vrfstore.gc.sweep import collect
from vrfstore.store.store import Added, Store

NAMES = tuple(f"crate{number}" for number in range(12))
KILLS = 10

pytestmark = pytest.mark.slow


@pytest.fixture
def requirements(index: Index, tmp_path: Path) -> Path:
    """Twelve wheels of 200 files each, so that unpacking takes a while."""
    for name in NAMES:
        files = {f"{name}/part{number}.py": f"value = {number}\n" * 50 for number in range(200)}
        index.add(WheelSpec(name=name, files={f"{name}/__init__.py": "", **files}))
    path = tmp_path / "requirements.vrf"
    path.write_text("\n".join(NAMES))
    return path


def start(store: Store, requirements: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "vrfstore", "--store", store.root, "link", str(requirements)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def finish(running: subprocess.Popen[str]) -> str:
    out, err = running.communicate(timeout=300)
    assert running.returncode == 0, err
    return out.strip()


def assert_works(python: str) -> None:
    code = "; ".join(f"import {name}.part199" for name in NAMES)
    subprocess.run([python, "-c", code], check=True)


def rubbish(store: Store) -> list[str]:
    """What must not be there when nothing runs."""
    dotted = [
        f"{part}/{name}"
        for part in ("entries", "environments")
        for name in os.listdir(store.layout.of(part))
        if name.startswith(".")
    ]
    rest = [f"{part}/{name}" for part in ("tmp", "leases") for name in os.listdir(store.layout.of(part))]
    return dotted + rest + (["gc/condemned"] if os.path.exists(store.layout.condemned) else [])


def test_eight_at_once_download_and_unpack_each_wheel_once_and_agree(
    index: Index, store: Store, requirements: Path
) -> None:
    processes = [start(store, requirements) for _ in range(8)]
    answers = {finish(process) for process in processes}
    assert len(answers) == 1
    assert {name: index.downloads(f"{name}-1.0-py3-none-any.whl") for name in NAMES} == dict.fromkeys(
        NAMES, 1
    )
    assert len(store.entries()) == len(NAMES)
    assert len(store.environments()) == 1
    assert rubbish(store) == []
    assert_works(answers.pop())


def test_sixteen_that_add_the_same_twenty_wheels_unpack_each_once(store: Store, tmp_path: Path) -> None:
    noise = random.Random(1).randbytes(1 << 18)
    small = [WheelSpec(name=f"small{number}") for number in range(17)]
    # Too large to be unpacked where they are asked for, where processors allow.
    large = [WheelSpec(name=f"large{number}", files={"noise.bin": noise}) for number in range(3)]
    wheels = [build_wheel(spec, tmp_path) for spec in (*small, *large)]
    staging = re.compile(rf"{re.escape(store.root)}/entries/\.new-[^/]*")

    def add(turn: int) -> tuple[int, list[str]]:
        staged = []

        def count(name: str, path: str) -> None:
            if name == "mkdir" and staging.fullmatch(path):
                staged.append(path)

        fs.on_effect = count  # in a process of its own
        results = store.add_all(wheels[turn:] + wheels[:turn])
        added = [result for result in results if isinstance(result, Added)]
        assert len(added) == len(wheels)
        return len(staged), [added.plan.reference.name for added in added if added.new]

    answers = together(*(functools.partial(add, turn) for turn in range(16)))
    assert sorted(name for _, new in answers for name in new) == sorted(
        spec.name for spec in (*small, *large)
    )
    assert len(small) <= sum(staged for staged, _ in answers) <= len(wheels)
    assert len(store.entries()) == len(wheels)
    assert rubbish(store) == []


def test_a_link_killed_at_any_moment_can_be_made_again_and_gc_leaves_no_rubbish(
    store: Store, requirements: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    began = time.monotonic()
    finish(start(Store.open(tmp_path / "measure"), requirements))
    whole = time.monotonic() - began
    seed = random.randrange(1 << 30)
    record_property("seed", seed)
    moments = [random.Random(seed).uniform(0, whole) for _ in range(KILLS)]
    for number, moment in enumerate(moments):
        store = Store.open(tmp_path / f"store{number}")
        running = start(store, requirements)
        time.sleep(moment)
        os.killpg(running.pid, signal.SIGKILL)
        running.communicate()
        assert_works(finish(start(store, requirements)))
        assert collect(store, Policy(max_age=30 * 86400, grace=86400)).problems == ()
        assert rubbish(store) == [], f"seed {seed}, killed after {moment:.3f} of {whole:.3f} s"


def test_with_nothing_left_to_keep_them_gc_takes_everything_and_a_root_keeps_its_closure(
    store: Store, requirements: Path
) -> None:
    everything = Policy(max_age=0, grace=0)
    finish(start(store, requirements))
    requirements.write_text("crate1\ncrate2\n")
    kept = Path(finish(start(store, requirements))).parent.parent.name
    arguments = ["--store", store.root, "roots", "add", "keeper", kept]
    subprocess.run([sys.executable, "-m", "vrfstore", *arguments], check=True, capture_output=True)
    time.sleep(0.01)
    collect(store, everything)
    assert store.environments() == [kept]
    assert [name.split("-")[1] for name in sorted(store.entries(), key=lambda name: name.split("-")[1])] == [
        "crate1", "crate2",
    ]  # fmt: skip
    subprocess.run(
        [f"{store.root}/environments/{kept}/bin/python", "-c", "import crate1, crate2"], check=True
    )
    os.unlink(store.layout.of("roots", "keeper.json"))
    time.sleep(0.01)
    collect(store, everything)
    assert (store.environments(), store.entries(), rubbish(store)) == ([], [], [])
    assert os.listdir(store.layout.of("locks")) == []
    assert os.listdir(store.layout.of("requests")) == []
    assert os.listdir(store.layout.of("inputs")) == []
