"""Collects the input of `init`: from flags, the environment, an earlier run's Secrets, or questions.

Tokens and keys are never arguments, because other people can read the arguments of a process.
"""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from getpass import getpass
from urllib.parse import urlsplit

from coding_agent_core.platforms.addresses import host_of
from coding_agent_core.platforms.registry import FACTS, Platform
from coding_agent_core.platforms.text import first_problem
from coding_agent_core.settings.llm import LLM, VENDORS, Provider
from coding_agent_core.settings.model import VARIABLES, Settings
from pydantic import ValidationError

from kubectl_agenttask import UsageError, plain

_ADDRESS = {Provider.OLLAMA: "endpoint"}
"""The setting of a provider's address, if it is not `base_url`."""


@dataclass(frozen=True)
class Asker:
    """Asks a person for input, if a person is present.

    Attributes:
        interactive: whether a person can answer.
        secret: asks without showing what is typed.
    """

    interactive: bool
    line: Callable[[str], str] = input
    secret: Callable[[str], str] = getpass

    def text(self, question: str, flag: str, default: str | None = None) -> str:
        """Return a person's answer; without a person, the default.

        Raises:
            UsageError: there is no answer and no default; the message names the flag.
        """
        if not self.interactive:
            if default is None:
                raise UsageError(f"{flag} is missing ({question})")
            return default
        shown = plain(f"{question} [{default}]: " if default else f"{question}: ")
        while True:
            answer = self.line(shown).strip() or default
            if answer is not None:
                return answer

    def password(self, question: str, variable: str, *, optional: bool = False) -> str:
        """Return a token or key that a person types.

        Raises:
            UsageError: nobody can type it; the message names the environment variable.
        """
        if not self.interactive:
            if optional:
                return ""
            raise UsageError(f"{variable} is not set in the environment ({question})")
        while True:
            answer = self.secret(plain(f"{question} (not shown): ")).strip()
            if answer or optional:
                return answer


@dataclass(frozen=True)
class InitInput:
    """The complete input of `init`.

    Attributes:
        settings: the forge and the model, with token and key.
        token, model_key: empty if there is none.
        owner: the owner of all repositories, if it was given instead of them.
        webhook_url: the whole address of the receiver for this forge; empty to poll only.
    """

    platform: Platform
    repositories: tuple[str, ...]
    settings: Settings
    token: str
    model_key: str
    webhook_url: str
    registry: str
    owner: str = ""

    @property
    def llm(self) -> LLM:
        return self.settings.llm


@dataclass(frozen=True)
class StoredCredential:
    """A token or key that an earlier run stored in the cluster; empty if there is none.

    Attributes:
        host: the host that it was checked at, with its port if the URL has one.
    """

    value: str = field(default="", repr=False)
    host: str = ""

    def at(self, url: str) -> str:
        """Return the secret for this URL; empty if it is for another host, which must not see it."""
        try:
            return self.value if self.host == host_of(url) else ""
        except ValueError:
            return ""


@dataclass(frozen=True)
class StoredCredentials:
    """The credentials that an earlier run stored."""

    token: StoredCredential = StoredCredential()
    model_key: StoredCredential = StoredCredential()


def variable_of(*setting: str) -> str:
    """Return the environment variable of a setting."""
    return next(name for name, at in VARIABLES.items() if at == setting)


def key_place(llm: LLM) -> str:
    """Return the place where a person sets the model's key, for messages."""
    if llm.provider not in VENDORS:
        return "--provider openai, which sends a key"
    return f"the variable {variable_of('llm', llm.provider, 'api_key')}"


def platform_of(arguments: Namespace, asker: Asker) -> Platform:
    """Return the platform, which decides what else is asked.

    Raises:
        UsageError: it is not given, or unknown.
    """
    names = ", ".join(Platform)
    default = "github" if asker.interactive else None
    given = arguments.platform or asker.text(f"Forge: {names}", "--platform", default)
    try:
        return Platform(given)
    except ValueError:
        raise UsageError(f"{given!r} is not a forge: choose one of {names}") from None


