"""Metrics of a collection: in Prometheus' own format, with units, whole or as they were before."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from vrfstore.errors import UsageError
from vrfstore.gc import metrics
from vrfstore.gc.metrics import Figures

FIGURES = Figures(
    store="/srv/store",
    ended=1_700_000_000.5,
    seconds=1.25,
    freed=3 << 40,
    removed={"environments": 2, "entries": 7},
    kept={"environments": 1, "entries": 0},
    problems=1,
    missing=4096,
    exit_code=20,
    used=5 << 40,
)

Sample = tuple[str, tuple[tuple[str, str], ...]]


def samples(path: Path) -> dict[Sample, float]:
    """Return the value of each sample by its name and its labels, as a reader of the format sees them."""
    families = text_string_to_metric_families(path.read_text())
    found = [sample for family in families for sample in family.samples]
    assert len({(sample.name, *sorted(sample.labels.items())) for sample in found}) == len(found)
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in found}


def test_what_was_done_is_what_is_read(tmp_path: Path) -> None:
    path = tmp_path / "vrfstore.prom"
    metrics.write(str(path), FIGURES)
    store = ("store", "/srv/store")
    assert samples(path) == {
        ("vrfstore_gc_last_run_timestamp_seconds", (store,)): 1_700_000_000.5,
        ("vrfstore_gc_duration_seconds", (store,)): 1.25,
        ("vrfstore_gc_freed_bytes", (store,)): 3 << 40,
        ("vrfstore_gc_removed", (("kind", "environments"), store)): 2,
        ("vrfstore_gc_removed", (("kind", "entries"), store)): 7,
        ("vrfstore_gc_kept", (("kind", "environments"), store)): 1,
        ("vrfstore_gc_kept", (("kind", "entries"), store)): 0,
        ("vrfstore_gc_problems", (store,)): 1,
        ("vrfstore_gc_over_budget_bytes", (store,)): 4096,
        ("vrfstore_gc_exit_code", (store,)): 20,
        ("vrfstore_store_bytes", (store,)): 5 << 40,
    }


def test_every_metric_has_a_help_and_is_a_gauge(tmp_path: Path) -> None:
    path = tmp_path / "vrfstore.prom"
    metrics.write(str(path), FIGURES)
    text = path.read_text()
    names = set(re.findall(r"^(vrfstore_\w+)", text, re.MULTILINE))
    assert names == set(re.findall(r"^# HELP (\w+) \w.*\.$", text, re.MULTILINE))
    assert names == set(re.findall(r"^# TYPE (\w+) gauge$", text, re.MULTILINE))


def test_what_is_not_known_is_not_said(tmp_path: Path) -> None:
    path = tmp_path / "vrfstore.prom"
    metrics.write(str(path), replace(FIGURES, used=None))
    assert "vrfstore_store_bytes" not in path.read_text()


def test_each_run_replaces_what_the_one_before_wrote(tmp_path: Path) -> None:
    path = tmp_path / "vrfstore.prom"
    metrics.write(str(path), FIGURES)
    before = path.stat().st_ino
    with path.open() as reader:
        metrics.write(str(path), replace(FIGURES, removed={"entries": 1}))
        assert 'kind="environments"' in reader.read(), "a reader has the whole of the old one"
    assert path.stat().st_ino != before
    assert 'removed{kind="environments"' not in path.read_text()
    assert set(os.listdir(tmp_path)) <= {path.name, "home"}


@pytest.mark.parametrize(
    "store", ['/srv/a "quoted" \\ path', "/srv/two\nlines", "/srv/\udcff", "/srv/\u00e4"]
)
def test_a_store_may_be_called_anything(tmp_path: Path, store: str) -> None:
    path = tmp_path / "vrfstore.prom"
    metrics.write(str(path), replace(FIGURES, store=store))
    expected = os.fsencode(store).decode(errors="replace")
    assert {dict(labels)["store"] for _, labels in samples(path)} == {expected}


def test_nobody_else_s_metrics_are_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "vrfstore.prom"
    metrics.write(str(path), FIGURES)
    assert {name.partition("_")[0] for name, _ in samples(path)} == {"vrfstore"}


def test_without_the_package_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(UsageError) as caught:
        metrics.check(str(tmp_path / "vrfstore.prom"))
    assert (caught.value.exit_code, caught.value.kind) == (2, "prometheus-missing")
    assert "vrfstore[prometheus]" in (caught.value.hint or "")


@pytest.mark.parametrize("place", ["absent/vrfstore.prom", "."])
def test_a_place_where_no_file_can_be_is_named(tmp_path: Path, place: str) -> None:
    with pytest.raises(UsageError) as caught:
        metrics.check(str(tmp_path / place))
    assert (caught.value.kind, caught.value.path) == ("prometheus-file", str(tmp_path / place))


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "vrfstore.prom"
    metrics.write(str(path), FIGURES)
    before = path.read_bytes()

    def refuse(source: str, target: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), target)

    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, refuse)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        metrics.write(str(path), replace(FIGURES, freed=1))
    assert path.read_bytes() == before
    assert set(os.listdir(tmp_path)) <= {path.name, "home"}


def test_prometheus_client_is_not_loaded_before_it_is_wanted() -> None:
    program = "import sys, vrfstore.gc.metrics, vrfstore.gc.sweep; print('prometheus_client' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"
