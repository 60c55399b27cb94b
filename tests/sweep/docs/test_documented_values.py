"""The documented values are rendered by helm, and the documented commands name what is rendered."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from coding_agent_docs.blocks import SHELLS, Block, blocks, script
from coding_agent_docs.paths import DOCS, ROOT, pages

from tests.chart.helm import render

# Time for helm, which may have to be built first.
pytestmark = pytest.mark.timeout(900)

BASE = next(block.text for block in blocks(DOCS / "install.md") if block.what == "my-values.yaml")
VALUES = [
    block
    for page in pages()
    for block in blocks(page)
    if block.word in ("values", "add") or block.what.endswith("values.yaml")
]
KINDS = {
    "deploy": "Deployment",
    "deployment": "Deployment",
    "cronjob": "CronJob",
    "service": "Service",
    "configmap": "ConfigMap",
    "secret": "Secret",
    "hpa": "HorizontalPodAutoscaler",
}


def place(block: Block) -> str:
    return f"{block.page.relative_to(ROOT)}:{block.line}"


@pytest.mark.parametrize("block", VALUES, ids=place)
def test_documented_values_are_rendered(block: Block, tmp_path: Path) -> None:
    files = [tmp_path / "my-values.yaml", tmp_path / "more.yaml"]
    files[0].write_text(BASE)
    files[1].write_text(block.text)
    alone = block.word == "file"
    assert render(*(files[1:] if alone else files), namespace="coding-agent")


@dataclass(frozen=True)
class Command:
    """A documented call of helm or kubectl.

    Attributes:
        mention: it stands in a sentence, where names may be left out.
    """

    where: str
    words: tuple[str, ...]
    mention: bool = False

    @property
    def namespace(self) -> str | None:
        """That it names."""
        for number, word in enumerate(self.words):
            if word in ("-n", "--namespace"):
                return self.words[number + 1]
            if word in ("-A", "--all-namespaces"):
                return "*"
        return None


def commands() -> Iterator[Command]:
    """In blocks and in sentences."""
    for page in pages():
        for block in blocks(page):
            if block.language in SHELLS:
                for line in script(block).replace("\\\n", " ").splitlines():
                    for words in calls(line):
                        yield Command(place(block), words)
        text = re.sub(r"^\s*```.*?^\s*```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        for found in re.findall(r"`((?:kubectl|helm)\s[^`]+)`", text):
            for words in calls(found):
                yield Command(f"{page.relative_to(ROOT)}: {found}", words, mention=True)


def calls(line: str, programs: tuple[str, ...] = ("helm", "kubectl")) -> Iterator[tuple[str, ...]]:
    """The calls of these programs in a line of shell, each up to the next `|`, `&&`, `;` or `>`."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError:
        return
    call: list[str] = []
    for word in [*words, "&&"]:
        if word in ("|", "&&", "||", ";", ">"):
            if call and call[0] in programs:
                yield tuple(call)
            call = []
        else:
            call.append(word)


ALL = list(commands())


def named(words: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Kind and name of the objects that a call of kubectl names: `deploy/x`, `secret x`."""
    for word, after in zip(words, (*words[1:], ""), strict=True):
        kind, slash, name = word.removeprefix("--from=").partition("/")
        if slash and kind in KINDS:
            yield KINDS[kind], name
        elif word in KINDS and re.fullmatch(r"[a-z][-a-z0-9]*", after):
            yield KINDS[word], after


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The release of docs/install.md with all that pages turn on: the poll of both forges."""
    file = tmp_path_factory.mktemp("values") / "my-values.yaml"
    file.write_text(BASE)
    more = {
        "polling": {"enabled": True},
        "secrets": {"gitlab": {"existingSecret": "gitlab-token"}},
        "config": {"gitlab": {"group_id": "acme"}},
    }
    return render(file, values=more, namespace="coding-agent")


def test_what_commands_name_is_there(rendered: list[dict[str, Any]]) -> None:
    there = {(entry["kind"], entry["metadata"]["name"]) for entry in rendered}
    # What people make before, by the same pages.
    made = set()
    for command in ALL:
        if command.words[:2] == ("kubectl", "create") and command.words[2] in KINDS:
            made.add((KINDS[command.words[2]], next(w for w in command.words[3:] if w != "generic")))
    wanted = {
        (kind, name): command.where
        for command in ALL
        if command.words[0] == "kubectl" and command.namespace == "coding-agent"
        for kind, name in named(command.words[1:])
        if command.words[1] != "create" or command.words[2] == "job"
    }
    assert len(wanted) > 5
    assert {where for what, where in wanted.items() if what not in there | made} == set()


def test_the_checks_see_what_is_wrong() -> None:
    [rollback] = calls("helm rollback coding-agent")
    assert Command("", rollback).namespace is None
    assert [*calls("kubectl get crd x | tail && helm test a -n b")] == [
        ("kubectl", "get", "crd", "x"),
        ("helm", "test", "a", "-n", "b"),
    ]
    assert [*named(("create", "job", "x", "--from=cronjob/a-poller"))] == [("CronJob", "a-poller")]
    assert yaml.safe_load(BASE)["config"]["github"]["owner"]
