"""Secrets that are replaced while they are used, in files that change as Kubernetes changes them."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Mapping
from pathlib import Path

import httpx2
import pytest
from coding_agent_testbed.until import until, until_async

from tests.fixtures.deliveries import (
    encode,
    github_headers,
    github_issue,
    gitlab_headers,
    gitlab_issue,
    sign,
)
from tests.fixtures.system import BOT_TOKEN, REPOSITORY, StartSystem
from tests.integration.core_kubernetes.place import Place

OLD, NEW = "the-old-secret", "the-new-secret"


class MountedSecret:
    """A folder with the keys of a Secret, as the kubelet's AtomicWriter makes it.

    The files are links through `..data`, which is itself a link to the folder of one version. A change
    replaces `..data` by a rename, so all keys change at once.
    """

    def __init__(self, folder: Path, values: Mapping[str, str]) -> None:
        self._folder = folder
        self._versions = itertools.count()
        folder.mkdir()
        self.replace(values)
        for key in values:
            (folder / key).symlink_to(Path("..data") / key)

    def replace(self, values: Mapping[str, str]) -> None:
        """Change the Secret. Its keys stay the same."""
        version = self._folder / f"..{next(self._versions)}"
        version.mkdir()
        for key, value in values.items():
            (version / key).write_text(value)
        draft = self._folder / "..data_tmp"
        draft.symlink_to(version.name)
        before = (self._folder / "..data").resolve()
        draft.rename(self._folder / "..data")
        if before != self._folder / "..data":
            for file in before.iterdir():
                file.unlink()
            before.rmdir()

    def files(self, *keys: str) -> dict[str, list[str]]:
        """Settings that read these keys."""
        return {"files": [str(self._folder / key) for key in keys]}


class Forge:
    """Sends webhooks of both forges without a pause, and as many with a wrong secret.

    Attributes:
        secret: what the forges sign with now.
        answers: the statuses of the forges' deliveries, by the issue's number.
        refused: the statuses of those with a wrong secret.
    """

    def __init__(self, http: httpx2.AsyncClient, ports: list[int]) -> None:
        self.secret = OLD
        self.answers: dict[int, int] = {}
        self.refused: list[int] = []
        self._http, self._ports = http, ports
        self._numbers, self._begun = itertools.count(1), 0
        self._chance = random.Random(7)

    async def send(self, secret: str, number: int) -> int:
        """Send a delivery of one of the forges, by the issue's number."""
        name = "github" if number % 2 else "gitlab"
        if name == "github":
            body = encode(github_issue(number=number))
            headers = github_headers(body, delivery=f"d-{number}") | {
                "X-Hub-Signature-256": sign(body, secret)
            }
        else:
            body = encode(gitlab_issue(iid=number))
            headers = gitlab_headers(key=f"k-{number}") | {"X-Gitlab-Token": secret}
        url = f"http://127.0.0.1:{self._chance.choice(self._ports)}/webhook/{name}"
        return (await self._http.post(url, content=body, headers=headers)).status_code

    async def keep_sending(self, done: asyncio.Event) -> None:
        """Send until `done`, each delivery as soon as the last one is answered."""
        while not done.is_set():
            self._begun = number = next(self._numbers)
            self.answers[number] = await self.send(self.secret, number)
            self.refused.append(await self.send(f"{self.secret}x", 90_000 + number))

    async def sent(self, more: int) -> None:
        """Wait until so many more deliveries are answered, and all that are under way now."""
        wanted, begun = len(self.answers) + more, range(1, self._begun + 1)

        def are_answered() -> bool:
            return len(self.answers) >= wanted and self.answers.keys() >= set(begun)

        await until_async(lambda: f"{wanted} answers; there are {len(self.answers)}", are_answered)


async def test_no_delivery_is_refused_while_the_webhook_secret_is_rotated(
    place: Place, http: httpx2.AsyncClient, request: pytest.FixtureRequest
) -> None:
    """As docs/security.md says: both secrets, then the forge's, then the old one is removed.

    The kubelet of each receiver changes the files at another time.
    """
    keys = ("current", "previous")
    mounts = [MountedSecret(place.folder / f"pod-{n}", {"current": OLD, "previous": ""}) for n in range(2)]
    ports = []
    for mount in mounts:
        files = mount.files(*keys)
        receiver = place.start_receiver(
            place.account(),
            github={"secret": files},
            gitlab={"token": files},
            rate_limit={"failed": "100000/minute"},
        )
        request.addfinalizer(receiver.kill)
        ports.append(receiver.port())
    forge, done = Forge(http, ports), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for _ in range(2):
            group.create_task(forge.keep_sending(done))
        assert {await forge.send(NEW, 80_000 + n) for n in range(6)} == {401}, "not yet"
        for mount in mounts:
            await forge.sent(5)
            mount.replace({"current": NEW, "previous": OLD})
        await forge.sent(5)
        forge.secret = NEW
        for mount in mounts:
            await forge.sent(5)
            mount.replace({"current": NEW, "previous": ""})
        await forge.sent(5)
        assert {await forge.send(OLD, 80_000 + n) for n in range(6)} == {401}, "not any more"
        done.set()
    assert set(forge.answers.values()) == {200}, "no valid delivery is refused"
    assert set(forge.refused) == {401}, "no invalid one is accepted"
    numbers = sorted(task["spec"]["source"]["number"] for task in place.tasks().values())
    assert numbers == sorted(forge.answers), "nothing is lost, and nothing else is there"


def test_a_poller_goes_on_with_the_next_token_of_the_forge(place: Place, start_system: StartSystem) -> None:
    system = start_system("github", [])
    forge = system.forge
    mount = MountedSecret(place.folder / "forge-token", {"token": BOT_TOKEN})
    system.sections = {
        "github": {"personal_access_token": mount.files("token")},
        "scheduling": {"interval": 1},
        "development": {"http_port": 0},
    }
    program = system.start(
        "--mode",
        "producer",
        "--loop",
        GITHUB_PERSONAL_ACCESS_TOKEN="",
        **place.environment(place.account()),
    )
    user = forge.user("coding-agent-bot")

    def found(tasks: int) -> None:
        until(
            lambda: f"{tasks} tasks; {program.text()[-3000:]}",
            lambda: len(place.tasks()) == tasks,
            interval=0.2,
        )

    system.put_label(1)
    found(1)
    mount.replace({"token": NEW})
    forge.run(lambda: setattr(user, "token", NEW))
    system.put_label(forge.open_issue(REPOSITORY, "Another"))
    found(2)
    for token in (BOT_TOKEN, NEW):
        assert token not in program.text()
