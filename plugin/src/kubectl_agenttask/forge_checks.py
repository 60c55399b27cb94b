"""The checks of `doctor` at a forge: token or App, repositories, and the last webhook deliveries."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from coding_agent_core.errors import (
    ForgeError,
    ForgeNotFoundError,
    ForgeRefusedError,
    ForgeUnavailableError,
    SettingsError,
)
from coding_agent_core.platforms.registry import FACTS, Platform
from coding_agent_core.runtime.retry import RetryPolicy
from coding_agent_core.settings.credentials import credential_place
from coding_agent_core.settings.model import Settings
from coding_agent_core.settings.section import Secrets, SecretSettings
from coding_agent_core.task.agenttask import AgentTask
from coding_agent_forges.connect import connect_forge
from coding_agent_forges.github.app_settings import App, Purpose
from coding_agent_forges.github.auth.app_tokens import connect_app
from coding_agent_forges.github.settings import GitHub
from coding_agent_forges.rest.client import Token
from coding_agent_forges.rest.forge import Forge
from coding_agent_forges.rest.setup import ForgeSetup, setup_of
from pydantic import SecretStr

from kubectl_agenttask import PluginError
from kubectl_agenttask.chart_values import APP_KEY, NOTE_REPOSITORIES
from kubectl_agenttask.cluster_client import Body
from kubectl_agenttask.findings import (
    Finding,
    clock_findings,
    label_findings,
    ok,
    program_findings,
    repository_findings,
    token_findings,
    unknown,
    webhook_findings,
    wrong,
)
from kubectl_agenttask.installation import Installation, component_of, mounted_secrets

QUICK = RetryPolicy(tries=2, total=15.0)
"""A person waits for the answer, so a forge that is down is reported soon."""
_NO_REPOSITORY = "no repository is known yet: give --repo OWNER/REPO"


@dataclass(frozen=True)
class ForgeExamination:
    """The checks at the forges of an installation.

    Attributes:
        workloads: the Deployments of the release.
    """

    installation: Installation
    settings: Settings
    workloads: Sequence[Body]
    clock: Callable[[], datetime]

    def findings(self, platform: Platform, seen: Iterable[str]) -> Iterator[Finding]:
        """Check one forge.

        Args:
            seen: repositories to check, in addition to those of `init`.
        """
        repositories = sorted({*seen, *self._noted(platform)})
        section = self.settings.forge(platform)
        if isinstance(section, GitHub) and section.app is not None:
            yield from asyncio.run(self._app(section, section.app, repositories))
            return
        place = credential_place(self.settings, f"{platform}.personal_access_token")
        try:
            token = credential(self.installation, self.settings, section.personal_access_token)
        except PluginError as error:
            yield wrong("token", str(error))
            return
        source = Token(FACTS[platform].title, Secrets(SecretSettings(values=(SecretStr(token),))), place)
        yield from asyncio.run(self._token(platform, source, repositories))

    async def _token(self, platform: Platform, source: Token, repositories: Sequence[str]) -> list[Finding]:
        forge = connect_forge(self.settings, platform, policy=QUICK, token=source)
        setup = setup_of(forge)
        try:
            try:
                facts = await setup.token()
            except ForgeUnavailableError as error:
                return [wrong("forge", f"{error}; so the token was not checked")]
            except ForgeError as error:
                return [wrong("token", str(error))]
            now = self.clock()
            findings = token_findings(facts, forge.host, source.place, now)
            if facts.at is not None:
                findings += clock_findings(forge.host, facts.at, now)
            account = self.settings.forge(platform).account
            if account and account.casefold() != facts.login.casefold():
                findings.append(
                    wrong(
                        "account",
                        f"config.{platform}.account is {account}, but the token belongs to {facts.login}: "
                        "set it to that login",
                    )
                )
            if not repositories:
                findings.append(unknown("repository", _NO_REPOSITORY))
            for repository in repositories:
                findings += await self._repository(setup, repository, facts.login)
            if self.settings.rounds.enabled:
                findings += await self._programs(forge)
            return findings
        finally:
            await forge.aclose()

    async def _programs(self, forge: Forge) -> list[Finding]:
        rounds = self.settings.rounds
        try:
            changes = await forge.open_changes()
        except ForgeError as error:
            return [unknown("rounds", str(error))]
        return program_findings(changes.snapshots, (*rounds.bots, *rounds.programs))

    async def _repository(self, setup: ForgeSetup, repository: str, login: str) -> list[Finding]:
        try:
            findings = repository_findings(await setup.repository(repository), login)
        except ForgeUnavailableError as error:
            return [unknown("repository", f"{repository} was not checked: {error}")]
        except ForgeError as error:
            return [wrong("repository", f"{error}. Invite {login} to the repository, or correct the name")]
        section, place = setup.forge.settings, f"config.{setup.forge.platform}.bot_label"
        try:
            findings += label_findings(repository, await setup.labels(repository), section, place)
        except ForgeError as error:
            findings.append(unknown("label", str(error)))
        try:
            outside = self.installation.outside_url()
            if not outside:
                return findings
            url = f"{outside}/webhook/{setup.forge.platform}"
            hooks = await setup.webhooks(repository)
            own_hook = next((hook for hook in hooks if hook.url.rstrip("/") == url), None)
            answers = [] if own_hook is None else await setup.deliveries(repository, own_hook)
        except (ForgeRefusedError, ForgeNotFoundError):
            text = f"the token may not read the webhooks of {repository}, which only administrators can"
            return [*findings, unknown("webhook", text)]
        except (ForgeError, PluginError) as error:
            return [*findings, unknown("webhook", str(error))]
        secret = next(iter(self._mounted("receiver")), ("of the receiver",))[0]
        return [*findings, *webhook_findings(repository, own_hook, answers, url=url, secret=secret)]

    async def _app(self, section: GitHub, app: App, repositories: Sequence[str]) -> list[Finding]:
        """Get a token for each repository with the App's key, as the token service does."""
        name = next((name for name, keys in self._mounted("tokens") if APP_KEY in keys), "")
        there = self.installation.secret(name) if name else None
        key = "" if there is None else there.values.get(APP_KEY, "")
        if not key:
            return [wrong("GitHub App", f"the Secret {name or 'of the token service'} has no key {APP_KEY}")]
        update = {"service": None, "private_key_file": Path(f"{APP_KEY} in the Secret {name}")}
        alone = section.model_copy(update={"app": app.model_copy(update=update)})
        return await app_findings(alone, SecretSettings(values=(SecretStr(key),)), repositories)

    def _noted(self, platform: Platform) -> list[str]:
        """Return the repositories that `init` noted at the Secret with the token or the App's key."""
        names = {
            entry.secret for entry in self.settings.operator.job.credentials if entry.platform is platform
        }
        if platform is Platform.GITHUB:
            names |= {name for name, keys in self._mounted("tokens") if APP_KEY in keys}
        found: list[str] = []
        for name in names:
            there = self.installation.secret(name)
            noted = "" if there is None else there.notes.get(NOTE_REPOSITORIES, "")
            found += [repository for repository in noted.split(",") if repository]
        return found

    def _mounted(self, component: str) -> list[tuple[str, tuple[str, ...]]]:
        """Return the Secrets that a program mounts, with their keys."""
        return [
            (name, keys)
            for workload in self.workloads
            if component_of(workload) == component
            for name, keys in mounted_secrets(workload)
        ]


