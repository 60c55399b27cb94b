"""Items, label applications, runners, requests for tasks, and the phases of tasks."""

from __future__ import annotations

import hashlib
import re
import uuid as uuid_module
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from coding_agent_core.platforms.addresses import host_of
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import FACTS, HOSTS, KEY_TYPES, Platform
from coding_agent_core.platforms.text import first_problem
from coding_agent_core.task.runners import RunnerName

_NAME_LENGTH = 52
"""Maximum number of characters of a task's name without `-r<run>` and `-<attempt>`. With both, the name has
at most 63 (RFC 1123)."""
_ROUND_NAME_LENGTH = 58
"""The same for a round, whose name has no `-r<run>`."""
_SCHEMES = ("http", "https")


class Origin(StrEnum):
    """The way in which we learned of a label application."""

    WEBHOOK = "webhook"
    POLL = "poll"
    REDELIVERY = "redelivery"
    """A webhook that arrived more than a minute after its event, because it was late or sent again."""
    LABELS = "labels"
    """A webhook that shows the item's labels, and not which one was applied or when (Gitea)."""
    MANUAL = "manual"

    @property
    def shows_labels_only(self) -> bool:
        """Whether we saw the label on the item, and no event that it was applied."""
        return self in (Origin.POLL, Origin.LABELS)


FRESH = timedelta(minutes=1)
"""A webhook that arrives within this time after its label is fresh; a later one may be a redelivery."""


class Phase(StrEnum):
    """A task's phase, which has the same name in comments, columns, metrics and logs."""

    QUEUED = "Queued"
    STARTING = "Starting"
    """The attempt's Job exists, but its agent has not started. This phase exists only on Kubernetes."""
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
    """Return how a task ended, from its condition `Succeeded`; `None` while it has not ended."""
    if status == "True":
        return Phase.SUCCEEDED
    if status == "False":
        return Phase.CANCELLED if reason == Phase.CANCELLED else Phase.FAILED
    return None


class Frozen(BaseModel):
    """Base of the immutable value types."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Item(Frozen):
    """The issue, pull request or merge request that a task is about.

    Attributes:
        host: the forge's web host, with its port if any, e.g. `github.com`, `forge.example.com:8443`.
        repository: the full path, e.g. `owner/repo` or `group/subgroup/project`. If only the project id is
            known, it is empty until `Forge.locate`.
        number: the item's number as people see it: 7 in `#7` or `!7`.
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
        """Return the item for a queue message's key, which has exactly the fields of the property `key`.

        Args:
            host: the forge's host; by default the public installation's.
            repository: the repository's full path, for keys with a project id.

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
            ValueError: the platform's keys need the project's id, which is not known.
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
        """A string that identifies the repository, independent of letter case and of its current path."""
        return f"{self.platform}|{self.host.lower()}|{self._place}"

    @property
    def mark(self) -> str:
        """The item's short name within the repository: `#7`, `!7`."""
        sign = FACTS[self.platform].change_mark if self.kind is ItemKind.CHANGE else "#"
        return f"{sign}{self.number}"

    @property
    def display(self) -> str:
        """The item's name for people and logs: `owner/repo#7`, `group/project!7`."""
        return f"{self.repository or self._place}{self.mark}"


def identity_hash(identity: str) -> str:
    """Return the first 16 hex digits of the SHA-256 of an item's or a repository's identity.

    They have 64 bits. With 32 bits, two of 10,000 items would share a hash with a probability of one percent.
    """
    return hashlib.sha256(identity.encode()).hexdigest()[:16]


def task_name(item: Item, run: int = 1, *, round_part: str = "") -> str:
    """Return a task's name: a slug, the hash of the item's identity, and `-r<n>` from the second run on.

    The name is a valid RFC 1123 label with room for `-<attempt>`.

    Args:
        round_part: for a round, the part of the name that follows from its cause, instead of the run's number
            (`RoundTrigger.name_part`).
    """
    kind = FACTS[item.platform].change_word if item.kind is ItemKind.CHANGE else "issue"
    # This uses the identity and not the path, because a renamed repository must keep its tasks' names.
    place = item.identity.split("|")[2]
    slug = re.sub(r"[^a-z0-9]+", "-", place.rsplit("/", 1)[-1].lower()).strip("-")
    if FACTS[item.platform].by_project_id:  # people do not recognize a mere number
        slug = f"{item.platform}-{slug}"
    rest = f"-{kind}-{item.number}-{identity_hash(item.identity)}"
    length = _NAME_LENGTH
    if round_part:
        rest, length = f"{rest}-{round_part}", _ROUND_NAME_LENGTH
    name = (slug[: max(0, length - len(rest))].strip("-") or "item"[: length - len(rest)]) + rest
    return name if run == 1 or round_part else f"{name}-r{run}"


def whole_second(moment: datetime) -> datetime:
    """Return the time without the fraction of a second.

    The forges' webhooks give whole seconds, but some of their APIs give milliseconds. Without these, the
    times of the same event are equal.
    """
    return moment.replace(microsecond=0)


