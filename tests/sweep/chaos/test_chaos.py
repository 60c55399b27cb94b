"""`make chaos` in its short form: on a node with races only, then with faults too; and over RabbitMQ."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import pytest
from coding_agent_testbed.cluster import cluster as local

from tests.chaos import audit
from tests.chaos.judging import CLEAN, judge_folder
from tests.chaos.kubernetes_world import provide, start_kubernetes
from tests.chaos.rabbitmq_world import start_rabbitmq
from tests.chaos.running import Plan, run
from tests.chaos.world import World

SEED = 44
CLUSTER = "chaos-sweep"
SETTLE_SECONDS = 35.0
"""Longer than the reporter takes to compare labels with their tasks."""


# Time for what may have to be built first.
@pytest.mark.needs_node
@pytest.mark.needs_root
@pytest.mark.timeout(1500)
def test_no_promise_is_broken_in_three_minutes_with_and_without_faults(tmp_path: Path) -> None:
    with ExitStack() as stack:
        cluster = local.up(CLUSTER, owner=os.getpid(), audit_bodies=audit.AUDITED)
        stack.callback(local.down, CLUSTER)
        world = start_kubernetes(stack, cluster, tmp_path, "github", provide(cluster))
        _run(world, tmp_path / "races", Plan(SEED, "kubernetes", "github", 70.0, 5, 0, SETTLE_SECONDS))
        _run(world, tmp_path / "faults", Plan(SEED, "kubernetes", "github", 110.0, 7, 8, SETTLE_SECONDS))


@pytest.mark.timeout(900)
def test_no_promise_is_broken_in_a_minute_over_rabbitmq(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)  # the workspace's commands run as another user
    with ExitStack() as stack:
        world = start_rabbitmq(stack, tmp_path, "gitlab")
        _run(world, tmp_path / "faults", Plan(SEED, "rabbitmq", "gitlab", 60.0, 4, 5, SETTLE_SECONDS))


def _run(world: World, folder: Path, plan: Plan) -> None:
    run(world, plan, folder)
    assert judge_folder(folder) == CLEAN, (folder / "report.md").read_text()
