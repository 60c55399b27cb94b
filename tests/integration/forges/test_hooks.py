"""GitHub's delivery log as our client reads it, and a delivery sent again (B4)."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from coding_agent_core.errors import ForgeError, ForgeNotFoundError
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.settings.model import Settings
from coding_agent_forges.connect import connect_forge
from coding_agent_forges.github.redelivery import GitHubHooks, Hook, HookDelivery
from coding_agent_testbed.forge import ForgeServer

from tests.fixtures.forge import BOT_TOKEN, PERSON_TOKEN, REPOSITORY
from tests.fixtures.github_openapi import CLOUD, ENTERPRISE, PREFIX, validate_request
from tests.fixtures.hook_receiver import HookReceiver

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def settings(server: ForgeServer, token: str) -> Settings:
    return Settings.model_validate({"github": {"api_url": server.api_url, "personal_access_token": token}})


@pytest.fixture
async def hooks(github_forge: ForgeServer) -> AsyncIterator[GitHubHooks]:
    forge = connect_forge(settings(github_forge, PERSON_TOKEN), Platform.GITHUB)
    yield GitHubHooks(forge.client)
    await forge.aclose()


async def ended(server: ForgeServer, count: int) -> None:
    """Wait until so many deliveries have ended."""
    log = server.sandbox.deliveries.log
    await asyncio.to_thread(server.wait_for, lambda: sum(entry.status != "pending" for entry in log) == count)


async def every(log: AsyncIterator[HookDelivery]) -> list[HookDelivery]:
    return [entry async for entry in log]


def fits_the_description(server: ForgeServer) -> None:
    """Every request that was sent is one that GitHub describes."""
    for request in server.sandbox.requests:
        for product in (ENTERPRISE, CLOUD):
            validate_request(
                request.method,
                request.path.removeprefix(PREFIX),
                request.query,
                request.body,
                product=product,
            )


async def test_a_failed_delivery_is_found_read_and_sent_again(
    hooks: GitHubHooks, github_forge: ForgeServer, hook_receiver: HookReceiver
) -> None:
    github_forge.add_hook(REPOSITORY, hook_receiver.url, "a secret", ("issues",))
    hook_receiver.status = 503
    github_forge.add_label(REPOSITORY, 1, "coding agent")
    await ended(github_forge, 1)
    hook_receiver.status = 200
    github_forge.sandbox.requests.clear()

    [hook] = await hooks.of_repository(REPOSITORY)
    assert hook.url == hook_receiver.url
    [failed] = await every(hooks.deliveries(hook, LONG_AGO, failed_only=True))
    assert (failed.status, failed.event, failed.succeeded) == (503, "issues", False)
    assert (await hooks.payload(hook, failed))["label"]["name"] == "coding agent"
    await hooks.redeliver(hook, failed)
    await ended(github_forge, 2)

    again, first = await every(hooks.deliveries(hook, LONG_AGO))
    assert (first.id, again.guid, again.succeeded) == (failed.id, failed.guid, True)
    assert len({delivery.headers["x-github-delivery"] for delivery in hook_receiver.deliveries}) == 1
    assert await every(hooks.deliveries(hook, LONG_AGO, failed_only=True)) == [failed]
    fits_the_description(github_forge)


async def test_an_organisations_webhooks_are_asked_for_as_described(
    hooks: GitHubHooks, github_forge: ForgeServer
) -> None:
    """The sandbox has no organisations: it knows none of these paths."""
    hook = Hook("/orgs/acme/hooks/1", "https://hooks.example.com", "the webhook 1 of acme")
    delivery = HookDelivery(7, "a-guid", LONG_AGO, 502, "issues")
    asked = (
        hooks.of_organization("acme"),
        every(hooks.deliveries(hook, LONG_AGO, failed_only=True)),
        hooks.payload(hook, delivery),
        hooks.redeliver(hook, delivery),
    )
    for entry in asked:
        with pytest.raises(ForgeError, match="acme"):
            await entry
    assert len(github_forge.sandbox.requests) == len(asked)
    fits_the_description(github_forge)


async def test_the_log_is_read_page_by_page_and_no_further_than_asked(
    hooks: GitHubHooks, github_forge: ForgeServer, hook_receiver: HookReceiver
) -> None:
    github_forge.add_hook(REPOSITORY, hook_receiver.url, "a secret", ("issues",))
    for _ in range(55):
        github_forge.add_label(REPOSITORY, 1, "coding agent")
        github_forge.remove_label(REPOSITORY, 1, "coding agent")
    await ended(github_forge, 110)
    [hook] = await hooks.of_repository(REPOSITORY)
    found = await every(hooks.deliveries(hook, LONG_AGO))
    assert [entry.id for entry in found] == sorted((item.id for item in found), reverse=True)
    assert len({candidate.id for candidate in found}) == 110
    assert await every(hooks.deliveries(hook, datetime.now(UTC) + timedelta(minutes=1))) == []


async def test_an_inactive_webhook_is_none_and_without_the_right_there_is_an_error(
    hooks: GitHubHooks, github_forge: ForgeServer
) -> None:
    hook_id = github_forge.add_hook(REPOSITORY, "http://127.0.0.1:1/", "a secret", ("issues",))
    hook = next(entry for entry in github_forge.sandbox.store.hooks if entry.id == hook_id)
    hook.active = False
    assert await hooks.of_repository(REPOSITORY) == []
    forge = connect_forge(settings(github_forge, BOT_TOKEN), Platform.GITHUB)
    try:
        theirs = GitHubHooks(forge.client)
        with pytest.raises(ForgeNotFoundError, match=f"reading the webhooks of {REPOSITORY}"):
            await theirs.of_repository(REPOSITORY)
    finally:
        await forge.aclose()