def collect(
    arguments: Namespace,
    platform: Platform,
    asker: Asker,
    stored: StoredCredentials,
    environment: Mapping[str, str] = os.environ,
) -> InitInput:
    """Return the input of `init`. Ask the person for what neither flags nor environment variables give.

    Raises:
        UsageError: something is missing or wrong; the message names the flag or variable.
    """
    title = FACTS[platform].title
    default_url = Settings().forge(platform).api_url
    api_url = arguments.api_url or environment.get(variable_of(platform, "api_url"))
    api_url = api_url or asker.text(f"Address of the API of {title}", "--api-url", default_url)
    if arguments.github_app and platform is not Platform.GITHUB:
        raise UsageError(f"--github-app: {title} has no GitHub Apps; leave it out")
    token = ""
    if not arguments.github_app:
        variable = variable_of(platform, "personal_access_token")
        token = environment.get(variable) or stored.token.at(api_url)
        token = token or asker.password(f"Token of the agent's account at {title}", variable)
    repositories = _repositories(arguments, asker)
    llm, key = _model(arguments, asker, stored, environment)
    forge = {"api_url": api_url, "personal_access_token": token}
    try:
        settings = Settings.model_validate({platform.value: forge, "llm": llm})
    except ValidationError as error:
        raise UsageError(first_problem(error)) from error
    return InitInput(
        platform=platform,
        repositories=repositories,
        settings=settings,
        token=token,
        model_key=key,
        webhook_url=_webhook_url(arguments.webhook, platform),
        registry=arguments.registry,
        owner=arguments.owner,
    )


def _repositories(arguments: Namespace, asker: Asker) -> tuple[str, ...]:
    """Return the repositories that a person names; none if `--owner` stands for them."""
    if arguments.owner and arguments.repo:
        raise UsageError("--owner and --repo: give one of them")
    if arguments.owner and arguments.github_app:
        raise UsageError("--owner: a GitHub App works in the repositories that --repo names; leave it out")
    if arguments.topic and not arguments.owner:
        raise UsageError("--topic: it chooses among the repositories of --owner, which is missing")
    if arguments.owner:
        return ()
    repositories = tuple(arguments.repo or ()) or tuple(
        asker.text("Repositories, as OWNER/NAME, with spaces between", "--repo").split()
    )
    _check_repositories(repositories)
    return repositories


def _model(
    arguments: Namespace, asker: Asker, stored: StoredCredentials, environment: Mapping[str, str]
) -> tuple[dict[str, object], str]:
    """Return the section `llm` of the settings, and the key."""
    names = ", ".join(Provider)
    named = arguments.provider or environment.get("LLM_PROVIDER")
    named = named or asker.text(f"Model: {names}", "--provider", Provider.OPENAI)
    try:
        provider = Provider(named)
    except ValueError:
        raise UsageError(f"--provider {named}: choose one of {names}") from None
    section = getattr(LLM(), provider)
    address = _ADDRESS.get(provider, "base_url")
    given_url = arguments.model_url or environment.get(variable_of("llm", provider, address))
    url = given_url or asker.text("Address of the model's API", "--model-url", getattr(section, address))
    model = arguments.model or environment.get(variable_of("llm", provider, "model"))
    model = model or asker.text("Name of the model", "--model", section.model)
    values: dict[str, object] = {address: url, "model": model}
    if provider not in VENDORS:
        return {"provider": provider, provider: values}, ""
    variable = variable_of("llm", provider, "api_key")
    own_service = url == getattr(section, address)
    key = environment.get(variable) or stored.model_key.at(url)
    key = key or asker.password("Key of the model", variable, optional=not own_service)
    return {"provider": provider, provider: values | {"api_key": key}}, key


def _check_repositories(repositories: tuple[str, ...]) -> None:
    for repository in repositories:
        if "/" not in repository.strip("/") or "://" in repository:
            raise UsageError(f"--repo {repository}: write OWNER/NAME, without the address of the forge")


def _webhook_url(given: str, platform: Platform) -> str:
    """Return the address of the receiver for a forge, from an address with or without its path."""
    if not given:
        return ""
    parts = urlsplit(given)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(
            f"--webhook {given}: write the address of the receiver, e.g. https://agent.example.com"
        )
    if parts.path.strip("/") not in ("", f"webhook/{platform}"):
        raise UsageError(f"--webhook {given}: the path must be /webhook/{platform}, or empty")
    return f"{parts.scheme}://{parts.netloc}/webhook/{platform}"
