"""The command line as its users meet it: what is printed where, and how it ends."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from support.crash import NOBODY, as_nobody
from support.index import Index
from support.wheels import WheelSpec, build_wheel
from vrfstore.cli import quick
from vrfstore.cli.running import run
from vrfstore.store.store import Store

PEAR = WheelSpec(
    name="pear",
    version="1.5",
    files={"pear.py": "import sys\n\ndef main():\n    print(*sys.argv[1:])\n    sys.exit(3)\n"},
    entry_points={"console_scripts": {"pear": "pear:main"}},
)


@pytest.fixture(autouse=True)
def _home(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VRFSTORE_HOME", store.root)


@pytest.fixture
def requirements(index: Index, tmp_path: Path) -> str:
    index.add(PEAR)
    path = tmp_path / "requirements.vrf"
    path.write_text("pear\n")
    return str(path)


def vrfstore(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    command = [sys.executable, "-m", "vrfstore", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def test_link_prints_the_python_and_nothing_else(
    requirements: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["link", requirements]) == 0
    out, err = capsys.readouterr()
    assert out.endswith("/bin/python\n")
    assert out.count("\n") == 1
    assert err.splitlines() == [
        f"resolving {requirements}", "resolved 1 wheel", "fetched pear-1.5-py3-none-any.whl (1.1 kB)",
    ]  # fmt: skip
    assert subprocess.run([out.strip(), "-c", "import pear"], check=False).returncode == 0


def test_a_hit_is_silent_and_the_short_way_says_the_same(
    requirements: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run(["link", requirements])
    capsys.readouterr()
    assert run(["link", requirements]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert quick(["link", requirements]) == out.strip().encode()
    whole = vrfstore("link", requirements)
    assert (whole.returncode, whole.stdout, whole.stderr) == (0, out, "")


HEAVY = {
    "asyncio", "concurrent", "email", "http", "importlib.metadata", "installer", "multiprocessing", "rich", "socket",
    "ssl", "urllib3", "zipfile", "vrfstore.linker.external", "vrfstore.requirements.explain",
}  # fmt: skip

IMPORTS = """
import sys
before = set(sys.modules)  # with what measures coverage, where something does
from vrfstore.cli.running import run
code = run(sys.argv[1:])
print(code, *sorted(set(sys.modules) - before), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("changed", "arguments"),
    [
        ("pear>=1\n", ["--isolated", "--resolver", "uv"]),
        ("# as before\npear\n", ["--isolated"]),
        ("pear\n", ["--isolated", "--refresh", "--resolver", "uv"]),
    ],
    ids=["uv", "known", "refresh"],
)
def test_where_nothing_is_fetched_nothing_is_loaded_for_fetching(
    requirements: str, changed: str, arguments: Sequence[str]
) -> None:
    linked = vrfstore("link", requirements, "--isolated", "--resolver", "uv")
    Path(requirements).write_text(changed)
    command = [sys.executable, "-c", IMPORTS, "link", requirements, "--quiet", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == linked.stdout
    code, *loaded = done.stderr.split()
    assert code == "0"
    assert {name for name in loaded if HEAVY & {name, name.partition(".")[0]}} == set()


QUICK: Sequence[tuple[bool, Sequence[str]]] = [
    (True, ["link", "FILE"]),
    (True, ["--store", "STORE", "link", "FILE"]),
    (True, ["--store=STORE", "link", "FILE"]),
    (True, ["link", "FILE", "--store", "STORE"]),
    (True, ["link", "--python", "PYTHON", "FILE"]),
    (True, ["link", "FILE", "--python=PYTHON"]),
    (False, ["--python", "PYTHON", "link", "FILE"]),
    (False, ["link", "FILE", "--json"]),
    (False, ["link", "FILE", "--refresh"]),
    (False, ["link", "FILE", "FILE"]),
    (False, ["link", "--", "FILE"]),
    (False, ["link", "FILE", "--store"]),
    (False, ["run", "FILE"]),
    (False, ["link"]),
    (False, []),
]


@pytest.mark.parametrize(("understood", "arguments"), QUICK, ids=[" ".join(row[1]) for row in QUICK])
def test_the_short_way_understands_only_what_it_is_sure_of_and_agrees_with_the_whole(
    requirements: str,
    store: Store,
    capsys: pytest.CaptureFixture[str],
    understood: bool,
    arguments: Sequence[str],
) -> None:
    from vrfstore.interpreter import default_executable

    run(["link", requirements])
    capsys.readouterr()
    values = {"FILE": requirements, "STORE": store.root, "PYTHON": default_executable()}
    filled = list(arguments)
    for name, value in values.items():
        filled = [argument.replace(name, value) for argument in filled]
    found = quick(filled)
    assert (found is not None) is understood
    if found is not None:
        assert run(filled) == 0
        assert capsys.readouterr().out == found.decode() + "\n"


def test_the_short_way_gives_up_where_anything_that_decided_has_changed(
    requirements: str, store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run(["link", requirements])
    arguments = ["link", requirements]
    assert quick(arguments) is not None
    with monkeypatch.context() as patch:
        patch.setenv("PIP_EXTRA_INDEX_URL", "http://127.0.0.1:9/")
        assert quick(arguments) is None
    configuration = Path(os.environ["HOME"], ".config/pip/pip.conf")
    configuration.parent.mkdir(parents=True)
    configuration.write_text("[global]\n")
    assert quick(arguments) is None
    configuration.unlink()
    assert quick(arguments) is not None
    (environment,) = store.environments()
    Path(store.layout.condemned).write_text("environments/x\n")
    assert quick(arguments) is not None
    Path(store.layout.condemned).write_text(f"environments/x\nenvironments/{environment}\n\0\0")
    assert quick(arguments) is None
    Path(store.layout.condemned).unlink()
    site = next(Path(store.root).glob("environments/*/lib/python*/site-packages"))
    (site / "added.py").touch()
    assert quick(arguments) is None


@pytest.mark.parametrize("variable", [None, "XDG_DATA_HOME"])
def test_the_short_way_finds_the_default_store(
    requirements: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str | None
) -> None:
    monkeypatch.delenv("VRFSTORE_HOME")
    if variable is not None:
        monkeypatch.setenv(variable, str(tmp_path / "data"))
    assert run(["link", requirements]) == 0
    found = quick(["link", requirements])
    assert found is not None
    assert os.fsdecode(found).startswith(str(tmp_path))


def test_a_store_of_another_format_is_no_hit(requirements: str, store: Store) -> None:
    run(["link", requirements])
    Path(store.layout.marker).write_text('{"format":1,"id":"x"}')
    assert quick(["link", requirements]) is None
    assert run(["link", requirements]) == 21


def test_requirements_from_a_pipe_are_read_once(requirements: str, store: Store) -> None:
    done = vrfstore("link", "/dev/stdin", input="pear\n")
    assert done.returncode == 0, done.stderr
    subprocess.run([done.stdout.strip(), "-c", "import pear"], check=True)
    refused = vrfstore("link", "/dev/stdin", input="bad line -- !!\n")
    assert refused.returncode == 10


def test_without_stderr_the_answer_is_the_same(requirements: str) -> None:
    command = [sys.executable, "-m", "vrfstore", "link", requirements, "--refresh"]
    done = subprocess.run(
        ["sh", "-c", '"$@" 2>&-', "sh", *command], stdout=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == 0
    assert done.stdout.endswith("/bin/python\n")


def test_a_command_has_the_signals_that_it_expects(requirements: str) -> None:
    done = vrfstore("run", requirements, "--", "sh", "-c", "yes | head -1; grep SigIgn /proc/self/status")
    first, name, ignored = done.stdout.split()
    assert (first, name) == ("y", "SigIgn:")
    assert int(ignored, 16) & (1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1) == 0
    assert "Broken pipe" not in done.stderr


@pytest.mark.parametrize(
    "arguments", [["link", "FILE", "--python"], ["--store"], ["link", "FILE", "--store="]]
)
def test_an_option_without_a_value_is_left_to_the_whole_command(
    requirements: str, arguments: Sequence[str]
) -> None:
    run(["link", requirements])
    assert quick([requirements if argument == "FILE" else argument for argument in arguments]) is None


def test_a_hit_refreshes_the_last_use(requirements: str, store: Store) -> None:
    run(["link", requirements])
    (environment,) = store.environments()
    record = store.layout.record(environment)
    os.utime(record, (0, 0))
    assert quick(["link", requirements]) is not None
    assert time.time() - os.stat(record).st_mtime < 60


def test_link_json_is_one_object_with_everything(
    requirements: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["link", requirements, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["schema_version"] == 1
    assert answer["status"] == "built"
    assert [(package["name"], package["reused"]) for package in answer["packages"]] == [("pear", False)]
    assert answer["bytes"]["downloaded"] > 0
    assert set(answer["timings_ms"]) == {"probe", "resolve", "fetch", "link", "start", "total"}
    assert Path(answer["lock"]).exists()


def test_run_becomes_the_command_with_the_environment_first(requirements: str, store: Store) -> None:
    code = (
        "import os, sys; print(sys.prefix, os.environ['VIRTUAL_ENV'], os.environ['QUARTO_PYTHON'], sep='\\n')"
    )
    done = vrfstore("run", requirements, "--", "python", "-c", code)
    assert done.returncode == 0, done.stderr
    (environment,) = store.environments()
    root = f"{store.root}/environments/{environment}"
    assert done.stdout.splitlines() == [root, root, f"{root}/bin/python"]


def test_run_passes_arguments_and_the_exit_code_on(requirements: str) -> None:
    done = vrfstore("run", requirements, "--", "pear", "--ripe", "--json", "yes")
    assert (done.returncode, done.stdout) == (3, "--ripe --json yes\n")


def test_what_runs_is_kept_from_gc_and_goes_after_it_ended(requirements: str, store: Store) -> None:
    run(["link", requirements])
    command = [sys.executable, "-m", "vrfstore", "run", requirements, "--", "sleep", "60"]
    # Without the variables that run sets, only the lease can keep the environment.
    with subprocess.Popen([*command[:-2], "env", "-i", "sleep", "60"]) as running:
        deadline = time.monotonic() + 20
        while Path(f"/proc/{running.pid}/cmdline").read_bytes() != b"sleep\x0060\x00":
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.01)
        assert run(["gc", "--max-age", "0"]) == 0
        assert len(store.environments()) == 1
        running.send_signal(signal.SIGKILL)
    assert run(["gc", "--max-age", "0"]) == 0
    assert store.environments() == []
    assert store.entries() == []
    assert os.listdir(store.layout.of("leases")) == []


def test_add_list_roots_and_gc_work_together(
    tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    wheels = [str(build_wheel(WheelSpec(name=name), tmp_path)) for name in ("apple", "quince")]
    assert run(["add", *wheels]) == 0
    names = capsys.readouterr().out.split()
    assert store.entries() == sorted(names)
    assert run(["add", wheels[0]]) == 0
    assert capsys.readouterr().out == f"{names[0]}  (was there)\n"
    assert run(["roots", "add", "keeper", names[0]]) == 0
    assert run(["list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out.partition("\n")[2])
    assert sorted(entry["name"] for entry in listed["entries"]) == ["apple", "quince"]
    time.sleep(0.01)
    assert run(["gc", "--max-age", "0", "--dry-run", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert run(["gc", "--max-age", "0", "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert planned["removed"]["entries"] == done["removed"]["entries"] == [names[1]]
    assert planned["bytes_freed"] == done["bytes_freed"] > 0
    assert store.entries() == [names[0]]
    assert run(["roots", "remove", "keeper"]) == 0
    assert run(["gc", "--max-age", "0"]) == 0
    assert store.entries() == []


def test_list_says_what_is_there_in_words(requirements: str, capsys: pytest.CaptureFixture[str]) -> None:
    run(["link", requirements])
    capsys.readouterr()
    assert run(["list"]) == 0
    out = capsys.readouterr().out
    assert "ENVIRONMENT" in out
    assert "-pear-1.5" in out
    assert "1 environment, 1 entry," in out


ERRORS: Sequence[tuple[Sequence[str], int, str]] = [
    (["link", "absent.vrf"], 10, "requirements-missing"),
    (["link", "."], 10, "requirements-unreadable"),
    (["link", "broken.vrf"], 10, "requirement-syntax"),
    (["link", "option.vrf"], 10, "requirement-forbidden"),
    (["link", "missing.vrf"], 11, "package-missing"),
    (["link", "empty.vrf", "--python", "./absent"], 22, "interpreter-missing"),
    (["link", "empty.vrf", "--python", "python0.0"], 22, "interpreter-missing"),
    (["link", "empty.vrf", "--python", "/bin/true"], 22, "interpreter-broken"),
    (["link", "empty.vrf", "--store", "broken.vrf"], 21, "store-access"),
    (["link", "empty.vrf", "--store", "future"], 21, "store-format"),
    (["link", "empty.vrf", "--store", "foreign"], 21, "store-foreign"),
    (["add", "pear.zip"], 18, "wheel-filename"),
    (["roots", "add", "../x", "y"], 2, "root-name"),
    (["roots", "add", "x", "nothing"], 2, "target-unknown"),
    (["roots", "remove", "x"], 2, "root-missing"),
    (["run", "empty.vrf", "--", "no-such-command"], 2, "command-missing"),
    (["run", "empty.vrf"], 2, "usage"),
    (["link"], 2, "usage"),
    (["link", "--frobnicate", "x"], 2, "usage"),
    (["gc", "--max-age", "soon"], 2, "usage"),
    (["link", ""], 2, "usage"),
    (["link", "empty.vrf", "--into", ""], 2, "usage"),
    (["link", "empty.vrf", "--target", ""], 2, "usage"),
    (["link", "empty.vrf", "--materialize", ""], 2, "materialize-name"),
    (["link", "empty.vrf", "--materialize", ","], 2, "materialize-name"),
    (["link", "empty.vrf", "--materialize", "ok,../x"], 2, "materialize-name"),
    (["link", "empty.vrf", "--materialize", "*"], 2, "materialize-name"),
    (["link", "empty.vrf", "--force"], 2, "options-conflict"),
    (["link", "empty.vrf", "--into", "/proc/x"], 2, "path"),
    (["link", "empty.vrf", "--into", "empty.vrf"], 2, "into-foreign"),
    (["link", "empty.vrf", "--into", "empty.vrf/below/it"], 2, "path"),
    (["link", "empty.vrf", "--into", "x" * 300], 2, "path"),
    (["link", "empty.vrf", "--into", "loop/x"], 2, "path"),
    (["run", "", "--", "true"], 2, "usage"),
    (["run", "empty.vrf", "--into", "", "--", "true"], 2, "usage"),
    (["run", "absent.vrf", "--", "true"], 10, "requirements-missing"),
    (["env", "undo", ""], 2, "usage"),
    (["env", "undo", "absent"], 2, "adopt-none"),
    (["env", "undo", "x" * 300], 2, "path"),
    (["env", "undo", "loop"], 2, "path"),
    (["env", "undo", "empty.vrf/x"], 2, "path"),
    (["env", "export-tree", "", "copy"], 2, "usage"),
    (["env", "export-tree", ".", ""], 2, "usage"),
    (["nonsense"], 2, "usage"),
]


@pytest.mark.parametrize(("arguments", "code", "kind"), ERRORS, ids=[" ".join(row[0])[:60] for row in ERRORS])
def test_every_error_has_its_code_its_kind_and_one_clear_message(
    index: Index,
    tmp_path: Path,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: Sequence[str],
    code: int,
    kind: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in (
        ("broken.vrf", "pandas >> 1\n"), ("option.vrf", "# remark\n--index-url http://x/\n"),
        ("missing.vrf", "papaya\n"), ("empty.vrf", ""), ("pear.zip", "PK"),
    ):  # fmt: skip
        Path(name).write_text(text)
    for name, marker, text in (("future", "store.json", '{"format":99}'), ("foreign", "diary.txt", "x")):
        Path(name).mkdir()
        Path(name, marker).write_text(text)
    Path("loop").symlink_to("loop")
    as_json = arguments[0] not in {"run", "roots"}
    options = ["--json"] if as_json else []
    assert run([*arguments, *options]) == code
    out, err = capsys.readouterr()
    assert "error: " in err
    assert "Traceback" not in err
    assert kind != "path" or "the store" not in err
    if as_json:
        answer = json.loads(out)
        assert answer["status"] == "error"
        assert (answer["error"]["code"], answer["error"]["kind"]) == (code, kind)
    assert os.listdir(store.layout.of("tmp")) == []
    assert store.entries() == []


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["link", "x", "--into", ""], "'--into'"),
        (["link", "x", "--target", ""], "'--target'"),
        (["link", "x", "--materialize", ""], "--materialize"),
        (["link", "x", "--materialize", "a,../x"], "'../x'"),
        (["run", "", "--", "true"], "FILE|ENVIRONMENT"),
        (["env", "undo", ""], "PATH"),
    ],
)
def test_what_is_empty_or_no_name_is_refused_by_its_name(
    capsys: pytest.CaptureFixture[str], arguments: Sequence[str], named: str
) -> None:
    assert run(arguments) == 2
    assert named in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_a_place_that_cannot_be_reached_is_21_and_no_matter_of_the_store() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, NOBODY, NOBODY)
        os.chmod(folder, 0o500)
        requirements = Path(folder, "empty.vrf")
        requirements.touch()
        Path(folder, "closed").mkdir(mode=0o700)

        def ask() -> list[tuple[int, str]]:
            found = []
            for arguments in (
                ["link", str(requirements), "--into", f"{folder}/closed/x/y"],
                ["link", str(requirements), "--into", f"{folder}/new/x"],
                ["env", "undo", f"{folder}/closed/x"],
            ):
                with contextlib.redirect_stderr(io.StringIO()) as err:
                    found.append((run(arguments), err.getvalue()))
            return found

        for code, err in as_nobody(ask):
            assert code == 21, err
            assert "store" not in err
        assert sorted(os.listdir(folder)) == ["closed", "empty.vrf"]


def test_what_the_system_refuses_in_a_store_is_a_matter_of_the_store(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, code, kind in ((36, 21, "store-path"), (20, 17, "store-damaged"), (13, 21, "store-access")):
        error = OSError(number, os.strerror(number), f"{store.root}/entries/x")

        def refuse(*_: object, found: OSError = error, **__: object) -> None:
            raise found

        with monkeypatch.context() as patch:
            patch.setattr("vrfstore.store.store.Store.open", refuse)
            assert run(["list", "--json"]) == code
        assert json.loads(capsys.readouterr().out)["error"]["kind"] == kind


def test_of_what_cannot_be_renamed_it_is_said_where_it_was_to_be(
    index: Index, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index.add(WheelSpec(name="pear"))
    path = tmp_path / "pear.vrf"
    path.write_text("pear\n")
    command = ["--store", f"{tmp_path}/store", "link", str(path), "--refresh", "--json"]
    assert run(command) == 0
    memos = list((tmp_path / "store/requests").iterdir())
    for memo in memos:
        memo.unlink()
        memo.mkdir()
    capsys.readouterr()
    assert run(command) == 17
    assert json.loads(capsys.readouterr().out)["error"]["path"] in map(str, memos)


def test_where_nothing_can_win_it_is_not_advised_to_let_one_win(
    index: Index, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index.add(WheelSpec(name="file", files={"data.py": "", "data/thing": "a file"}))
    index.add(WheelSpec(name="folder", files={"other.py": "", "data/thing/inside": "a directory"}))
    path = tmp_path / "both.vrf"
    path.write_text("file\nfolder\n")
    assert run(["link", str(path)]) == 19
    assert run(["link", str(path), "--allow-collisions"]) == 19
    first, second = (line for line in capsys.readouterr().err.splitlines() if "hint: " in line)
    assert first.endswith("--allow-collisions")
    assert second.endswith("ask for only one of them")


def test_a_bug_is_70_and_says_that_it_is_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("vrfstore.store.store.Store.open", lambda *_, **__: 1 / 0)
    assert run(["list", "--json"]) == 70
    out, err = capsys.readouterr()
    assert json.loads(out)["error"]["kind"] == "internal"
    assert "ZeroDivisionError" in err


@pytest.mark.parametrize(("number", "code"), [(28, 16), (122, 16), (13, 21), (30, 21), (5, 17), (24, 70)])
def test_what_the_system_refuses_has_a_code(
    number: int, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(root: object, *, to_look: bool) -> None:
        raise OSError(number, os.strerror(number), "/somewhere")

    monkeypatch.setattr("vrfstore.store.store.Store.open", refuse)
    assert run(["list"]) == code
    assert os.strerror(number) in capsys.readouterr().err


def test_help_has_examples_for_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], *([name] for name in ("add", "gc", "link", "list", "roots", "run"))):
        assert run([*arguments, "--help"]) == 0
        assert "Example" in capsys.readouterr().out, arguments


def test_the_version_is_the_installed_one(capsys: pytest.CaptureFixture[str]) -> None:
    from importlib.metadata import version

    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"vrfstore {version('vrfstore')}\n"


@pytest.mark.parametrize("arguments", [["link", "FILE"], ["link", "FILE", "--json"], ["list"], ["gc"]])
@pytest.mark.parametrize(("redirection", "codes"), [(">&-", {70}), (">/dev/full", {16, 70})])
def test_an_answer_that_cannot_be_delivered_is_an_error_but_never_code_1(
    requirements: str, arguments: Sequence[str], redirection: str, codes: set[int]
) -> None:
    vrfstore("link", requirements)
    filled = [requirements if argument == "FILE" else argument for argument in arguments]
    command = [sys.executable, "-m", "vrfstore", *filled]
    done = subprocess.run(
        ["sh", "-c", f'"$@" {redirection}', "sh", *command], capture_output=True, check=False
    )
    assert done.returncode in codes, done.stderr


def test_a_reader_that_went_away_ends_the_command_as_a_signal_would(requirements: str) -> None:
    vrfstore("link", requirements)
    command = [sys.executable, "-m", "vrfstore", "list"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        assert running.stderr.read() == b""
    assert running.returncode == 141


def test_an_interrupt_is_130(requirements: str, index: Index) -> None:
    index.delay["pear-1.5-py3-none-any.whl"] = 30
    command = [sys.executable, "-m", "vrfstore", "link", requirements]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        for line in running.stderr:
            if line.startswith("resolved"):
                break
        time.sleep(0.3)
        running.send_signal(signal.SIGINT)
        index.delay.clear()
        running.communicate(timeout=60)
    assert running.returncode == 130


def test_colour_only_on_a_terminal_and_never_with_no_color(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    run(["link", "absent.vrf"])
    assert "\x1b[31merror:" in capsys.readouterr().err
    monkeypatch.setenv("NO_COLOR", "1")
    run(["link", "absent.vrf"])
    assert "\x1b" not in capsys.readouterr().err


def test_a_shell_gets_words_to_complete(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {
        "_VRFSTORE_COMPLETE": "bash_complete",
        "COMP_WORDS": "vrfstore li",
        "COMP_CWORD": "1",
    }.items():
        monkeypatch.setenv(name, value)
    assert run([]) == 0
    assert capsys.readouterr().out.split() == ["plain,link", "plain,list"]
