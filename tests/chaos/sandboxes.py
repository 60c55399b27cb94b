"""What both worlds share: the forge, the scripted model, the deliveries between, and their faults.

The forge is a sandbox, or a real Gitea.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

from coding_agent_core.platforms.addresses import host_of
from coding_agent_testbed.forge.server import ForgeServer
from coding_agent_testbed.model.server import ModelServer

from tests.chaos import mergeability
from tests.chaos.gitea_forge import GiteaForge
from tests.chaos.history import CLOCK_AHEAD, CLOCK_BEHIND
from tests.chaos.proxies import DeliveryProxy, TcpProxy, Treatment
from tests.chaos.scripts import scripts
from tests.chaos.world import Effect, StartFault, Undo, WorldError
from tests.fixtures.system import BOT_TOKEN, MODEL_KEY, ROOT, SAMPLES, SECRET

BOT_LOGIN = "coding-agent-bot"
PEOPLE = {"alice": "member", "bob": "member", "carol": "member", "mallory": "stranger"}
REPOSITORIES = ("acme/pricing", "acme/billing", "acme/shipping")
FORGES = ("github", "gitlab", "gitea")


@dataclass
class Sandboxes:
    """A forge, a model, and the proxies between them and the programs.

    Attributes:
        platform: one of `FORGES`.
        bot_token: with which the programs reach the forge.
        deliveries: through which the forge's webhooks go.
        forge_way, model_way: through which the programs reach forge and model; people act on the forge
            itself.
    """

    platform: str
    forge: ForgeServer | GiteaForge
    bot_token: str
    model: ModelServer
    deliveries: DeliveryProxy
    forge_way: TcpProxy
    model_way: TcpProxy

    @property
    def host(self) -> str:
        """The forge's host, as tasks name it."""
        return host_of(self.forge.api_url)

    @property
    def model_url(self) -> str:
        """Base URL of the model for OpenAI's formats, as the programs reach it."""
        return f"http://{self.model_way.host}:{self.model_way.port}/v1"

    def hook(self, target: str) -> None:
        """Send the webhooks of all repositories, through the proxy, to this base URL."""
        self.deliveries.aim(target)
        for repository in REPOSITORIES:
            url = f"{self.deliveries.url}/webhook/{self.platform}"
            self.forge.add_hook(repository, url, SECRET)

    def records(self) -> Iterator[dict[str, Any]]:
        """Events of the forge, which changes merged, and deliveries."""
        for event in self.forge.events():
            yield {"record": "forge", "host": self.host, **event.as_dict()}
        yield from mergeability.records(self.forge, self.host)
        yield from list(self.deliveries.records)
        yield from map(model_record, self.model.requests)

    def all_delivered(self) -> bool:
        """Whether no webhook is under way. Gitea does not say whether it still has some to send."""
        forge = self.forge
        ended = not isinstance(forge, ForgeServer) or forge.run(forge.sandbox.deliveries.all_ended)
        return ended and self.deliveries.idle

    def check(self) -> None:
        """See that the forge answers.

        Raises:
            WorldError: it does not.
        """
        if isinstance(self.forge, GiteaForge):
            self.forge.check()
            return
        try:
            self.forge.run(lambda: None)
        except (TimeoutError, RuntimeError) as error:
            raise WorldError(f"the forge does not answer: {error!r}") from error

    def description(self) -> Mapping[str, str]:
        """The forge, for the report."""
        version = {"Gitea": self.forge.version} if isinstance(self.forge, GiteaForge) else {}
        return {"forge": self.platform, **version}

    def logs(self, folder: Path) -> None:
        """Copy what a real forge has printed there."""
        if isinstance(self.forge, GiteaForge):
            shutil.copy(self.forge.log, folder / "gitea.log")

    def faults(self) -> dict[str, StartFault]:
        """Faults of forge and model, by kind."""
        api = {"path": "/(api|graphql|.*/(info/refs|git-))", "times": None}
        forge = self.forge
        if isinstance(forge, GiteaForge):
            own: dict[str, StartFault] = {"stop forge": lambda _: forge.stop()}
        else:
            own = self._sandbox_faults(forge, api)
        return {
            **own,
            "forge answers 500": self._forge(**api, status=500),
            "forge answers 502": self._forge(**api, status=502),
            "forge answers 429": self._forge(**api, status=429, retry_after=3),
            "forge loses the answers of writes": self._forge(
                **api | {"path": "/api"}, method="POST|PATCH|PUT|DELETE", close="after"
            ),
            "forge loses the answers of pushes": self._forge(
                path=".*/git-receive-pack", times=None, close="after"
            ),
            "forge is slow": self._forge(**api, delay_ms=1500),
            "model answers 429": self._model(status=429, retry_after=2),
            "model answers 500": self._model(status=500),
            "model cuts its answers": self._model(cut=True),
            "model is slow": self._model(delay_ms=4000),
            "delay between programs and forge": lambda random: self.forge_way.delay(random.uniform(0.2, 1.5)),
            "delay between programs and model": lambda random: self.model_way.delay(random.uniform(0.5, 3.0)),
        }

    def _sandbox_faults(self, forge: ForgeServer, api: Mapping[str, Any]) -> dict[str, StartFault]:
        """What only a sandbox can do."""
        return {
            "forge answers with a secondary limit": self._forge(
                **api, method="POST|PATCH|PUT|DELETE", secondary_rate_limit=True, retry_after=3
            ),
            CLOCK_AHEAD: lambda _: _clock(forge, 90.0),
            CLOCK_BEHIND: lambda _: _clock(forge, -90.0),
        }

    def delivery_faults(self, missed: Callable[[], None]) -> dict[str, StartFault]:
        """Faults of the deliveries, by kind.

        Args:
            missed: returns when the system has had the time to see what no webhook has brought, except for
                labels, which wait for the next poll.
        """

        def treat(treatment: Treatment, after: Callable[[], None] = lambda: None) -> StartFault:
            def start(random: Random) -> Undo:
                end = self.deliveries.treat(treatment, random)

                def undo() -> Effect:
                    effect = end()
                    after()
                    return effect

                return undo

            return start

        kills = {"kill forge": self._kill(self.forge, missed)} if isinstance(self.forge, GiteaForge) else {}
        return {
            **kills,
            "deliveries are dropped": treat(Treatment(dropped=0.7), missed),
            "deliveries come twice with other ids": treat(Treatment(doubled=0.8)),
            "deliveries are out of order": treat(Treatment(late=0.6, seconds=(0.0, 6.0))),
            "delay between forge and receivers": treat(Treatment(slow=1.0, seconds=(1.0, 5.0))),
            "deliveries come again a minute later": treat(Treatment(again=0.8, seconds=(30.0, 90.0))),
        }

    def _kill(self, forge: GiteaForge, missed: Callable[[], None]) -> StartFault:
        """Kill Gitea; it may not have sent its last webhooks, and nothing shows these as failed."""

        def start(_: Random) -> Undo:
            end = forge.kill()

            def undo() -> Effect:
                effect = end()
                self.deliveries.count_unsent()
                missed()
                return effect

            return undo

        return start

    def _forge(self, **fields: Any) -> StartFault:
        def start(_: Random) -> Undo:
            fault = self.forge.fault(**fields)

            def undo() -> Effect:
                fault.end()
                return Effect(fault.hits, "requests to the forge")

            return undo

        return start

    def _model(self, **fields: Any) -> StartFault:
        def start(_: Random) -> Undo:
            fault = self.model.fault(times=None, **fields)

            def undo() -> Effect:
                fault.end()
                return Effect(fault.hits, "requests to the model")

            return undo

        return start