ForgeTime = Annotated[AwareDatetime, AfterValidator(whole_second)]
"""A time by the forge's clock. It is compared only with other times of the same forge."""


class Cause(StrEnum):
    """The reason for a task: what a person did to ask for it, or what a round answers."""

    LABEL = "label"
    COMMAND = "command"
    REVIEW = "review"
    CHECKS = "checks"
    CONFLICT = "conflict"


class CommandName(StrEnum):
    """The commands that people write as comments."""

    CANCEL = "cancel"
    """Stop the item's task."""
    RETRY = "retry"
    """Start a new run if the last one failed or was cancelled."""
    RUN = "run"
    """Start a new run as if somebody had applied the label."""


ROUND_CAUSE_LIMIT = 8192
"""Maximum number of characters of the cause's identity in an AgentTask."""


class RoundTrigger(Frozen):
    """The cause for which a round was created (`coding_agent_core.task.round_report`).

    Attributes:
        cause: the identity of the cause.
        name_part: the part of the task's name that follows from the identity.
        head: the change's head commit when the round was created.
        number, of: which round of its kind this is, and how many there may be.
        decided_at: when the round was decided on, by the forge's clock.
        seen: the time of the newest act that the decision knew, by the forge's clock.
        acts: the keys of the acts of people that this decision was the first to know.
    """

    # A newer release's fields must not stop an older program.
    model_config = ConfigDict(extra="ignore", populate_by_name=True, alias_generator=to_camel)

    cause: str = Field(min_length=1, max_length=ROUND_CAUSE_LIMIT)
    name_part: str = Field(min_length=1, max_length=19, pattern=r"^[a-z0-9-]+$")
    head: str = Field(min_length=7, max_length=64, pattern=r"^[0-9a-f]+$")
    number: int = Field(ge=1)
    of: int = Field(ge=1)
    decided_at: AwareDatetime
    seen: AwareDatetime | None = None
    acts: tuple[Annotated[str, Field(pattern=r"^[0-9A-Za-z_-]{1,64}$")], ...] = Field(
        default=(), max_length=30
    )


class Trigger(Frozen):
    """What caused a task.

    Attributes:
        origin: how the request reached us.
        cause: what a person did, or what a round answers; `None` if a person wrote the AgentTask.
        round: the cause of a round; `None` for any other task.
        delivery_id: the id of the webhook delivery; a redelivery has the same id.
        labeled_at: when the label was applied, by the forge's clock; `None` if the event does not say so.
        received_at: when we received the event, by our clock.
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
    round: RoundTrigger | None = None

    @property
    def name_part(self) -> str:
        """The part of a round's name that follows from its cause; empty for any other task."""
        return self.round.name_part if self.round is not None else ""

    @property
    def by_label(self) -> bool:
        """Whether an application of the label asked for the task, and not a command, a cause or a person."""
        return self.origin is not Origin.MANUAL and self.cause is Cause.LABEL


_ISSUE_BRANCH = re.compile(r"issue-([1-9]\d{0,9})(?:-r\d{1,9})?", re.ASCII)


@dataclass(frozen=True)
class Head:
    """The branch of a change; `own` says whether it is in the repository itself and not in a fork."""

    own: bool
    name: str = ""


@dataclass(frozen=True)
class Trust:
    """The trust in the text and the branch of an item.

    Attributes:
        trusted: whether neither a fork nor a stranger wrote the item.
        answers: the issue for which the agent made a change. The change is as trusted as the issue's tasks.
    """

    trusted: bool
    answers: Item | None = None


def trust_of(item: Item, head: Head | None, *, closed: bool, member: bool, ours: bool, prefix: str) -> Trust:
    """Derive the trust in an item from facts. The caller passes unknown facts as not trusted.

    If the agent made a change, its author does not matter, because the author of the issue decided what is in
    it. This applies to everything that our account opened, and to each of the agent's branches.

    Args:
        head: the branch of a change; `None` for an issue.
        closed: whether only people with an approved account can see the repository, because it is private or
            internal.
        member: whether the forge says that the item's author belongs to the repository.
        ours: whether the author is our own account.
        prefix: the beginning of the agent's branches for issues.
    """
    if head is not None and not head.own:
        return Trust(trusted=False)
    agents_work = ours or (head is not None and head.name.startswith(prefix))
    number = answered_issue(head.name, prefix) if head is not None else None
    issue = number and item.model_copy(update={"kind": ItemKind.ISSUE, "number": number})
    return Trust(closed or (member and not agents_work), issue or None)


def answered_issue(branch: str, prefix: str) -> int | None:
    """Return the number of the issue for which the agent made a branch; `None` for any other branch."""
    found = _ISSUE_BRANCH.fullmatch(branch.removeprefix(prefix)) if branch.startswith(prefix) else None
    return int(found[1]) if found else None


def issue_of_branch(change: Item, branch: str, prefix: str) -> Item | None:
    """Return the issue for which the agent made the branch of a change; `None` for any other branch."""
    number = answered_issue(branch, prefix)
    return change.model_copy(update={"kind": ItemKind.ISSUE, "number": number}) if number else None


