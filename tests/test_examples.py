"""The examples for cron and systemd: what they say is understood, and what they run collects."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.crash import make_environment
from support.wheels import WheelSpec, build_wheel
from vrfstore.store.store import Store

EXAMPLES = Path(__file__).parent.parent / "examples"
PROGRAM = Path(sys.executable).with_name("vrfstore")
UNITS = ("vrfstore-gc.service", "vrfstore-gc.timer")


def settings(unit: str) -> list[tuple[str, str]]:
    """Return the settings of a unit, without comments and sections."""
    lines = (EXAMPLES / "systemd" / unit).read_text().splitlines()
    pairs = (line.partition("=") for line in lines if line and line[0] not in "#[")
    return [(name, value) for name, _, value in pairs]


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units, with the command where it is here."""
    for unit in UNITS:
        text = (EXAMPLES / "systemd" / unit).read_text()
        (tmp_path / unit).write_text(text.replace("/usr/local/bin/vrfstore", str(PROGRAM)))
    return tmp_path


def analyze(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze, where it is."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze")
    return subprocess.run(
        ["systemd-analyze", *words], cwd=folder, capture_output=True, text=True, check=False
    )


def test_systemd_understands_every_line_of_the_units(units: Path) -> None:
    done = analyze("verify", *(str(units / unit) for unit in UNITS), folder=units)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_systemd_finds_a_line_that_it_does_not_know(units: Path) -> None:
    service = units / UNITS[0]
    service.write_text(service.read_text().replace("ProtectClock=", "ProtectClocks="))
    assert "ProtectClocks" in analyze("verify", str(service), folder=units).stderr


def test_the_service_is_shut_in(units: Path) -> None:
    done = analyze("security", "--offline=yes", "--threshold=30", str(units / UNITS[0]), folder=units)
    if "offline" in done.stderr:
        pytest.skip("this systemd-analyze looks at running services only")
    assert done.returncode == 0, done.stdout


def test_the_service_sees_what_a_gc_has_to_see() -> None:
    found = dict(settings(UNITS[0]))
    expected = {
        "ProtectProc": "default",
        "ProcSubset": "all",
        "PrivateUsers": "no",
        "PrivateTmp": "no",
        "ProtectHome": "no",
    }
    assert {name: found[name] for name in expected} == expected
    hiding = {
        "PrivatePIDs",
        "InaccessiblePaths",
        "TemporaryFileSystem",
        "RootDirectory",
        "MemoryDenyWriteExecute",
    }
    assert not hiding & found.keys()


def test_the_service_may_write_the_store_and_nothing_else() -> None:
    found = settings(UNITS[0])
    assert ("ProtectSystem", "strict") in found
    assert [value for name, value in found if name == "ReadWritePaths"] == ["/var/lib/vrfstore"]
    assert ("Environment", "VRFSTORE_HOME=/var/lib/vrfstore") in found


def test_the_timer_starts_the_service_that_is_called_as_it_is() -> None:
    assert {Path(unit).stem for unit in UNITS} == {"vrfstore-gc"}
    assert "Unit" not in dict(settings(UNITS[1]))


def cron_jobs() -> tuple[dict[str, str], list[tuple[str, str, str]]]:
    """Return the variables of the cron file, and its jobs: when, who, what (crontab(5))."""
    lines = (EXAMPLES / "cron/vrfstore-gc").read_text().splitlines()
    lines = [line for line in lines if line and not line.startswith("#")]
    variables = dict(line.split("=", 1) for line in lines if "=" in line.split(" ")[0])
    jobs = [line.split(None, 6) for line in lines if "=" not in line.split(" ")[0]]
    return variables, [(" ".join(job[:5]), job[5], job[6]) for job in jobs]


def commands() -> dict[str, str]:
    """Return what either example runs, as a line for the shell."""
    ((_, _, job),) = cron_jobs()[1]
    return {"cron": job, "systemd": dict(settings(UNITS[0]))["ExecStart"]}


@pytest.mark.parametrize("example", ["cron", "systemd"])
@pytest.mark.parametrize("there", [True, False])
def test_what_the_examples_run_collects_a_store_and_makes_none(
    tmp_path: Path, example: str, there: bool
) -> None:
    root = tmp_path / "store"
    if there:
        store = Store.open(root)
        record = make_environment(store, build_wheel(WheelSpec(name="ant"), tmp_path))
        os.utime(store.layout.record(record.directory), (0, 0))
    elif example == "systemd":
        condition = dict(settings(UNITS[0]))["ConditionPathExists"]
        assert condition == "/var/lib/vrfstore/store.json"
        return
    command = commands()[example].replace("/usr/local/bin/", "")
    variables = {**os.environ, "PATH": f"{PROGRAM.parent}:{os.environ['PATH']}", "VRFSTORE_HOME": str(root)}
    done = subprocess.run(
        ["/bin/sh", "-c", command], env=variables, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert root.exists() is there
    if there:
        assert Store.open(root).environments() == []
        assert (done.stdout == "") is (example == "cron"), "cron would send it by mail"


def test_cron_understands_its_file() -> None:
    text = (EXAMPLES / "cron/vrfstore-gc").read_text()
    assert text.endswith("\n"), "cron ignores a last line without its end"
    variables, ((when, who, what),) = cron_jobs()
    assert (when, who) == ("17 3 * * *", "vrfstore")
    assert "%" not in what, "it would end the command"
    assert variables["VRFSTORE_HOME"] == "/var/lib/vrfstore"
