"""The command line `kubectl agenttask COMMAND`; `ExitStatus` says how a command can end."""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

from coding_agent_core.platforms.registry import FACTS, Platform
from coding_agent_core.task.runners import RunnerName

from kubectl_agenttask import ExitStatus, PluginError
from kubectl_agenttask.argument_types import (
    FORMS,
    OBJECTS,
    Format,
    between,
    budget,
    day,
    duration,
    positive,
    priority,
    reason,
    repository,
)

if TYPE_CHECKING:  # imported when a command runs: --help and the shell's completion must be quick
    from kubectl_agenttask.session import Session

    Command = Callable[[Session, argparse.Namespace], ExitStatus | None]

RELEASE = "coding-agent"
"""The release and the namespace of the documents."""
_EXAMPLES = f"""examples:
  kubectl agenttask init --platform github --repo octo/demo
  kubectl agenttask list --active --watch
  kubectl agenttask logs -f octo/demo#7
  kubectl agenttask run https://github.com/octo/demo/issues/7 --wait --timeout 2h
  kubectl agenttask retry --failed --reason ModelUnavailable --since 6h
  kubectl agenttask hosts registry.example.com/team/toolchain:1
  kubectl agenttask run https://gitlab.com/group/project/-/issues/7 --project-id 4242

NAME is {FORMS}. An item stands for its newest run.
"""


def run() -> None:
    """Run the console script."""
    gc.freeze()  # otherwise Python would search all imported objects at its end: a quarter of the whole time
    sys.exit(main())


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    arguments = parser().parse_args(argv)
    # Each takes longer to import than the command line takes to be read.
    from kubectl_agenttask.cluster_client import ClusterAccess  # noqa: PLC0415
    from kubectl_agenttask.session import Session  # noqa: PLC0415
    from kubectl_agenttask.tables import console  # noqa: PLC0415

    notes = console(sys.stderr)
    try:
        namespace = arguments.namespace or getattr(arguments, "default_namespace", None)
        cluster = ClusterAccess.connect(arguments.kubeconfig, arguments.context, namespace)
        session = Session(
            cluster, console(sys.stdout), notes, sys.stdout.buffer, clock=lambda: datetime.now(UTC)
        )
        status: ExitStatus | None = arguments.command(session, arguments)
    except PluginError as error:
        notes.print(f"error: {error}", style="red", soft_wrap=True)
        return error.status
    except (KeyboardInterrupt, EOFError):  # Ctrl-C, or Ctrl-D as the answer to a question
        return 130
    except BrokenPipeError:
        # Nobody reads the rest, as in `… | head`. So Python must not try to flush at its end either.
        sys.stdout = None
        return 141
    return status or ExitStatus.DONE


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    where = _where()
    top = argparse.ArgumentParser(
        prog="kubectl agenttask",
        description="Tasks of the coding agent.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=version("kubectl-agenttask"))
    subcommands = top.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Command, text: str, *, named: bool = True) -> argparse.ArgumentParser:
        one = subcommands.add_parser(name, help=text, description=text, parents=[where])
        one.set_defaults(command=command)
        if named:
            one.add_argument("name", metavar="NAME", help=FORMS)
        return one

    _add_list(add)
    _add_spend(add)
    showing = add(
        "describe", _later("commands.describe"), "show a task with its conditions, attempts and events"
    )
    _add_output(showing, *OBJECTS)
    _add_logs(add("logs", _later("commands.logs"), "show the log of an attempt", named=False))
    waits = add(
        "wait", _later("waiting.wait"), "wait until a task has ended; the exit status says how it ended"
    )
    _add_timeout(waits)
    _add_output(waits, *OBJECTS)
    _add_many(add)
    for name, command, text in (
        ("suspend", _later("commands.suspend"), "suspend a task until it is resumed"),
        ("resume", _later("commands.resume"), "resume a suspended task"),
    ):
        _add_output(add(name, command, text), *OBJECTS)
    _add_open(add("open", _later("commands.open_item"), "open the item of a task in the browser"))
    _add_run(add("run", _later("commands.run"), "start a task for an item, without a label", named=False))
    _add_hosts(
        add(
            "hosts",
            _later("commands.hosts"),
            "print the hosts that an image's package managers use",
            named=False,
        )
    )
    _add_init(add)
    showing = add(
        "version", _later("versions.show_versions"), "show the versions of plugin and release", named=False
    )
    _add_output(showing, Format.JSON, Format.YAML)
    _add_doctor(
        add("doctor", _later("doctor.doctor"), "check an installation, and say what to change", named=False)
    )
    return top


