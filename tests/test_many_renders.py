"""Many renders of one document at once, whose packages nobody has asked for before: one build, an answer for each."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from support import figures
from support.commands import check_link
from support.index import Index
from support.wheels import WheelSpec
from vrfstore.store.store import Store

RENDERS = 32

pytestmark = pytest.mark.slow


def test_thirty_two_at_once_are_one_build_and_all_have_their_answer_soon_after_it(
    index: Index, store: Store, tmp_path: Path
) -> None:
    noise = random.Random(7)
    names = [f"crate{number}" for number in range(12)]
    for name in names:
        files = {f"{name}/part{number}.py": "value = 1\n" for number in range(100)}
        # A build takes longer than it takes 32 processes to begin.
        index.add(WheelSpec(name=name, files={**files, f"{name}/noise.bin": noise.randbytes(1 << 20)}))
        index.delay[f"{name}-1.0-py3-none-any.whl"] = 8
    requirements = tmp_path / "requirements.vrf"
    requirements.write_text("\n".join(names))
    command = [sys.executable, "-m", "vrfstore", "--store", store.root, "link", str(requirements), "--json"]
    outputs = [tmp_path / f"answer{number}.json" for number in range(RENDERS)]
    running = []
    for output in outputs:
        with output.open("wb") as stream, open(f"{output}.err", "wb") as errors:
            running.append(subprocess.Popen(command, stdout=stream, stderr=errors))
    codes = [process.wait(120) for process in running]
    assert codes == [0] * RENDERS, Path(f"{outputs[0]}.err").read_text()
    answers = [json.loads(output.read_text()) for output in outputs]
    for answer in answers:
        check_link(answer)
    statuses = Counter(answer["status"] for answer in answers)
    # Whoever had not yet looked for wheels when the last of them came may be the one that links them.
    assert statuses.pop("built") == 1
    assert statuses.keys() <= {"hit", "linked"}
    assert statuses["linked"] <= 1
    assert {answer["python"] for answer in answers} == {answers[0]["python"]}
    assert {name: index.downloads(f"{name}-1.0-py3-none-any.whl") for name in names} == dict.fromkeys(
        names, 1
    )
    assert len(store.environments()) == 1
    # An answer is written at once, and nothing after it.
    ends = {output: output.stat().st_mtime for output in outputs}
    (builder,) = (
        output for output, answer in zip(outputs, answers, strict=True) if answer["status"] == "built"
    )
    built = Path(answers[0]["environment"], "pyvenv.cfg").stat().st_mtime
    last = max(ends.values()) - built
    figures.lines[f"{RENDERS} links at once of what nobody has asked for"] = (
        f"1 build, the first answer {min(ends.values()) - built:.2f} s after it was linked, its own after "
        f"{ends[builder] - built:.2f} s, the last after {last:.2f} s"
    )
    # The build has ended when whoever built has his answer; on a busy machine that is a while after linking.
    assert max(ends.values()) - ends[builder] < 1.0
