r"""Activation scripts for the usual shells. Pure: from an environment's path and prompt to the bytes of files.

They do what the documentation of ``venv`` says (*How venvs work*): ``VIRTUAL_ENV`` and ``VIRTUAL_ENV_PROMPT`` are
set, ``bin`` is put first on ``PATH``, ``PYTHONHOME`` is out of the way, the prompt tells, and ``deactivate`` puts
everything back as it was; what was not set is not set afterwards. What they keep until then has the names that
``venv`` uses, so that an environment of ours and one of ``venv`` can be activated one over the other.

A script goes by its own place, so that an environment may be moved; shells that do not tell it are asked through
``/proc``. Only where that fails does the path count that is written into the script.

What a prompt contains is shown and never run: shells expand prompts, so that a directory named ``$(command)``
would otherwise run the command at every prompt.
"""

from __future__ import annotations

import re

from vrfstore.errors import UsageError

__all__ = ["activation_scripts"]


def activation_scripts(directory: str, prompt: str | None) -> dict[str, bytes]:
    """Return the activation scripts of an environment by their names in its ``bin/``.

    They are to be sourced, ``activate.nu`` by ``overlay use``, and need no mode but 0644.

    Args:
        directory: The environment's absolute path; undecodable bytes as surrogates (PEP 383).
        prompt: What prompts show; the base name of the environment's directory if there is nothing.

    Raises:
        UsageError: The path or the prompt has a NUL, which no shell can hold.
    """
    shown = prompt or ""
    if "\0" in directory + shown:
        raise UsageError("neither a path nor a prompt can have a NUL", kind="bad-prompt")
    scripts = {
        "Activate.ps1": _POWERSHELL.format(directory=_powershell(directory), prompt=_powershell(shown)),
        "activate": _SH.format(directory=_sh(directory), prompt=_sh(shown)),
        "activate.csh": _CSH.format(
            directory=_csh(directory),
            prompt=_csh(shown),
            find=_csh(_CSH_FIND),
            escape=_csh(_CSH_ESCAPE),
            deactivate=_csh(_CSH_DEACTIVATE.replace("\n", " ")),
        ),
        "activate.fish": _FISH.format(directory=_fish(directory), prompt=_fish(shown)),
        "activate.nu": _NU.format(directory=_nu(directory), prompt=_nu(shown)),
    }
    return {name: text.encode("utf-8", "surrogateescape") for name, text in scripts.items()}


def _sh(text: str) -> str:
    """Quote for POSIX shells."""
    return "'" + text.replace("'", r"'\''") + "'"


def _csh(text: str) -> str:
    """Quote for csh(1), where history and ends of lines count between single quotes, too."""
    return "'" + re.sub(r"[!\n]", r"\\\g<0>", text.replace("'", r"'\''")) + "'"


def _fish(text: str) -> str:
    """Quote for fish(1)."""
    return "'" + re.sub(r"[\\']", r"\\\g<0>", text) + "'"


def _powershell(text: str) -> str:
    """Quote for PowerShell, to which typographic quotes are quotes (about_Quoting_Rules)."""
    return "'" + re.sub("['\u2018-\u201b]", r"\g<0>\g<0>", text) + "'"


def _nu(text: str) -> str:
    """Quote for Nushell, as a raw string with more number signs than any in the text."""
    signs = "#" * (1 + max(map(len, re.findall("#+", text)), default=0))
    return f"r{signs}'{text}'{signs}"


