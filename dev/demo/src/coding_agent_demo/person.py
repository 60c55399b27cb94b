"""What a person does and sees on the forge, over its public REST API."""

from __future__ import annotations

from dataclasses import dataclass, field

import httpx

from coding_agent_demo.world import LABEL, PERSON_TOKEN, REPOSITORY, World


@dataclass(frozen=True)
class Seen:
    """The demo's issue and its change as the forge shows them."""

    labels: tuple[str, ...] = ()
    comment: str = ""
    comments: int = 0
    change_url: str = ""
    change_branch: str = ""


@dataclass
class Person:
    """Alice, who applies the label and watches."""

    world: World
    client: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        github = self.world.forge == "github"
        headers = {"Authorization": f"Bearer {PERSON_TOKEN}"} if github else {"PRIVATE-TOKEN": PERSON_TOKEN}
        place = f"/api/v3/repos/{REPOSITORY}" if github else "/api/v4/projects/acme%2Fpricing"
        self.client = httpx.Client(
            base_url=self.world.forge_url + place, headers=headers, timeout=60, trust_env=False
        )

    def apply_label(self) -> None:
        """Put the label on the issue."""
        if self.world.forge == "github":
            self.client.post("/issues/1/labels", json={"labels": [LABEL]}).raise_for_status()
        else:
            self.client.put("/issues/1", json={"add_labels": LABEL}).raise_for_status()

    def look(self) -> Seen:
        """The issue, the agent's comment and the change, now."""
        return self._github() if self.world.forge == "github" else self._gitlab()

    def _get(self, path: str, **query: str) -> object:
        answer = self.client.get(path, params=query)
        answer.raise_for_status()
        return answer.json()

    def _github(self) -> Seen:
        issue: dict = self._get("/issues/1")  # type: ignore[type-arg,assignment]
        comments: list = self._get("/issues/1/comments")  # type: ignore[type-arg,assignment]
        pulls: list = self._get("/pulls", state="all")  # type: ignore[type-arg,assignment]
        return Seen(
            labels=tuple(label["name"] for label in issue["labels"]),
            comment=comments[-1]["body"] if comments else "",
            comments=len(comments),
            change_url=pulls[0]["html_url"] if pulls else "",
            change_branch=pulls[0]["head"]["ref"] if pulls else "",
        )

    def _gitlab(self) -> Seen:
        issue: dict = self._get("/issues/1")  # type: ignore[type-arg,assignment]
        notes: list = self._get("/issues/1/notes", sort="asc")  # type: ignore[type-arg,assignment]
        comments = [note for note in notes if not note["system"]]
        changes: list = self._get("/merge_requests", state="all")  # type: ignore[type-arg,assignment]
        return Seen(
            labels=tuple(issue["labels"]),
            comment=comments[-1]["body"] if comments else "",
            comments=len(comments),
            change_url=changes[0]["web_url"] if changes else "",
            change_branch=changes[0]["source_branch"] if changes else "",
        )
