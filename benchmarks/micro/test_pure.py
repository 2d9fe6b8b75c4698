"""The pure parts of what a link, a gc and a lock do, each on much of it: run by ``make bench-micro``."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping

from pytest_benchmark.fixture import BenchmarkFixture

from support.interpreters import INTERPRETER
from vrfstore import codec
from vrfstore.gc.policy import EnvironmentState, Policy, Snapshot, decide
from vrfstore.linker.plan import merge, plan_environment
from vrfstore.model import Digest, EntryPlan, EntryReference, LinkOptions
from vrfstore.requirements.parse import parse
from vrfstore.store.entry_plan import scheme_trees
from vrfstore.store.layout import entry_directory
from vrfstore.store.record_file import ready_record

WHEELS, ENTRIES, LINES = 1_000, 100_000, 1_000
NOW = 1_800_000_000.0


def entry_plan(number: int) -> EntryPlan:
    """Return the plan of a wheel as most are: a package, a command, and its dist-info."""
    name, digest = f"wheel{number}", Digest(hashlib.sha256(str(number).encode()).hexdigest())
    dist_info = f"{name}-1.0.dist-info"
    metadata = [f"{dist_info}/{file}" for file in ("METADATA", "RECORD", "WHEEL", "licenses/LICENSE")]
    paths = {
        "site-packages": [
            *(f"{name}/part{part}.py" for part in range(20)),
            *metadata,
            f"{dist_info}/INSTALLER",
        ],
        "scripts": [name],
    }
    ready = {f"site-packages/{dist_info}/{file}": f"links/{file}" for file in ("RECORD", "INSTALLER")}
    ready |= {f"scripts/{name}": f"links/bin/{name}"}
    trees, _ = scheme_trees(paths, dist_info=dist_info, pkgutil_namespaces=frozenset(), ready=ready)
    _, record_links = ready_record([], trees, ready=ready, record=f"{dist_info}/RECORD")
    return EntryPlan(
        reference=EntryReference(
            digest=digest, name=name, version="1.0", directory=entry_directory(digest, name, "1.0")
        ),
        dist_info=dist_info,
        tags=("py3-none-any",),
        requires_python=None,
        unpacked=1,
        trees=trees,
        record_links=record_links,
        record_ready=True,
    )


def no_manifests(_entry: EntryPlan) -> Mapping[str, str]:
    raise AssertionError("no two of these wheels meet in a file")


def test_plan_of_a_thousand_wheels(benchmark: BenchmarkFixture) -> None:
    plans = [entry_plan(number) for number in range(WHEELS)]

    def plan() -> int:
        planned = plan_environment(
            plans,
            INTERPRETER,
            merge(plans, LinkOptions()),
            place="/store/environments/key",
            interpreter_links="interpreters/abc",
            hashes_of=no_manifests,
        )
        return len(planned.links)

    assert benchmark(plan) > 3 * WHEELS


def test_mark_of_a_hundred_thousand_entries(benchmark: BenchmarkFixture) -> None:
    names = [f"entry{number}" for number in range(ENTRIES)]
    chosen = random.Random(0)  # noqa: S311 - the same every time
    environments = {
        f"environment{number}": EnvironmentState(
            last_use=NOW if number % 10 == 0 else 0.0,
            entries=frozenset(chosen.sample(names, 10)),
            lock=f"lock{number}",
        )
        for number in range(ENTRIES // 10)
    }
    found = Snapshot(
        began=NOW,
        environments=environments,
        entries=dict.fromkeys(names, 0.0),
        locks={f"lock{number}": 0.0 for number in range(len(environments))},
        requests={},
        inputs={},
        kept={},
    )

    collection = benchmark(decide, found, Policy(max_age=86400.0, grace=0.0))

    assert len(collection.environments) == len(environments) * 9 // 10
    assert 0 < len(collection.entries) < ENTRIES


def test_canonical_form_of_a_thousand_requirements(benchmark: BenchmarkFixture) -> None:
    lines = [f"Some_Name.{number}[b,a] >=1.0,<2 ; python_version >= '3.9'" for number in range(LINES)]
    data = "\n".join(lines).encode()

    text = benchmark(lambda: parse(data, "requirements.vrf").canonical)

    assert len(text.splitlines()) == LINES


def test_digest_of_a_thousand_packages(benchmark: BenchmarkFixture) -> None:
    value = {
        "packages": [
            {"name": f"wheel{number}", "version": "1.0", "digest": f"{number:064x}"}
            for number in range(LINES)
        ]
    }

    assert len(benchmark(codec.digest_of, value)) == 64
