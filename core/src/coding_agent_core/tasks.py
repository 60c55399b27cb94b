"""Items, label applications, runners, requests for a task, and the phases of one."""

from __future__ import annotations

import hashlib
import re
import uuid as uuid_module
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from coding_agent_core.platforms import ItemKind
from coding_agent_core.registry import FACTS, HOSTS, KEY_TYPES, Platform
from coding_agent_core.text import first_problem

_NAME_LENGTH = 52
"""Characters of a task name without `-r<run>` and `-<attempt>`, with which it has at most 63 (RFC 1123)."""
_SCHEMES = ("http", "https")


class Origin(StrEnum):
    """How we learned of a label application."""

    WEBHOOK = "webhook"
    POLL = "poll"
    REDELIVERY = "redelivery"
    """A webhook that came more than a minute after its event: sent again, or late."""
    MANUAL = "manual"


class Phase(StrEnum):
    """A task's phase, by the same name in comments, columns, metrics and logs."""

    QUEUED = "Queued"
    STARTING = "Starting"
    """The attempt's Job exists, and its agent has not started. Only on Kubernetes."""
    RUNNING = "Running"
    BACKOFF = "Backoff"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    CANCELLED = "Cancelled"

    @property
    def terminal(self) -> bool:
        return self in (Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED)


def terminal_phase(status: str | None, reason: str | None) -> Phase | None:
    """How a task ended, from its `Succeeded` condition; `None` while it has not ended."""
    if status == "True":
        return Phase.SUCCEEDED
    if status == "False":
        return Phase.CANCELLED if reason == Phase.CANCELLED else Phase.FAILED
    return None


class RunnerName(StrEnum):
    """The coding agent that does the work."""

    BUILTIN = "builtin"
    """Our own, in the agent's process."""
    CLAUDE_CODE = "claude-code"
    """Claude Code, with `llm.provider: anthropic`."""
    CODEX = "codex"
    """Codex, with a service that speaks OpenAI's Responses."""
    GEMINI = "gemini"
    """Gemini CLI, with `llm.provider: google`."""
    OPENCODE = "opencode"
    """OpenCode, with a service that speaks OpenAI's Chat Completions."""
    COMMAND = "command"
    """The command line of `consumer.command`."""


