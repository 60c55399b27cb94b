"""The pod of an attempt: who gets what, and what can be set."""

from typing import Any

import pytest
from coding_agent_core.settings.job_settings import WORKSPACE_USERS, JobTemplate
from coding_agent_core.task.agenttask import AgentTask
from coding_agent_operator.jobs.job import build_job
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
    return {mount["mountPath"]: mount for mount in container["volumeMounts"]}


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
    users = [entry["securityContext"]["runAsUser"] for entry in (agent(spec), workspace(spec))]
    groups = [found["securityContext"]["runAsGroup"] for found in (agent(spec), workspace(spec))]
    assert len({*users, spec["securityContext"]["fsGroup"]}) == 3
    assert groups == users


def test_no_user_or_group_is_fixed_where_the_cluster_assigns_them() -> None:
    spec = pod(fixed_ids=False, workspace={"image": "toolchain:1"})
    for holder in (spec, *spec["initContainers"], *spec["containers"]):
        security = holder["securityContext"]
        assert not {"runAsUser", "runAsGroup", "fsGroup"} & set(security)
        assert security["runAsNonRoot"] is True


def test_each_attempt_has_a_workspace_user_of_its_own() -> None:
    """The kernel counts processes by user: see tests/security/test_node.py."""

    def user_of(number: int, **template: Any) -> int:
        made = build_job(task(), number, JobTemplate.model_validate(template))
        user: int = workspace(made["spec"]["template"]["spec"])["securityContext"]["runAsUser"]
        return user

    users = {user_of(number) for number in range(1, 41)}
    assert len(users) > 35
    assert users <= set(WORKSPACE_USERS)
    assert user_of(1) == user_of(1), "the same after a restart of the operator"
    taken = user_of(1)
    as_agent = with_containers({"name": "agent", "securityContext": {"runAsUser": taken}})
    assert (
        user_of(1, **as_agent) == WORKSPACE_USERS[(taken + 1 - WORKSPACE_USERS.start) % len(WORKSPACE_USERS)]
    )
    assert user_of(1, **with_containers(securityContext={"fsGroup": taken})) != taken
    fixed = with_containers({"name": "workspace", "securityContext": {"runAsUser": 2002}})
    assert {user_of(number, **fixed) for number in (1, 2)} == {2002}


def test_credentials_and_configuration_are_files_of_the_agent_alone() -> None:
    spec = pod(config_map="settings", credentials=[TOKEN, OTHER, MODEL])
    volume = next(entry for entry in spec["volumes"] if entry["name"] == "credentials")
    files = {
        source["secret"]["items"][0]["path"]: (source["secret"]["name"], source["secret"]["items"][0]["key"])
        for source in volume["projected"]["sources"]
    }
    assert files == {"github-token": ("github", "token"), "openai-api-key": ("model", "api-key")}
    assert mounts(agent(spec))["/etc/coding-agent/credentials"]["name"] == "credentials"
    assert mounts(agent(spec))["/etc/coding-agent/config.yaml"]["subPath"] == "config.yaml"
    assert {"name": "CONFIG_FILE", "value": "/etc/coding-agent/config.yaml"} in agent(spec)["env"]
    held = {mount["name"] for mount in workspace(spec)["volumeMounts"]}
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
    socket = next(volume for volume in spec["volumes"] if volume["name"] == "socket")
    assert socket["emptyDir"] == {"medium": "Memory", "sizeLimit": "1Mi"}
    tree = next(entry for entry in spec["volumes"] if entry["name"] == "workspace")
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


def test_the_runtime_class_follows_who_wrote_the_item() -> None:
    def runtime(of: AgentTask, classes: dict[str, str]) -> str | None:
        template = JobTemplate.model_validate({"runtime_classes": classes})
        spec: dict[str, Any] = build_job(of, 1, template)["spec"]["template"]["spec"]
        return spec.get("runtimeClassName")

    member, stranger = task(trusted=True), task(trusted=False)
    both = {"trusted": "runc", "untrusted": "gvisor"}
    assert (runtime(member, both), runtime(stranger, both)) == ("runc", "gvisor")
    assert runtime(member, {"untrusted": "gvisor"}) is None, "the cluster's default"
    with pytest.raises(ValidationError, match="either runtime_classes or pod_template"):
        pod(runtime_classes={"untrusted": "gvisor"}, **with_containers(runtimeClassName="kata"))


