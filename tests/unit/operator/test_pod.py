"""The pod of an attempt: who gets what, and what can be set."""

from __future__ import annotations

from typing import Any

import pytest
from coding_agent_core.settings.job import JobTemplate
from coding_agent_operator.job import build_job
from pydantic import ValidationError

from tests.unit.operator.making import task

TOKEN = {"secret": "github", "key": "token", "file": "github-token", "platform": "github"}
OTHER = {"secret": "gitlab", "key": "token", "file": "gitlab-token", "platform": "gitlab"}
MODEL = {"secret": "model", "key": "api-key", "file": "openai-api-key"}


def pod(**template: Any) -> dict[str, Any]:
    made = build_job(task(), 1, JobTemplate.model_validate(template))
    spec: dict[str, Any] = made["spec"]["template"]["spec"]
    return spec


def agent(spec: dict[str, Any]) -> dict[str, Any]:
    (container,) = spec["containers"]
    assert container["name"] == "agent"
    return dict(container)


def workspace(spec: dict[str, Any]) -> dict[str, Any]:
    container = spec["initContainers"][-1]
    assert (container["name"], container["restartPolicy"]) == ("workspace", "Always"), "a native sidecar"
    return dict(container)


def mounts(container: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["mountPath"]: each for each in container["volumeMounts"]}


