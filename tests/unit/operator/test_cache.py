"""The cache volume of a repository: its claim, who writes to it, and what a pod without one is like."""

from typing import Any

import pytest
from coding_agent_core.kubernetes.transport import ApiError
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.settings.job_settings import RESERVED_VOLUMES, WORKSPACE_USERS, Cache, JobTemplate
from coding_agent_core.task.agenttask import labels_for
from coding_agent_core.task.model import Item
from coding_agent_operator.jobs.job import build_job
from coding_agent_operator.jobs.job_builder import (
    MIRROR,
    PACKAGES,
    VARIABLES,
    RepositoryCaches,
    volume_claim_for,
    why_unusable,
)

from tests.unit.operator.making import task

ENABLED = {"cache": {"enabled": True}}


class Claims:
    """A namespace's claims, and what the API server answers."""

    def __init__(self, *there: dict[str, Any], refusal: ApiError | None = None, **status: Any) -> None:
        self.there = {claim["metadata"]["name"]: claim for claim in there}
        self.refusal = refusal
        self.events: list[list[tuple[str, str]]] = []
        self.created: list[str] = []

    async def get_volume_claim(self, name: str) -> dict[str, Any] | None:
        return self.there.get(name)

    async def volume_claim_events(self, uid: str) -> list[tuple[str, str]]:
        return self.events.pop(0)

    async def create_volume_claim(self, manifest: dict[str, Any]) -> dict[str, Any]:
        if self.refusal is not None:
            raise self.refusal
        name = manifest["metadata"]["name"]
        self.created.append(name)
        self.there[name] = manifest
        return manifest


async def pod(
    claims: Claims | None = None, template: dict[str, Any] | None = None, **spec: Any
) -> tuple[dict[str, Any], str]:
    settings = JobTemplate.model_validate({**ENABLED, **(template or {})})
    caches = RepositoryCaches(claims or Claims(), settings)  # type: ignore[arg-type]
    manifest, event = await caches.given_to(build_job(task(**spec), 1, settings), task(**spec))
    return manifest["spec"]["template"]["spec"], event.message if event else ""