def _later(name: str) -> Command:
    """Return a command, named by its module and function, whose module is imported only when it runs."""
    module, _, function = name.partition(".")

    def run(session: Session, arguments: argparse.Namespace) -> ExitStatus | None:
        command: Command = getattr(import_module(f"kubectl_agenttask.{module}"), function)
        return command(session, arguments)

    return run


def _add_output(one: argparse.ArgumentParser, *formats: Format) -> None:
    one.add_argument(
        "-o", "--output", type=Format, choices=formats, metavar="FORMAT", help=f"print {', '.join(formats)}"
    )


def _add_timeout(one: argparse.ArgumentParser) -> None:
    one.add_argument(
        "--timeout",
        type=duration,
        metavar="TIME",
        help="how long to wait, e.g. 90s, 30m or 2h (default: until the task has ended)",
    )


def _add_list(add: Callable[..., argparse.ArgumentParser]) -> None:
    command = add("list", _later("commands.list_tasks"), "list tasks, the newest last", named=False)
    command.add_argument(
        "name", nargs="?", metavar="NAME", help=f"list only this task, or the runs of this item: {FORMS}"
    )
    command.add_argument("-A", "--all-namespaces", action="store_true", help="list tasks of all namespaces")
    command.add_argument("--active", action="store_true", help="list only tasks that have not ended")
    command.add_argument(
        "--repo", type=repository, metavar="OWNER/REPO", help="list only tasks of this repository"
    )
    command.add_argument(
        "-w", "--watch", action="store_true", help="print a row for each change, until you press Ctrl-C"
    )
    _add_output(command, *OBJECTS, Format.WIDE)


def _add_spend(add: Callable[..., argparse.ArgumentParser]) -> None:
    command = add("spend", _later("commands.spend"), "show what attempts spent on the model", named=False)
    command.add_argument("-A", "--all-namespaces", action="store_true", help="count all namespaces")
    command.add_argument("--repo", type=repository, metavar="OWNER/REPO", help="count only this repository")
    command.add_argument(
        "--by",
        choices=("repository", "user", "model"),
        default="repository",
        help="what each row stands for (default: %(default)s)",
    )
    command.add_argument(
        "--since",
        type=day,
        metavar="YYYY-MM-DD",
        help="count attempts that ended on or after this day (UTC; default: today)",
    )


def _add_logs(command: argparse.ArgumentParser) -> None:
    command.add_argument("name", nargs="?", metavar="NAME", help=FORMS)
    command.add_argument("-f", "--follow", action="store_true", help="wait for the log and follow it")
    command.add_argument(
        "--last",
        action="store_true",
        help="show the newest run of the task's item; without NAME, the newest task of the namespace",
    )
    command.add_argument(
        "--attempt", type=positive, metavar="N", help="number of the attempt (default: the last)"
    )
    command.add_argument(
        "--container",
        choices=["agent", "workspace"],
        default="agent",
        help="show the log of this container (default: %(default)s)",
    )


