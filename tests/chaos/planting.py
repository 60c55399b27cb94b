"""Plants a defect in a copy of the tree, runs the product from there, and says whether the judge finds it.

The working tree is never changed: a run that is killed leaves nothing in it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import cache_from_source
from pathlib import Path

from coding_agent_testbed.cluster import cluster as local
from coding_agent_testbed.cluster.cluster import Cluster
from coding_agent_testbed.errors import TestbedError

from tests.chaos import audit
from tests.chaos.judging import BROKEN, CLEAN, VERDICT, VIOLATED, judge_folder
from tests.chaos.kubernetes_world import provide, start_kubernetes
from tests.chaos.planted import SEED, Planted, one_after_another
from tests.chaos.promises import KINDS
from tests.chaos.rabbitmq_world import start_rabbitmq
from tests.chaos.running import Plan, Schedule, run
from tests.chaos.world import World
from tests.fixtures.system import ROOT

_SETTLE_SECONDS = 35.0
"""Longer than the reporter takes to compare labels with their tasks, and than a poll's interval."""
_DRAIN_SECONDS = 300.0
"""Many defects leave work that never ends."""
_TAG = "planted"
"""Of the images of the copy: no other run uses them."""


@dataclass(frozen=True)
class Trial:
    """A run of a copy of the product.

    Attributes:
        defect: what is planted; `None`: nothing.
        violations: the kinds of violations that the judge must find; none: it must find nothing.
    """

    name: str
    mode: str
    forge: str
    schedule: Schedule
    violations: frozenset[str] = frozenset()
    defect: Planted | None = None


@dataclass(frozen=True)
class Finding:
    """What the judge said of a trial.

    Attributes:
        kinds: how many violations of each kind it found.
        broken: the test bed broke, so the run says nothing.
    """

    kinds: Mapping[str, int]
    broken: bool = False

    def has(self, expected: frozenset[str]) -> bool:
        """Whether it found all that was expected; nothing at all, if nothing was expected."""
        found = frozenset(self.kinds)
        return not self.broken and (expected <= found if expected else not found)

    def text(self, expected: frozenset[str]) -> str:
        """For people."""
        if self.broken:
            return "the test bed broke"
        listed = ", ".join(f"{kind} ({count})" for kind, count in sorted(self.kinds.items())) or "nothing"
        if not expected:
            return f"without a defect, found: {listed}"
        return f"found: {listed}" if self.has(expected) else f"NOT FOUND: {listed}"


def trials(chosen: Mapping[str, Planted], *, control: bool) -> Iterator[Trial]:
    """A trial for each defect; as a control, one for each world with the schedules of all its defects."""
    if not control:
        for name, one in chosen.items():
            yield Trial(name, one.mode, one.forge, one.schedule, one.violations, one)
        return
    for mode, forge in sorted({(one.mode, one.forge) for one in chosen.values()}):
        of_world = [one.schedule for one in chosen.values() if (one.mode, one.forge) == (mode, forge)]
        yield Trial(f"control {mode} {forge}", mode, forge, one_after_another(of_world))


def try_all(
    chosen: Mapping[str, Planted],
    folder: Path,
    cluster: str,
    say: Callable[[str], None],
    *,
    control: bool = False,
) -> int:
    """Plant each defect and let the judge look for it.

    Args:
        folder: for the runs' records.
        cluster: name of the cluster, which all trials that need one share.
        control: whether to leave the defects out; then the judge must find nothing.

    Returns:
        `CLEAN` if the judge found what it had to, otherwise `VIOLATED`, or `BROKEN` if a test bed broke.
    """
    lines: list[str] = []
    status = CLEAN
    with ExitStack() as stack:
        node = None
        if any(planted.mode == "kubernetes" for planted in chosen.values()):
            node = local.up(cluster, owner=os.getpid(), audit_bodies=audit.AUDITED)
            stack.callback(local.down, cluster)
        for trial in trials(chosen, control=control):
            if trial.defect is not None:
                say(f"{trial.defect.file}: {trial.defect.code} -> {trial.defect.defect}")
            finding = _try(trial, folder / trial.name.replace(" ", "-"), node, say)
            lines.append(f"{trial.name}: {finding.text(trial.violations)}")
            say(lines[-1])
            if not finding.has(trial.violations):
                status = BROKEN if finding.broken else max(status, VIOLATED)
    if len(lines) > 1:
        say("\n".join(lines))
    return status


def copy_product(folder: Path) -> None:
    """Copy all that programs and images are made of: the files that git does not ignore, as they are now.

    Their compiled bytecode comes along, which is several seconds of work for each trial.
    """
    listed = subprocess.run(
        ["git", "ls-files", "-z", "-co", "--exclude-standard", "--", ".", ":!docs", ":!tests"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        timeout=60,
    )
    names = [Path(name) for name in filter(None, listed.stdout.decode().split("\0"))]
    names += [Path(cache_from_source(str(name))) for name in names if name.suffix == ".py"]
    for name in names:
        source, target = ROOT / name, folder / name
        if source.is_file():  # and not removed since
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)  # with its time, by which Python knows whether bytecode is current


def _try(trial: Trial, folder: Path, cluster: Cluster | None, say: Callable[[str], None]) -> Finding:
    shutil.rmtree(folder, ignore_errors=True)
    plan = Plan.of(
        trial.schedule,
        SEED,
        trial.mode,
        trial.forge,
        settle=_SETTLE_SECONDS,
        drain=_DRAIN_SECONDS,
        defect=trial.name if trial.defect is not None else "",
    )
    try:
        with ExitStack() as stack:
            here = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
            here.chmod(0o755)
            product = here / "product"
            copy_product(product)
            if trial.defect is not None:
                trial.defect.plant(product)
            run(_world(stack, trial, here, product, cluster), plan, folder, say)
    except (TestbedError, RuntimeError) as error:
        say(f"the test bed of {trial.name} did not start, or did not end: {error}")
        return Finding({}, broken=True)
    if judge_folder(folder) == BROKEN:
        return Finding({}, broken=True)
    counts = json.loads((folder / VERDICT).read_text())["figures"]
    return Finding({kind: counts[kind] for kind in KINDS if counts[kind]})


def _world(stack: ExitStack, trial: Trial, folder: Path, product: Path, cluster: Cluster | None) -> World:
    if cluster is None or trial.mode == "rabbitmq":
        return start_rabbitmq(stack, folder, trial.forge, product)
    # Only one image has the defect: the others come from the cache of builds.
    trees = {trial.defect.program: product} if trial.defect is not None else {}
    return start_kubernetes(stack, cluster, folder, trial.forge, provide(cluster, trees, _TAG))