class Frozen(BaseModel):
    """Base of the immutable value types."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Item(Frozen):
    """The issue, pull request or merge request that a task is about.

    Attributes:
        host: the forge's web host with port if any, e.g. `github.com`, `forge.example.com:8443`.
        repository: full path, e.g. `owner/repo` or `group/subgroup/project`; empty if only the project id is
            known, until `Forge.locate`.
        number: as people see it: `#7`, `!7`.
        project_id: the repository's number if the platform uses one (`PlatformFacts.by_project_id`).
    """

    platform: Platform
    host: str
    repository: str
    kind: ItemKind
    number: int = Field(gt=0)
    project_id: int | None = Field(default=None, gt=0)

    @staticmethod
    def from_key(key: Mapping[str, Any], *, host: str = "", repository: str = "") -> Item:
        """The item of a queue message's key, which has exactly the fields of the property `key`.

        Args:
            host: the public installation's by default.
            repository: full path, for keys with a project id.

        Raises:
            ValueError: the dictionary is not a key; the message names the field.
        """
        key_type = key.get("type")
        if not isinstance(key_type, str) or key_type not in KEY_TYPES:
            raise ValueError(f"not a task key: type: {key_type!r} is not one of {', '.join(KEY_TYPES)}")
        platform, kind = KEY_TYPES[key_type]
        facts = FACTS[platform]
        number = facts.keys[kind].number
        where = ("project_id",) if facts.by_project_id else ("owner", "repo")
        if unknown := sorted(set(key) - {"type", number, *where}):
            raise ValueError(f"not a task key: {unknown[0]}: not a field of {key_type}")
        for name in (number, *where):
            if key.get(name) is None:
                raise ValueError(f"not a task key: {name}: missing")
        if not facts.by_project_id:
            owner, repo = key["owner"], key["repo"]
            if not isinstance(owner, str) or not owner or "/" in owner:
                raise ValueError("not a task key: owner: not the name of an account")
            if not isinstance(repo, str) or not repo:
                raise ValueError("not a task key: repo: not the name of a repository")
            repository = f"{owner}/{repo}"
        try:
            return Item(
                platform=platform,
                host=host or facts.web_host,
                repository=repository,
                kind=kind,
                number=key[number],
                project_id=key["project_id"] if facts.by_project_id else None,
            )
        except ValidationError as error:
            raise ValueError(
                f"not a task key: {first_problem(error).replace('number', number, 1)}"
            ) from error

    @property
    def key(self) -> dict[str, str | int]:
        """The item in queue messages, with exactly the fields that consumers of the queue know.

        Raises:
            ValueError: the platform's keys need the project's id, and it is not known.
        """
        facts = FACTS[self.platform]
        form = facts.keys[self.kind]
        if not facts.by_project_id:
            owner, _, repo = self.repository.partition("/")
            return {"type": form.type, "owner": owner, "repo": repo, form.number: self.number}
        if self.project_id is None:
            raise ValueError(f"{self.display}: the numeric id of the project is not known")
        return {"type": form.type, "project_id": self.project_id, form.number: self.number}

    @property
    def _place(self) -> str:
        by_id = FACTS[self.platform].by_project_id and self.project_id is not None
        return str(self.project_id) if by_id else self.repository.lower()

    @property
    def identity(self) -> str:
        """A string that identifies the item, independent of letter case and of a project's current path.

        Paths are case-insensitive on both forges; a renamed project keeps its id.
        """
        return f"{self.repository_identity}|{self.kind}|{self.number}"

    @property
    def repository_identity(self) -> str:
        """As `identity`, of the repository."""
        return f"{self.platform}|{self.host.lower()}|{self._place}"

    @property
    def mark(self) -> str:
        """Within the repository, as people write it: `#7`, `!7`."""
        sign = FACTS[self.platform].change_mark if self.kind is ItemKind.CHANGE else "#"
        return f"{sign}{self.number}"

    @property
    def display(self) -> str:
        """For people and logs: `owner/repo#7`, `group/project!7`."""
        return f"{self.repository or self._place}{self.mark}"


def identity_hash(identity: str) -> str:
    """The first 16 hex digits of the SHA-256 of an item's or a repository's identity.

    64 bits: with 32, two of 10,000 items would share a hash with a probability of one percent.
    """
    return hashlib.sha256(identity.encode()).hexdigest()[:16]


def task_name(item: Item, run: int = 1) -> str:
    """A slug, the hash of the item's identity, and `-r<n>` from the second run on.

    It is a valid RFC 1123 label with room for `-<attempt>`.
    """
    kind = FACTS[item.platform].change_word if item.kind is ItemKind.CHANGE else "issue"
    # The identity, not the path: a renamed repository must keep the names of its tasks.
    place = item.identity.split("|")[2]
    slug = re.sub(r"[^a-z0-9]+", "-", place.rsplit("/", 1)[-1].lower()).strip("-")
    if FACTS[item.platform].by_project_id:  # a bare number says nothing
        slug = f"{item.platform}-{slug}"
    rest = f"-{kind}-{item.number}-{identity_hash(item.identity)}"
    name = (slug[: _NAME_LENGTH - len(rest)].strip("-") or "item") + rest
    return name if run == 1 else f"{name}-r{run}"


def whole_second(moment: datetime) -> datetime:
    """Without the fraction of a second.

    The forges' webhooks give whole seconds, some of their APIs also milliseconds. Times of one event are
    equal only without them.
    """
    return moment.replace(microsecond=0)


ForgeTime = Annotated[datetime, AfterValidator(whole_second)]
"""A time by the forge's clock. It is compared only with other times of the same forge."""


