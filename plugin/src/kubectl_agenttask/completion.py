"""`kubectl_complete-agenttask`: prints what can follow on the command line, for kubectl's own completion.

kubectl runs this program with the words after `kubectl agenttask`; the last one is being written, and may be
empty. It prints a candidate on each line, with its description after a tab, and then a directive for the
shell (https://pkg.go.dev/k8s.io/kubectl/pkg/cmd/plugin). So completion works in every shell in which
kubectl's own completion works.
"""

from __future__ import annotations

import shlex
import sys
from argparse import Action, ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from itertools import islice

from argcomplete.completers import BaseCompleter
from argcomplete.finders import CompletionFinder
from coding_agent_core.agenttask import AgentTask
from coding_agent_core.reasons import REASONS

from kubectl_agenttask import PluginError, tables
from kubectl_agenttask.__main__ import parser
from kubectl_agenttask.cluster_client import ClusterAccess

_FILES, _NO_FILES = ":0", ":4"
"""`ShellCompDirectiveDefault`, with which the shell offers files if there is no candidate, and
`ShellCompDirectiveNoFileComp`: https://pkg.go.dev/github.com/spf13/cobra#ShellCompDirective"""
_MOST = 500
"""Maximum number of tasks that are offered: more cannot be read, and each page costs a request."""
_ACTIVE = ("cancel", "suspend", "resume", "wait")
"""The commands for tasks that have not ended."""


class _Finder(CompletionFinder):
    """Finds candidates. The shell's part of the completion quotes them, not argcomplete."""

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
            return {
                tables.plain(task.spec.source.repository): "" for task in _tasks(parsed_args) if task.readable
            }
        if action.dest == "reason":
            return {str(reason): facts.message for reason, facts in REASONS.items()}
        return {}


def _names(prefix: str, arguments: Namespace, *, active: bool) -> Mapping[str, str]:
    """Return the names of tasks or, if a person has begun to write an item, the items that have tasks."""
    found: dict[str, str] = {}
    for task in _tasks(arguments, active=active):
        item = tables.plain(task.spec.item.display) if task.readable else ""
        phase = tables.phase(task.body)
        if "/" in prefix and item:
            found[item] = phase
        else:
            found[task.name] = f"{item} {phase}".strip()
    return found


def _tasks(arguments: Namespace, *, active: bool = False) -> list[AgentTask]:
    """Return tasks of the namespace that the command line names; none if they cannot be read."""
    try:
        cluster = ClusterAccess.connect(arguments.kubeconfig, arguments.context, arguments.namespace)
        return list(islice(cluster.tasks(everywhere=False, active=active, repository=None), _MOST))
    except PluginError:
        return []  # a message in the middle of a command line would only disturb
