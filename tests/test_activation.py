"""Activation scripts, sourced by every shell that is here, in environments with names that shells choke on."""

import contextlib
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pytest

from vrfstore.errors import UsageError
from vrfstore.linker.activation import activation_scripts

HOSTILE = [
    "plain",
    "with  space ",
    "single'quote",
    'double"quote',
    "$HOME$$",
    "$(touch injected)",
    "`touch injected`",
    "${x=$(touch injected)}",
    "';touch injected;'\\'';touch injected;'",
    '";touch injected;"',
    "\u2019;touch injected;\u2018",
    "'#;touch injected;r##'",
    "back\\",
    "\\n\\t\\u@w\\'\\$\\`",
    "new\n\ntouch injected\n",
    "\\\n",
    "bang!bang!!\\!",
    "per%cent%n%%%F{red}",
    "dé✓",
    "-dash",
    "-",
    "*?[a-z]{a,b}",
    "~",
    "#hash {directory}",
    "a&b|c<d>e^f",
]
"""Names of directories, and prompts."""


@dataclass(frozen=True)
class Shell:
    """How one shell is started and what it calls things.

    Attributes:
        command: Starts it on the script whose path follows, with no one's configuration.
        script: The activation script that is for it.
        source: The line that sources the file whose path is in the variable @NAME.
        dump: The line that writes what there is to @OUT: python gets the prompt and says the rest.
        left: The line that writes the names of all that is ours to @OUT.
        prompt: The line that sets the prompt to ``> ``.
        strict: The options with which it is as strict as it can be.
        modes: Lines that change how it reads what follows.
        blind: Whether line feeds keep it from finding where a script is.
    """

    command: Sequence[str]
    script: str
    source: str
    dump: str
    left: str
    prompt: str
    strict: Sequence[str] = ()
    modes: Sequence[str] = ()
    blind: bool = False


SH = Shell(
    command=(),
    script="activate",
    source='. "$@NAME"',
    dump='python ${PS1+"$PS1"} > @OUT',
    left=r"""{ set; typeset -f || :; } 2> /dev/null | grep -i '^_\(old_\)*virtual\|^deactivate' > @OUT || :""",
    prompt="PS1='> '",
    strict=["-eu"],
)
CSH = Shell(
    command=(),
    script="activate.csh",
    source="source $@NAME:q",
    dump="python $prompt:q > @OUT",
    left=r"""( set ; alias ; env ) | sh -c 'grep -i "^_\(old_\)*virtual\|^deactivate"; true' > @OUT""",
    prompt='set prompt = "> "',
    strict=["-e"],
    blind=True,
)
SHELLS = {
    "bash": replace(
        SH,
        command=["bash", "--norc", "--noprofile"],
        modes=[
            "set -o posix",
            "set -f; IFS=/",
            "cd() { echo wrong; }; CDPATH=/usr; export CDPATH",
            "set -C +h",
        ],
    ),
    "dash": replace(SH, command=["dash"], modes=["IFS=/; set -C", "cd() { echo wrong; }"]),
    "busybox": replace(SH, command=["busybox", "sh"], modes=["IFS=/"]),
    "ksh93": replace(SH, command=["ksh93"], modes=["IFS=/; set -C"]),
    "mksh": replace(SH, command=["mksh"], modes=["IFS=/; set -C"]),
    "yash": replace(SH, command=["yash", "--norcfile"], modes=["IFS=/"]),
    "zsh": replace(
        SH,
        command=["zsh", "-f"],
        modes=[
            "emulate sh",
            "emulate ksh",
            "setopt ksharrays shwordsplit globsubst rcquotes promptsubst noclobber",
            "setopt nofunctionargzero; IFS=/",
            "cd() { echo wrong; }; chpwd() { echo wrong; }; alias cd=wrong; setopt aliases autopushd",
        ],
    ),
    "tcsh": replace(CSH, command=["tcsh", "-f"], modes=["set noclobber", "set noglob"]),
    "bsd-csh": replace(CSH, command=["bsd-csh", "-f"], modes=["set noclobber"]),
    "fish": Shell(
        command=["fish", "--no-config"],
        script="activate.fish",
        source="source $@NAME",
        dump="python (fish_prompt | string collect) > @OUT",
        left="begin; set --names; functions --all --names; end"
        " | string match -ri '^_(old_)?virtual.*|^_old_.*|^deactivate' > @OUT; true",
        prompt="function fish_prompt; printf '> '; end",
        modes=["function cd; echo wrong; end"],
    ),
    "nu": Shell(
        command=["nu", "--no-config-file"],
        script="activate.nu",
        source="overlay use @PATH",
        dump="^python (do $env.PROMPT_COMMAND) | save --raw @OUT",
        left="scope aliases | get name | append ($env | columns)"
        " | where $it =~ '(?i)^_.*virtual|deactivate' | str join | save --raw @OUT",
        prompt="$env.PROMPT_COMMAND = {|| '> '}",
    ),
    "pwsh": Shell(
        command=["pwsh", "-NoProfile", "-File"],
        script="Activate.ps1",
        source=". $env:@NAME",
        dump='python "$(prompt 6>&1)" > @OUT',
        left="(Get-ChildItem Function:,Env: | Where-Object Name -match '(?i)^_old_virtual|^deactivate').Name"
        " > @OUT",
        prompt="function global:prompt { '> ' }",
        modes=["Set-StrictMode -Version Latest; $ErrorActionPreference = 'Stop'"],
    ),
}

