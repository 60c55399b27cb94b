"""Gitea's events of labels, which do not say what happened, with two receivers and a real API server."""

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path

import httpx2
from coding_agent_core.kubernetes.task_sink import KubernetesSink
from coding_agent_core.kubernetes.transport import Access
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.settings.attempt_settings import Consumer
from coding_agent_core.task.agenttask import ANNOTATION_RESCAN, AgentTask
from coding_agent_core.task.model import Item, Origin, TaskRequest, Trigger, task_name
from coding_agent_core.task.runs import stored_rescan

from tests.fixtures.deliveries import SECRET, encode, sign
from tests.fixtures.system import Program
from tests.integration.core_kubernetes.events import now, results
from tests.integration.core_kubernetes.place import Place

RECORDED = Path(__file__).resolve().parents[2] / "unit" / "receiver" / "gitea_recorded.json"
EVENTS = json.loads(RECORDED.read_text(encoding="utf-8"))
ITEM = Item(
    platform=Platform.GITEA,
    host="127.0.0.1:3000",
    repository="acme/pricing",
    kind=ItemKind.ISSUE,
    number=1,
)
LABELED, GONE = "label_added", "label_removed"


async def test_one_label_is_one_task_whoever_shows_it_and_an_old_label_is_none(
    place: Place, http: httpx2.AsyncClient
) -> None:
    settings = {"gitea": {"api_url": "http://127.0.0.1:3000", "account": "coding-agent-bot"}}
    programs = [
        place.start_receiver(place.account(), forge=settings, gitea={"secret": SECRET}) for _ in range(2)
    ]
    ports = [program.port() for program in programs]
    sink = KubernetesSink(Access(str(place.account())), place.namespace, Consumer(), total_timeout=60)
    try:
        await _story(place, http, ports, sink)
    finally:
        await sink.aclose()
        for program in programs:
            _end(program)


async def _story(place: Place, http: httpx2.AsyncClient, ports: list[int], sink: KubernetesSink) -> None:
    async def send(step: str, port: int) -> httpx2.Response:
        """Each delivery has a new id, as Gitea's redeliveries have."""
        sent = EVENTS[step][0]
        body = encode(sent["body"])
        headers = {
            "Content-Type": "application/json",
            "X-Gitea-Event": sent["event"],
            "X-Gitea-Delivery": f"d-{step}-{asyncio.get_running_loop().time()}",
            "X-Hub-Signature-256": sign(body),
        }
        return await http.post(f"http://127.0.0.1:{port}/webhook/gitea", content=body, headers=headers)

    async def told(*steps: str) -> dict[str, int]:
        return dict(results(await asyncio.gather(*(send(step, port) for step in steps for port in ports))))

    async def poll() -> bool:
        at = datetime.fromisoformat(EVENTS[LABELED][0]["body"]["issue"]["updated_at"]).astimezone(UTC)
        trigger = Trigger(origin=Origin.POLL, labeled_at=at, received_at=now())
        return (await sink.submit(TaskRequest(item=ITEM, trigger=trigger))).duplicate is None

    def first() -> AgentTask:
        return AgentTask.of(place.task(task_name(ITEM)))

    def asked() -> bool:
        rescan = stored_rescan(first())
        return rescan is not None and rescan.labels

    assert await told(GONE) == {"ignored": 2}, "nothing to withdraw"
    by_webhook, by_poll = await asyncio.gather(told(LABELED, "label_added_redelivered"), poll())
    assert by_webhook.get("success", 0) + by_poll == 1
    assert set(place.tasks()) == {task_name(ITEM)}
    if not by_poll:
        assert first().spec.trigger.origin is Origin.LABELS
    assert asked(), "the reporter reads the item before a repeated label is trusted"

    for step, said in (("second_label_added", "duplicate"), (GONE, "ignored")):
        place.patch(task_name(ITEM), {"metadata": {"annotations": {ANNOTATION_RESCAN: None}}})
        assert not asked()
        assert await told(step) == {said: 2}
        assert asked(), "the reporter decides what the item's history asks for"
    assert not first().spec.cancel

    place.set_conditions(task_name(ITEM), Succeeded="True")
    assert await told(LABELED, "second_label_added", "label_put_back") == {"duplicate": 6}
    assert set(place.tasks()) == {task_name(ITEM)}


def _end(program: Program) -> None:
    if program.process.poll() is None:
        program.process.terminate()
        program.process.wait(60)