def test_every_container_passes_restricted_pod_security() -> None:
    spec = pod(workspace={"image": "toolchain:1"})
    assert spec["automountServiceAccountToken"] is False
    assert spec["shareProcessNamespace"] is False
    for container in [*spec["initContainers"], *spec["containers"]]:
        security = container["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["readOnlyRootFilesystem"] is True
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["resources"]["requests"]["cpu"], "they default to the limits"
        assert container["resources"]["limits"]["memory"]


def test_agent_and_workspace_are_two_users_of_no_common_group_of_their_own() -> None:
    spec = pod()
    users = [each["securityContext"]["runAsUser"] for each in (agent(spec), workspace(spec))]
    groups = [each["securityContext"]["runAsGroup"] for each in (agent(spec), workspace(spec))]
    assert len({*users, spec["securityContext"]["fsGroup"]}) == 3
    assert groups == users


def test_credentials_and_configuration_are_files_of_the_agent_alone() -> None:
    spec = pod(config_map="settings", credentials=[TOKEN, OTHER, MODEL])
    volume = next(each for each in spec["volumes"] if each["name"] == "credentials")
    files = {
        source["secret"]["items"][0]["path"]: (source["secret"]["name"], source["secret"]["items"][0]["key"])
        for source in volume["projected"]["sources"]
    }
    assert files == {"github-token": ("github", "token"), "openai-api-key": ("model", "api-key")}
    assert mounts(agent(spec))["/etc/coding-agent/credentials"]["name"] == "credentials"
    assert mounts(agent(spec))["/etc/coding-agent/config.yaml"]["subPath"] == "config.yaml"
    assert {"name": "CONFIG_FILE", "value": "/etc/coding-agent/config.yaml"} in agent(spec)["env"]
    held = {each["name"] for each in workspace(spec)["volumeMounts"]}
    assert held == {"socket", "workspace"}
    assert workspace(spec)["env"] == []
    assert "envFrom" not in workspace(spec)


def test_the_containers_share_a_socket_and_nothing_else() -> None:
    spec = pod(credentials=[TOKEN, MODEL], config_map="settings", workspace={"image": "toolchain:1"})
    common = {m["name"] for m in agent(spec)["volumeMounts"]} & {
        m["name"] for m in workspace(spec)["volumeMounts"]
    }
    assert common == {"socket"}
    assert mounts(agent(spec))["/run/coding-agent"]["readOnly"] is True
    socket = next(each for each in spec["volumes"] if each["name"] == "socket")
    assert socket["emptyDir"] == {"medium": "Memory", "sizeLimit": "1Mi"}
    tree = next(each for each in spec["volumes"] if each["name"] == "workspace")
    assert tree["emptyDir"]["sizeLimit"] == "16Gi"


def test_a_repository_can_have_an_image_of_its_own_and_gets_our_program_copied_in() -> None:
    images = {"octo/demo": "demo-toolchain:2", "octo/other": "other:1"}
    spec = pod(image="consumer:1", workspace={"image": "everybody:1", "images": images})
    assert workspace(spec)["image"] == "demo-toolchain:2"
    copies, _ = spec["initContainers"]
    assert (copies["image"], "restartPolicy" in copies) == ("consumer:1", False)
    assert mounts(copies)["/opt/coding-agent"]["name"] == mounts(workspace(spec))["/opt/coding-agent"]["name"]
    assert mounts(workspace(spec))["/opt/coding-agent"]["readOnly"] is True
    assert workspace(spec)["command"][0] == "/opt/coding-agent/ld.so", "nothing of the image is needed"
    assert len(pod(image="consumer:1")["initContainers"]) == 1
    assert workspace(pod(image="consumer:1"))["image"] == "consumer:1"


def test_what_a_cluster_asks_of_pods_can_be_set() -> None:
    affinity: dict[str, Any] = {
        "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}
    }
    spec = pod(
        image_pull_secrets=["registry"],
        node_selector={"pool": "agents"},
        tolerations=[{"key": "agents", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 30}],
        affinity=affinity,
        runtime_class="gvisor",
        priority_class="low",
        grace_seconds=90,
        volumes=[{"name": "cache", "persistentVolumeClaim": {"claimName": "cache"}}],
        agent={
            "env": {"HTTPS_PROXY": "http://proxy:3128", "HOME": "/nowhere"},
            "env_from_secrets": ["mcp"],
            "requests": {"cpu": 1},
            "limits": {"memory": "3Gi"},
            "volume_mounts": [{"name": "cache", "mountPath": "/cache", "readOnly": True}],
        },
        workspace={
            "env": {"GOFLAGS": "-mod=mod"},
            "volume_mounts": [{"name": "cache", "mountPath": "/cache", "subPath": "w"}],
            "size_limit": "1Gi",
        },
    )
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    assert (spec["nodeSelector"], spec["runtimeClassName"]) == ({"pool": "agents"}, "gvisor")
    assert (spec["priorityClassName"], spec["terminationGracePeriodSeconds"]) == ("low", 90)
    assert spec["affinity"] == affinity
    assert spec["tolerations"] == [
        {"key": "agents", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 30}
    ]
    assert {"name": "HTTPS_PROXY", "value": "http://proxy:3128"} in agent(spec)["env"]
    assert [e["value"] for e in agent(spec)["env"] if e["name"] == "HOME"] == ["/work"], "ours hold"
    assert agent(spec)["envFrom"] == [{"secretRef": {"name": "mcp"}}]
    assert agent(spec)["resources"] == {"requests": {"cpu": "1"}, "limits": {"memory": "3Gi"}}
    assert mounts(agent(spec))["/cache"] == {"name": "cache", "mountPath": "/cache", "readOnly": True}
    assert mounts(workspace(spec))["/cache"]["subPath"] == "w"
    assert workspace(spec)["env"] == [{"name": "GOFLAGS", "value": "-mod=mod"}]


SECRET_VOLUME = {"name": "s", "secret": {"secretName": "x"}}
MOUNT = {"name": "s", "mountPath": "/s"}


@pytest.mark.parametrize(
    ("template", "key", "sentence"),
    [
        ({"imagePullSecrets": []}, "imagePullSecrets", "Extra inputs"),
        ({"agent": {"limts": {}}}, "agent.limts", "Extra inputs"),
        ({"workspace": {"env_from_secrets": ["x"]}}, "workspace.env_from_secrets", "Extra inputs"),
        ({"agent": {"limits": {"memory": "2 GB"}}}, "agent.limits.memory", "pattern"),
        ({"tolerations": [{"effect": "Never"}]}, "tolerations.0.effect", "NoSchedule"),
        ({"affinity": {"nodeAfinity": {}}}, "affinity.nodeAfinity.[key]", "nodeAffinity"),
        ({"credentials": [{**TOKEN, "file": "../token"}]}, "credentials.0.file", "pattern"),
        ({"credentials": [TOKEN, TOKEN]}, "credentials", "github-token"),
        ({"volumes": [{"emptyDir": {}}]}, "volumes", "name"),
        ({"volumes": [{"name": "credentials", "emptyDir": {}}]}, "volumes", "of its own"),
        ({"agent": {"volume_mounts": [MOUNT]}}, "", "`agent.volume_mounts` names 's'"),
        ({"volumes": [SECRET_VOLUME], "workspace": {"volume_mounts": [MOUNT]}}, "", "holds a Secret"),
        ({"agent": {"user": 0}}, "agent.user", "greater than 0"),
        ({"agent": {"user": 7}, "workspace": {"user": 7}}, "", "three different numbers"),
        ({"grace_seconds": 1}, "grace_seconds", "greater than or equal to 10"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_key(template: dict[str, Any], key: str, sentence: str) -> None:
    with pytest.raises(ValidationError) as refused:
        JobTemplate.model_validate(template)
    (error,) = refused.value.errors()
    assert ".".join(str(part) for part in error["loc"]) == key
    assert sentence in error["msg"]


@pytest.mark.parametrize(
    "volume",
    [
        SECRET_VOLUME,
        {"name": "s", "projected": {"sources": [{"configMap": {}}, {"secret": {"name": "x"}}]}},
        {"name": "s", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}},
        {
            "name": "s",
            "csi": {"driver": "secrets-store.csi.k8s.io", "volumeAttributes": {"secretProviderClass": "x"}},
        },
        {"name": "s", "hostPath": {"path": "/"}},
    ],
)
def test_the_workspace_is_given_no_secret_in_any_form(volume: dict[str, Any]) -> None:
    settings = {"volumes": [volume], "workspace": {"volume_mounts": [MOUNT]}}
    with pytest.raises(ValidationError, match="holds a Secret"):
        JobTemplate.model_validate(settings)
    JobTemplate.model_validate({**settings, "workspace": {}, "agent": {"volume_mounts": [MOUNT]}})
