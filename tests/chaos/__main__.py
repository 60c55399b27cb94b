"""The command line of `make chaos`: `run`, `faults`, `judge`, `plant` and `publish`."""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from coding_agent_testbed.cluster import cluster as local
from coding_agent_testbed.errors import TestbedError

from tests.chaos import audit
from tests.chaos.judging import BROKEN, CLEAN, RUN, VIOLATED, UnreadableRunError, judge_folder
from tests.chaos.kubernetes_world import provide, start_kubernetes
from tests.chaos.planted import PLANTED, chosen
from tests.chaos.planting import try_all
from tests.chaos.proving import prove
from tests.chaos.publishing import SUFFIX, publish, unpack
from tests.chaos.rabbitmq_world import start_rabbitmq
from tests.chaos.running import plan_for, run
from tests.chaos.sandboxes import FORGES
from tests.chaos.world import World
from tests.fixtures.system import ROOT

MODES = ("kubernetes", "rabbitmq")
CLUSTER = "chaos"
"""Name of the cluster, unless `--cluster` gives another."""
PLANTS_CLUSTER = "chaos-planted"
"""The same, for planted defects."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run or judge; the exit status is that of `judging.py`."""
    options = _parser().parse_args(arguments)
    if options.command == "judge":
        return _judge(options.folder)
    if options.command == "publish":
        print(publish(options.folder, options.docs))
        return 0
    if options.command == "faults":
        with ExitStack() as stack:
            world = _world(stack, options.mode, options.forge, options.cluster)
            kinds = [kind for kind in sorted(world.faults) if re.search(options.kinds, kind)]
            missed = prove(world, kinds, _say)
        print(f"{len(kinds) - len(missed)} of {len(kinds)} kinds of faults hit their part")
        return VIOLATED if missed else CLEAN
    if options.command == "plant":
        out: Path = options.out or ROOT / ".cache" / "chaos" / "planted"
        return try_all(chosen(options.name), out, options.cluster, _say, control=options.control)
    folder: Path = options.out or _folder(options.mode, options.seed)
    plan = plan_for(
        options.seed, options.minutes, options.mode, options.forge, faults=options.faults != "none"
    )
    try:
        with ExitStack() as stack:
            world = _world(stack, options.mode, options.forge, options.cluster)
            run(world, plan, folder, _say)
    except (TestbedError, RuntimeError) as error:
        print(f"the test bed did not start, or did not end: {error}", file=sys.stderr)
        if not (folder / RUN).exists():
            return BROKEN
    return judge_folder(folder)


def _judge(place: Path) -> int:
    """Judge a run's folder, or all runs of a published archive; the worst of their exit statuses."""
    folders = [place]
    if place.name.endswith(SUFFIX):
        folders = unpack(place, ROOT / ".cache" / "chaos" / "judged" / place.name.removesuffix(SUFFIX))
    worst = CLEAN
    for folder in folders:
        try:
            worst = max(worst, judge_folder(folder))
        except UnreadableRunError as error:
            print(error, file=sys.stderr)
            worst = BROKEN
    return worst


def _parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run", help="people use the system while its parts break; then judge")
    runs.add_argument("--seed", type=int, default=1, help="all is drawn from it (default: %(default)s)")
    runs.add_argument("--minutes", type=float, default=3.0, help="how long people act (default: %(default)s)")
    runs.add_argument("--mode", choices=MODES, default="kubernetes")
    runs.add_argument("--forge", choices=FORGES, default="github")
    runs.add_argument("--faults", choices=("all", "none"), default="all", help="none: races only")
    runs.add_argument("--cluster", default=CLUSTER, help="name of the cluster (default: %(default)s)")
    runs.add_argument("--out", type=Path, help="folder for records, logs and report")
    tries = commands.add_parser("faults", help="see that every kind of fault hits its part, one at a time")
    tries.add_argument("--mode", choices=MODES, default="kubernetes")
    tries.add_argument("--forge", choices=FORGES, default="github")
    tries.add_argument("--cluster", default=CLUSTER, help="name of the cluster (default: %(default)s)")
    tries.add_argument("--kinds", default="", help="regular expression of the kinds (default: all)")
    judges = commands.add_parser("judge", help="judge a run's folder again, and write its report again")
    judges.add_argument("folder", type=Path, help="or a published archive, of which all runs are judged")
    plants = commands.add_parser(
        "plant", help="plant a defect in a copy of the product; the judge must find it"
    )
    plants.add_argument("name", choices=("all", *MODES, *PLANTED), help="of the defects")
    plants.add_argument("--control", action="store_true", help="leave it out: the judge must find nothing")
    plants.add_argument(
        "--cluster", default=PLANTS_CLUSTER, help="name of the cluster (default: %(default)s)"
    )
    plants.add_argument("--out", type=Path, help="folder for records, logs and reports")
    publishes = commands.add_parser("publish", help="keep a judged run, and list it on docs/reliability.md")
    publishes.add_argument("folder", type=Path)
    publishes.add_argument("--docs", type=Path, default=ROOT / "docs", help="folder of the page")
    return top


def _folder(mode: str, seed: int) -> Path:
    return ROOT / ".cache" / "chaos" / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{mode}-{seed}"


def _world(stack: ExitStack, mode: str, forge: str, name: str) -> World:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
    folder.chmod(0o755)
    if mode == "rabbitmq":
        return start_rabbitmq(stack, folder, forge)
    cluster = local.up(name, owner=os.getpid(), audit_bodies=audit.AUDITED)
    stack.callback(local.down, name)
    return start_kubernetes(stack, cluster, folder, forge, provide(cluster))


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
