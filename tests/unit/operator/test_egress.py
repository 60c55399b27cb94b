"""How an attempt's pod gets to the egress proxy."""

from pathlib import Path
from typing import Any

import pytest
from coding_agent_core.kubernetes.transport import ApiError
from coding_agent_core.settings.connections import Egress
from coding_agent_core.settings.job_settings import JobTemplate
from coding_agent_core.task.agenttask import AttemptStatus
from coding_agent_core.task.attempts import Outcome
from coding_agent_core.task.egress import (
    NO_PROXY,
    WORKSPACE_PROXY,
    Denial,
    Role,
    profile_of,
    user_name,
    variables,
)
from coding_agent_core.task.reasons import Reason
from coding_agent_operator.jobs.job import build_job, with_egress
from coding_agent_operator.jobs.job_builder import EgressProxy, address_of
from coding_agent_operator.tasks.state import with_report

from tests.unit.operator.making import NOW, task

ADDRESS, KEY = "10.96.0.7:3128", "key"


def pod(template: dict[str, Any] | None = None, **egress: Any) -> dict[str, Any]:
    manifest = build_job(task(), 2, JobTemplate.model_validate(template or {}))
    made = with_egress(manifest, task().spec.item, Egress.model_validate(egress), address=ADDRESS, key=KEY)
    assert made["metadata"] == manifest["metadata"]
    spec: dict[str, Any] = made["spec"]["template"]["spec"]
    return spec


def environment(container: dict[str, Any]) -> dict[str, str]:
    names = [entry["name"] for entry in container["env"]]
    assert len(names) == len(set(names))
    return {entry["name"]: entry["value"] for entry in container["env"]}


def test_each_container_has_its_own_identity() -> None:
    spec, job = pod(), build_job(task(), 2, JobTemplate())["metadata"]["name"]
    (agent,), workspace = spec["containers"], spec["initContainers"][-1]
    assert variables(ADDRESS, user_name(job, Role.AGENT), KEY).items() <= environment(agent).items()
    assert environment(workspace) == variables(ADDRESS, user_name(job, Role.WORKSPACE), KEY)
    assert environment(workspace)["NO_PROXY"] == NO_PROXY


def test_what_reports_a_workspaces_output_knows_the_password_to_remove() -> None:
    spec = pod()
    agent, workspace = environment(spec["containers"][0]), environment(spec["initContainers"][-1])
    assert agent[WORKSPACE_PROXY] == workspace["HTTPS_PROXY"] != agent["HTTPS_PROXY"]


def test_a_pod_has_no_name_server() -> None:
    spec = pod()
    assert spec["dnsPolicy"] == "None"
    assert spec["dnsConfig"] == {"nameservers": ["127.0.0.1"]}


def test_a_repository_with_a_list_of_its_own_is_named() -> None:
    item = task().spec.item
    spec = pod(repositories={f"{item.host}/{item.repository}": ["a.test"]})
    profile = profile_of(f"{item.host}/{item.repository}")
    assert f".workspace.{profile}:" in environment(spec["initContainers"][-1])["HTTP_PROXY"]
    assert ".agent:" in environment(spec["containers"][0])["HTTP_PROXY"]


def test_the_template_cannot_lead_past_the_proxy() -> None:
    env = [{"name": "HTTPS_PROXY", "value": "http://elsewhere:1"}, {"name": "no_proxy", "value": "*"}]
    containers = [
        {"name": name, "env": [*env, {"name": "OTHER", "value": "1"}]} for name in ("agent", "workspace")
    ]
    spec = pod({"pod_template": {"spec": {"containers": containers, "dnsPolicy": "Default"}}})
    assert spec["dnsPolicy"] == "None"
    for container in (spec["containers"][0], spec["initContainers"][-1]):
        found = environment(container)
        assert found["OTHER"] == "1"
        assert found["HTTPS_PROXY"] == found["HTTP_PROXY"]
        assert found["no_proxy"] == NO_PROXY


async def test_the_address_of_the_proxy() -> None:
    assert await address_of("http://127.0.0.1:3128") == "127.0.0.1:3128"
    assert await address_of("http://[::1]") == "[::1]:80"
    with pytest.raises(ApiError, match=r"egress.proxy: the address of proxy.invalid cannot be found"):
        await address_of("http://proxy.invalid:3128")


async def test_without_its_key_no_attempt_starts(tmp_path: Path) -> None:
    manifest, item = build_job(task(), 1, JobTemplate()), task().spec.item
    assert await EgressProxy(Egress()).given_to(manifest, item) == manifest
    settings = Egress.model_validate({"proxy": "http://127.0.0.1:3128", "key": {"files": [tmp_path / "key"]}})
    proxy = EgressProxy(settings)
    with pytest.raises(ApiError, match=r"egress.key is not set"):
        await proxy.given_to(manifest, item)
    (tmp_path / "key").write_text("key\n")
    made = await proxy.given_to(manifest, item)
    assert made == with_egress(manifest, item, settings, address="127.0.0.1:3128", key="key")


def test_denials_stand_on_the_status() -> None:
    denied = (Denial(host="a.example.com", count=3),)
    first = AttemptStatus(number=1, job="web-1", start_time=NOW)
    attempt = with_report(first, Outcome(reason=Reason.COMPLETED, message="m", denied=denied))
    assert attempt.to_wire()["denied"] == [{"host": "a.example.com", "count": 3}]
    assert "denied" not in with_report(first, Outcome(reason=Reason.COMPLETED, message="m")).to_wire()