def mounts(container: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {mount["mountPath"]: mount for mount in container["volumeMounts"]}


def variables(container: dict[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in container["env"]}


def user_of(container: dict[str, Any]) -> int:
    return int(container["securityContext"]["runAsUser"])


async def test_a_trusted_task_writes_to_the_volume_itself() -> None:
    spec, _ = await pod(trusted=True)
    [agent], [workspace] = spec["containers"], spec["initContainers"]
    name = volume_claim_for(task().spec.item, Cache())["metadata"]["name"]
    assert {"name": "repository-cache", "persistentVolumeClaim": {"claimName": name}} in spec["volumes"]
    assert mounts(workspace)[PACKAGES] == {
        "name": "repository-cache",
        "mountPath": PACKAGES,
        "subPath": "packages",
    }
    assert mounts(agent)[MIRROR] == {"name": "repository-cache", "mountPath": MIRROR, "subPath": "mirror"}
    assert variables(workspace) == VARIABLES
    assert variables(agent)["REPOSITORY_MIRROR"] == MIRROR
    assert not set(mounts(agent)) & set(mounts(workspace)) - {"/run/coding-agent"}


@pytest.mark.parametrize("template", [{}, {"workspace": {"image": "toolchain"}}])
async def test_any_other_task_reads_the_volume_and_its_workspace_has_a_copy(template: dict[str, Any]) -> None:
    spec, _ = await pod(template=template)
    [agent], [*_, copying, workspace] = spec["containers"], spec["initContainers"]
    everywhere = [mount for one in (agent, copying, workspace) for mount in mounts(one).values()]
    shared = [mount for mount in everywhere if mount["name"] == "repository-cache"]
    assert len(shared) == 2
    assert all(mount["readOnly"] for mount in shared)
    assert "repository-cache" not in {mount["name"] for mount in mounts(workspace).values()}
    assert mounts(workspace)[PACKAGES]["name"] == mounts(copying)[PACKAGES]["name"] == "repository-cache-copy"
    assert copying["image"] == agent["image"]
    assert copying["securityContext"] == workspace["securityContext"]
    assert "restartPolicy" not in copying
    assert variables(workspace) == VARIABLES
    assert {volume["name"] for volume in spec["volumes"]} <= set(RESERVED_VOLUMES)


async def test_attempts_that_write_to_one_cache_have_one_user_and_no_others_have_it() -> None:
    async def user(**spec: Any) -> int:
        made, _ = await pod(**spec)
        return user_of(made["initContainers"][-1])

    own = await user(trusted=True)
    assert own in WORKSPACE_USERS
    assert own == await user(trusted=True, uid="another", number=9)
    assert own != await user(trusted=True, repository="octo/other")
    assert own != await user()
    assert await user() != await user(uid="another")
    off, _ = await pod(template={"cache": {"enabled": False}}, trusted=True)
    assert user_of(off["initContainers"][-1]) == await user()


async def test_a_claim_is_made_once_for_a_repository() -> None:
    claims = Claims()
    for number in (7, 8):
        await pod(claims, number=number, trusted=True)
        await pod(claims, number=number)
    await pod(claims, repository="octo/other")
    assert len(claims.created) == len(set(claims.created)) == 2


async def test_nothing_is_made_or_mounted_unless_it_is_enabled() -> None:
    claims = Claims()
    spec, _ = await pod(claims, {"cache": {"enabled": False}}, trusted=True)
    assert claims.created == []
    assert spec == build_job(task(trusted=True), 1, JobTemplate())["spec"]["template"]["spec"]


def test_the_claim_is_as_the_settings_say_and_can_be_found_by_people() -> None:
    item = task().spec.item
    claim = volume_claim_for(item, Cache(size="1Ti", storage_class="fast", access_mode="ReadWriteMany"))
    assert claim["spec"] == {
        "accessModes": ["ReadWriteMany"],
        "resources": {"requests": {"storage": "1Ti"}},
        "storageClassName": "fast",
    }
    assert "storageClassName" not in volume_claim_for(item, Cache())["spec"]
    assert volume_claim_for(item, Cache(storage_class=""))["spec"]["storageClassName"] == ""
    meta = claim["metadata"]
    assert meta["labels"]["app.kubernetes.io/component"] == "cache"
    assert meta["labels"].items() & labels_for(item).items()
    assert meta["annotations"] == {"coding-agent.dev/repository-path": "github.com/octo/demo"}
    assert "ownerReferences" not in meta


def test_a_renamed_project_keeps_its_claim_and_no_other_forge_has_it() -> None:
    def name(host: str, repository: str, project: int | None) -> str:
        item = Item(
            platform=Platform.GITLAB,
            host=host,
            repository=repository,
            kind=ItemKind.ISSUE,
            number=1,
            project_id=project,
        )
        return str(volume_claim_for(item, Cache())["metadata"]["name"])

    assert name("a.test", "x/y", 3) == name("a.test", "x/z", 3)
    assert len({name("a.test", "x/y", 3), name("b.test", "x/y", 3), name("a.test", "x/y", 4)}) == 3


async def test_with_one_node_for_a_volume_the_attempts_of_a_repository_meet_there() -> None:
    spec, _ = await pod()
    [term] = spec["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    labels = build_job(task(), 1, JobTemplate())["spec"]["template"]["metadata"]["labels"]
    assert term["labelSelector"]["matchLabels"].items() <= labels.items()
    assert term["topologyKey"] == "kubernetes.io/hostname"
    many, _ = await pod(template={"cache": {"enabled": True, "access_mode": "ReadWriteMany"}})
    assert "affinity" not in many


async def test_the_affinity_of_the_template_stays() -> None:
    mine = {"topologyKey": "zone", "labelSelector": {}}
    key = "requiredDuringSchedulingIgnoredDuringExecution"
    affinity = {"nodeAffinity": {"a": 1}, "podAffinity": {key: [mine]}}
    spec, _ = await pod(template={"pod_template": {"spec": {"affinity": affinity}}})
    assert spec["affinity"]["nodeAffinity"] == {"a": 1}
    assert spec["affinity"]["podAffinity"][key][0] == mine
    assert len(spec["affinity"]["podAffinity"][key]) == 2


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        ({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}, "being deleted"),
        ({"status": {"phase": "Lost"}}, "volume is gone"),
        ({"status": {"phase": "Pending"}}, "no default StorageClass"),
    ],
)
async def test_an_attempt_starts_without_a_claim_that_is_of_no_use(broken: dict[str, Any], why: str) -> None:
    good = volume_claim_for(task().spec.item, Cache())
    claim = {**good, **broken, "metadata": {**good["metadata"], **broken.get("metadata", {})}}
    assert why_unusable(good) is None
    pending = {**good, "status": {"phase": "Pending"}}
    for key in ("storageClassName", "volumeName"):
        assert why_unusable({**pending, "spec": {**good["spec"], key: "x"}}) is None
    spec, message = await pod(Claims(claim))
    assert why in message
    assert not any("persistentVolumeClaim" in volume for volume in spec["volumes"])


MISSING = ("ProvisioningFailed", 'storageclass.storage.k8s.io "fast" not found')


@pytest.mark.parametrize(
    ("events", "usable"),
    [
        ([[], [MISSING]], False),
        ([[("WaitForFirstConsumer", "waiting for first consumer"), MISSING]], False),
        ([[MISSING, ("WaitForFirstConsumer", "waiting for first consumer")]], True),
        ([[("ProvisioningFailed", 'secrets "storage-login" not found')]], True),
        ([[("ExternalProvisioning", 'waiting for "x.example"')]], True),
    ],
    ids=["a new claim", "an old one", "created since", "another problem", "it takes its time"],
)
async def test_a_class_that_does_not_exist_is_known_from_the_claims_newest_event(
    events: list[list[tuple[str, str]]], usable: bool
) -> None:
    good = volume_claim_for(task().spec.item, Cache(storage_class="fast"))
    metadata = {**good["metadata"], "uid": "u"}
    claims = Claims({**good, "metadata": metadata, "status": {"phase": "Pending"}})
    claims.events = events
    spec, message = await pod(claims)
    assert any("persistentVolumeClaim" in volume for volume in spec["volumes"]) is usable
    assert ("`operator.job.cache.storage_class`" in message) is not usable


async def test_an_attempt_starts_without_a_claim_that_is_refused_and_waits_for_an_answer() -> None:
    spec, message = await pod(Claims(refusal=ApiError("exceeded quota", 403)))
    assert "exceeded quota" in message
    assert not any("persistentVolumeClaim" in volume for volume in spec["volumes"])
    for status in (None, 409, 500, 503):
        with pytest.raises(ApiError):
            await pod(Claims(refusal=ApiError("no answer", status)))


async def test_variables_of_the_template_stay() -> None:
    mine = {"name": "CARGO_HOME", "value": "/mine"}
    containers = {"containers": [{"name": "workspace", "env": [mine]}]}
    spec, _ = await pod(template={"pod_template": {"spec": containers}})
    assert variables(spec["initContainers"][-1]) == {**VARIABLES, "CARGO_HOME": "/mine"}


async def test_the_ids_of_the_cluster_are_used_where_it_assigns_them() -> None:
    spec, _ = await pod(template={"fixed_ids": False})
    assert all("runAsUser" not in one["securityContext"] for one in spec["initContainers"])
