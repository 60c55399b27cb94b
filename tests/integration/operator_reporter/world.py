"""A sandbox forge, and AgentTasks whose status the test writes in place of the operator."""

import os
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import yaml
from coding_agent_core.forge.values import MARKER
from coding_agent_core.platforms.addresses import host_of
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.task import agenttask
from coding_agent_core.task.model import Item, Origin, Phase, TaskRequest, Trigger
from coding_agent_testbed.forge import ForgeServer
from coding_agent_testbed.forge.model import Comment
from coding_agent_testbed.until import TIMEOUT_S, until
from kubernetes.client.exceptions import ApiException

from tests.fixtures.cluster import PlaneUnderTest
from tests.fixtures.deliveries import PATIENT
from tests.integration.operator_reporter.process import POD, ROOT, Reporter, account
from tests.integration.operator_reporter.statuses import operators_status

REPOSITORY = "acme/pricing"
BOT, PROCESSING, DONE, FAILED = (
    "coding agent",
    "coding agent processing",
    "coding agent done",
    "coding agent failed",
)
CODEX = "coding agent: codex"
FLOW = {BOT, CODEX, PROCESSING, DONE, FAILED}
BOT_TOKEN = "bot-token-4242"
QUICK: dict[str, Any] = {
    **PATIENT,
    "http_host": "127.0.0.1",
    "http_port": 0,
    "relist_interval": 30,
    "forge_limits": False,
    "grace": 1.0,  # meant to expire
    "forge_retry": 0.1,
    "forge_retry_max": 0.5,
    "outage_shown_after": 0.3,
    "comment_interval": 1.0,
    "check_interval": 0.5,
}
"""Delays short enough for a test, and no limits, in the section `development`."""
SEED = {
    "users": [
        {"login": "alice", "token": "alice-token", "admin": True},
        {"login": "coding-agent-bot", "token": BOT_TOKEN, "bot": True},
    ],
    "repositories": [
        {
            "owner": "acme",
            "name": "pricing",
            "files": str(ROOT / "dev" / "testbed" / "samples" / "pricing"),
            "roles": {"coding-agent-bot": "write"},
        }
    ],
}