def model_record(request: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a request to the model: when it came, and the item whose title it has."""
    titles = r"item-\d+ (?:works for \d+ s|fails|writes nothing)"
    named = re.search(titles, json.dumps(request.get("messages", "")))
    return {
        "record": "model",
        "at": datetime.fromtimestamp(request["received"], UTC).isoformat(),
        "title": named[0] if named else "",
        "script": request["script"],
        "position": request["position"],
        "status": request["status"],
    }


def _clock(forge: ForgeServer, ahead: float) -> Undo:
    before = len(forge.events())
    forge.set_clock(ahead)

    def undo() -> Effect:
        forge.set_clock(0.0)
        return Effect(len(forge.events()) - before, "events of the forge with a time of this clock")

    return undo


def start_sandboxes(stack: ExitStack, platform: str, folder: Path, address: str) -> Sandboxes:
    """Start all of them; they end with the stack.

    Args:
        platform: one of `FORGES`.
        address: where the system reaches them.
    """
    forge_way, model_way = TcpProxy(host=address), TcpProxy(host=address)
    for way in (forge_way, model_way):
        stack.callback(way.close)
    public_url = f"http://{address}:{forge_way.port}"
    forge: ForgeServer | GiteaForge
    if platform == "gitea":
        forge = GiteaForge(folder / "gitea", address, public_url, PEOPLE, BOT_LOGIN, REPOSITORIES)
    else:
        seed = _seed(platform)
        forge = ForgeServer(platform, seed, folder / "repositories", host=address, public_url=public_url)
    model = ModelServer(scripts(), api_key=MODEL_KEY, host=address)
    stack.enter_context(forge)
    stack.enter_context(model)
    proxy = stack.enter_context(DeliveryProxy("http://127.0.0.1:9", host_of(forge.api_url), BOT_LOGIN))
    if isinstance(forge, ForgeServer):
        # People do in half an hour what they otherwise do in a day: a token of one hour would not be enough.
        forge.sandbox.hourly_quota = 100_000
    forge_way.aim((address, forge.port))
    model_host, _, model_port = model.url.removeprefix("http://").rpartition(":")
    model_way.aim((model_host, int(model_port)))
    token = forge.bot_token if isinstance(forge, GiteaForge) else BOT_TOKEN
    return Sandboxes(platform, forge, token, model, proxy, forge_way, model_way)


def _seed(flavour: str) -> dict[str, Any]:
    # On GitHub, only administrators of a repository can have missed webhooks sent again.
    bot_role = "admin" if flavour == "github" else "write"
    users = [{"login": login, "token": f"{login}-token", "admin": login == "alice"} for login in PEOPLE]
    roles = {login: "write" if role == "member" else "read" for login, role in PEOPLE.items()}
    repositories = [
        {
            "owner": name.split("/")[0],
            "name": name.split("/")[1],
            "files": str(SAMPLES / "pricing"),
            "roles": {BOT_LOGIN: bot_role, **roles},
        }
        for name in REPOSITORIES
    ]
    bot = {"login": BOT_LOGIN, "token": BOT_TOKEN, "bot": True}
    return {"users": [*users, bot], "repositories": repositories}


def machine(**more: str) -> Mapping[str, str]:
    """This machine and commit, and more, for the report."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    return {
        "machine": f"{os.cpu_count()} cores, {memory:.0f} GiB, Linux {platform.release()}",
        "commit": commit.stdout.strip() or "unknown",
        "python": platform.python_version(),
        **more,
    }