Dump = dict[str, str]
"""The variables of a shell at one moment; SHOWN is its prompt, PYTHON the path of the python that runs, LEFT the
names of what it has of ours."""

PYTHON = r"""#!/bin/sh
printf 'PYTHON=%s\0' "$0"
[ $# = 0 ] || printf 'SHOWN=%s\0' "$1"
exec /usr/bin/env -0
"""

THEIR_OWN = {"_", "PWD", "OLDPWD", "SHLVL", "LINES", "COLUMNS", "FILE_PWD", "CURRENT_FILE", "A__z"}
"""What shells change in every step."""


@cache
def find(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is not installed")
    return path


@dataclass
class Session:
    """A script in the making for one shell."""

    shell: Shell
    root: Path
    variables: dict[str, str]
    lines: list[str]
    dumps: int = 0

    def write(self, *lines: str) -> None:
        self.lines += lines

    def source(self, path: str) -> None:
        name = f"SOURCED{len(self.lines)}"
        self.variables[name] = path
        # overlay use takes a constant only.
        self.write(self.shell.source.replace("@NAME", name).replace("@PATH", f"r####'{path}'####"))

    def activate(self, environment: Path | str) -> None:
        self.source(f"{environment}/bin/{self.shell.script}")

    def dump(self) -> None:
        self.write(self.shell.dump.replace("@OUT", f"{self.root}/{self.dumps}"))
        self.dumps += 1

    def dump_all(self) -> None:
        self.write(self.shell.left.replace("@OUT", f"{self.root}/{self.dumps}.left"))
        self.dump()

    def run(self, cwd: str | Path | None = None) -> list[Dump]:
        """Run it; nothing may be said or fail on the way."""
        done = self.start(cwd=cwd)
        assert (done.stdout, done.stderr, done.returncode) == (b"", b"", 0)
        return [self.read(number) for number in range(self.dumps)]

    def start(self, *options: str, cwd: str | Path | None = None) -> subprocess.CompletedProcess[bytes]:
        script = self.root / "script"
        script.write_text("\n".join([*self.lines, ""]))
        return subprocess.run(
            [*self.command(*options), str(script)],
            cwd=cwd or self.root,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=60,
        )

    def type(self) -> str:
        """Type it into a terminal, and return what is seen there."""
        terminal, end = pty.openpty()
        os.write(terminal, "\n".join([*self.lines, "exit", ""]).encode())
        with subprocess.Popen(
            self.command("-i"),
            cwd=self.root,
            env=self.environment(),
            stdin=end,
            stdout=end,
            stderr=end,
            start_new_session=True,
        ):
            os.close(end)
            seen = b""
            # Reading fails, and does not end, when nobody has the other end any more.
            with contextlib.suppress(OSError):
                while data := os.read(terminal, 1 << 16):
                    seen += data
            os.close(terminal)
        return seen.decode().replace("\r\n", "\n")

    def command(self, *options: str) -> list[str]:
        program, *rest = self.shell.command
        return [find(program), *rest, *options]

    def environment(self) -> dict[str, str]:
        path = f"{self.root}/bin:/usr/bin:/bin"
        own = {"PATH": path, "HOME": str(self.root), "TERM": "dumb", "LC_ALL": "C.UTF-8"}
        return own | self.variables

    def read(self, number: int) -> Dump:
        rows = Path(f"{self.root}/{number}").read_text().rstrip("\n").split("\0")
        found = dict(row.split("=", 1) for row in rows if row)
        left = Path(f"{self.root}/{number}.left")
        if left.exists():
            found["LEFT"] = left.read_text()
        kept = set(found) - THEIR_OWN
        return {name: found[name] for name in sorted(kept) if not name.startswith("SOURCED")}


def begin(shell: Shell, tmp_path: Path, **variables: str) -> Session:
    root = tmp_path / "session"
    (root / "bin").mkdir(parents=True)
    place_python(f"{root}/bin")
    return Session(shell, root, variables, [shell.prompt])


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> Shell:
    found = SHELLS[request.param]
    find(found.command[0])
    return found


@pytest.fixture
def session(shell: Shell, tmp_path: Path) -> Session:
    return begin(shell, tmp_path)


def place_python(directory: str) -> None:
    """Place a python that says by which path it was started, what it was given, and its environment."""
    Path(f"{directory}/python").write_text(PYTHON)
    Path(f"{directory}/python").chmod(0o755)


def make(path: Path | str, prompt: str | None = None, *, claimed: str | None = None) -> str:
    """Make what counts of an environment; ``claimed`` is the path in its scripts."""
    path = str(path)
    os.makedirs(f"{path}/bin")
    Path(f"{path}/pyvenv.cfg").touch()
    place_python(f"{path}/bin")
    for name, text in activation_scripts(claimed or path, prompt).items():
        Path(f"{path}/bin/{name}").write_bytes(text)
    return path


def without(dump: Dump, *names: str) -> Dump:
    return {name: value for name, value in dump.items() if name not in names}


def activated(old: Dump, path: str, prompt: str) -> Dump:
    """Return what an activation is to make of the old variables."""
    new = old | {
        "PATH": f"{path}/bin:{old['PATH']}",
        "PYTHON": f"{path}/bin/python",
        "SHOWN": f"({prompt}) {old['SHOWN']}",
        "VIRTUAL_ENV": path,
        "VIRTUAL_ENV_PROMPT": prompt,
    }
    return without(new, "PYTHONHOME", "LEFT")


def check_cycle(session: Session, path: str, prompt: str) -> Dump:
    """Activate, deactivate, and return what there was before."""
    session.dump_all()
    session.activate(path)
    session.dump()
    session.write("deactivate")
    session.dump_all()
    old, new, end = session.run()
    assert old["LEFT"] == ""
    assert new == activated(old, path, prompt)
    assert end == old
    return old


def test_activation_sets_what_it_says_and_deactivation_takes_all_of_it_back(
    session: Session, tmp_path: Path
) -> None:
    old = check_cycle(session, make(tmp_path / "environment"), "environment")
    assert not {"VIRTUAL_ENV", "VIRTUAL_ENV_PROMPT", "PYTHONHOME"} & set(old)


def test_what_was_set_before_comes_back(shell: Shell, tmp_path: Path) -> None:
    variables = {"PYTHONHOME": "/a home", "VIRTUAL_ENV": "/outer", "VIRTUAL_ENV_PROMPT": "outer one"}
    session = begin(shell, tmp_path, **variables)
    old = check_cycle(session, make(tmp_path / "environment", "a prompt"), "a prompt")
    assert old.items() >= variables.items()


@pytest.mark.parametrize(
    ("name", "mode"), [(name, mode) for name, shell in SHELLS.items() for mode in ["", *shell.modes]]
)
def test_no_option_of_the_shell_breaks_it(name: str, mode: str, tmp_path: Path) -> None:
    shell = SHELLS[name]
    session = begin(replace(shell, command=[*shell.command, *shell.strict]), tmp_path, PYTHONHOME="")
    session.write(mode)
    check_cycle(session, make(tmp_path / "an environment", claimed="/not/there"), "an environment")


def test_a_shell_without_a_prompt_gets_none(tmp_path: Path) -> None:
    session = begin(replace(SHELLS["bash"], prompt="unset PS1"), tmp_path)
    session.write("set -eu")
    session.activate(make(tmp_path / "environment"))
    session.dump()
    session.write("deactivate")
    session.dump()
    assert ["SHOWN" in dump for dump in session.run()] == [False, False]


def test_the_prompt_stays_where_people_want_that(shell: Shell, tmp_path: Path) -> None:
    session = begin(shell, tmp_path, VIRTUAL_ENV_DISABLE_PROMPT="1")
    path = make(tmp_path / "environment")
    session.dump_all()
    session.activate(path)
    session.dump()
    session.write("deactivate")
    session.dump_all()
    old, new, end = session.run()
    assert new == activated(old, path, "environment") | {"SHOWN": old["SHOWN"]}
    assert end == old


def test_a_second_environment_takes_the_place_of_the_first(shell: Shell, tmp_path: Path) -> None:
    session = begin(shell, tmp_path, PYTHONHOME="/home")
    names = ["first", "first", "second", "first"]
    paths = {name: make(tmp_path / name) for name in sorted(set(names))}
    session.dump_all()
    for name in names:
        session.activate(paths[name])
        session.dump()
    session.write("deactivate")
    session.dump_all()
    old, *news, end = session.run()
    assert news == [activated(old, paths[name], name) for name in names]
    assert end == old


def test_a_script_says_so_where_there_is_no_environment(session: Session, tmp_path: Path) -> None:
    copy = tmp_path / session.shell.script
    copy.write_bytes(activation_scripts("/not/there", None)[copy.name])
    session.source(str(copy))
    session.write("echo went on")
    done = session.start()
    assert b"there is no environment at /not/there" in done.stdout + done.stderr
    if session.shell.strict:
        done = session.start(*session.shell.strict)
        assert b"went on" not in done.stdout
        assert done.returncode != 0


@pytest.mark.parametrize("way", ["-a b/bin", "other/../-a b/bin", "link/bin", "."])
def test_a_path_may_be_relative(session: Session, tmp_path: Path, way: str) -> None:
    if session.shell.script == "activate.nu":
        pytest.skip("to Nushell, paths in a script are relative to that script")
    path = make(tmp_path / "-a b", claimed="/not/there")
    (tmp_path / "other").mkdir()
    (tmp_path / "link").symlink_to("-a b")
    session.dump()
    session.source(f"./{way}/{session.shell.script}")
    session.dump()
    old, new = session.run(f"{path}/bin" if way == "." else tmp_path)
    # What asks /proc gets the path without links.
    link = way == "link/bin" and new["VIRTUAL_ENV"] != path
    assert new == activated(old, str(tmp_path / "link") if link else path, "link" if link else "-a b")


def as_it_is(shell: Shell, name: str) -> bool:
    """Whether a name is in the prompt itself, and not something else that is shown as the name."""
    if shell.script == "activate":
        return not any(sign in name for sign in "\\$`'\"!%")
    return shell.script != "activate.csh" or not any(sign in name for sign in "\\^!%\n")


@pytest.mark.parametrize("moved", [False, True], ids=["copied", "moved"])
def test_hostile_names(session: Session, tmp_path: Path, moved: bool) -> None:
    """Moved: only the script's own place is right. Copied elsewhere: only the path in its text is."""
    cases: list[tuple[str, str]] = []
    names = [name for name in HOSTILE if not (moved and "\n" in name and session.shell.blind)]
    session.dump_all()
    for number, name in enumerate(names):
        prompt = name if moved else names[number - 1]
        path = str(tmp_path / "hostile" / name)
        if moved:
            session.activate(make(path, claimed="/not/there"))
        else:
            make(path, prompt)
            (tmp_path / f"{number}").mkdir()
            session.source(shutil.copy(f"{path}/bin/{session.shell.script}", f"{tmp_path}/{number}"))
        cases.append((path, prompt))
        session.dump()
    session.write("deactivate")
    session.dump_all()
    old, *news, end = session.run()
    for new, (path, prompt) in zip(news, cases, strict=True):
        ignored = () if as_it_is(session.shell, prompt) else ("SHOWN",)
        assert without(new, *ignored) == without(activated(old, path, prompt), *ignored)
    assert end == old
    assert not list(tmp_path.rglob("injected"))


@pytest.mark.parametrize(
    ("name", "option", "show"),
    [
        ("bash", "", '"${PS1@P}"'),
        ("zsh", "", '"${(%)PS1}"'),
        ("zsh", "setopt promptsubst", '"${(%%)PS1}"'),
        ("fish", "", "(fish_prompt | string collect)"),
    ],
)
def test_what_prompts_show(name: str, option: str, show: str, tmp_path: Path) -> None:
    prompts = [*HOSTILE, "${x:=$(touch injected)}", "\\[\\e]0;x\\a\\]"]
    session = begin(SHELLS[name], tmp_path)
    for number, prompt in enumerate(prompts):
        session.activate(make(tmp_path / f"{number}", prompt))
        session.write(option, f"printf '%s\\0' {show} >> {tmp_path}/shown")
    session.run()
    shown = (tmp_path / "shown").read_text().split("\0")
    wanted = [f"({prompt}) > " for prompt in prompts]
    if name == "zsh" and not option:
        # It is safe for those who set the option later; a backslash is the price.
        wanted = [text.replace("`", "\\`") for text in wanted]
    assert shown == [*wanted, ""]
    assert not list(tmp_path.rglob("injected"))


@pytest.mark.parametrize("name", ["dash", "ksh93", "mksh", "tcsh", "bsd-csh"])
def test_what_interactive_shells_show(name: str, tmp_path: Path) -> None:
    session = begin(SHELLS[name], tmp_path)
    prompts = [prompt for prompt in HOSTILE if set(prompt) & set("\\$`'\"!%^") and "\n" not in prompt]
    for number, prompt in enumerate(prompts):
        session.activate(make(tmp_path / f"{number}", prompt))
    shown = session.type()
    assert [prompt for prompt in prompts if f"({prompt}) > " not in shown] == []
    assert not list(tmp_path.rglob("injected"))


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An environment made by ``venv``."""
    path = tmp_path_factory.mktemp("venv") / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", path], check=True, timeout=60)
    (path / "bin/python").unlink()
    place_python(f"{path}/bin")
    return str(path)


COMPARED = ["bash", "zsh", "dash", "ksh93", "tcsh", "bsd-csh", "fish"]


@pytest.mark.parametrize("name", COMPARED)
def test_the_variables_are_those_after_a_script_of_venv(name: str, tmp_path: Path, reference: str) -> None:
    results: list[list[Dump]] = []
    for environment in (reference, make(tmp_path / "environment")):
        session = begin(SHELLS[name], tmp_path / str(len(results)))
        session.activate(environment)
        session.dump()
        session.write("deactivate")
        session.dump()
        dumps = [
            {
                key: value.replace(environment, "@").replace(str(session.root), "@@")
                for key, value in dump.items()
                if not key.startswith("_OLD_") and key != "PS1"
            }
            for dump in session.run()
        ]
        # Since 3.12, PS1 is exported, which it need not be; until then, VIRTUAL_ENV_PROMPT was what is shown.
        dumps[0]["VIRTUAL_ENV_PROMPT"] = dumps[0]["VIRTUAL_ENV_PROMPT"].strip("() ")
        results.append(dumps)
    assert results[0] == results[1]


@pytest.mark.parametrize("name", COMPARED)
@pytest.mark.parametrize("ours_first", [True, False])
def test_an_environment_of_venv_takes_the_place_of_ours_and_ours_of_its(
    name: str, ours_first: bool, tmp_path: Path, reference: str
) -> None:
    path = make(tmp_path / "environment")
    last, first = (reference, path) if ours_first else (path, reference)
    session = begin(SHELLS[name], tmp_path)
    session.dump()
    session.activate(first)
    session.activate(last)
    session.dump()
    session.write("deactivate")
    session.dump()
    old, new, end = session.run()
    assert new["PATH"] == f"{last}/bin:{old['PATH']}"
    assert new["VIRTUAL_ENV"] == last
    assert without(end, "PS1") == old


def test_what_no_shell_can_hold_is_refused() -> None:
    for directory, prompt in (("/a\0b", None), ("/a", "b\0")):
        with pytest.raises(UsageError):
            activation_scripts(directory, prompt)


def test_undecodable_paths_are_written_as_they_are() -> None:
    scripts = activation_scripts(os.fsdecode(b"/\xff"), None)
    assert all(b"'/\xff'" in text for text in scripts.values())


def test_no_quote_ends_a_text_of_powershell_or_nushell() -> None:
    """Whether or not they are here."""
    scripts = {name: text.decode() for name, text in activation_scripts("/\u2019'#'##", "'\u2018").items()}
    assert "= '/\u2019\u2019''#''##'\n" in scripts["Activate.ps1"]
    assert "= '''\u2018\u2018'\n" in scripts["Activate.ps1"]
    assert "{ r###'/\u2019'#'##'### }" in scripts["activate.nu"]