def with_containers(*containers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {"pod_template": {"spec": {"containers": list(containers), **spec}}}


CACHE = {"name": "cache", "persistentVolumeClaim": {"claimName": "cache"}}


def test_the_pod_template_is_merged_over_the_pod() -> None:
    scheduling: dict[str, Any] = {
        "imagePullSecrets": [{"name": "registry"}],
        "nodeSelector": {"pool": "agents"},
        "tolerations": [{"key": "agents", "operator": "Exists", "effect": "NoExecute"}],
        "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
        "runtimeClassName": "gvisor",
        "priorityClassName": "low",
    }
    agent_part: dict[str, Any] = {
        "name": "agent",
        "env": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
        "envFrom": [{"secretRef": {"name": "mcp"}}],
        "resources": {"requests": {"cpu": 1}, "limits": {"memory": "3Gi", "ephemeral-storage": None}},
        "volumeMounts": [{"name": "cache", "mountPath": "/cache", "readOnly": True}],
        "securityContext": {"runAsUser": 2001},
    }
    workspace_part = {
        "name": "workspace",
        "env": [{"name": "GOFLAGS", "value": "-mod=mod"}],
        "volumeMounts": [{"name": "cache", "mountPath": "/cache", "subPath": "w"}],
    }
    later = {"name": "agent", "env": [{"name": "TZ", "value": "Asia/Tokyo"}]}
    template = with_containers(
        agent_part,
        workspace_part,
        later,
        **scheduling,
        volumes=[CACHE, {"name": "workspace", "emptyDir": {"sizeLimit": "1Gi"}}],
        securityContext={"fsGroup": 2003},
    )
    spec = pod(grace_seconds=90, workspace={"image": "toolchain:1"}, **template)
    assert {key: spec[key] for key in scheduling} == scheduling
    assert spec["terminationGracePeriodSeconds"] == 90
    assert (spec["securityContext"]["fsGroup"], spec["securityContext"]["runAsNonRoot"]) == (2003, True)
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert (volumes["cache"], volumes["workspace"]["emptyDir"]) == (CACHE, {"sizeLimit": "1Gi"})
    assert volumes["work"]["emptyDir"] == {"sizeLimit": "8Gi"}
    env = {variable["name"]: variable["value"] for variable in agent(spec)["env"]}
    assert (env["HTTPS_PROXY"], env["TZ"], env["HOME"]) == ("http://proxy:3128", "Asia/Tokyo", "/work")
    assert agent(spec)["envFrom"] == [{"secretRef": {"name": "mcp"}}]
    assert agent(spec)["resources"] == {
        "requests": {"cpu": 1, "memory": "256Mi", "ephemeral-storage": "256Mi"},
        "limits": {"memory": "3Gi"},
    }
    security = agent(spec)["securityContext"]
    assert (security["runAsUser"], security["runAsGroup"], security["readOnlyRootFilesystem"]) == (
        2001,
        2001,
        True,
    )
    assert mounts(agent(spec))["/cache"] == {"name": "cache", "mountPath": "/cache", "readOnly": True}
    assert mounts(agent(spec))["/work"]["name"] == "work"
    assert mounts(workspace(spec))["/cache"]["subPath"] == "w"
    assert workspace(spec)["env"] == [{"name": "GOFLAGS", "value": "-mod=mod"}]
    assert workspace(spec)["securityContext"]["runAsUser"] in WORKSPACE_USERS


SECRET_VOLUME = {"name": "s", "secret": {"secretName": "x"}}
MOUNT = {"name": "s", "mountPath": "/s"}
SECRET_VARIABLE = {"name": "T", "valueFrom": {"secretKeyRef": {"name": "x", "key": "y"}}}


@pytest.mark.parametrize(
    ("template", "key", "sentence"),
    [
        ({"imagePullSecrets": []}, "imagePullSecrets", "Extra inputs"),
        ({"credentials": [{**TOKEN, "file": "../token"}]}, "credentials.0.file", "pattern"),
        ({"credentials": [TOKEN, TOKEN]}, "credentials", "github-token"),
        ({"grace_seconds": 1}, "grace_seconds", "greater than or equal to 10"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_key(template: dict[str, Any], key: str, sentence: str) -> None:
    with pytest.raises(ValidationError) as refused:
        JobTemplate.model_validate(template)
    (error,) = refused.value.errors()
    assert ".".join(str(part) for part in error["loc"]) == key
    assert sentence in error["msg"]


def agent_with(**container: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": "agent", **container}]}}


def workspace_with(*volumes: dict[str, Any], **container: Any) -> dict[str, Any]:
    return {"spec": {"volumes": list(volumes), "containers": [{"name": "workspace", **container}]}}


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ({"spc": {}}, "`spc` cannot be set here, only metadata, spec"),
        ({"metadata": {"name": "x"}}, "`metadata.name` cannot be set here, only annotations, labels"),
        ({"spec": None}, "`spec` must be a mapping"),
        (
            {"spec": {"automountServiceAccountToken": True}},
            "`spec.automountServiceAccountToken` cannot be set",
        ),
        ({"spec": {"hostNetwork": True}}, "`spec.hostNetwork` cannot be set"),
        ({"spec": {"hostPID": True}}, "`spec.hostPID` cannot be set"),
        ({"spec": {"shareProcessNamespace": True}}, "`spec.shareProcessNamespace` cannot be set"),
        ({"spec": {"serviceAccountName": "admin"}}, "`spec.serviceAccountName` cannot be set"),
        ({"spec": {"initContainers": []}}, "`spec.initContainers` cannot be set"),
        ({"spec": {"securityContext": None}}, "`spec.securityContext` must be a mapping"),
        ({"spec": {"securityContext": {"runAsNonRoot": False}}}, "`spec.securityContext.runAsNonRoot`"),
        ({"spec": {"securityContext": {"supplementalGroups": [10001]}}}, "supplementalGroups` cannot"),
        ({"spec": {"volumes": [{"emptyDir": {}}]}}, "`spec.volumes.0` needs a `name`"),
        ({"spec": {"volumes": [{"name": "credentials", "emptyDir": {}}]}}, "adds a volume"),
        ({"spec": {"volumes": [{"name": "work", "hostPath": {"path": "/"}}]}}, "adds a volume"),
        ({"spec": {"volumes": [{"name": "work", "emptyDir": {"medium": "Memory"}}]}}, "emptyDir.medium`"),
        ({"spec": {"volumes": [CACHE, CACHE]}}, "two volumes are called 'cache'"),
        ({"spec": {"containers": [{"name": "sidecar"}]}}, "no container 'sidecar'"),
        (agent_with(image="x"), "`spec.containers.0.image` cannot be set here"),
        (agent_with(securityContext=None), "`spec.containers.0.securityContext` must be a mapping"),
        (agent_with(securityContext={"privileged": True}), "securityContext.privileged` cannot be set here"),
        (agent_with(securityContext={"runAsUser": 0}), "must be a number above 0"),
        (agent_with(securityContext={"runAsUser": 10003}), "three different numbers"),
        (agent_with(env=[{"name": "HOME", "value": "/"}]), "`spec.containers.0.env.0` sets HOME"),
        (agent_with(volumeMounts=[MOUNT]), "`spec.containers.0.volumeMounts.0` names 's', which is not in"),
        (agent_with(volumeMounts=[{"name": "socket", "mountPath": "/s"}]), "not in `spec.volumes`"),
        (agent_with(resources={"limits": {"memory": "2 GB"}}), "`spec.containers.0.resources.limits.memory`"),
        (workspace_with(env=[SECRET_VARIABLE]), "takes a variable from a Secret"),
        (workspace_with(envFrom=[{"secretRef": {"name": "x"}}]), "takes a variable from a Secret"),
        (workspace_with(SECRET_VOLUME, volumeMounts=[MOUNT]), "holds a Secret"),
    ],
)
def test_a_pod_template_cannot_weaken_the_pod(template: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError) as refused:
        JobTemplate.model_validate({"pod_template": template})
    (error,) = refused.value.errors()
    assert error["loc"] == ("pod_template",)
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
    with pytest.raises(ValidationError, match="holds a Secret"):
        JobTemplate.model_validate({"pod_template": workspace_with(volume, volumeMounts=[MOUNT])})
    theirs = {"spec": {"volumes": [volume], "containers": [{"name": "agent", "volumeMounts": [MOUNT]}]}}
    JobTemplate.model_validate({"pod_template": theirs})