def _add_many(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the commands that can act on many tasks: they list these, ask, and go on after an error."""

    def several(one: argparse.ArgumentParser) -> None:
        one.add_argument(
            "--repo", type=repository, metavar="OWNER/REPO", help="only tasks of this repository"
        )
        one.add_argument("-y", "--yes", action="store_true", help="do not ask")
        _add_output(one, *OBJECTS)

    stopping = add(
        "cancel", _later("commands.cancel"), "stop a task for good; its work so far is pushed", named=False
    )
    stopping.add_argument("name", nargs="?", metavar="NAME", help=FORMS)
    stopping.add_argument(
        "--all", action="store_true", help="cancel all tasks that have not ended, after asking"
    )
    several(stopping)
    again = add("retry", _later("commands.retry"), "start the next run of a task that has ended", named=False)
    again.add_argument("name", nargs="?", metavar="NAME", help=FORMS)
    again.add_argument(
        "--failed",
        action="store_true",
        help="start the next run of each item whose newest run failed, after asking",
    )
    again.add_argument("--reason", type=reason, metavar="REASON", help="with --failed: only for this reason")
    again.add_argument(
        "--since", type=duration, metavar="TIME", help="with --failed: only in the last e.g. 90m, 6h or 2d"
    )
    again.add_argument("--priority", type=priority, help="a higher number starts first (default: as before)")
    again.add_argument(
        "--wait", action="store_true", help="wait until the new task has ended, as `wait` does"
    )
    _add_timeout(again)
    several(again)
    pruning = add("prune", _later("prune.prune"), "delete tasks that ended long ago", named=False)
    pruning.description = (
        "Delete tasks that ended long ago. A task records that its label has had its run. So a task "
        "stays if it has not ended, if the reporter has not shown its end on the item yet, or if the budget "
        "of this month counts what it spent. The operator deletes ended tasks too, by default after 7 days "
        "(operator.policy.keep_finished)."
    )
    pruning.add_argument(
        "--older-than",
        type=duration,
        default=timedelta(days=4),
        metavar="TIME",
        help="delete tasks that ended at least this long ago; 4d or more, because a forge may deliver a "
        "webhook again for 3 days (default: 4d)",
    )
    several(pruning)


def _add_open(one: argparse.ArgumentParser) -> None:
    one.add_argument("--change", action="store_true", help="open the change that the task has made")
    one.add_argument("--print", action="store_true", help="print the address instead of opening it")


def _add_hosts(one: argparse.ArgumentParser) -> None:
    one.add_argument("image", metavar="IMAGE", help="the workspace's image")
    one.add_argument(
        "--pull-secret",
        metavar="NAME",
        help="pull Secret for a private registry, in the same namespace (default: none)",
    )


def _add_init(add: Callable[..., argparse.ArgumentParser]) -> None:
    text = (
        f"check token and model, and prepare an installation (default namespace: {RELEASE}); token and key "
        "come from the environment, e.g. GITHUB_PERSONAL_ACCESS_TOKEN and OPENAI_API_KEY, or are asked for"
    )
    command = add("init", _later("init.init"), text, named=False)
    command.set_defaults(default_namespace=RELEASE)
    command.add_argument("--platform", metavar="NAME", help=f"the forge: {', '.join(Platform)}")
    command.add_argument(
        "--api-url", metavar="URL", help="address of the forge's API (default: the public one)"
    )
    command.add_argument(
        "--repo",
        action="append",
        metavar="OWNER/REPO",
        help="a repository in which the agent works; can be repeated",
    )
    command.add_argument(
        "--owner",
        default="",
        metavar="OWNER",
        help="work in all repositories of this organization, group or person in which the account may push",
    )
    command.add_argument(
        "--topic", default="", metavar="TOPIC", help="with --owner: only in repositories with this topic"
    )
    command.add_argument(
        "--profile",
        choices=["team", "minimal"],
        default="team",
        help="team: rounds, budgets, egress proxy, transcripts and commands, where they are possible; "
        "minimal: none of them (default: %(default)s)",
    )
    command.add_argument("--provider", metavar="NAME", help="format of the model's API (default: openai)")
    command.add_argument("--model-url", metavar="URL", help="address of the model's API")
    command.add_argument("--model", metavar="MODEL", help="name of the model")
    command.add_argument("--registry", default="", metavar="HOST/PATH", help="registry of the images")
    command.add_argument(
        "--webhook",
        default="",
        metavar="URL",
        help="create webhooks to this address of the receiver (default: poll only)",
    )
    command.add_argument(
        "--gateway",
        default="",
        metavar="NS/NAME",
        help="with --webhook: the Gateway for an HTTPRoute, or `none` for an Ingress (default: the cluster's "
        "only Gateway; an Ingress if it has none)",
    )
    command.add_argument("--github-app", action="store_true", help="use a GitHub App instead of a token")
    command.add_argument(
        "--app-name", default="coding-agent", metavar="NAME", help="name of a new GitHub App"
    )
    command.add_argument(
        "--organization", default="", metavar="ORG", help="owner of a new GitHub App (default: you)"
    )
    command.add_argument(
        "--code", default="", metavar="ADDRESS", help="what GitHub shows after a new GitHub App"
    )
    command.add_argument(
        "--values",
        default="coding-agent-values.yaml",
        metavar="FILE",
        help="values file to write (default: %(default)s)",
    )
    command.add_argument("--release", default=RELEASE, metavar="NAME", help="name of the Helm release")
    command.add_argument("--chart", default="charts/coding-agent", metavar="CHART", help="place of the chart")
    command.add_argument("-y", "--yes", action="store_true", help="ask nothing")


def _add_doctor(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--repo",
        type=repository,
        action="append",
        metavar="OWNER/REPO",
        help="check this repository too, besides those of `init` and of recent tasks",
    )
    command.add_argument(
        "--crd",
        metavar="FILE",
        help="check only that this CustomResourceDefinition of another release takes all AgentTasks of the "
        "cluster; `-` reads standard input",
    )


def _where() -> argparse.ArgumentParser:
    """Return a parser of kubectl's flags that choose cluster and namespace."""
    where = argparse.ArgumentParser(add_help=False)
    where.add_argument("-n", "--namespace", metavar="NS", help="namespace (default: that of the context)")
    where.add_argument(
        "--kubeconfig", metavar="FILE", help="kubeconfig (default: $KUBECONFIG, else ~/.kube/config)"
    )
    where.add_argument(
        "--context", metavar="NAME", help="context (default: the kubeconfig's current context)"
    )
    return where


def _add_run(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "url",
        metavar="ITEM",
        help="address of the issue, pull request or merge request; owner/repo#12 if it has a task already",
    )
    numbered = ", ".join(facts.title for facts in FACTS.values() if facts.by_project_id)
    command.add_argument(
        "--project-id", type=positive, metavar="ID", help=f"numeric id of the project, for {numbered}"
    )
    command.add_argument(
        "--platform",
        choices=[platform.value for platform in Platform],
        help="product of the forge, if its address does not show it",
    )
    command.add_argument(
        "--user", default="", metavar="LOGIN", help="person whose settings apply (default: nobody)"
    )
    command.add_argument(
        "--priority", type=priority, help="-1000 to 1000; a higher number starts first (default: 0)"
    )
    command.add_argument("--model", metavar="MODEL", help="name of the model (default: as configured)")
    command.add_argument(
        "--instructions", metavar="TEXT", help="instructions for the agent, in addition to the item"
    )
    command.add_argument(
        "--timeout-seconds",
        type=between(1, 604_800),
        metavar="S",
        help="time limit of one attempt (default: the operator's setting)",
    )
    command.add_argument(
        "--max-attempts",
        type=between(1, 20),
        metavar="N",
        help="maximum number of attempts, 1 to 20 (default: the operator's setting)",
    )
    command.add_argument(
        "--runner",
        choices=[name.value for name in RunnerName],
        help="coding agent that does the work (default: as configured)",
    )
    command.add_argument(
        "--budget",
        type=budget,
        metavar="'N UNIT'",
        help="what all attempts together may spend on the model, for example '2.50 USD' or '200000 tokens' "
        "(default: as configured)",
    )
    command.add_argument("--wait", action="store_true", help="wait until the task has ended, as `wait` does")
    _add_timeout(command)
    _add_output(command, *OBJECTS)
    command.add_argument(
        "--ttl",
        type=between(0, 31_536_000),
        metavar="S",
        help="seconds after which the ended task is deleted (default: the operator's setting)",
    )


if __name__ == "__main__":
    run()