class Cause(StrEnum):
    """What a person did to ask for a task."""

    LABEL = "label"
    COMMAND = "command"


class Trigger(Frozen):
    """What caused a task.

    Attributes:
        cause: `None` for a task that a person wrote as an AgentTask.
        delivery_id: the webhook delivery's id; a redelivery has the same.
        labeled_at: when the label was put on, by the forge's clock; `None` if the event does not say it.
        received_at: by our clock.
    """

    # A newer release's fields must not stop an older program.
    model_config = ConfigDict(
        extra="ignore",
        populate_by_name=True,
        alias_generator=lambda name: "deliveryID" if name == "delivery_id" else to_camel(name),
    )

    origin: Origin
    cause: Cause | None = Cause.LABEL
    delivery_id: str | None = Field(default=None, max_length=128)
    labeled_at: ForgeTime | None = None
    received_at: datetime


_ISSUE_BRANCH = re.compile(r"issue-([1-9]\d{0,9})(?:-r\d{1,9})?", re.ASCII)


@dataclass(frozen=True)
class Head:
    """The branch of a change; `own`: it is in the repository itself, and not in a fork."""

    own: bool
    name: str = ""


@dataclass(frozen=True)
class Trust:
    """What is known about who wrote an item.

    Attributes:
        trusted: neither a fork nor a stranger wrote it.
        answers: the issue whose work a change holds. The change is as trusted as the tasks of that issue.
    """

    trusted: bool
    answers: Item | None = None


def trust_of(item: Item, head: Head | None, *, closed: bool, member: bool, ours: bool, prefix: str) -> Trust:
    """What the facts about an item say about its trust; what is not known must be passed as not trusted.

    The author of a change does not count if the agent did the work: then whoever wrote the issue decided
    what is in it. That holds for whatever our account opened, and for each of the agent's branches.

    Args:
        head: of a change; `None`: it is an issue.
        closed: only people with an account that somebody has approved see the repository, because it is
            private or internal.
        member: the forge says that its author belongs to the repository.
        ours: its author is our own account.
        prefix: starts the agent's branches for issues.
    """
    if head is not None and not head.own:
        return Trust(trusted=False)
    agents_work = ours or (head is not None and head.name.startswith(prefix))
    number = answered_issue(head.name, prefix) if head is not None else None
    issue = number and item.model_copy(update={"kind": ItemKind.ISSUE, "number": number})
    return Trust(closed or (member and not agents_work), issue or None)


def answered_issue(branch: str, prefix: str) -> int | None:
    """The number of the issue for which the agent made this branch; `None`: it made it for none."""
    found = _ISSUE_BRANCH.fullmatch(branch.removeprefix(prefix)) if branch.startswith(prefix) else None
    return int(found[1]) if found else None


class TaskRequest(Frozen):
    """A label application that asks for a task; `admit` decides whether it becomes one.

    Attributes:
        user: login of the person who applied the label; their per-user settings apply.
        trusted, answers: as in `Trust`. Where tasks are AgentTasks, the sink decides by `answers`; elsewhere
            nothing depends on trust.
        runner: the coding agent that the label names; `None`: the configured one.
    """

    item: Item
    user: str = ""
    title: str = Field(default="", max_length=1024)
    url: str = Field(default="", max_length=2048)
    trigger: Trigger
    trusted: bool = False
    answers: Item | None = None
    runner: RunnerName | None = None


@dataclass(frozen=True)
class Submission:
    """The answer to a request.

    Attributes:
        task: name of the task that answers for the label application.
        duplicate: why no new task was made; `None` when one was.
    """

    task: str
    duplicate: str | None = None


LABEL_REMOVED = "The label was removed."


class WithdrawalCause(StrEnum):
    """What a person did to withdraw a task."""

    UNLABELED = "unlabeled"
    """Took the last label of the flow off."""
    CLOSED = "closed"
    """Closed, deleted or moved the item."""
    COMMAND = "command"


