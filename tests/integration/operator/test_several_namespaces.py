"""One operator for several teams' namespaces (`operator.namespaces`), from a namespace of its own."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.cluster import PlaneUnderTest
from tests.integration.operator.job_count import JobCount
from tests.integration.operator.platform_account import NAME, grant, platform_account
from tests.integration.operator.pod_driver import DONE, RUNS, PodDriver
from tests.integration.operator.test_limits import phases
from tests.integration.operator.test_operation import alive
from tests.integration.operator.world import OperatorProcess, World, account

LEASE = "coding-agent-operator"


class Team(World):
    """A team's namespace, with its pods."""

    def __init__(self, plane: PlaneUnderTest, namespace: str, stack: ExitStack) -> None:
        super().__init__(plane, namespace)
        self.pods = stack.enter_context(PodDriver(plane, namespace, lambda _: DONE))

    def end_pods(self) -> None:
        self.pods.script = lambda _: DONE
        self.plane.kubectl("-n", self.namespace, "annotate", "pods", "--all", "look=again")

    def holder(self) -> str:
        return self.plane.kubectl(
            "-n",
            self.namespace,
            "get",
            "lease",
            LEASE,
            "--ignore-not-found",
            "-o=jsonpath={.spec.holderIdentity}",
        )


class Platform:
    """The platform's namespace, the teams', and the operators that a test starts."""

    def __init__(self, plane: PlaneUnderTest, home: str, new: Callable[[str], str], folder: Path) -> None:
        self.plane = plane
        self.home = home
        self._new = new
        self._folder = folder
        self._stack = ExitStack()

    def team(self) -> Team:
        return Team(self.plane, self._new("restricted"), self._stack)

    def passing_team(self) -> Team:
        name = f"test-passing-{os.urandom(3).hex()}"
        self.plane.core.create_namespace({"metadata": {"name": name}}, _request_timeout=60)
        return Team(self.plane, name, self._stack)

    def operator(
        self, *served: str, rights: tuple[str, ...] | None = None, server: str | None = None, **settings: Any
    ) -> OperatorProcess:
        """Start the operator; it has rights in what it serves, unless the test gives others."""
        kubeconfig = platform_account(
            self.plane, self.home, served if rights is None else rights, self._folder, server
        )
        own = {
            "operator": {"namespaces": list(served), **settings.pop("operator", {})},
            "development": {"relist_interval": 2.0, **settings.pop("development", {})},
        }
        return self._started(OperatorProcess(kubeconfig, self.home, self._folder, {**settings, **own}))

    def operator_of(self, team: Team) -> OperatorProcess:
        """Start a team's own operator, of its namespace alone."""
        kubeconfig = account(self.plane, team.namespace, self._folder)
        return self._started(OperatorProcess(kubeconfig, team.namespace, self._folder, {}))

    def _started(self, process: OperatorProcess) -> OperatorProcess:
        self._stack.callback(process.start().stop)
        return process

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def platform(
    plane: PlaneUnderTest, namespace: str, new_namespace: Callable[[str], str], tmp_path: Path
) -> Iterator[Platform]:
    made = Platform(plane, namespace, new_namespace, tmp_path)
    yield made
    made.close()


def value(process: OperatorProcess, series: str) -> float | None:
    found = re.search(rf"^{re.escape(series)} (\S+)$", process.probe("/metrics")[1], re.MULTILINE)
    return float(found.group(1)) if found else None


def acts(process: OperatorProcess, team: World) -> bool | None:
    return value(process, f'coding_agent_operator_leader{{served_namespace="{team.namespace}"}}') == 1 or None


def fails(process: OperatorProcess, team: World) -> float | None:
    return value(process, f'coding_agent_operator_namespace_failing{{served_namespace="{team.namespace}"}}')


def test_equal_names_in_two_namespaces_run_to_their_end_each_under_its_own_limit(platform: Platform) -> None:
    teams = [platform.team(), platform.team()]
    names = []
    for team in teams:
        team.pods.script = lambda _: RUNS
        names = [team.create(number) for number in (1, 2, 3)]
    with JobCount(teams[0]) as first, JobCount(teams[1]) as second:
        process = platform.operator(*(team.namespace for team in teams), limits={"global": 1})
        for team in teams:
            team.until("1 runs", lambda team=team: phases(team) == {"Running": 1, "Queued": 2} or None)  # type: ignore[misc]
        assert process.probe("/readyz") == (200, "ok")
        alive(teams[0], process)
        for team in teams:
            team.until(
                "tasks are counted by namespace",
                lambda team=team: (  # type: ignore[misc]
                    value(
                        process, f'coding_agent_tasks{{phase="Queued",served_namespace="{team.namespace}"}}'
                    )
                    == 2
                    or None
                ),
            )
            team.end_pods()
        for team in teams:
            team.until("all end", lambda team=team: phases(team) == {"Succeeded": 3} or None)  # type: ignore[misc]
        first.catch_up()
        second.catch_up()
        assert (first.most, second.most) == (1, 1)
        assert sorted(first.order) == sorted(second.order) == [f"{name}-1" for name in sorted(names)]
    assert process.stop() == 0
    assert [team.holder() for team in teams] == ["", ""], "every Lease is given back"


