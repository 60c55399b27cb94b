"""Settings of what a repository's `.coding-agent.yaml` may ask for."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated

from pydantic import AfterValidator, Field

from coding_agent_core.environment import (
    ENVIRONMENT_FILE,
    Environment,
    RepositoryFile,
    image_pattern,
    matches,
)
from coding_agent_core.settings.section import Section
from coding_agent_core.tasks import RunnerName

ImagePattern = Annotated[str, AfterValidator(image_pattern)]
"""An image with its registry; `*` stands for any characters but `/`, and not in the host."""
_Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|[kMGTPE]|[KMGTPE]i)?$")]


class ServiceResources(Section):
    """Resources of each service's container."""

    cpu: _Quantity = "100m"
    """CPU that the scheduler reserves; there is no limit."""
    memory: _Quantity = "512Mi"
    """Memory that is reserved, and that it may use."""
    storage: _Quantity = "2Gi"
    """Size of the folders that it can write to."""


class RepositoryEnvironment(Section):
    """What a `.coding-agent.yaml` on the base branch may ask for. By default: setup commands alone."""

    setup: bool = True
    """Whether its `setup` commands run in the workspace before the agent starts. They can do what the model's
    commands can do, each for at most `consumer.workspace.command_timeout` seconds."""
    runners: tuple[RunnerName, ...] = ()
    """Coding agents that it may choose."""
    images: tuple[ImagePattern, ...] = ()
    """Images that it may choose for the workspace, with their registry, for example
    `registry.example.com/team/*`. A `*` stands for any characters but `/`. Without a tag, every tag and
    digest is allowed; with a tag, no digest."""
    service_images: tuple[ImagePattern, ...] = ()
    """Images that it may run as services beside the workspace, written as in `images`."""
    service_resources: ServiceResources = ServiceResources()

    def refusal(self, file: RepositoryFile, presets: Collection[str]) -> str | None:
        """Why a file is refused, as a sentence; `None`: all that it asks for is allowed.

        Args:
            presets: names in `egress.presets`.
        """
        if file.setup and not self.setup:
            return _not_allowed("setup", "commands are not run here", "repository_environment.setup")
        if file.runner is not None and file.runner not in self.runners:
            return _not_allowed("runner", f"{file.runner} is not allowed", "repository_environment.runners")
        return self.pod_refusal(file.pod, presets)

    def pod_refusal(self, environment: Environment, presets: Collection[str]) -> str | None:
        """The same of what the pod is made with; the operator trusts no attempt."""
        image = environment.image
        if image is not None and not any(matches(image, pattern) for pattern in self.images):
            return _not_allowed("image", f"{image} is not allowed", "repository_environment.images")
        for service in environment.services:
            if not any(matches(service.image, pattern) for pattern in self.service_images):
                field = f"services.{service.name}.image"
                setting = "repository_environment.service_images"
                return _not_allowed(field, f"{service.image} is not allowed", setting)
        for name in environment.egress:
            if name not in presets:
                return _not_allowed("egress", f"there is no preset {name!r}", "egress.presets")
        return None


def _not_allowed(field: str, problem: str, setting: str) -> str:
    return (
        f"`{ENVIRONMENT_FILE}` on the base branch, `{field}`: {problem}. An administrator can allow it in "
        f"`{setting}`; otherwise remove it from the file."
    )