# The texts are for str.format: braces of the shells are doubled.
#
# `command` and `builtin` are for people who have a function of their own in place of `cd`. Everything that may
# fail does so in a condition or before `||`, for `set -e`. A prompt of plain characters is put into PS1 as it is.
# Any other is only referred to, since shells expand PS1, but not what comes out of that. zsh expands variables
# only if PROMPT_SUBST is set, and then looks for per cent signs in what comes out: there, an empty `%{%}` parts
# what would otherwise be an expansion, and is right with the option and without it.
_SH = r"""# Activates this Python environment in sh, bash, dash, ksh or zsh:  . bin/activate
# `deactivate` takes it back.

_virtual_directory={directory}
_virtual_prompt={prompt}

# Where this file is, with an x behind it for paths that end with a line feed.
_virtual_found=$(
    set +e +u
    found() {{
        [ -f "$1/pyvenv.cfg" ] && printf '%sx' "$1"
    }}
    self=
    if [ -n "$ZSH_VERSION" ]; then
        # %x is right within functions, but has \n for a line feed; $0 is what was sourced, as a rule.
        eval 'found "${{${{(%):-%x}}:a:h:h}}" || found "${{0:a:h:h}}"'
        exit 0
    elif [ -n "$BASH_VERSION" ]; then
        self=$BASH_SOURCE
    elif [ -n "$KSH_VERSION" ]; then
        self=$( (eval 'printf "%sx" "${{.sh.file}}"') 2>/dev/null)
        self=${{self%x}}
    fi
    case $self in
        */*) ;;
        ?*) self=./$self ;;
        *)
            # A shell has the file open that it reads; of several, the last is the innermost.
            sh -c '
                found=
                for process in "$1" "$PPID"; do
                    for file in "/proc/$process/fd"/*; do
                        target=$(readlink "$file")
                        case $target in
                            */bin/activate) [ -f "${{target%/bin/activate}}/pyvenv.cfg" ] && found=$target ;;
                        esac
                    done
                    [ -z "$found" ] || break
                done
                [ -n "$found" ] && printf "%sx" "${{found%/bin/activate}}"
            ' sh "$$" 2>/dev/null
            exit 0
            ;;
    esac
    CDPATH=
    self=$(command cd -- "${{self%/*}}/.." >/dev/null 2>&1 && command pwd && printf x)
    found "${{self%"
x"}}"
) || :
if [ -n "$_virtual_found" ]; then
    _virtual_directory=${{_virtual_found%x}}
fi
unset _virtual_found

if [ -f "$_virtual_directory/pyvenv.cfg" ]; then
    # Whatever is active, of ours or not, is left first; its own function knows how.
    if [ -n "${{VIRTUAL_ENV:-}}" ] && [ "$(command -v deactivate || :)" = deactivate ]; then
        deactivate
    fi

    deactivate() {{
        if [ -n "${{_OLD_VIRTUAL_PATH+set}}" ]; then
            PATH=$_OLD_VIRTUAL_PATH
            export PATH
            unset _OLD_VIRTUAL_PATH
        else
            unset PATH
        fi
        if [ -n "${{_OLD_VIRTUAL_PYTHONHOME+set}}" ]; then
            PYTHONHOME=$_OLD_VIRTUAL_PYTHONHOME
            export PYTHONHOME
            unset _OLD_VIRTUAL_PYTHONHOME
        fi
        if [ -n "${{_OLD_VIRTUAL_PS1+set}}" ]; then
            PS1=$_OLD_VIRTUAL_PS1
            unset _OLD_VIRTUAL_PS1
        fi
        unset VIRTUAL_ENV VIRTUAL_ENV_PROMPT
        if [ -n "${{_OLD_VIRTUAL_ENV+set}}" ]; then
            VIRTUAL_ENV=$_OLD_VIRTUAL_ENV
            export VIRTUAL_ENV
            unset _OLD_VIRTUAL_ENV
        fi
        if [ -n "${{_OLD_VIRTUAL_ENV_PROMPT+set}}" ]; then
            VIRTUAL_ENV_PROMPT=$_OLD_VIRTUAL_ENV_PROMPT
            export VIRTUAL_ENV_PROMPT
            unset _OLD_VIRTUAL_ENV_PROMPT
        fi
        unset -f deactivate
        hash -r 2>/dev/null || :
    }}

    # Where a shell was started from an activated one, there is something to come back to.
    unset _OLD_VIRTUAL_PATH _OLD_VIRTUAL_PYTHONHOME _OLD_VIRTUAL_PS1
    unset _OLD_VIRTUAL_ENV _OLD_VIRTUAL_ENV_PROMPT
    if [ -n "${{VIRTUAL_ENV+set}}" ]; then
        _OLD_VIRTUAL_ENV=$VIRTUAL_ENV
    fi
    if [ -n "${{VIRTUAL_ENV_PROMPT+set}}" ]; then
        _OLD_VIRTUAL_ENV_PROMPT=$VIRTUAL_ENV_PROMPT
    fi
    VIRTUAL_ENV=$_virtual_directory
    VIRTUAL_ENV_PROMPT=${{_virtual_prompt:-${{VIRTUAL_ENV##*/}}}}
    export VIRTUAL_ENV VIRTUAL_ENV_PROMPT

    if [ -n "${{PATH+set}}" ]; then
        _OLD_VIRTUAL_PATH=$PATH
    fi
    PATH=$VIRTUAL_ENV/bin${{PATH:+:$PATH}}
    export PATH

    if [ -n "${{PYTHONHOME+set}}" ]; then
        _OLD_VIRTUAL_PYTHONHOME=$PYTHONHOME
        unset PYTHONHOME
    fi

    if [ -n "${{PS1+set}}" ] && [ -z "${{VIRTUAL_ENV_DISABLE_PROMPT:-}}" ]; then
        _OLD_VIRTUAL_PS1=$PS1
        case ${{ZSH_VERSION:+zsh}}${{KSH_VERSION:+ksh}}:$VIRTUAL_ENV_PROMPT in
            zsh:*[\\\$\`%]*)
                _virtual_prompt=$(
                    printf '%sx\n' "$VIRTUAL_ENV_PROMPT" | sed 's/%/%%/g; s/[$\\]/&%{{%}}/g; s/`/\\`/g'
                )
                PS1="(${{_virtual_prompt%x}}) $PS1"
                ;;
            ksh:*[\\\$\`\'\"!]*) PS1='(${{VIRTUAL_ENV_PROMPT//\!/!!}}) '$PS1 ;;
            zsh:*) PS1="($VIRTUAL_ENV_PROMPT) $PS1" ;;
            *[\\\$\`]*) PS1='(${{VIRTUAL_ENV_PROMPT-}}) '$PS1 ;;
            *) PS1="($VIRTUAL_ENV_PROMPT) $PS1" ;;
        esac
    fi

    unset _virtual_directory _virtual_prompt
    hash -r 2>/dev/null || :
else
    printf 'activate: there is no environment at %s\n' "$_virtual_directory" >&2
    unset _virtual_directory _virtual_prompt
    false
fi
"""

