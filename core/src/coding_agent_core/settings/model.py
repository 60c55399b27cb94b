"""The tree of all settings, the sections for queues and polling, and the variables that set them.

Every type forbids unknown keys; `load` reports an error with its key and the file's line or the variable.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from pydantic import Field, create_model, field_validator, model_validator

from coding_agent_core.platforms.registry import Platform
from coding_agent_core.settings.attempt_settings import Consumer, RepositoryEnvironment, Signing, Verify
from coding_agent_core.settings.connections import ContextStorage, Egress, McpServer, UserConfigApi
from coding_agent_core.settings.development import Development
from coding_agent_core.settings.forges import (
    FORGE_SECRETS,
    FORGE_VARIABLES,
    ForgeSettings,
    Labels,
    forge_sections,
)
from coding_agent_core.settings.llm import LLM, VENDORS, GatewaySettings, Provider, WireFormat
from coding_agent_core.settings.operator import Budgets, Limits, Operator, Reporter
from coding_agent_core.settings.reading import COMMON_SECRETS, COMMON_VARIABLES, Logging
from coding_agent_core.settings.receiver import Webhook
from coding_agent_core.settings.rounds import Rounds
from coding_agent_core.settings.section import (
    Port,
    PositiveCount,
    SecretField,
    SecretSettings,
    Section,
    for_repository,
)
from coding_agent_core.task.runners import RunnerName

SHORTEST_COMMENT_KEY = 32
"""Minimum number of characters. Whoever reads a comment can test as many keys as they like."""


class Backend(StrEnum):
    """The store in which tasks wait."""

    SQLITE = "sqlite"
    RABBITMQ = "rabbitmq"
    KUBERNETES = "kubernetes"


class Authorize(StrEnum):
    """What the person who applies the label must be allowed to do in the repository."""

    WRITE = "write"
    """Push: GitHub's role *Write*, GitLab's *Developer*, or more."""
    TRIAGE = "triage"
    """Apply labels: GitHub's role *Triage*, GitLab's *Planner*, or more."""
    ANYONE = "anyone"
    """Nothing. This includes the author of an issue whose form applies the label."""


class NewerText(StrEnum):
    """What happens to text and commits that are newer than the label, by people who may not apply it."""

    MARK = "mark"
    """The agent is told that nobody approved them."""
    REFUSE = "refuse"
    """The agent does not read newer comments, and a newer title, text or commit ends the task."""


class Scheduling(Section):
    """Polling."""

    enabled: bool = True
    """Whether `--mode webhook` on one machine (`queue.backend: sqlite`) also polls. `--mode producer` polls
    in any case."""
    interval: int = Field(default=300, gt=0, le=86_400)
    """Seconds between two polls."""


class RabbitMQ(Section):
    """The broker."""

    host: str = "localhost"
    """Host name of the broker."""
    port: Port = 5672
    """AMQP port of the broker."""
    user: str = "guest"
    """User of the virtual host `/`."""
    password: SecretField = SecretSettings()
    """Password of the user; empty: `guest`, the broker's own default for local connections."""
    queue: str = Field(default="coding_agent_tasks", min_length=1)
    """Durable queue of the tasks. A second queue, with `.dead` after its name, keeps the tasks that failed
    for good."""
    heartbeat: int = Field(default=60, gt=0, le=65_535)
    """Seconds between two heartbeats; a dead connection is noticed after about two of them. AMQP has 16 bits
    for this number."""


class Engine(StrEnum):
    """The program that decides in Kubernetes when an attempt starts."""

    NATIVE = "native"
    """The operator decides, by the section `limits`, fair share and priorities."""
    KUEUE = "kueue"
    """Kueue (https://kueue.sigs.k8s.io) decides, by its quotas. The operator only ensures that each item has
    at most one running task."""


class Kueue(Section):
    """The LocalQueues of attempts, in the namespace of the AgentTasks."""

    local_queue: str = Field(default="coding-agent", min_length=1, max_length=63)
    """LocalQueue of all repositories that `repositories` does not name."""
    repositories: dict[str, str] = Field(default_factory=dict)
    """LocalQueues of single repositories, by `owner/repo` or `host/owner/repo`; letter case is ignored."""

    def of(self, host: str, repository: str) -> str:
        return for_repository(self.repositories, host, repository) or self.local_queue


