"""The tree of all settings.

Every type forbids unknown keys; `load` reports an error with its key and the file's line or the variable.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, assert_never

from pydantic import Field
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from coding_agent_core.platforms import Platform
from coding_agent_core.settings.attempts import LLM, Consumer, ContextStorage, McpServer, UserConfigApi
from coding_agent_core.settings.forges import GitHub, GitLab, Labels, Webhook
from coding_agent_core.settings.operator import Limits, Operator, Reporter
from coding_agent_core.settings.queues import Backend, Queue, RabbitMQ, Scheduling
from coding_agent_core.settings.section import Section


class Logging(Section):
    """Logs."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Lowest level that is logged."""
    format: Literal["text", "json"] = "text"
    """Lines for people, or JSON objects for log collectors."""
    file: Path | None = None
    """Further target of the log."""


class Settings(BaseSettings):
    """All settings. Only `load_settings` reads the file and the environment."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        *_: Any,
        **__: Any,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """No source but the arguments."""
        return (init_settings,)

    task_source: Platform = Platform.GITHUB
    """Forge that the poller searches."""
    github: GitHub = GitHub()
    gitlab: GitLab = GitLab()
    webhook: Webhook = Webhook()
    scheduling: Scheduling = Scheduling()
    queue: Queue = Queue()
    use_rabbitmq: bool = False
    """Whether tasks wait in RabbitMQ, or else in memory. `queue.backend` wins."""
    rabbitmq: RabbitMQ = RabbitMQ()
    llm: LLM = LLM()
    system_prompt: str | None = None
    """Replaces the built-in description of how the agent works; the safety rules stay."""
    instructions: str | None = None
    """Further instructions to the agent, after `system_prompt` or the built-in description."""
    mcp_servers: tuple[McpServer, ...] = ()
    """MCP servers with further tools for the agent."""
    max_llm_process_num: int = Field(default=1000, gt=0)
    """Most model requests in one attempt."""
    context_storage: ContextStorage = ContextStorage()
    consumer: Consumer = Consumer()
    user_config_api: UserConfigApi = UserConfigApi()
    logging: Logging = Logging()
    limits: Limits = Limits()
    operator: Operator = Operator()
    reporter: Reporter = Reporter()

    @property
    def backend(self) -> Backend:
        """The queue in force: `queue.backend` wins over `use_rabbitmq`."""
        if self.queue.backend is not None:
            return self.queue.backend
        return Backend.RABBITMQ if self.use_rabbitmq else Backend.MEMORY

    def forge(self, platform: Platform) -> GitHub | GitLab:
        """The section of a platform."""
        match platform:
            case Platform.GITHUB:
                return self.github
            case Platform.GITLAB:
                return self.gitlab
            case _:
                assert_never(platform)

    def labels(self, platform: Platform) -> Labels:
        """The labels of a platform."""
        return self.forge(platform)

    @property
    def hosts(self) -> dict[Platform, str]:
        """The configured host of each platform."""
        return {platform: self.forge(platform).host for platform in Platform}