# Run by sh, because csh has no way to quote what it needs. The last one open is the innermost.
_CSH_FIND = r"""found=
for file in "/proc/$1/fd"/*; do
    target=$(readlink "$file")
    target=${target%/bin/activate.csh}
    if [ -f "$target/pyvenv.cfg" ]; then
        found=$target
    fi
done 2>/dev/null
printf '%s' "$found"
"""

# In prompts, csh looks for history events, and tcsh for other things as well.
_CSH_ESCAPE = r"""case $1 in
    1) signs='[\\^!]' percent='%%' ;;
    *) signs='!' percent='%' ;;
esac
printf '%s\n' "$VIRTUAL_ENV_PROMPT" | sed "s/%/$percent/g; s/$signs/\\\\&/g"
"""

# An alias is one line. What `eval` is given is expanded only when it runs, which `if` alone does not wait for.
_CSH_DEACTIVATE = """\
if ( ! $?_OLD_VIRTUAL_PATH ) unsetenv PATH;
if ( $?_OLD_VIRTUAL_PATH ) eval 'setenv PATH $_OLD_VIRTUAL_PATH:q';
if ( $?_OLD_VIRTUAL_PYTHONHOME ) eval 'setenv PYTHONHOME $_OLD_VIRTUAL_PYTHONHOME:q';
if ( $?_OLD_VIRTUAL_PROMPT ) eval 'set prompt = $_OLD_VIRTUAL_PROMPT:q';
unsetenv VIRTUAL_ENV;
unsetenv VIRTUAL_ENV_PROMPT;
if ( $?_OLD_VIRTUAL_ENV ) eval 'setenv VIRTUAL_ENV $_OLD_VIRTUAL_ENV:q';
if ( $?_OLD_VIRTUAL_ENV_PROMPT ) eval 'setenv VIRTUAL_ENV_PROMPT $_OLD_VIRTUAL_ENV_PROMPT:q';
unset _OLD_VIRTUAL_PATH _OLD_VIRTUAL_PYTHONHOME _OLD_VIRTUAL_PROMPT _OLD_VIRTUAL_ENV _OLD_VIRTUAL_ENV_PROMPT;
rehash;
unalias deactivate"""