def test_with_a_star_it_finds_namespaces_that_come(platform: Platform) -> None:
    early = platform.team()
    first = early.create(1)
    # So rarely that only the watch can show the other one in time.
    process = platform.operator("*", development={"sweep_interval": 600, "relist_interval": 600})
    early.until_phase(first, "Succeeded")
    late = platform.team()
    late.until_phase(late.create(1), "Succeeded")
    late.until("the cluster was listed", lambda: process.probe("/readyz") == (200, "ok") or None)
    assert acts(process, late)
    assert process.stop() == 0
    assert [early.holder(), late.holder()] == ["", ""]


@pytest.mark.long
@pytest.mark.timeout(400)
def test_with_a_star_it_lets_go_of_namespaces_that_went_or_have_no_task(platform: Platform) -> None:
    emptied, went = platform.team(), platform.passing_team()
    process = platform.operator("*", development={"sweep_interval": 0.5})
    done = {team: team.create(1) for team in (emptied, went)}
    for team, name in done.items():
        team.until_phase(name, "Succeeded")
    emptied.plane.kubectl("-n", emptied.namespace, "delete", "agt", done[emptied])
    went.plane.core.delete_namespace(went.namespace, _request_timeout=60)
    emptied.until("the Lease is given back", lambda: emptied.holder() == "" or None)
    for team in (emptied, went):
        team.until(
            "it is let go of",
            lambda team=team: f'"{team.namespace}"' not in process.probe("/metrics")[1] or None,  # type: ignore[misc]
            timeout=120,
        )
    emptied.until_phase(emptied.create(2), "Succeeded")
    alive(emptied, process)


def test_a_teams_own_operator_and_the_platforms_never_act_together(platform: Platform) -> None:
    own, shared = platform.team(), platform.team()
    theirs = platform.operator_of(own)
    own.until("it acts", lambda: acts(theirs, own))
    holder = own.holder()
    process = platform.operator(own.namespace, shared.namespace)
    shared.until("the platform's acts elsewhere", lambda: acts(process, shared))
    shared.until_phase(shared.create(1), "Succeeded")
    own.until_phase(own.create(1), "Succeeded")
    assert own.holder() == holder, "the platform's waits for the Lease"
    assert not acts(process, own)
    assert fails(process, own) == 0, "waiting is not a failure"
    assert process.probe("/readyz") == (200, "ok")
    assert theirs.stop() == 0
    own.until("the platform's acts", lambda: acts(process, own))
    assert own.holder().startswith(f"{platform.home}/operator-")
    own.until_phase(own.create(2), "Succeeded")


@pytest.mark.long
@pytest.mark.timeout(400)  # it is tried again after up to a minute
def test_a_namespace_without_rights_does_not_hinder_another(platform: Platform) -> None:
    served, barred = platform.team(), platform.team()
    process = platform.operator(barred.namespace, served.namespace, rights=(served.namespace,))
    waiting = barred.create(1)
    served.until_phase(served.create(1), "Succeeded")
    served.until("ready", lambda: process.probe("/readyz") == (200, "ok") or None)
    assert (fails(process, barred), fails(process, served)) == (1, 0)
    assert re.search(
        rf"needs the rules of operator/deploy/role\.yaml.*namespace={barred.namespace}", process.log()
    )
    grant(platform.plane, platform.home, barred.namespace)
    barred.until_phase(waiting, "Succeeded", timeout=150)
    assert fails(process, barred) == 0
    # And taken away from one that is served.
    platform.plane.kubectl("-n", barred.namespace, "delete", "rolebinding", f"{NAME}-{platform.home}")
    barred.until("it is told", lambda: fails(process, barred) == 1 or None)
    served.until_phase(served.create(2), "Succeeded")
    assert not process.ended()
    alive(served, process)
