"""What the documentation says is what the code says."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import yaml
from coding_agent_core.settings.load import load_settings
from coding_agent_core.task.reasons import REASONS, PodReason, ReasonClass
from coding_agent_docs import write
from coding_agent_docs.blocks import SHELLS, Block, blocks, script
from coding_agent_docs.links import anchors, dead_links
from coding_agent_docs.paths import DOCS, ROOT, pages
from coding_agent_docs.settings_reference import undocumented
from kubectl_agenttask.__main__ import parser as plugin

import main

PINNED = (
    ("tests/fixtures/*.py", r'^\w*(?:PACKAGE|OFFICIAL|ANSWERS|MODULE), \w+ = "[^"]+", "v?(.+)"'),
    ("consumer/runners.Dockerfile", r"^ARG \w+_VERSION=(\S+)$"),
    ("requirements/consumer.txt", r"^(?:anthropic|openai|google-genai|google-auth|pydantic-ai-slim)==(\S+)"),
    (
        "dev/testbed/go/*/go.mod",
        r"^(?:\s|require )(?:k8s.io/kubernetes|\S+/(?:kueue|contour|gofakes3|compose/v5|argo-cd/v3"
        r"|(?:helm|source)-controller)) v(\S+)",
    ),
)
"""Where the versions are pinned that docs/versions.md names."""
ALL = [block for page in pages() for block in blocks(page)]
SHELL = [block for block in ALL if block.language in SHELLS]


def place(block: Block) -> str:
    return f"{block.page.relative_to(ROOT)}:{block.line}"


def test_the_reference_pages_say_what_the_code_says() -> None:
    for page, made in write.pages().items():
        assert page.read_text() == made, f"{page}: run `python -m coding_agent_docs reference`"


def test_every_setting_is_documented_in_its_type() -> None:
    assert undocumented() == []


def test_shell_blocks_are_shell(tmp_path: Path) -> None:
    for block in SHELL:
        (tmp_path / place(block).replace("/", "+")).write_text(script(block))
    each = 'for file in *; do bash -n "$file" || exit; done'
    done = subprocess.run(["bash", "-c", each], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def commands(*names: str) -> Iterator[tuple[str, list[str]]]:
    """Places of the documented commands that begin with these words, with the words behind them."""
    for block in SHELL:
        for line in script(block).replace("\\\n", " ").splitlines():
            try:
                words = shlex.split(line, comments=True)
            except ValueError:
                continue
            for at in range(len(words)):
                if tuple(Path(word).name for word in words[at : at + len(names)]) == names:
                    yield place(block), words[at + len(names) :]


def test_documented_command_lines_are_taken() -> None:
    for where, words in commands("python", "main.py"):
        print(where)  # a parser ends the program: what was printed last says where
        arguments = [word for word in words if not word.startswith(("|", ">", "&")) or word == "--help"]
        if "--help" not in arguments:
            main._parser(arguments).parse_args(arguments)
    for where, words in commands("kubectl", "agenttask"):
        print(where)
        plugin().parse_args(list(takewhile(lambda word: word not in ("||", "&&", "|", ">"), words)))


def test_documented_make_targets() -> None:
    known = set()
    for makefile in (ROOT / "Makefile", *ROOT.glob("dev/*/*.mk")):
        known |= set(re.findall(r"^([a-z][a-z0-9-]*):", makefile.read_text(), re.MULTILINE))
    for where, words in commands("make"):
        targets = [word for word in words if re.fullmatch(r"[a-z][a-z0-9-]*", word)]
        assert set(targets[:1]) <= known, where


def test_documented_services_are_of_the_compose_file() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    services = set(compose["services"])
    profiles = {name for service in compose["services"].values() for name in service.get("profiles", [])}
    for where, arguments in commands("docker", "compose"):
        words = takewhile(lambda word: word not in ("&&", "#", "|"), arguments)
        for word in words:
            if word == "--profile":
                assert next(words) in profiles, where
            elif word == "-p":
                next(words)
            elif word in ("exec", "logs", "stop"):
                assert next(words) in services, where
                break
            elif word == "up":
                assert {entry for entry in words if not entry.startswith("-")} <= services, where


def test_documented_settings_are_taken(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    for block in ALL:
        if block.word == "config":
            print(place(block))
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


def test_the_table_of_reasons_says_which_are_retried() -> None:
    rows = re.findall(
        r"^\| (`\w+`(?:, `\w+`)*) \| ([^|]+) \|", (DOCS / "troubleshooting.md").read_text(), re.MULTILINE
    )
    said = {reason: word for reasons, word in rows for reason in re.findall(r"`(\w+)`", reasons)}
    words = {True: "yes", False: "yes, not counted"}
    for reason, facts in REASONS.items():
        kind = facts.outcome_class
        if kind is ReasonClass.SUCCEEDED or facts.anchor != "failed" or reason == PodReason.SUSPENDED:
            continue
        assert said[reason] == (words[kind.counted] if kind.retried else "no"), reason


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


def test_what_was_tried_is_what_the_tests_use() -> None:
    text = (DOCS / "versions.md").read_text().split("\n## Tried with\n")[1]
    named = set(re.findall(r"`(tests/[\w/.]+)`", text))
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []
    for files, pattern in PINNED:
        sources = "\n".join(file.read_text() for file in ROOT.glob(files))
        versions = re.findall(pattern, sources, re.MULTILINE)
        assert len(versions) >= 4, files
        assert [version for version in versions if version not in text] == [], files


def test_no_link_of_a_page_is_dead() -> None:
    assert {str(page): dead for page in pages() if (dead := list(dead_links(page)))} == {}


def test_what_is_dead(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# There\n## It is `x.y`, too\n## There\n```\n# not a heading\n```\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](there.md) [b](there.md#there-1) [c](there.md#it-is-xy-too) [d](https://example.com/x)\n"
        "`[e](no.md)`\n"
        "[f](gone.md) [g](there.md#gone) ![h](gone.png) [i](#gone)\n"
    )
    assert list(dead_links(page)) == ["gone.md", "there.md#gone", "gone.png", "#gone"]
    assert anchors(tmp_path / "there.md") == {"there", "there-1", "it-is-xy-too"}
