"""What the documentation says is what the code says."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import yaml
from coding_agent_core.reasons import REASONS
from coding_agent_core.settings.load import load_settings
from coding_agent_docs import write
from coding_agent_docs.blocks import SHELLS, Block, blocks, script
from coding_agent_docs.paths import DOCS, ROOT, pages
from coding_agent_docs.settings_reference import undocumented
from kubectl_agenttask.__main__ import parser as plugin

import main

ALL = [block for page in pages() for block in blocks(page)]
SHELL = [block for block in ALL if block.language in SHELLS]


def place(block: Block) -> str:
    return f"{block.page.relative_to(ROOT)}:{block.line}"


def test_the_reference_pages_say_what_the_code_says() -> None:
    for page, made in write.pages().items():
        assert page.read_text() == made, f"{page}: run `python -m coding_agent_docs reference`"


def test_every_setting_is_documented_in_its_type() -> None:
    assert undocumented() == []


@pytest.mark.parametrize("block", SHELL, ids=place)
def test_shell_blocks_are_shell(block: Block) -> None:
    bash = ["bash", "-n"]
    done = subprocess.run(bash, input=script(block), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def commands(*names: str) -> list[Any]:
    """The documented commands that begin with these words, with the words behind them."""
    found = []
    for block in SHELL:
        for line in script(block).replace("\\\n", " ").splitlines():
            try:
                words = shlex.split(line, comments=True)
            except ValueError:
                continue
            for at in range(len(words)):
                if tuple(Path(word).name for word in words[at : at + len(names)]) == names:
                    found.append(pytest.param(words[at + len(names) :], id=f"{place(block)}-{at}"))
    return found


@pytest.mark.parametrize("arguments", commands("python", "main.py"))
def test_documented_command_lines_of_main(arguments: list[str]) -> None:
    arguments = [
        argument for argument in arguments if not argument.startswith(("|", ">", "&")) or argument == "--help"
    ]
    if "--help" not in arguments:
        main._parser().parse_args(arguments)


@pytest.mark.parametrize("arguments", commands("kubectl", "agenttask"))
def test_documented_command_lines_of_the_plugin(arguments: list[str]) -> None:
    plugin().parse_args(arguments)


@pytest.mark.parametrize("arguments", commands("make"))
def test_documented_make_targets(arguments: list[str]) -> None:
    known = set()
    for makefile in (ROOT / "Makefile", *ROOT.glob("dev/*/*.mk")):
        known |= set(re.findall(r"^([a-z][a-z0-9-]*):", makefile.read_text(), re.MULTILINE))
    targets = [word for word in arguments if re.fullmatch(r"[a-z][a-z0-9-]*", word)]
    assert set(targets[:1]) <= known


@pytest.mark.parametrize("arguments", commands("docker", "compose"))
def test_documented_services_are_of_the_compose_file(arguments: list[str]) -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    profiles = {name for service in compose["services"].values() for name in service.get("profiles", [])}
    words = iter(arguments)
    for word in words:
        if word in ("&&", "#", "|"):
            break
        if word == "--profile":
            assert next(words) in profiles
        elif word == "-p":
            next(words)
        elif word in ("exec", "logs", "stop"):
            assert next(words) in compose["services"]
            break
        elif word == "up":
            assert {entry for entry in _until_next_command(words) if not entry.startswith("-")} <= set(
                compose["services"]
            )


def _until_next_command(words: Iterator[str]) -> Iterator[str]:
    return takewhile(lambda word: word not in ("&&", "#", "|"), words)


@pytest.mark.parametrize("block", [b for b in ALL if b.word == "config"], ids=place)
def test_documented_settings_are_taken(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(block.text)
    load_settings(file, {})


def test_every_reason_has_its_remedy() -> None:
    text = (DOCS / "troubleshooting.md").read_text()
    sections = {
        title.lower().replace(" ", "-").replace(",", ""): body
        for title, body in re.findall(r"^## (.+)\n((?:(?!## ).*\n)*)", text, re.MULTILINE)
    }
    for reason, facts in REASONS.items():
        assert facts.anchor in sections, reason
        assert f"`{reason}`" in sections[facts.anchor], f"{reason} is not in #{facts.anchor}"


def test_every_alert_has_its_runbook_entry_and_no_entry_is_of_an_alert_that_is_gone() -> None:
    rules = (ROOT / "charts" / "coding-agent" / "files" / "alerts.yaml").read_text()
    alerts = re.findall(r"alert: *(\w+)", rules)
    entries = re.findall(r"^## (\w+)$", (DOCS / "operations" / "runbooks.md").read_text(), re.MULTILINE)
    assert sorted(alerts) == sorted(entries)


def test_what_is_to_be_looked_for_in_logs_is_logged() -> None:
    source = "".join(file.read_text() for file in ROOT.glob("*/src/**/*.py")).lower()
    wanted = {
        pattern
        for block in SHELL
        for line in script(block).replace("\\\n", " ").splitlines()
        if "kubectl logs" in line
        for pattern in re.findall(r"grep (?:-i )?'([A-Za-z ]+)'", line)
    }
    assert wanted
    assert [entry for entry in sorted(wanted) if entry.lower() not in source] == []


def test_no_example_replaces_the_whole_system_prompt_with_a_sentence() -> None:
    files = [
        *DOCS.glob("*.md"),
        *ROOT.glob("charts/coding-agent/**/*.yaml"),
        *ROOT.glob("dev/compose/**/*.yaml"),
    ]
    taught = [str(file) for file in files if re.search(r"system_prompt: *\S", file.read_text())]
    assert taught == []


def test_pictures_are_light() -> None:
    heavy = [str(file) for file in (DOCS / "images").iterdir() if file.stat().st_size > 200_000]
    assert heavy == []
