"""Shell completion: what a shell is told when a user presses the tab key."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from adcgan.cli import app

COMMANDS = {"demo", "fit", "score", "evaluate", "benchmark", "tables", "report", "data"}
# As the installed command: its name decides the variable that a shell asks by.
CODE = "import sys; sys.argv[0] = 'adcgan'; from adcgan.cli import main; main()"
PROGRAM = [sys.executable, "-c", CODE]


def answers(shell: str, words: str) -> str:
    """Return what the program answers to `shell` at the end of `words`."""
    asked = {
        "_ADCGAN_COMPLETE": f"complete_{shell}",
        "_TYPER_COMPLETE_ARGS": words,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
    }
    done = subprocess.run(
        PROGRAM, env=os.environ | asked, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr == ""
    return done.stdout


def test_bash_is_told_the_commands_and_the_options_of_each() -> None:
    assert set(answers("bash", "adcgan ").split()) >= COMMANDS
    assert answers("bash", "adcgan ev").split() == ["evaluate"]
    assert answers("bash", "adcgan data ").split() == ["list", "prepare"]
    assert {"--set", "--seed"} <= set(answers("bash", "adcgan fit --se").split())


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_are_told_too(shell: str) -> None:
    assert "evaluate" in answers(shell, "adcgan ev")


def test_completing_loads_no_torch() -> None:
    words = {"_ADCGAN_COMPLETE": "complete_bash", "COMP_WORDS": "adcgan f", "COMP_CWORD": "1"}
    code = (
        "import sys; sys.argv = ['adcgan']; import adcgan.cli as c\n"
        "try:\n    c.main()\nexcept SystemExit:\n    pass\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | words,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.split() == ["fit", "False"]


def test_help_names_the_installing_option_alone() -> None:
    shown = CliRunner().invoke(app, ["--help"]).stdout
    assert "--install-completion" in shown
    assert "--show-completion" not in shown


def test_it_installs_itself_for_the_shell_it_is_run_in(tmp_path: Path) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not installed")
    # Not the shell's last command, which it would turn into.
    command = shlex.join([*PROGRAM, "--install-completion"]) + " && echo done"
    done = subprocess.run(
        [bash, "-c", command],
        env=os.environ | {"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "bash completion installed" in done.stdout
    (script,) = tmp_path.rglob("adcgan.sh")
    assert "complete -o default -F _adcgan_completion adcgan" in script.read_text()
    assert str(script) in (tmp_path / ".bashrc").read_text()
