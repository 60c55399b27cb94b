"""`kubectl_complete-agenttask`: prints what can follow on the command line, for kubectl's own completion.

kubectl runs this program with the words after `kubectl agenttask`; the last one is being written, and may be
empty. It prints a candidate on each line, with its description after a tab, and then a directive for the
shell (https://pkg.go.dev/k8s.io/kubectl/pkg/cmd/plugin). So completion works in every shell in which
kubectl's own completion works.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from argparse import Action, ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from argcomplete.completers import BaseCompleter
from argcomplete.finders import CompletionFinder
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import FACTS, Platform
from coding_agent_core.task.reasons import REASONS

from kubectl_agenttask import plain
from kubectl_agenttask.__main__ import parser

_FILES, _NO_FILES = ":0", ":4"
"""`ShellCompDirectiveDefault`, with which the shell offers files if there is no candidate, and
`ShellCompDirectiveNoFileComp`: https://pkg.go.dev/github.com/spf13/cobra#ShellCompDirective"""
_MOST = 500
"""Maximum number of tasks that are offered: more cannot be read, and each page costs a request."""
_TIMEOUT_S = 5
_OWN_NAMESPACE = ("config", "view", "--minify", "-o", "jsonpath={..namespace}")
API = "/apis/coding-agent.dev/v1alpha1/namespaces"
NOT_ENDED = "status.phase!=Succeeded,status.phase!=Failed,status.phase!=Cancelled"
"""These repeat `coding_agent_core.task.agenttask`, whose import takes too long here; a test compares them."""
_ACTIVE = ("cancel", "suspend", "resume", "wait")
"""The commands for tasks that have not ended."""


class _Finder(CompletionFinder):
    """Finds candidates without quoting them, because the shell's part of the completion does that."""

    def quote_completions(
        self, completions: list[str], cword_prequote: str, last_wordbreak_pos: int | None
    ) -> list[str]:
        return completions


def run() -> None:
    """Run the console script."""
    sys.stdout.write("".join(f"{line}\n" for line in candidates(sys.argv[1:])))


def candidates(words: Sequence[str]) -> list[str]:
    """Return the lines to print for the words of a command line, of which the last is being written."""
    *before, last = words or [""]
    start = f"{shlex.join(before)} " if before else ""
    values = _Values()
    finder = _Finder(parser(), always_complete_options=False, append_space=False, default_completer=values)
    found: list[str] = []
    while (line := finder.rl_complete(start + last, len(found))) is not None:
        found.append(line.removeprefix(start))
    texts = finder.get_display_completions()
    return [
        *(f"{one}\t{texts[one]}" if texts.get(one) else one for one in found),
        _FILES if values.is_file else _NO_FILES,
    ]


class _Values(BaseCompleter):
    """Completes the arguments whose values are in the cluster.

    Attributes:
        is_file: whether the value that is being written is the name of a file, which the shell completes.
    """

    is_file = False

    def __call__(
        self, *, prefix: str, action: Action, parser: ArgumentParser, parsed_args: Namespace
    ) -> Mapping[str, str]:
        """Return the values that begin with the prefix or may do so, each with a description."""
        self.is_file = action.metavar == "FILE"
        if action.dest in ("name", "url"):
            return _names(prefix, parsed_args, active=parser.prog.rsplit(" ", 1)[-1] in _ACTIVE)
        if action.dest == "repo":
            return {task.repository: "" for task in _tasks(parsed_args) if task.repository}
        if action.dest == "reason":
            return {str(reason): facts.message for reason, facts in REASONS.items()}
        return {}


def _names(prefix: str, arguments: Namespace, *, active: bool) -> Mapping[str, str]:
    """Return the names of tasks or, if a person has begun to write an item, the items that have tasks."""
    names: dict[str, str] = {}
    for task in _tasks(arguments, active=active):
        if "/" in prefix and task.item:
            names[task.item] = task.phase
        else:
            names[task.name] = f"{task.item} {task.phase}".strip()
    return names


@dataclass(frozen=True)
class _Task:
    """The fields of a task that a completion shows; `item` and `repository` are empty if unreadable."""

    name: str
    phase: str
    repository: str
    item: str

    @staticmethod
    def of(body: Mapping[str, Any]) -> _Task:
        """Read the body of an AgentTask, without the typed class, whose import takes too long here."""
        source = body.get("spec", {}).get("source", {})
        repository, platform = plain(source.get("repository", "")), source.get("platform")
        known = repository and platform in list(Platform)
        is_change = source.get("kind") == ItemKind.CHANGE
        mark = FACTS[Platform(platform)].change_mark if known and is_change else "#"
        return _Task(
            name=plain(body["metadata"]["name"]),
            phase=plain(body.get("status", {}).get("phase") or "New"),
            repository=repository if known else "",
            item=f"{repository}{mark}{plain(source.get('number', ''))}" if known else "",
        )


def _tasks(arguments: Namespace, *, active: bool = False) -> list[_Task]:
    """Return tasks of the namespace that the command line names; none if they cannot be read.

    kubectl reads them, because it takes a fifth of the CPU time of importing our client.
    """
    where = [
        f"--{name}={value}"
        for name, value in (("kubeconfig", arguments.kubeconfig), ("context", arguments.context))
        if value
    ]
    try:
        namespace = arguments.namespace or _kubectl(*where, *_OWN_NAMESPACE).strip() or "default"
        query = {"limit": _MOST} | ({"fieldSelector": NOT_ENDED} if active else {})
        listed = _kubectl(*where, "get", "--raw", f"{API}/{quote(namespace)}/agenttasks?{urlencode(query)}")
        return [_Task.of(body) for body in json.loads(listed)["items"]]
    except (OSError, subprocess.SubprocessError, ValueError, LookupError):
        return []  # a message in the middle of a command line would only disturb


def _kubectl(*arguments: str) -> str:
    """Return what kubectl prints.

    Raises:
        OSError: there is no kubectl.
        subprocess.SubprocessError: it failed, or took longer than a person waits for a completion.
    """
    command = ["kubectl", f"--request-timeout={_TIMEOUT_S}s", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=2 * _TIMEOUT_S, check=True, stdin=subprocess.DEVNULL
    ).stdout