class Queue(Section):
    """The queue in which tasks wait."""

    backend: Backend | None = None
    """Store of the tasks; `None`: `rabbitmq` if `use_rabbitmq` is true, otherwise `sqlite`, a file below
    `context_storage.base_dir` with which one process does everything."""
    engine: Engine = Engine.NATIVE
    """Program that decides when an attempt starts, with `backend: kubernetes`."""
    kueue: Kueue = Kueue()
    """Settings for `engine: kueue`."""


if TYPE_CHECKING:
    ForgeSections = Section
else:
    ForgeSections = create_model("ForgeSections", __base__=Section, **forge_sections("SECTION"))


class Settings(ForgeSections):
    """All settings. Only `load_settings` reads the file and the environment.

    Each forge has a section with its name.
    """

    task_source: Platform = Platform.GITHUB
    """Forge that the poller searches."""
    webhook: Webhook = Webhook()
    authorize: Authorize = Authorize.WRITE
    """What the person who applied the label must be allowed to do in the repository; commands in comments
    always need `write`."""
    newer_text: NewerText = NewerText.MARK
    """What happens to text and commits that are newer than the label, by people who may not apply it
    (`authorize`): `mark` tells the agent; `refuse` leaves out comments and ends the task for the rest."""
    comment_key: SecretField = SecretSettings()
    """Key that signs the hidden line of our comments, which has the state of their tasks: at least 32
    characters. The first value signs. A line that none of the values signed counts as absent. Without a key,
    lines are not signed, and whoever may edit our comments can change the state. The key also signs the mark
    of finished work in a commit: without it, a task that is killed after its push asks the model again."""
    scheduling: Scheduling = Scheduling()
    queue: Queue = Queue()
    use_rabbitmq: bool = False
    """Whether tasks wait in RabbitMQ and not in a file. `queue.backend` wins."""
    rabbitmq: RabbitMQ = RabbitMQ()
    llm: LLM = LLM()
    system_prompt: str | None = None
    """Replaces the built-in description of how the agent works; the safety rules stay."""
    instructions: str | None = None
    """Further instructions to the agent, after `system_prompt` or the built-in description."""
    gateway: GatewaySettings = GatewaySettings()
    mcp_servers: tuple[McpServer, ...] = ()
    """MCP servers with further tools for the agent."""
    max_llm_process_num: PositiveCount = 1000
    """Maximum number of model requests in one attempt."""
    context_storage: ContextStorage = ContextStorage()
    consumer: Consumer = Consumer()
    user_config_api: UserConfigApi = UserConfigApi()
    logging: Logging = Logging()
    limits: Limits = Limits()
    budgets: Budgets = Budgets()
    egress: Egress = Egress()
    repository_environment: RepositoryEnvironment = RepositoryEnvironment()
    operator: Operator = Operator()
    reporter: Reporter = Reporter()
    rounds: Rounds = Rounds()
    verify: Verify = Verify()
    development: Development = Development()
    """Clocks that only tests shorten: nobody's setting."""

    @field_validator("comment_key")
    @classmethod
    def _comment_key_is_long(cls, key: SecretSettings) -> SecretSettings:
        if any(len(value.get_secret_value()) < SHORTEST_COMMENT_KEY for value in key.values):
            raise ValueError(f"write at least {SHORTEST_COMMENT_KEY} characters: `openssl rand -hex 32`")
        return key

    @model_validator(mode="after")
    def _budgets_are_kept(self) -> Settings:
        if not self.budgets.shared:
            return self
        if self.backend not in (Backend.KUBERNETES, Backend.SQLITE):
            raise ValueError(
                "budgets that tasks share (repository, namespace, repositories) need AgentTasks: set "
                "`queue.backend: kubernetes` or `queue.backend: sqlite`, or only `budgets.task`"
            )
        if self.queue.engine is Engine.KUEUE:
            raise ValueError(
                "budgets.repository, budgets.namespace and budgets.repositories need `queue.engine: native`: "
                "an attempt that Kueue preempts starts again with its whole allowance"
            )
        return self

    @model_validator(mode="after")
    def _runners_have_a_model(self) -> Settings:
        """Refuse a runner whose program can speak to none of the configured services.

        With per-user settings, nothing is refused, because each person may have their own service.
        """
        if self.user_config_api.enabled:
            return self
        own = self.llm.provider if self.llm.provider in VENDORS else Provider.OPENAI
        keyed = (name for name, section in self.llm.vendors.items() if section.api_key.configured)
        spoken = {own, *keyed, *(fallback.format for fallback in self.gateway.fallbacks)}
        given = {
            "consumer.runner": [self.consumer.runner],
            "consumer.runners": self.consumer.runners.values(),
            "repository_environment.runners": self.repository_environment.runners,
        }
        for setting, names in given.items():
            for name in names:
                vendor = RUNNER_FORMATS.get(name)
                if vendor is not None and vendor not in spoken:
                    raise ValueError(
                        f"{setting}: {name} speaks only the format of {vendor}, and llm.provider "
                        f"{self.llm.provider} does not; set llm.provider to {vendor}, or another runner"
                    )
        return self

    @model_validator(mode="after")
    def _github_can_sign(self) -> Settings:
        if self.consumer.commits.sign is not Signing.GITHUB:
            return self
        connected = {platform for platform in Platform if self.forge(platform).connectable}
        others = sorted((connected | {self.task_source}) - {Platform.GITHUB})
        if others:
            raise ValueError(
                f"consumer.commits.sign: github signs no commits on {' and '.join(others)}, which is "
                "configured here, too: use `key`, or a separate installation for GitHub"
            )
        if self.rounds.enabled and self.rounds.conflict_rounds:
            raise ValueError(
                "consumer.commits.sign: github cannot sign the merge with which a round resolves a conflict: "
                "set rounds.conflict_rounds to 0, or use `key`"
            )
        return self

    @property
    def backend(self) -> Backend:
        """The kind of queue that is used: `queue.backend` wins over `use_rabbitmq`."""
        if self.queue.backend is not None:
            return self.queue.backend
        return Backend.RABBITMQ if self.use_rabbitmq else Backend.SQLITE

    @property
    def own_label_counts(self) -> bool:
        """Whether a label that our own account applies asks for a task.

        It does so only if `/run` and `/retry` apply the label (docs/decisions/0015). Otherwise only people
        ask for tasks.
        """
        return self.backend is Backend.RABBITMQ and self.webhook.commands.enabled

    @property
    def relist_interval(self) -> float:
        """Seconds between two lists of all objects; a watch that lags behind two of them counts as dead."""
        return self.development.relist_interval or self.operator.lease_duration

    @property
    def keep_finished(self) -> float:
        """Seconds after which an ended task is deleted."""
        shorter = self.development.keep_finished
        return self.operator.policy.keep_finished if shorter is None else shorter

    def forge(self, platform: Platform) -> ForgeSettings:
        """Return the section of a platform."""
        section: ForgeSettings = getattr(self, platform)
        return section

    def labels(self, platform: Platform) -> Labels:
        """Return the labels of a platform."""
        return self.forge(platform)

    @property
    def hosts(self) -> dict[Platform, str]:
        """The configured host of each platform."""
        return {platform: self.forge(platform).host for platform in Platform}


RUNNER_FORMATS = {
    RunnerName.CLAUDE_CODE: WireFormat.ANTHROPIC,
    RunnerName.CODEX: WireFormat.OPENAI,
    RunnerName.GEMINI: WireFormat.GOOGLE,
    RunnerName.OPENCODE: WireFormat.OPENAI,
}
"""The wire format of each runner's program. A format has the name of its vendor's section in `llm`."""

VARIABLES: dict[str, tuple[str, ...]] = {
    "TASK_SOURCE": ("task_source",),
    **FORGE_VARIABLES,
    **COMMON_VARIABLES,
}
"""The setting that each environment variable sets. `DEBUG` is true or false."""
SECRET_VARIABLES = FORGE_SECRETS | COMMON_SECRETS
"""Variables that can also be given as the path of a file in `<NAME>_FILE`."""
