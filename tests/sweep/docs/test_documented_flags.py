"""Flags of documented commands are flags of the programs: also of commands that cannot run here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

import pytest
from coding_agent_cluster import build
from coding_agent_docs.blocks import SHELLS, blocks, script
from coding_agent_docs.paths import pages

from tests.chart.run import run
from tests.sweep.docs.test_documented_values import calls, place

# Time for the programs, which may have to be built first.
pytestmark = pytest.mark.timeout(1200)

PROGRAMS = {"helm": "helm", "kubectl": "kubectl", "docker": "docker-compose"}
"""Documented name to the part that answers for it."""
LONGER = {("create",), ("create", "secret"), ("rollout",), ("auth",)}
"""Words of kubectl behind which another word still belongs to the verb."""


def commands() -> Iterator[tuple[str, tuple[str, ...]]]:
    for page in pages():
        for block in blocks(page):
            if block.language in SHELLS:
                for line in script(block).replace("\\\n", " ").splitlines():
                    yield from ((place(block), words) for words in calls(line, (*PROGRAMS,)))


@cache
def help_of(program: str, *verbs: str) -> str:
    path = str(build.binaries([PROGRAMS[program]])[PROGRAMS[program]])
    shared = run(path, "options") if program == "kubectl" else run(path, "--help")
    return shared + run(path, *verbs, "--help")


def unknown_flags(words: tuple[str, ...]) -> list[str]:
    """The flags of a call that its program does not have; all of them where it has no such verb."""
    program, *rest = words
    if program == "docker":
        if rest[:1] != ["compose"]:
            return []
        del rest[0]
    verbs, flags = split(program, rest)
    try:
        text = help_of(program, *verbs)
    except AssertionError:
        return [*verbs, *flags]
    names = [flag.partition("=")[0] for flag in flags]
    return [name for name in names if not re.search(rf"(?<![-\w]){re.escape(name)}(?![-\w])", text)]


def split(program: str, words: list[str]) -> tuple[list[str], list[str]]:
    """The verbs of a call, and its flags; what `exec` runs in a container is none of its own."""
    verbs: list[str] = []
    flags: list[str] = []
    value = False
    for word in words:
        if word.startswith("-") and word != "-":
            flags.append(word)
            # Of docker compose before its verb: each of those that are documented has a value.
            value = program == "docker" and not verbs and "=" not in word
        elif value:
            value = False
        elif not verbs or (program == "kubectl" and tuple(verbs) in LONGER):
            verbs.append(word)
        elif verbs == ["exec"]:
            break
    return verbs, flags


def test_every_flag_is_known() -> None:
    found = [(where, words) for where, words in commands() if words[1:2] != ("agenttask",)]
    assert {words[0] for _, words in found} == set(PROGRAMS)
    wrong = {where: unknown for where, words in found if (unknown := unknown_flags(words))}
    assert wrong == {}


def test_the_check_sees_what_is_wrong() -> None:
    for line, unknown in {
        "kubectl get pods -n a --all-namespace": ["--all-namespace"],
        "kubectl gett pods -n a": ["gett", "-n"],
        "kubectl create job x --from=cronjob/y --form=z": ["--form"],
        "helm rollback a 1 --namespace b --reuse-value": ["--reuse-value"],
        "docker compose --profile polling up -d --biuld": ["--biuld"],
        "docker compose exec rabbitmq rabbitmqctl --quiet": [],
    }.items():
        [words] = calls(line, (*PROGRAMS,))
        assert unknown_flags(words) == unknown