@dataclass
class World:
    """A namespace and a forge.

    Attributes:
        api_url: the forge as the reporter reaches it, if not directly.
    """

    plane: PlaneUnderTest
    namespace: str
    forge: ForgeServer
    folder: Path
    sections: dict[str, Any] = field(default_factory=dict)
    api_url: str | None = None
    kubeconfig: Path | None = None

    @property
    def flavour(self) -> str:
        """`github` or `gitlab`."""
        return self.forge.flavour.value

    @property
    def host(self) -> str:
        return host_of(self.api_url or self.forge.api_url)

    def change_url(self, number: int) -> str:
        path = {"github": "pull", "gitlab": "-/merge_requests"}[self.flavour]
        return f"http://{self.host}/{REPOSITORY}/{path}/{number}"

    # People.

    def issue(self, *labels: str) -> int:
        """A person opens an issue with labels; its number."""
        number = self.forge.open_issue(REPOSITORY, "A bug", "It is there.")
        for label in labels:
            self.forge.add_label(REPOSITORY, number, label)
        return number

    def add_label(self, number: int, label: str) -> None:
        self.forge.add_label(REPOSITORY, number, label)

    def remove_label(self, number: int, label: str) -> None:
        self.forge.remove_label(REPOSITORY, number, label)

    def close(self, number: int) -> None:
        store, repository = self.forge.sandbox.store, self.forge.repository(REPOSITORY)
        item = self.forge.item(REPOSITORY, number)
        self.forge.run(lambda: store.update(repository, item, self.forge.user(), opened=False))

    # What the item shows.

    def labels(self, number: int) -> set[str]:
        return self.forge.labels(REPOSITORY, number) & FLOW

    def comments(self, number: int) -> list[Comment]:
        item = self.forge.item(REPOSITORY, number)
        return self.forge.run(lambda: [comment for comment in item.comments if not comment.system])

    def comment(self, number: int) -> str:
        """The bot's one comment, empty if there is none yet."""
        found = [comment.body for comment in self.comments(number) if MARKER in comment.body]
        assert len(found) <= 1, f"{len(found)} comments of ours on {number}"
        return found[0] if found else ""

    def history(self, number: int) -> list[tuple[str, str]]:
        """`("labeled", NAME)` and `("unlabeled", NAME)` of the flow's labels, in order."""
        item = self.forge.item(REPOSITORY, number)
        return self.forge.run(
            lambda: [
                (event.event, event.label.name)
                for event in item.events
                if event.event in ("labeled", "unlabeled") and event.label and event.label.name in FLOW
            ]
        )

    def shows(self, number: int, headline: str, labels: set[str], timeout: float = TIMEOUT_S) -> str:
        """Wait until the comment has this headline and the issue exactly these labels; the comment."""

        def there() -> str:
            text = self.comment(number)
            return text if headline in text and self.labels(number) == labels else ""

        try:
            return str(until(f"#{number} shows {headline!r} and {labels}", there, timeout=timeout))
        except AssertionError as error:
            raise AssertionError(f"{error}; it shows {self.labels(number)} {self.comment(number)}") from None

    def requests(self) -> list[dict[str, Any]]:
        answer = httpx2.get(f"{self.forge.base_url}/_sandbox/requests", timeout=60, trust_env=False)
        return list(answer.json())

    def fault(self, **fault: Any) -> None:
        httpx2.post(f"{self.forge.base_url}/_sandbox/faults", json=fault, timeout=60).raise_for_status()

    def clear_faults(self) -> None:
        httpx2.delete(f"{self.forge.base_url}/_sandbox/faults", timeout=60).raise_for_status()

    # Tasks.

    def item(self, number: int) -> Item:
        if self.flavour == "github":
            return Item(
                platform=Platform.GITHUB,
                host=self.host,
                repository=REPOSITORY,
                kind=ItemKind.ISSUE,
                number=number,
            )
        project = self.forge.repository(REPOSITORY).id
        return Item(
            platform=Platform.GITLAB,
            host=self.host,
            repository=REPOSITORY,
            kind=ItemKind.ISSUE,
            number=number,
            project_id=project,
        )

    def task(
        self,
        number: int,
        *,
        run: int = 1,
        origin: Origin = Origin.WEBHOOK,
        item: Item | None = None,
        labeled_before: float = 0.0,
    ) -> str:
        """Create the AgentTask as the receiver does, for a label added so many seconds ago; its name."""
        now = datetime.now(UTC)
        request = TaskRequest(
            item=item or self.item(number),
            user="alice",
            trigger=Trigger(
                origin=origin,
                received_at=now,
                labeled_at=None if origin is Origin.MANUAL else now - timedelta(seconds=labeled_before),
            ),
        )
        body = agenttask.manifest(request, run=run, timeout_seconds=600, max_attempts=3)
        self.plane.custom.create_namespaced_custom_object(*self._place, body, _request_timeout=60)
        return str(body["metadata"]["name"])

    def read(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.plane.custom.get_namespaced_custom_object(
            *self._place, name, _request_timeout=60
        )
        return found

    def tasks(self) -> dict[str, dict[str, Any]]:
        found = self.plane.custom.list_namespaced_custom_object(*self._place, _request_timeout=20)
        return {item["metadata"]["name"]: item for item in found["items"]}

    def patch(self, name: str, body: dict[str, Any]) -> None:
        self.plane.custom.patch_namespaced_custom_object(*self._place, name, body, _request_timeout=60)

    def condition(self, name: str, kind: str) -> dict[str, Any]:
        """A condition, empty if it is not there."""
        conditions = (self.read(name).get("status") or {}).get("conditions") or []
        return next((condition for condition in conditions if condition["type"] == kind), {})

    def is_reported(self, name: str) -> bool:
        labels: dict[str, str] = self.read(name)["metadata"]["labels"]
        return labels.get(agenttask.LABEL_REPORTED) == "true"

    def events(self, name: str) -> list[tuple[str, str]]:
        found = self.plane.core.list_namespaced_event(
            self.namespace, field_selector=f"involvedObject.name={name}", _request_timeout=60
        )
        ordered = sorted(found.items, key=lambda e: int(e.metadata.resource_version))
        return [(event.reason, event.message) for event in ordered]

    def set_phase(self, name: str, phase: Phase, **more: Any) -> None:
        """Write the whole status as the operator does, on the version that was read."""
        while True:
            body = self.read(name)
            status = dict.fromkeys(body.get("status") or {}) | operators_status(body, phase, dict(more))
            version = {"resourceVersion": body["metadata"]["resourceVersion"]}
            patch = {"metadata": version, "status": status}
            try:
                self.plane.custom.patch_namespaced_custom_object_status(
                    *self._place, name, patch, _request_timeout=60
                )
            except ApiException as error:
                if error.status != 409:
                    raise
                continue
            return

    @property
    def _place(self) -> tuple[str, str, str, str]:
        return agenttask.GROUP, agenttask.VERSION, self.namespace, agenttask.PLURAL

    # The reporter.

    def config(self, **given: Any) -> Path:
        """A file with settings of the section `reporter`, and others of `development`."""
        own = {name: given.pop(name) for name in ("forge_share",) if name in given}
        file = self.folder / f"config-{os.urandom(3).hex()}.yaml"
        token = {"personal_access_token": BOT_TOKEN}
        settings = {
            self.flavour: {"api_url": self.api_url or self.forge.api_url, "failed_label": FAILED, **token},
            "operator": {"namespace": self.namespace},
            "reporter": own,
            "development": {**QUICK, **given},
            **self.sections,
        }
        file.write_text(yaml.safe_dump(settings))
        return file

    def reporter(self, *, pod: str = POD, **given: Any) -> Reporter:
        """A reporter under its own account; start it."""
        self.kubeconfig = self.kubeconfig or account(self.plane, self.namespace, self.folder)
        return Reporter(self.kubeconfig, self.config(**given), pod)