class TaskRequest(Frozen):
    """A label application that asks for a task; `admit` decides whether it becomes one.

    Attributes:
        user: the login of the person who applied the label. This person's per-user settings apply.
        trusted: whether neither a fork nor a stranger wrote the item.
        answers: the issue for which the agent made the change. If tasks are AgentTasks, the sink decides
            whether the issue's tasks are trusted; otherwise nothing depends on trust.
        runner: the runner that the label names; `None` for the configured one.
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
        task: the name of the task that answers the label application.
        duplicate: why no new task was created; `None` if one was created.
    """

    task: str
    duplicate: str | None = None


LABEL_REMOVED = "The label was removed."


class WithdrawalCause(StrEnum):
    """What a person did to withdraw a task."""

    UNLABELED = "unlabeled"
    """The person removed the last of our labels."""
    CLOSED = "closed"
    """The person closed, deleted or moved the item."""
    COMMAND = "command"
    HANDS_OFF = "hands-off"
    """The person gave the change the label with which it has no rounds."""

    @property
    def supersedes(self) -> bool:
        """Whether a round that ends for this is not counted, so that its cause can return."""
        return self in (WithdrawalCause.CLOSED, WithdrawalCause.HANDS_OFF)


class Withdrawal(Frozen):
    """A person removed the label, closed the item, or cancelled its task with a command.

    Attributes:
        reason: the reason for logs.
        message: a sentence for people on the item.
        at: the time by the forge's clock; `None` if the event does not say so.
        confirmed: whether a program with a token has read that the item is closed or has none of the labels.
        of_trigger: whether a label that asks for a task was withdrawn. If only the processing label was
            removed, our own account may have done so at the end of the task.
        received_at: when we received a command, by our clock.
        user: the login of the account that removed the label; empty if it is not known.
    """

    item: Item
    reason: str
    message: str = LABEL_REMOVED
    cause: WithdrawalCause = WithdrawalCause.UNLABELED
    delivery_id: str | None = None
    at: ForgeTime | None = None
    confirmed: bool = False
    of_trigger: bool = True
    received_at: AwareDatetime | None = None
    user: str = ""

    @property
    def before(self) -> datetime | None:
        """Applications of the label before this time, by the forge's clock, are withdrawn.

        A label that was applied in the second of a removal may have been applied after it, so it counts. A
        label that was applied in the second in which the item was closed does not count.
        """
        if self.at is None or self.cause is not WithdrawalCause.CLOSED:
            return self.at
        return self.at + timedelta(seconds=1)


def new_uuid() -> str:
    return str(uuid_module.uuid4())


def item_of(
    url: str,
    project_id: int | None = None,
    *,
    platform: Platform | None = None,
    hosts: Mapping[str, Platform] = HOSTS,
) -> Item:
    """Return the issue or change at a web address.

    Args:
        project_id: the repository's number, if the platform uses one. Addresses do not contain the number;
            without it, the item's identity differs from that of the item in webhooks.
        platform: the platform, if it is known.
        hosts: otherwise, the platform of each known host. For any other host, the path decides.

    Raises:
        ValueError: the URL is not the address of an item, several platforms have such addresses, or the
            platform uses no project ids.
    """
    parts = urlsplit(url.strip())
    host = host_of(url.strip()).removeprefix("www.") if parts.scheme in _SCHEMES and parts.hostname else ""
    known = platform or hosts.get(host)
    candidates = [] if not host else [known] if known else list(Platform)
    matches = {one: match for one in candidates if (match := FACTS[one].address.fullmatch(parts.path))}
    if not matches:
        examples = " or ".join(facts.example for facts in FACTS.values())
        raise ValueError(
            f"{url!r} is not the address of an issue, pull request or merge request. Copy it from the "
            f"browser, for example {examples}."
        )
    if len(matches) > 1:
        titles = " and ".join(FACTS[platform].title for platform in matches)
        raise ValueError(
            f"{titles} have addresses like {url!r}. Set `spec.source` of the AgentTask, or `--platform` of "
            "`kubectl agenttask run`."
        )
    of, match = next(iter(matches.items()))
    if project_id is not None and not FACTS[of].by_project_id:
        titles = ", ".join(facts.title for facts in FACTS.values() if facts.by_project_id)
        raise ValueError(
            f"A project id is for {titles}; this is an address of {FACTS[of].title}. Omit the id."
        )
    return Item(
        platform=of,
        host=host,
        repository=match["path"],
        kind=ItemKind.CHANGE if match["change"] else ItemKind.ISSUE,
        number=int(match["number"]),
        project_id=project_id,
    )


def parse_time(value: object) -> datetime | None:
    """Return a forge's timestamp as an aware datetime; `None` if it is missing or malformed.

    The forges write ISO 8601; some webhooks also write `2024-01-15 10:30:45 UTC`.
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
    except (OverflowError, ValueError):  # the time zone moves a time in year 1 or 9999 out of range
        return None
