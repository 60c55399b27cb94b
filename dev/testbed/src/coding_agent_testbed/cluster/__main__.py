"""The command line: ``python -m coding_agent_testbed.cluster COMMAND``."""

import argparse
import os
import sys
import webbrowser
from collections.abc import Sequence

from coding_agent_testbed.cluster import (
    base_image,
    build,
    cluster,
    envoy,
    gvisor,
    images,
    parts,
    paths,
    quick_start,
    sandbox,
    standalone,
)
from coding_agent_testbed.cluster.errors import ClusterError, MachineError
from coding_agent_testbed.cluster.progress import note
from coding_agent_testbed.errors import TestbedError


def parser() -> argparse.ArgumentParser:
    """The options of every command."""
    top = argparse.ArgumentParser(prog="coding_agent_testbed.cluster", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    plane = commands.add_parser("control-plane", help="a control plane alone: no node, no privilege")
    plane.add_argument("action", choices=["up", "down"])
    plane.add_argument("--name", default="control-plane", help="name of the cluster (default: %(default)s)")
    plane.add_argument(
        "--scheduler", action="store_true", help="also start a scheduler, for fake nodes (kwok)"
    )
    for name, help_text in (
        ("up", "start a cluster with one node"),
        ("down", "stop the cluster and remove everything that it left"),
        ("status", "show what runs"),
        ("try", "start the whole system in the cluster, with a sandbox forge and a scripted model"),
    ):
        whole = commands.add_parser(name, help=help_text)
        whole.add_argument(
            "--name", default=cluster.DEFAULT_NAME, help="name of the cluster (default: %(default)s)"
        )
        if name == "down":
            whole.add_argument("--purge", action="store_true", help="also remove its images and keys")
        if name == "try":
            whole.add_argument(
                "--runtime", default="", choices=["", gvisor.RUNTIME_CLASS], help="of the attempts' pods"
            )
    picture = commands.add_parser("images", help="build the images and load them into the cluster's node")
    picture.add_argument(
        "--name", default=cluster.DEFAULT_NAME, help="name of the cluster (default: %(default)s)"
    )
    prepare = commands.add_parser("prepare", help="build what a tier of tests needs, and nothing else")
    prepare.add_argument("tier", choices=list(parts.TESTS))
    builder = commands.add_parser("build", help="build parts into the cache and print where they are")
    builder.add_argument("parts", nargs="+", metavar="PART", help=f"of: {', '.join(sorted(parts.PARTS))}")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it did what it says, else a sentence on standard error."""
    options = parser().parse_args(arguments)
    try:
        COMMANDS[options.command](options)
    except (TestbedError, OSError) as error:
        note(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        note("interrupted; the same command goes on where this one was")
        return 130
    return 0


def _control_plane(options: argparse.Namespace) -> None:
    root = paths.clusters_root() / options.name
    if options.action == "down":
        standalone.down(root)
        return
    names = [*parts.CONTROL_PLANE, *(["kube-scheduler"] if options.scheduler else [])]
    print(f"KUBECONFIG={standalone.up(root, names).kubeconfig}")


def _up(options: argparse.Namespace) -> None:
    running = cluster.up(options.name)
    note("Point kubectl at it with the line below (export it); `make cluster-down` ends it.")
    print(f"KUBECONFIG={running.kubeconfig}")


def _down(options: argparse.Namespace) -> None:
    (cluster.purge if options.purge else cluster.down)(options.name)


def _status(options: argparse.Namespace) -> None:
    found = cluster.find(options.name)
    if found is None or not sandbox.is_up(found.processes):
        raise ClusterError(f"the cluster {options.name} is not running; start it with `make cluster`")
    for name in found.processes.names():
        print(f"{name:<26} {found.processes.pid(name) or 'has ended'}")
    print(found.access.kubectl("get", "nodes,pods", "-A", "-o", "wide"))
    print(f"KUBECONFIG={found.kubeconfig}")


def _images(options: argparse.Namespace) -> None:
    found = cluster.find(options.name)
    running = found is not None and sandbox.is_up(found.processes)
    for image in map(images.program_image, images.PROGRAMS):
        if found is not None and running:
            found.provide(image)
        else:
            images.make(image)
        print(image.name)
    if not running:
        note(f"The cluster {options.name} is not running: the images are built, no node has them yet.")


def _try(options: argparse.Namespace) -> None:
    running, address = quick_start.start(options.name, runtime=options.runtime)
    note("Point kubectl at it with the line KUBECONFIG=… below (export it); `make cluster-down` ends it.")
    note("The first issue has the label `coding agent`; within a minute, the agent works on it.")
    if os.environ.get("DISPLAY") or os.environ.get(
        "WAYLAND_DISPLAY"
    ):  # otherwise it may start a text browser
        webbrowser.open(address)
    print(f"KUBECONFIG={running.kubeconfig}")
    print(address)


def _prepare(options: argparse.Namespace) -> None:
    names: Sequence[str] = parts.TESTS[options.tier]
    if options.tier == "test":
        standalone.binaries(names)
    elif reason := _why_no_node():
        note(f"No node will be there: {reason}")
        standalone.binaries(name for name in names if name not in parts.NODE_ALONE)
    else:
        build.binaries(names)
        envoy.binary()
        base_image.ensure()
        if options.tier == "sweep":
            for runner in images.TRIED_RUNNERS:
                images.make(images.runner_image(runner))
            for target in images.DATABASE_TARGETS:
                images.make(images.database_image(target))


def _why_no_node() -> str:
    if given := os.environ.get("E2E_KUBECONFIG"):
        return f"the tests use the cluster of {given}"
    try:
        cluster.require_machine()
    except MachineError as error:
        return str(error)
    return ""


def _build(options: argparse.Namespace) -> None:
    for name, path in build.binaries(options.parts).items():
        print(f"{name}={path}")


COMMANDS = {
    "up": _up,
    "down": _down,
    "status": _status,
    "control-plane": _control_plane,
    "images": _images,
    "try": _try,
    "prepare": _prepare,
    "build": _build,
}


if __name__ == "__main__":
    sys.exit(main())