class Withdrawal(Frozen):
    """A person removed the label, closed the item or commanded to cancel its task.

    Attributes:
        reason: for logs.
        message: a sentence for people on the item.
        at: by the forge's clock; `None` if the event does not say it.
        confirmed: a program with a token has read that the item has none of the labels, or is closed.
        of_trigger: `False`: only the processing label was removed, so no label that asks for a task was
            withdrawn. It may have been our own account that removed it, at the end of the task.
    """

    item: Item
    reason: str
    message: str = LABEL_REMOVED
    cause: WithdrawalCause = WithdrawalCause.UNLABELED
    delivery_id: str | None = None
    at: ForgeTime | None = None
    confirmed: bool = False
    of_trigger: bool = True

    @property
    def before(self) -> datetime | None:
        """Applications of the label before this time, by the forge's clock, are withdrawn.

        A label of the second in which another was removed may have been applied afterwards, so it counts. A
        label of the second in which the item was closed does not: the close wins.
        """
        if self.at is None or self.cause is not WithdrawalCause.CLOSED:
            return self.at
        return self.at + timedelta(seconds=1)


def new_uuid() -> str:
    return str(uuid_module.uuid4())


@lru_cache(maxsize=256)
def host_of(url: str) -> str:
    """The host, with its port if any, of an http(s) URL, lower-case.

    Raises:
        ValueError: the URL has no host.
    """
    parts = urlsplit(url)
    if not parts.hostname:
        raise ValueError(f"{url!r} has no host; give a URL such as https://forge.example.com")
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.hostname}{port}"


def item_of(url: str, project_id: int | None = None, *, hosts: Mapping[str, Platform] = HOSTS) -> Item:
    """The issue or change at a web address.

    Args:
        project_id: the repository's number, if the platform uses one. Its addresses do not contain the
            number; without it, the item's identity differs from that of the item in webhooks.
        hosts: the platform of each known host. The path decides on any other host.

    Raises:
        ValueError: it is not the address of an item, several platforms have such addresses, or the platform
            has no such number.
    """
    parts = urlsplit(url.strip())
    host = host_of(url.strip()).removeprefix("www.") if parts.scheme in _SCHEMES and parts.hostname else ""
    candidates = [hosts[host]] if host in hosts else list(Platform) if host else []
    matches = {one: found for one in candidates if (found := FACTS[one].address.fullmatch(parts.path))}
    if not matches:
        examples = " or ".join(facts.example for facts in FACTS.values())
        raise ValueError(
            f"{url!r} is not the address of an issue, pull request or merge request. Copy it from the "
            f"browser, for example {examples}."
        )
    if len(matches) > 1:
        titles = " and ".join(FACTS[platform].title for platform in matches)
        raise ValueError(f"{titles} have addresses like {url!r}. Set `spec.source` of the AgentTask instead.")
    platform, found = next(iter(matches.items()))
    if project_id is not None and not FACTS[platform].by_project_id:
        titles = ", ".join(facts.title for facts in FACTS.values() if facts.by_project_id)
        raise ValueError(
            f"A project id is for {titles}; this is an address of {FACTS[platform].title}. Omit the id."
        )
    return Item(
        platform=platform,
        host=host,
        repository=found["path"],
        kind=ItemKind.CHANGE if found["change"] else ItemKind.ISSUE,
        number=int(found["number"]),
        project_id=project_id,
    )


def parse_time(value: object) -> datetime | None:
    """A forge's time stamp as an aware datetime, `None` if it is missing or malformed.

    The forges write ISO 8601; some webhooks also `2024-01-15 10:30:45 UTC` (see its documentation).
    """
    if not isinstance(value, str):
        return None
    text = value.strip()
    if text.endswith(" UTC"):
        text = text[:-4] + "+00:00"
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        return None
    try:
        return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).astimezone(UTC)
    except (OverflowError, ValueError):  # year 1 or 9999 shifted over the edge
        return None