_CSH = r"""# Activates this Python environment in csh or tcsh:  source bin/activate.csh
# `deactivate` takes it back.

set _virtual_directory = {directory}
set _virtual_prompt = {prompt}

setenv _VIRTUAL_SCRIPT {find}
set _virtual_found = ( "`printenv _VIRTUAL_SCRIPT | sh -s $$`" )
if ( $#_virtual_found == 1 ) then
    if ( $_virtual_found[1]:q != "" ) set _virtual_directory = $_virtual_found[1]:q
endif
unset _virtual_found

if ( -f $_virtual_directory:q/pyvenv.cfg ) then
    if ( $?VIRTUAL_ENV && $?_OLD_VIRTUAL_PATH ) then
        deactivate
    endif
    if ( $?VIRTUAL_ENV ) then
        set _OLD_VIRTUAL_ENV = $VIRTUAL_ENV:q
    endif
    if ( $?VIRTUAL_ENV_PROMPT ) then
        set _OLD_VIRTUAL_ENV_PROMPT = $VIRTUAL_ENV_PROMPT:q
    endif
    if ( $_virtual_prompt:q == "" ) set _virtual_prompt = $_virtual_directory:t:q
    setenv VIRTUAL_ENV $_virtual_directory:q
    setenv VIRTUAL_ENV_PROMPT $_virtual_prompt:q

    if ( $?PYTHONHOME ) then
        set _OLD_VIRTUAL_PYTHONHOME = $PYTHONHOME:q
        unsetenv PYTHONHOME
    endif

    if ( $?prompt ) then
        set _virtual_prompt = ""
        if ( $?VIRTUAL_ENV_DISABLE_PROMPT ) then
            set _virtual_prompt = $VIRTUAL_ENV_DISABLE_PROMPT:q
        endif
        if ( $_virtual_prompt:q == "" ) then
            setenv _VIRTUAL_SCRIPT {escape}
            set _virtual_prompt = ( "`printenv _VIRTUAL_SCRIPT | sh -s $?tcsh`" )
            set _OLD_VIRTUAL_PROMPT = $prompt:q
            set prompt = "($_virtual_prompt) "$prompt:q
        endif
    endif

    if ( $?PATH ) then
        set _OLD_VIRTUAL_PATH = $PATH:q
        setenv PATH $VIRTUAL_ENV:q/bin:$PATH:q
    else
        setenv PATH $VIRTUAL_ENV:q/bin
    endif
    alias deactivate {deactivate}
    unsetenv _VIRTUAL_SCRIPT
    unset _virtual_directory _virtual_prompt
    rehash
else
    echo activate.csh: there is no environment at $_virtual_directory:q
    unsetenv _VIRTUAL_SCRIPT
    unset _virtual_directory _virtual_prompt
    false
endif
"""

