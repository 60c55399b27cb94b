"""The store of tasks keeps its promises, as AgentTasks of an API server and in a file of one machine."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from coding_agent_core.kubernetes import transport
from coding_agent_core.kubernetes.agenttask_client import AgentTasks
from coding_agent_core.kubernetes.transport import Access, ApiError, ApiServer, Page, Query
from coding_agent_core.task.agenttask import (
    ENDED,
    LABEL_REPORTED,
    NOT_ENDED,
    AgentTask,
    Condition,
    Status,
    manifest,
)
from coding_agent_core.task.model import Origin, Phase, TaskRequest, Trigger, task_name
from coding_agent_core.task.task_store import TaskStore
from coding_agent_core.task_file.objects import ObjectFile
from coding_agent_core.task_file.tasks import FileTasks

from tests.fixtures.cluster import PlaneUnderTest
from tests.fixtures.deliveries import issue

NOW = datetime(2026, 1, 1, tzinfo=UTC)
WATCH_S = 60


@pytest.fixture(params=["api server", "file"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[TaskStore]:
    if request.param == "file":
        objects = ObjectFile(tmp_path / "tasks.sqlite")
        yield FileTasks(objects)
        objects.close()
        return
    plane: PlaneUnderTest = request.getfixturevalue("plane_with_agenttasks")
    namespace: str = request.getfixturevalue("namespace")
    server = await ApiServer.connect(Access(str(plane.kubeconfig)), 30, role="none")
    tasks = AgentTasks(server, namespace, "test")
    yield tasks
    await tasks.aclose()


async def created(store: TaskStore, number: int = 1, run: int = 1) -> AgentTask:
    trigger = Trigger(origin=Origin.POLL, received_at=NOW)
    item = issue(number, "octo-org/octo-repo")
    task = await store.create(manifest(TaskRequest(item=item, trigger=trigger), run=run))
    assert task is not None
    return task


def status(phase: Phase, **fields: str) -> Status:
    return Status(phase=phase, **fields)  # type: ignore[arg-type]


async def test_a_name_is_given_once_and_reads_show_every_write(store: TaskStore) -> None:
    task = await created(store)
    assert task.name == task_name(issue(1, "octo-org/octo-repo"))
    assert task.uid
    assert task.metadata.generation == 1
    trigger = Trigger(origin=Origin.POLL, received_at=NOW)
    again = manifest(TaskRequest(item=task.spec.item, trigger=trigger), run=1)
    assert await store.create(again) is None
    await created(store, run=2)
    await created(store, number=2)
    assert [run.spec.run for run in await store.runs(task.spec.item)] == [1, 2]
    assert await store.get("no-such-task") is None
    pages = [page async for page in store.pages("", 2)]
    assert sum(len(page) for page in pages) == 3


async def test_a_list_is_read_in_pages_of_one_state(
    plane_with_agenttasks: PlaneUnderTest, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "_LIST_PAGE", 2)
    answered: list[str] = []
    server = await ApiServer.connect(
        Access(str(plane_with_agenttasks.kubeconfig)),
        30,
        role="none",
        on_answer=lambda _, status: answered.append(status),
    )
    tasks = AgentTasks(server, namespace, "test")
    names = {(await created(tasks, number)).name for number in range(1, 6)}
    later: list[AgentTask] = []
    asked = ApiServer.list

    async def slow(self: ApiServer, path: str, query: Query) -> Page:
        page = await asked(self, path, query)
        if not later:  # between the first page and the second
            later.append(await created(tasks, 9))
        return page

    answered.clear()
    monkeypatch.setattr(ApiServer, "list", slow)
    listed, version = await tasks.list("", NOT_ENDED)
    assert answered == ["200", "201", "200", "200"]
    assert {task.name for task in listed} == names
    assert max(int(task.version) for task in listed) <= version < int(later[0].version), "a watch begins here"
    await tasks.aclose()


async def test_only_the_newest_version_can_be_changed(store: TaskStore) -> None:
    task = await created(store)
    cancelled = await store.patch(task, {"spec": {"cancel": True}, "metadata": {"annotations": {"a": "b"}}})
    assert cancelled is not None
    assert cancelled.spec.cancel
    assert cancelled.metadata.generation == 2
    assert int(cancelled.version) > int(task.version)
    assert await store.patch(task, {"spec": {"priority": 1}}) is None
    removed = await store.patch(cancelled, {"metadata": {"annotations": {"a": None}}})
    assert removed is not None
    assert "a" not in removed.metadata.annotations
    with pytest.raises(ApiError) as refused:
        await store.set_status(task, status(Phase.RUNNING))
    assert refused.value.conflict
    running = await store.set_status(removed, status(Phase.RUNNING, reason="Because"))
    queued = await store.set_status(running, status(Phase.QUEUED))
    assert (queued.status.phase, queued.status.reason) == (Phase.QUEUED, None), "it replaces the status"
    assert queued.metadata.generation == 2
    assert not await store.delete(running)
    assert await store.delete(queued)
    assert await store.newest(queued) is None
    with pytest.raises(ApiError) as gone:
        await store.set_status(queued, status(Phase.RUNNING))
    assert gone.value.status == 404
    assert await store.set_labels(queued, {LABEL_REPORTED: "true"}) is None


async def test_labels_and_conditions_are_set_whatever_the_version(store: TaskStore) -> None:
    task = await created(store)
    await store.set_status(task, status(Phase.RUNNING))
    labeled = await store.set_labels(task, {LABEL_REPORTED: "true"})
    assert labeled is not None
    assert labeled.reported
    shown = Condition(type="LabelsShown", status="True", reason="Shown", last_transition_time=NOW)
    other = Condition(type="Other", status="False", reason="No", last_transition_time=NOW)
    first = await store.set_conditions(task, [shown], NOW)
    second = await store.set_conditions(task, [other, shown], NOW)
    changed = await store.set_conditions(task, [shown.model_copy(update={"reason": "Again"})], NOW)
    assert first is not None
    assert second is not None
    assert changed is not None
    assert [condition.type for condition in second.status.conditions] == ["LabelsShown", "Other"]
    assert changed.status.conditions[0].reason == "Again"
    assert changed.status.phase is Phase.RUNNING


async def test_selectors_choose_by_labels_and_by_fields(store: TaskStore) -> None:
    tasks = [await created(store, number) for number in (1, 2, 3)]
    await store.set_labels(tasks[0], {LABEL_REPORTED: "true"})
    await store.set_status(tasks[1], status(Phase.SUCCEEDED, kept_since="2026-01-01"))
    await store.set_status(tasks[2], status(Phase.RUNNING))

    async def names(labels: str, fields: str = "") -> set[int]:
        found = (await store.list(labels, fields))[0]
        return {task.spec.item.number for task in found}

    assert await names(f"{LABEL_REPORTED}=true") == {1}
    assert await names(f"{LABEL_REPORTED}!=true") == {2, 3}
    assert await names("", NOT_ENDED) == {1, 3}
    assert await names("", ENDED) == {2}
    assert await names("", "status.keptSince=2026-01-01") == {2}
    assert await names("", f"{ENDED},status.keptSince!=2026-01-01") == set()
    assert await names(f"{LABEL_REPORTED}!=true", NOT_ENDED) == {3}


async def test_a_watch_shows_each_change_after_the_list(store: TaskStore) -> None:
    before = await created(store, 1)
    listed, version = await store.list("", NOT_ENDED)
    assert [task.uid for task in listed] == [before.uid]
    new = await created(store, 2)
    await store.set_status(before, status(Phase.SUCCEEDED))
    assert await store.delete(new)
    seen: dict[str, list[str]] = {before.uid: [], new.uid: []}
    async with aclosing(store.watch("", NOT_ENDED, version, WATCH_S)) as changes:  # type: ignore[type-var]
        async for kind, task in changes:
            seen[task.uid].append(kind)
            if all(kinds[-1:] == ["DELETED"] for kinds in seen.values()):
                break
    assert seen[before.uid] == ["DELETED"], "it is not selected any more"