async def app_findings(section: GitHub, key: SecretSettings, repositories: Sequence[str]) -> list[Finding]:
    """Get a token of the App for each repository, because GitHub then says what is wrong with the App."""
    tokens = connect_app(section, policy=QUICK, key=key)
    findings = []
    try:
        for repository in repositories:
            try:
                await tokens.token(repository, Purpose.CONSUMER)
            except (ForgeError, SettingsError) as error:
                findings.append(wrong("GitHub App", str(error)))
            else:
                findings.append(ok("GitHub App", f"it may work in {repository}"))
    finally:
        await tokens.aclose()
    return findings or [unknown("GitHub App", _NO_REPOSITORY)]


def credential(installation: Installation, settings: Settings, given: SecretSettings) -> str:
    """Return a credential of attempts from its Secret.

    Raises:
        PluginError: it is not there; the message says what to create.
    """
    names = {file.name for file in given.files}
    for entry in settings.operator.job.credentials:
        if entry.file in names and entry.repository is None:
            there = installation.secret(entry.secret)
            value = "" if there is None else there.values.get(entry.key, "").strip()
            if not value:
                raise PluginError(
                    f"the Secret {entry.secret} has no key {entry.key}, or it is empty. Create it: "
                    f"kubectl create secret generic {entry.secret} -n {installation.namespace} "
                    f"--from-literal={entry.key}=…"
                )
            return value
    raise PluginError("the settings name no Secret for it: check config.operator.job.credentials.")


def repositories_of(tasks: Iterable[AgentTask], platform: Platform) -> list[str]:
    """Return the repositories of tasks on a platform."""
    sources = ((task.body.get("spec") or {}).get("source") or {} for task in tasks)
    return [source["repository"] for source in sources if source.get("platform") == platform]