_FISH = r"""# Activates this Python environment in fish:  source bin/activate.fish
# `deactivate` takes it back.

set -l directory {directory}
set -l prompt {prompt}

set -l self (status filename | string collect)
string match -q '/*' -- $self
or set self $PWD/$self
if builtin --names | string match -q path
    set self (path normalize -Z -- $self/../.. | string split0)
else
    set self (builtin realpath -s -- $self/../.. 2>/dev/null | string collect)
end
if test -f "$self/pyvenv.cfg"
    set directory $self
end

if test -f "$directory/pyvenv.cfg"
    # Whatever is active, of ours or not, is left first; its own function knows how.
    if set -q VIRTUAL_ENV; and functions -q deactivate
        deactivate
    end

    function deactivate -d 'Leave the Python environment'
        if set -q _OLD_VIRTUAL_PATH
            set -gx PATH $_OLD_VIRTUAL_PATH
            set -e _OLD_VIRTUAL_PATH
        else
            set -e PATH
        end
        if set -q _OLD_VIRTUAL_PYTHONHOME
            set -gx PYTHONHOME $_OLD_VIRTUAL_PYTHONHOME
            set -e _OLD_VIRTUAL_PYTHONHOME
        end
        if set -q _OLD_FISH_PROMPT_OVERRIDE
            set -e _OLD_FISH_PROMPT_OVERRIDE
            functions -e fish_prompt
            if functions -q _old_fish_prompt
                functions -c _old_fish_prompt fish_prompt
                functions -e _old_fish_prompt
            end
            functions -e _virtual_status
        end
        set -e VIRTUAL_ENV
        set -e VIRTUAL_ENV_PROMPT
        if set -q _OLD_VIRTUAL_ENV
            set -gx VIRTUAL_ENV $_OLD_VIRTUAL_ENV
            set -e _OLD_VIRTUAL_ENV
        end
        if set -q _OLD_VIRTUAL_ENV_PROMPT
            set -gx VIRTUAL_ENV_PROMPT $_OLD_VIRTUAL_ENV_PROMPT
            set -e _OLD_VIRTUAL_ENV_PROMPT
        end
        functions -e deactivate
    end

    # Where a shell was started from an activated one, there is something to come back to.
    for name in _OLD_VIRTUAL_PATH _OLD_VIRTUAL_PYTHONHOME _OLD_FISH_PROMPT_OVERRIDE \
            _OLD_VIRTUAL_ENV _OLD_VIRTUAL_ENV_PROMPT
        set -e $name
    end
    set -q VIRTUAL_ENV
    and set -g _OLD_VIRTUAL_ENV $VIRTUAL_ENV
    set -q VIRTUAL_ENV_PROMPT
    and set -g _OLD_VIRTUAL_ENV_PROMPT $VIRTUAL_ENV_PROMPT
    if test -z "$prompt"
        printf '%s' $directory | read -z -l -a -d / parts
        set prompt $parts[-1]
    end
    set -gx VIRTUAL_ENV $directory
    set -gx VIRTUAL_ENV_PROMPT $prompt

    set -q PATH
    and set -g _OLD_VIRTUAL_PATH $PATH
    set -gx PATH $VIRTUAL_ENV/bin $PATH

    if set -q PYTHONHOME
        set -g _OLD_VIRTUAL_PYTHONHOME $PYTHONHOME
        set -e PYTHONHOME
    end

    if test -z "$VIRTUAL_ENV_DISABLE_PROMPT"
        set -g _OLD_FISH_PROMPT_OVERRIDE $VIRTUAL_ENV
        functions -q fish_prompt
        and functions -c fish_prompt _old_fish_prompt
        function fish_prompt
            # The prompt that was there may show how the last command ended.
            set -l last $status
            printf '(%s) ' $VIRTUAL_ENV_PROMPT
            if functions -q _old_fish_prompt
                _virtual_status $last
                _old_fish_prompt
            end
        end
        function _virtual_status
            return $argv[1]
        end
    end
    true
else
    printf 'activate.fish: there is no environment at %s\n' $directory >&2
    false
end
"""

