"""`init`: checks token, repositories and model, and prepares cluster and forge for `helm install`.

Nothing is changed before all checks have succeeded, and a second run changes nothing that is right already.
The only exception is a new GitHub App: its private key is stored at once, because GitHub shows it only once.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from coding_agent_core.errors import ForgeError, ForgeNotFoundError
from coding_agent_core.platforms.addresses import host_of
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.runtime.retry import RetryPolicy
from coding_agent_core.settings.forges import Labels
from coding_agent_core.settings.section import SecretSettings
from coding_agent_forges.connect import connect_forge
from coding_agent_forges.github.app_settings import App
from coding_agent_forges.github.auth.app_tokens import AppTokenSource, connect_app
from coding_agent_forges.github.settings import GitHub
from coding_agent_forges.rest.forge import Forge
from coding_agent_forges.rest.setup import ForgeSetup, NewLabel, setup_of
from pydantic import SecretStr

from kubectl_agenttask import DeniedError, PluginError, UsageError, plain
from kubectl_agenttask.answers import (
    Asker,
    InitInput,
    StoredCredential,
    StoredCredentials,
    collect,
    key_place,
    platform_of,
    variable_of,
)
from kubectl_agenttask.app_manifest import Registration, code_of
from kubectl_agenttask.chart_values import (
    APP_KEY,
    APP_SECRET,
    MODEL_KEY,
    MODEL_SECRET,
    NOTE_HOST,
    NOTE_REPOSITORIES,
    TOKEN_KEY,
    WEBHOOK_SECRET,
    chart_values,
    chosen_gateway,
    deep_merged,
    merged,
    token_secret,
    values_text,
)
from kubectl_agenttask.destinations import Destination
from kubectl_agenttask.files import read_values, write
from kubectl_agenttask.findings import (
    Finding,
    Level,
    clock_findings,
    ok,
    repository_findings,
    token_findings,
    unknown_pods,
    warning,
    wrong,
)
from kubectl_agenttask.forge_checks import QUICK, app_findings
from kubectl_agenttask.images import provide_images, wanted_images
from kubectl_agenttask.installation import Installation, Right, Written
from kubectl_agenttask.model_check import ask_model, price_currency
from kubectl_agenttask.profile import Choice, Profile, ProfileFacts, choices
from kubectl_agenttask.repositories import Progress, RepositorySuggestions, counted, offer, suggestions_of
from kubectl_agenttask.services import UnknownPodsError, destination_of, pods_behind
from kubectl_agenttask.session import Session

NOTE_APP_ID, NOTE_APP_ACCOUNT = "coding-agent.dev/github-app-id", "coding-agent.dev/github-app-account"
_WEBHOOK_SECRET_BYTES = 32
_NAMED = 5
"""The most repositories that a question names."""
_PATIENT = RetryPolicy(tries=5, total=300.0)
"""For hundreds of repositories: a forge asks for a pause of a minute after too many writes."""


@dataclass(frozen=True)
class GitHubApp:
    """A registered GitHub App, whose key is in the cluster."""

    app_id: int
    account: str
    private_key: str

    def settings(self) -> App:
        """Return the App's section of the settings.

        Its `private_key_file` is no file: messages show it to say which Secret has the key. `key` is the key.
        """
        return App(app_id=self.app_id, private_key_file=Path(f"{APP_KEY} in the Secret {APP_SECRET}"))

    @property
    def key(self) -> SecretSettings:
        return SecretSettings(values=(SecretStr(self.private_key),))


@dataclass(frozen=True)
class InitChecks:
    """The results of all checks.

    Attributes:
        account: the login of the agent's account.
        usable: the repositories in which the agent can work.
    """

    findings: tuple[Finding, ...]
    account: str
    usable: tuple[str, ...]

    @property
    def failed(self) -> int:
        return sum(finding.level is Level.WRONG for finding in self.findings)


def init(session: Session, arguments: Namespace) -> None:
    """`init`: prepare an installation, and print the command that installs it.

    Raises:
        PluginError: a check failed, or a change was refused.
        UsageError: an answer is missing or wrong.
    """
    asker = Asker(interactive=sys.stdin.isatty() and not arguments.yes)
    try:
        with asyncio.Runner() as runner:
            _Initializer(session, arguments, asker, runner).run()
    except EOFError as error:
        raise UsageError("the input ended before all questions were answered.") from error


class _Initializer:
    """One run of `init`.

    Only requests to a forge run in the event loop. Questions do not, because the loop would keep Ctrl-C from
    ending them, and the answer to the next question would be taken as consent.
    """

    def __init__(self, session: Session, arguments: Namespace, asker: Asker, runner: asyncio.Runner) -> None:
        self._runner = runner
        self._session = session
        self._arguments = arguments
        self._asker = asker
        self._installation = Installation(session.cluster)

    def run(self) -> None:
        file = Path(self._arguments.values)
        earlier = read_values(file)
        platform = platform_of(self._arguments, self._asker)
        answers = collect(self._arguments, platform, self._asker, self._stored(token_secret(platform)))
        app = self._app(answers) if self._arguments.github_app else None
        gateways = self._installation.gateways() if answers.webhook_url else ()
        gateway = chosen_gateway(self._arguments.gateway, answers.webhook_url, earlier, gateways)
        forge = _connect(answers, app)
        setup = setup_of(forge)
        try:
            answers = self._with_repositories(answers, setup)
            scope = _poll_scope(answers, setup)
            checked = self._check(answers, setup, app)
            answers = replace(answers, repositories=checked.usable)
            self._confirm(answers, checked)
            chosen, suggested = self._choose(answers, setup, earlier)
            self._write_cluster(answers, app)
            self._runner.run(self._write_forge(answers, setup, app))
        except ForgeError as error:
            raise PluginError(str(error)) from error
        finally:
            self._runner.run(forge.aclose())
        destinations = {
            "forge": self._destination("forge", answers.settings.forge(platform).api_url),
            "model": self._destination("model", answers.llm.address),
        }
        app_id = None if app is None else app.app_id
        values = chart_values(
            answers, checked.account, scope, destinations, app_id, earlier=earlier, gateway=gateway
        )
        for choice in chosen:
            values = deep_merged(values, choice.values)
        self._write_values(file, earlier, values)
        self._say_choices(chosen)
        self._say_suggestions(suggested)
        registry, tag = wanted_images(answers.registry, earlier)
        self._say_next(answers, provide_images(self._asker, registry, tag, self._arguments.chart))

    def _with_repositories(self, answers: InitInput, setup: ForgeSetup) -> InitInput:
        """Return the input with the repositories of the owner, if a person named one."""
        if not answers.owner:
            return answers
        topic = self._arguments.topic
        found = self._runner.run(setup.repositories_of(answers.owner, topic))
        if not found:
            of = f"{answers.owner} with the topic {topic}" if topic else answers.owner
            raise PluginError(
                f"the agent's account sees no repository of {of}: invite it, or check the name. Nothing was "
                "changed."
            )
        self._say(f"{answers.owner} has {counted(len(found))} that the agent's account sees.")
        return replace(answers, repositories=found)

    def _choose(
        self, answers: InitInput, setup: ForgeSetup, earlier: Mapping[str, Any]
    ) -> tuple[tuple[Choice, ...], dict[str, RepositorySuggestions]]:
        """Return what the profile chooses, and what the files of the repositories suggest."""
        profile = Profile(self._arguments.profile)
        if profile is Profile.MINIMAL:
            return (), {}
        progress = Progress(len(answers.repositories))

        def tell(repository: str) -> None:
            if progress.total > progress.many:
                self._session.notes.print(progress.next(f"reading files of {repository}"), soft_wrap=True)

        suggested = self._runner.run(suggestions_of(setup, answers.repositories, tell))
        config = earlier.get("config") or {}
        facts = ProfileFacts(
            webhook=bool(answers.webhook_url),
            currency=price_currency(answers.llm, (config.get("llm") or {}).get("prices") or {}),
            presets={name: one.presets for name, one in suggested.items()},
            storage=self._installation.storage(),
            earlier=earlier,
        )
        return choices(profile, facts), suggested

    def _say_choices(self, chosen: tuple[Choice, ...]) -> None:
        if chosen:
            values = self._arguments.values
            self._say(f"\nThe profile {self._arguments.profile} (change it in {values}; your values stay):\n")
        for choice in chosen:
            self._say(choice.line)

    def _say_suggestions(self, suggested: Mapping[str, RepositorySuggestions]) -> None:
        """Offer the `.coding-agent.yaml` that CI files suggest. Only people put it into a repository."""
        shown, files = offer(suggested, Path(self._arguments.values).with_suffix(".suggestions"))
        for file, text in files.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            write(file, text)
        for line in shown.splitlines():
            self._say(plain(line))

    def _stored(self, token_name: str) -> StoredCredentials:
        """Return what an earlier run stored, so that a second run needs no token."""
        return StoredCredentials(
            self._stored_credential(token_name, TOKEN_KEY), self._stored_credential(MODEL_SECRET, MODEL_KEY)
        )

    def _stored_credential(self, secret: str, key: str) -> StoredCredential:
        there = self._installation.secret(secret)
        if there is None:
            return StoredCredential()
        return StoredCredential(there.values.get(key, "").strip(), there.notes.get(NOTE_HOST, ""))

    def _app(self, answers: InitInput) -> GitHubApp:
        """Return the App of an earlier run, or register one.

        Raises:
            PluginError: it cannot be registered, or its key cannot be stored.
            UsageError: the App of the earlier run is at another host, which alone may see its signature.
        """
        host = host_of(answers.settings.forge(answers.platform).api_url)
        there = self._installation.secret(APP_SECRET)
        if there is not None and there.notes.get(NOTE_APP_ID, "").isdecimal() and APP_KEY in there.values:
            known = there.notes.get(NOTE_HOST, "")
            if known != host:
                raise UsageError(
                    f"--api-url: the Secret {APP_SECRET} has the key of an App at "
                    f"{known or 'an unknown host'}. Give its address, or choose another --namespace"
                )
            account = there.notes.get(NOTE_APP_ACCOUNT, "")
            return GitHubApp(int(there.notes[NOTE_APP_ID]), account, there.values[APP_KEY])
        registration = Registration(
            api_url=answers.settings.forge(answers.platform).api_url,
            name=self._arguments.app_name,
            organization=self._arguments.organization,
            webhook_url=answers.webhook_url,
        )
        code = self._code(registration)
        # GitHub shows the key once, so there must be a place for it before the code is used.
        self._changed("namespace", self._installation.namespace, self._installation.ensure_namespace())
        if not self._installation.may(Right("create", "secrets")):
            raise DeniedError(
                f"you may not create secrets in {self._installation.namespace}, where the App's private key "
                "will be: ask for this right, or choose another --namespace. The code can still be used."
            )
        registered = registration.convert(code)
        notes = {NOTE_APP_ID: str(registered.id), NOTE_APP_ACCOUNT: registered.account, NOTE_HOST: host}
        try:
            written = self._installation.write_secret(APP_SECRET, {APP_KEY: registered.pem}, notes)
        except PluginError as error:
            raise PluginError(
                f"{error} GitHub has registered the App, but its private key could not be stored and is "
                f"lost: delete the App at {registered.html_url}, and run the command again without --code."
            ) from error
        self._changed("secret", f"{APP_SECRET}, the private key of {registered.account}", written)
        if answers.webhook_url and registered.webhook_secret:
            values = {answers.platform.value: registered.webhook_secret}
            self._changed("secret", WEBHOOK_SECRET, self._installation.write_secret(WEBHOOK_SECRET, values))
        self._say(f"\nInstall the App for your repositories: {registered.install_url}")
        if self._asker.interactive:
            self._asker.text("Press Enter when you have done this", "--yes", "")
        return GitHubApp(registered.id, registered.account, registered.pem)

    def _code(self, registration: Registration) -> str:
        """Return the code with which GitHub confirms the manifest."""
        if self._arguments.code:
            return code_of(self._arguments.code)
        page = Path(self._arguments.values).resolve().with_name("register-github-app.html")
        write(page, registration.page())
        self._say(f"Open {page.as_uri()} in a browser and confirm the App at GitHub.")
        self._say("Then copy the address of the page that GitHub shows: it contains code=…")
        if not self._asker.interactive:
            raise PluginError("the App is not registered yet: run the command again with --code 'ADDRESS'.")
        return code_of(self._asker.text("Address", "--code"))

    def _check(self, answers: InitInput, setup: ForgeSetup, app: GitHubApp | None) -> InitChecks:
        """Check everything that can be checked without a change, and print it."""
        findings = list(self._own_clock())
        usable = answers.repositories
        if app is not None:
            account = app.account
            section = _app_section(answers, app)
            findings += self._runner.run(app_findings(section, app.key, answers.repositories))
            findings += self._app_webhook(answers)
        else:
            account, of_token, usable = self._runner.run(self._token_checks(answers, setup))
            findings += of_token
        findings.append(ask_model(answers.llm, answers.model_key, key_place(answers.llm)))
        for finding in findings:
            self._session.out.print(finding.line, soft_wrap=True)
        return InitChecks(tuple(findings), account, usable)

    async def _token_checks(
        self, answers: InitInput, setup: ForgeSetup
    ) -> tuple[str, list[Finding], tuple[str, ...]]:
        """Return the login of the token's account, the findings, and the repositories that can be used.

        The login is empty if the forge refuses the token.
        """
        place = f"the variable {variable_of(answers.platform, 'personal_access_token')}"
        try:
            token = await setup.token()
        except ForgeError as error:
            return "", [wrong("token", str(error))], ()
        host, now = setup.forge.host, self._session.clock()
        found = token_findings(token, host, place, now)
        if token.at is not None:
            found += clock_findings(host, token.at, now)
        usable = []
        for repository in answers.repositories:
            checks = await _repository_checks(answers, setup, repository, token.login)
            bad = [one for one in checks if one.level is Level.WRONG]
            if not bad:
                usable.append(repository)
            # Nobody named these repositories, so one that cannot be used is left out and stops nothing.
            found += [warning(one.about, f"left out: {one.text}") for one in bad] if answers.owner else checks
        if answers.owner:
            about = f"{token.login} may read, label and push in {counted(len(usable))} of {answers.owner}"
            found.append(ok("repository", about) if usable else wrong("repository", about))
        return token.login, found, tuple(usable)

    def _app_webhook(self, answers: InitInput) -> list[Finding]:
        """Warn if the App has no webhook of ours: it gets one, and we its secret, only at registration."""
        if not answers.webhook_url or self._known_webhook_secret(answers.platform):
            return []
        return [
            wrong(
                "webhook",
                "the App was registered without a webhook. In its settings at GitHub, set the webhook's URL "
                f"to {answers.webhook_url} with a new secret, and store the same secret: kubectl create "
                f"secret generic {WEBHOOK_SECRET} -n {self._installation.namespace} "
                f"--from-literal={answers.platform}=…",
            )
        ]

    def _own_clock(self) -> list[Finding]:
        theirs = self._installation.server_time()
        return [] if theirs is None else clock_findings("the API server", theirs, datetime.now(UTC))

    def _confirm(self, answers: InitInput, checked: InitChecks) -> None:
        if checked.failed:
            raise PluginError(
                f"{checked.failed} of {len(checked.findings)} checks failed, and nothing else was changed. "
                "Correct this, and run the command again."
            )
        if not self._asker.interactive:
            return
        places = ", ".join(answers.repositories[:_NAMED])
        if (more := len(answers.repositories) - _NAMED) > 0:
            places += f" and {more} more"
        what = "labels and webhooks" if answers.webhook_url else "labels"
        question = f"Write Secrets to namespace {self._installation.namespace}, and {what} to {places}? [Y/n]"
        if self._asker.text(question, "--yes", "").lower() not in ("", "y", "yes"):
            raise PluginError("stopped; nothing was changed.")

    def _write_cluster(self, answers: InitInput, app: GitHubApp | None) -> None:
        """Create the namespace and the Secrets that the chart reads."""
        self._changed("namespace", self._installation.namespace, self._installation.ensure_namespace())
        api_url = answers.settings.forge(answers.platform).api_url
        notes = {NOTE_REPOSITORIES: ",".join(answers.repositories), NOTE_HOST: host_of(api_url)}
        if app is None:
            name, values = token_secret(answers.platform), {TOKEN_KEY: answers.token}
        else:
            name, values = APP_SECRET, {APP_KEY: app.private_key}
        self._changed("secret", name, self._installation.write_secret(name, values, notes))
        if answers.model_key:
            notes = {NOTE_HOST: host_of(answers.llm.address)}
            written = self._installation.write_secret(MODEL_SECRET, {MODEL_KEY: answers.model_key}, notes)
            self._changed("secret", MODEL_SECRET, written)

    async def _write_forge(self, answers: InitInput, setup: ForgeSetup, app: GitHubApp | None) -> None:
        """Create labels and, if asked for, webhooks. The App's own webhook serves all repositories."""
        wanted = labels_of(answers.settings.forge(answers.platform))
        if answers.owner:
            wanted = wanted[
                :1
            ]  # it creates the others when it needs them; forges limit writes to 80 a minute
        progress = Progress(len(answers.repositories))
        for repository in answers.repositories:
            there = await setup.labels(repository)
            shown = progress.next(repository)
            for label in wanted:
                state = Written.KEPT
                if label.name not in there:
                    await setup.create_label(repository, label)
                    state = Written.CREATED
                self._changed("label", f"{shown}: {label.name}", state)
        if answers.webhook_url and app is None:
            await self._write_webhooks(setup, answers)

    async def _write_webhooks(self, setup: ForgeSetup, answers: InitInput) -> None:
        """Create the webhook in each repository that has none with this address.

        Raises:
            PluginError: there is one, but its secret cannot be ours. No forge shows the secret of a webhook.
        """
        url = answers.webhook_url
        having = [
            repository
            for repository in answers.repositories
            if any(hook.url.rstrip("/") == url for hook in await setup.webhooks(repository))
        ]
        secret = self._known_webhook_secret(answers.platform)
        if having and not secret:
            # The secret is not written before: the next run would take it for that of this webhook.
            raise PluginError(
                f"{having[0]} has a webhook to {url} already, and the Secret {WEBHOOK_SECRET} does not have "
                "its secret. Delete the webhook at the forge, and run the command again."
            )
        secret = secret or secrets.token_urlsafe(_WEBHOOK_SECRET_BYTES)
        written = self._installation.write_secret(WEBHOOK_SECRET, {answers.platform.value: secret})
        self._changed("secret", WEBHOOK_SECRET, written)
        progress = Progress(len(answers.repositories))
        for repository in answers.repositories:
            state = Written.KEPT
            if repository not in having:
                await setup.create_webhook(repository, url, secret)
                state = Written.CREATED
            self._changed("webhook", f"{progress.next(repository)} to {url}", state)

    def _known_webhook_secret(self, platform: Platform) -> str:
        """Return the webhook's secret; empty if there is none yet."""
        there = self._installation.secret(WEBHOOK_SECRET)
        return "" if there is None else there.values.get(platform.value, "").strip()

    def _destination(self, name: str, url: str) -> Destination:
        """Resolve the destination of a URL, and print what a person must add to the values."""
        destination = destination_of(url)
        try:
            return replace(destination, pods=pods_behind(self._session.cluster.api_client, destination))
        except UnknownPodsError as error:
            self._session.out.print(unknown_pods(name, destination, str(error)).line, soft_wrap=True)
            # A private address is more often outside the cluster than a Service in it.
            return replace(destination, unknown=destination.service is not None)

    def _write_values(self, file: Path, earlier: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        """Write the values file. Keys of an earlier file that are not ours stay."""
        wanted = merged(earlier, values)
        state = Written.KEPT
        if not file.exists() or wanted != earlier:
            state = Written.CHANGED if file.exists() else Written.CREATED
            write(file, values_text(wanted))
        self._changed("values", str(file), state)

    def _say_next(self, answers: InitInput, before: str) -> None:
        arguments = self._arguments
        label = answers.settings.forge(answers.platform).bot_label
        if before:
            self._say(before)
        wait = "" if answers.webhook_url else " (the poll needs up to a minute)"
        self._say(
            "\nNow install it:\n\n"
            f"  helm upgrade --install {arguments.release} {arguments.chart} "
            f"--namespace {self._installation.namespace} --values {arguments.values}\n\n"
            f"Then put the label {label!r} on an issue of {answers.repositories[0]}, and watch{wait}:"
            "\n\n"
            f"  kubectl agenttask list -n {self._installation.namespace}\n\n"
            f"If something does not work: kubectl agenttask doctor -n {self._installation.namespace}"
        )

    def _changed(self, about: str, text: str, state: Written) -> None:
        self._session.out.print(plain(f"{state:<8} {about:<12} {text}"), soft_wrap=True)

    def _say(self, text: str) -> None:
        self._session.out.print(text, soft_wrap=True)


def labels_of(settings: Labels) -> tuple[NewLabel, ...]:
    """Return the labels that the agent uses."""
    labels = [
        NewLabel(settings.bot_label, "1d76db", "The coding agent shall work on this"),
        NewLabel(settings.processing_label, "fbca04", "The coding agent is at work"),
        NewLabel(settings.done_label, "0e8a16", "The coding agent has finished"),
    ]
    if settings.failed_label is not None:
        labels.append(NewLabel(settings.failed_label, "b60205", "The coding agent has failed"))
    return tuple(labels)


def _poll_scope(answers: InitInput, setup: ForgeSetup) -> dict[str, object]:
    if answers.owner:
        return setup.owner_scope(answers.owner)
    try:
        return setup.poll_scope(answers.repositories)
    except ValueError as error:
        raise UsageError(f"--repo: {error}") from error


def _connect(answers: InitInput, app: GitHubApp | None) -> Forge:
    if app is None:
        policy = _PATIENT if answers.owner else QUICK
        return connect_forge(answers.settings, answers.platform, policy=policy)
    tokens = connect_app(_app_section(answers, app), policy=QUICK, key=app.key)
    return connect_forge(answers.settings, answers.platform, policy=QUICK, token=AppTokenSource(tokens))


def _app_section(answers: InitInput, app: GitHubApp) -> GitHub:
    return GitHub(api_url=answers.settings.forge(answers.platform).api_url, app=app.settings())


async def _repository_checks(
    answers: InitInput, setup: ForgeSetup, repository: str, account: str
) -> list[Finding]:
    try:
        rights = await setup.repository(repository)
    except ForgeNotFoundError as error:
        hint = f"check the name, and invite {account} to the repository"
        return [wrong("repository", f"{error}. If it exists, {hint}")]
    except ForgeError as error:
        return [wrong("repository", str(error))]
    findings = repository_findings(rights, account)
    if answers.webhook_url and not rights.may_add_webhook:
        findings.append(
            wrong(
                "webhook",
                f"{account} may not create webhooks in {rights.path}. Leave out --webhook and create the "
                "webhook yourself, or make the account an administrator",
            )
        )
    return findings
