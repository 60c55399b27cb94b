"""Runs the blocks of a page one after the other, as a person does who types them into one shell."""

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from coding_agent_docs.blocks import Block, matches, script

from tests.fixtures.system import over

ROOT = Path(__file__).resolve().parents[3]


@dataclass
class Shell:
    """A setting in which blocks run; directory and exported variables live on from block to block."""

    folder: Path
    here: Mapping[str, str] = field(default_factory=dict)
    shown: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    directory: Path = ROOT
    seconds: float = 600
    printed: str = ""

    def play(self, blocks: list[Block], *settings: str) -> int:
        """Run the page's blocks of these settings, hold what they print to what the page says; how many."""
        ran = 0
        last = ""
        for block in blocks:
            match block.word:
                case "file":
                    (self.folder / block.what).write_text(self._here(block.text), encoding="utf-8")
                case "add":
                    self._add(block)
                case "run":
                    last = block.what
                    if last in settings:
                        self._run(block)
                        ran += 1
                case "prints" if last in settings:
                    if not matches(block.text, self.printed):
                        pytest.fail(
                            f"{_place(block)} does not show what is printed now:\n{block.text}\n"
                            f"--- printed:\n{self.printed}"
                        )
        return ran

    def _add(self, block: Block) -> None:
        """As a person who edits the file: what is said wins over what is there."""
        file = self.folder / block.what
        if not file.exists():
            return  # a page's other setting: without a release
        whole = over(yaml.safe_load(file.read_text(encoding="utf-8")), yaml.safe_load(block.text))
        file.write_text(yaml.safe_dump(whole), encoding="utf-8")

    def _run(self, block: Block) -> None:
        state = self.folder / "shell-state"
        commands = [
            "set -euo pipefail",
            f"source {shlex.quote(str(state))}"
            if state.exists()
            else f"cd {shlex.quote(str(self.directory))}",
            f'trap \'{{ export -p; echo cd "$(printf %q "$PWD")"; }} > {shlex.quote(str(state))}\' EXIT',
            self._here(script(block)),
        ]
        done = subprocess.run(
            ["bash", "-c", "\n".join(commands)],
            env=self._environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=self.seconds,
            check=False,
        )
        self.printed = done.stdout
        for real, documented in self.shown.items():
            self.printed = self.printed.replace(real, documented)
        if done.returncode != block.status:
            pytest.fail(f"{_place(block)} ends with {done.returncode}:\n{block.text}\n{self.printed}")

    def _here(self, text: str) -> str:
        for documented, real in self.here.items():
            text = text.replace(documented, real)
        return text

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": f"{self.folder}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "TERM": "dumb",
            "COLUMNS": "110",
            **{
                name: os.environ[name]
                for name in ("XDG_CACHE_HOME", "CODING_AGENT_CACHE")
                if name in os.environ
            },
            **self.environment,
        }


def _place(block: Block) -> str:
    return f"{block.page}, line {block.line}:"