# In a block, so that no variable of it stays. Only what is absent, and not the empty text, removes a variable in
# every version of PowerShell.
_POWERSHELL = r"""# Activates this Python environment in PowerShell:  . bin/Activate.ps1
# `deactivate` takes it back.

& {{
    $directory = {directory}
    $shown = {prompt}

    if ($PSScriptRoot) {{
        $self = [IO.Path]::GetDirectoryName($PSScriptRoot)
        if ($self -and [IO.File]::Exists([IO.Path]::Combine($self, 'pyvenv.cfg'))) {{
            $directory = $self
        }}
    }}
    if (-not [IO.File]::Exists([IO.Path]::Combine($directory, 'pyvenv.cfg'))) {{
        throw "Activate.ps1: there is no environment at $directory"
    }}

    # Whatever is active, of ours or not, is left first; its own function knows how.
    if ($env:VIRTUAL_ENV -and (Test-Path -LiteralPath Function:deactivate)) {{
        deactivate
    }}

    function global:deactivate {{
        param([switch] $NonDestructive)
        foreach ($name in 'PATH', 'PYTHONHOME', 'ENV', 'ENV_PROMPT') {{
            $kept = "Env:_OLD_VIRTUAL_$name"
            $name = $name -replace '^ENV', 'VIRTUAL_ENV'
            if (Test-Path -LiteralPath $kept) {{
                Set-Item -LiteralPath "Env:$name" -Value (Get-Item -LiteralPath $kept).Value
                Remove-Item -LiteralPath $kept
            }} elseif (Test-Path -LiteralPath "Env:$name") {{
                Remove-Item -LiteralPath "Env:$name"
            }}
        }}
        if (Test-Path -LiteralPath Function:_OLD_VIRTUAL_PROMPT) {{
            $old = (Get-Item -LiteralPath Function:_OLD_VIRTUAL_PROMPT).ScriptBlock
            Set-Item -LiteralPath Function:global:prompt -Value $old
            Remove-Item -LiteralPath Function:_OLD_VIRTUAL_PROMPT
        }}
        if (-not $NonDestructive) {{
            Remove-Item -LiteralPath Function:deactivate
        }}
    }}

    if (-not $shown) {{
        $shown = [IO.Path]::GetFileName($directory)
    }}
    $env:_OLD_VIRTUAL_PATH = $env:PATH
    $env:_OLD_VIRTUAL_PYTHONHOME = $env:PYTHONHOME
    $env:_OLD_VIRTUAL_ENV = $env:VIRTUAL_ENV
    $env:_OLD_VIRTUAL_ENV_PROMPT = $env:VIRTUAL_ENV_PROMPT

    $env:VIRTUAL_ENV = $directory
    $env:VIRTUAL_ENV_PROMPT = $shown
    $env:PYTHONHOME = $null
    $bin = [IO.Path]::Combine($directory, 'bin')
    if ($env:PATH) {{
        $env:PATH = $bin + [IO.Path]::PathSeparator + $env:PATH
    }} else {{
        $env:PATH = $bin
    }}

    if (-not $env:VIRTUAL_ENV_DISABLE_PROMPT) {{
        $old = {{ '' }}
        if (Test-Path -LiteralPath Function:prompt) {{
            $old = (Get-Item -LiteralPath Function:prompt).ScriptBlock
        }}
        Set-Item -LiteralPath Function:global:_OLD_VIRTUAL_PROMPT -Value $old
        function global:prompt {{
            Write-Host -NoNewline -Object ('(' + $env:VIRTUAL_ENV_PROMPT + ') ')
            _OLD_VIRTUAL_PROMPT
        }}
    }}
}}
"""

# An overlay takes its changes of the environment back by itself when it is hidden.
_NU = r"""# Activates this Python environment in Nushell (0.101 or later):  overlay use bin/activate.nu
# `deactivate` takes it back.

const self = path self

export-env {{
    let found = ($self | path dirname | path dirname)
    let directory = if ($found | path join 'pyvenv.cfg' | path exists) {{ $found }} else {{ {directory} }}
    if not ($directory | path join 'pyvenv.cfg' | path exists) {{
        error make {{msg: $"activate.nu: there is no environment at ($directory)"}}
    }}
    let given = {prompt}
    let shown = if ($given | is-empty) {{ $directory | path basename }} else {{ $given }}

    # Another environment, or this one, may be active already, under this overlay's name.
    let old = if 'VIRTUAL_ENV' in $env {{ [($env.VIRTUAL_ENV | path join 'bin')] }} else {{ [] }}
    let rest = ($env.PATH? | default [] | where {{|each| $each not-in $old }})

    $env.VIRTUAL_ENV = $directory
    $env.VIRTUAL_ENV_PROMPT = $shown
    $env.PATH = ($rest | prepend ($directory | path join 'bin'))
    hide-env --ignore-errors PYTHONHOME

    if ($env.VIRTUAL_ENV_DISABLE_PROMPT? | is-empty) {{
        let inner = if '_OLD_VIRTUAL_PROMPT' in $env {{
            $env._OLD_VIRTUAL_PROMPT
        }} else if 'PROMPT_COMMAND' in $env {{
            $env.PROMPT_COMMAND
        }} else {{
            ''
        }}
        $env._OLD_VIRTUAL_PROMPT = $inner
        $env.PROMPT_COMMAND = {{||
            let text = if ($inner | describe) == 'closure' {{ do $inner }} else {{ $inner }}
            $"\(($env.VIRTUAL_ENV_PROMPT)\) ($text)"
        }}
    }}
}}

export alias deactivate = overlay hide activate
"""
