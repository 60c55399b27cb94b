"""Which pod's log a person means."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from coding_agent_core.settings.job_settings import WORKSPACE_USERS
from kubectl_agenttask import PluginError
from kubectl_agenttask.__main__ import main, parser
from kubectl_agenttask.cluster_client import choose, has_started, hosts_pod, waiting_for
from kubectl_agenttask.commands import OPTIONS


def pod(name: str, attempt: str, created: str = "2026-11-25T12:00:00Z", **status: Any) -> dict[str, Any]:
    labels = {"coding-agent.dev/attempt": attempt}
    return {
        "metadata": {"name": name, "labels": labels, "creationTimestamp": created},
        "spec": {"containers": [{"name": "agent"}], "initContainers": [{"name": "workspace"}]},
        "status": status,
    }


PODS = [
    pod("b", "2", "2026-11-25T12:01:00Z"),
    pod("b-replaced", "2", "2026-11-25T12:02:00Z"),
    pod("a", "1"),
    pod("k", "10"),
]


@pytest.mark.parametrize(("attempt", "name"), [(None, "k"), (10, "k"), (2, "b-replaced"), (1, "a")])
def test_the_newest_pod_of_the_attempt_or_of_the_last(attempt: int | None, name: str) -> None:
    chosen = choose(PODS, attempt)
    assert chosen is not None
    assert chosen["metadata"]["name"] == name


def test_an_attempt_without_a_pod_names_those_that_have_one() -> None:
    with pytest.raises(PluginError, match=r"attempt 3 has no pod\b.*: 1, 2, 10\."):
        choose(PODS, 3)


@pytest.mark.parametrize(
    ("state", "has_begun"),
    [
        ({"waiting": {"reason": "PodInitializing"}}, False),
        ({"running": {}}, True),
        ({"terminated": {}}, True),
    ],
)
def test_a_container_has_a_log_once_it_began(state: dict[str, Any], has_begun: bool) -> None:
    assert (
        has_started(pod("a", "1", containerStatuses=[{"name": "agent", "state": state}]), "agent")
        is has_begun
    )
    init = pod("a", "1", initContainerStatuses=[{"name": "workspace", "state": state}])
    assert has_started(init, "workspace") is has_begun
    assert has_started(init, "agent") is False


def test_a_container_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(PluginError, match="--container agent or workspace"):
        has_started(pod("a", "1"), "sidecar")


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ({}, "Pending"),
        (
            {"containerStatuses": [{"name": "agent", "state": {"waiting": {"reason": "ErrImagePull"}}}]},
            "ErrImagePull",
        ),
        (
            {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]},
            "Unschedulable",
        ),
    ],
)
def test_why_a_pod_waits(status: dict[str, Any], reason: str) -> None:
    assert waiting_for(pod("a", "1", **status)) == reason


CRD = Path(__file__).resolve().parents[3] / "crds" / "agenttask.yaml"
OF_THE_ITEM = {"source", "user", "title", "url", "trusted"}
OF_ONE_RUN = {"trigger", "run", "cancel", "suspend", "priority"}


def test_retry_keeps_every_option_of_a_task() -> None:
    """A field that the CRD gains is either an option that a further run keeps, or named above."""
    [version] = yaml.safe_load(CRD.read_text(encoding="utf-8"))["spec"]["versions"]
    fields = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    assert set(OPTIONS) == set(fields) - OF_THE_ITEM - OF_ONE_RUN


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("2.50 USD", {"amount": "2.50", "currency": "USD"}),
        ("3EUR", {"amount": "3", "currency": "EUR"}),
        (" 200000 tokens ", {"tokens": 200_000}),
        ("USD", None),
        ("2.50", None),
        ("2 usd", None),
        ("1.5 tokens", None),
        ("1.2.3 USD", None),
        ("-1 USD", None),
    ],
)
def test_a_budget_on_the_command_line(
    text: str, budget: dict[str, Any] | None, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["run", "https://github.com/o/r/issues/1", f"--budget={text}"]
    if budget is None:
        with pytest.raises(SystemExit):
            parser().parse_args(given)
        assert "write for example '2.50 USD' or '200000 tokens'" in capsys.readouterr().err
    else:
        assert parser().parse_args(given).budget.to_wire() == budget


def test_a_kubeconfig_that_cannot_be_used_is_a_wrong_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["list", "--kubeconfig", str(tmp_path / "none")]) == 78
    (tmp_path / "broken").write_text("contexts: [")
    assert main(["list", "--kubeconfig", str(tmp_path / "broken")]) == 78
    assert capsys.readouterr().err.count("no usable kubeconfig") == 2


def test_the_pod_runs_as_a_user_of_workspaces() -> None:
    assert (
        hosts_pod("registry.example.com/team/toolchain:1")["spec"]["securityContext"]["runAsUser"]
        in WORKSPACE_USERS
    )
