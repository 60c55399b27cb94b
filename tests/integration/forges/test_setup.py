"""What `init` and `doctor` ask of a forge: the token's rights, labels, the webhook and its deliveries."""

import asyncio
from datetime import UTC, date, datetime

import pytest
from coding_agent_core.errors import ForgeNotFoundError, ForgeRefusedError
from coding_agent_core.platforms.registry import Platform
from coding_agent_forges.rest.setup import ForgeSetup, NewLabel, setup_of
from coding_agent_testbed.forge.model import Role

from tests.fixtures.forge import REPOSITORY
from tests.fixtures.github_openapi import CLOUD, ENTERPRISE, PREFIX, validate_request, validate_response
from tests.fixtures.gitlab_schema import validate_answer
from tests.fixtures.hook_receiver import HookReceiver
from tests.integration.forges.conftest import World

BOT = "coding-agent-bot"
LABEL = NewLabel("coding agent: codex", "1d76db", "Codex shall work on this")


@pytest.fixture
def setup(world: World) -> ForgeSetup:
    world.server.sandbox.requests.clear()
    return setup_of(world.forge)


def fits_what_the_vendor_publishes(world: World) -> None:
    for entry in world.server.sandbox.requests:
        if world.platform is Platform.GITLAB:
            validate_answer(entry.method, entry.path.partition("/api/v4")[2], entry.status, entry.response)
            continue
        path = entry.path.removeprefix(PREFIX)
        for product in (ENTERPRISE, CLOUD):
            validate_request(entry.method, path, entry.query, entry.body, product=product)
            validate_response(entry.method, path, entry.status, entry.response, product=product)


async def test_it_says_what_the_token_and_its_account_may_do(world: World, setup: ForgeSetup) -> None:
    user, roles = world.server.user(BOT), world.server.repository(REPOSITORY).roles
    user.scopes, user.token_expires_at = ("read_user",), date(2099, 1, 31)
    began = datetime.now(UTC).replace(microsecond=0)  # the header Date has whole seconds
    token = await setup.token()
    assert token.login == BOT
    assert token.at is not None
    assert began <= token.at <= datetime.now(UTC)
    assert token.rights.scopes == frozenset({"read_user"})
    assert token.rights.lacks == (("repo",) if world.platform is Platform.GITHUB else ("api",))
    assert token.rights.expires_at == datetime(2099, 1, 31, tzinfo=UTC)
    user.scopes = None
    assert (await setup.token()).rights.lacks == ()

    facts = await setup.repository(REPOSITORY)
    assert (facts.path, facts.lacks, facts.may_add_webhook) == (REPOSITORY, (), False)
    roles[BOT] = Role.ADMIN
    assert (await setup.repository(REPOSITORY)).may_add_webhook
    roles[BOT] = Role.READ
    [lack] = (await setup.repository(REPOSITORY)).lacks
    assert "may not push" in lack
    fits_what_the_vendor_publishes(world)


async def test_labels_are_created_once(world: World, setup: ForgeSetup) -> None:
    assert LABEL.name not in await setup.labels(REPOSITORY)
    await setup.create_label(REPOSITORY, LABEL)
    await setup.create_label(REPOSITORY, LABEL)
    assert LABEL.name in await setup.labels(REPOSITORY)
    [made] = [one for one in world.server.repository(REPOSITORY).labels if one.name == LABEL.name]
    assert (made.color, made.description) == (LABEL.color, LABEL.description)
    fits_what_the_vendor_publishes(world)


async def test_a_label_of_another_spelling_is_the_same_label_only_for_github(
    world: World, setup: ForgeSetup
) -> None:
    made = NewLabel(LABEL.name.title(), LABEL.color, LABEL.description)
    await setup.create_label(REPOSITORY, made)
    is_same = world.platform is Platform.GITHUB
    assert (LABEL.name in await setup.labels(REPOSITORY)) is is_same
    await setup.create_label(REPOSITORY, LABEL)  # as another program may do at the same time
    names = {one.name for one in world.server.repository(REPOSITORY).labels}
    assert {made.name, LABEL.name} & names == ({made.name} if is_same else {made.name, LABEL.name})
    fits_what_the_vendor_publishes(world)


async def test_a_webhook_is_created_with_its_secret_and_its_deliveries_are_read(
    world: World, setup: ForgeSetup, hook_receiver: HookReceiver
) -> None:
    server = world.server
    with pytest.raises((ForgeRefusedError, ForgeNotFoundError), match=REPOSITORY):
        await setup.create_webhook(REPOSITORY, hook_receiver.url, "a secret")
    server.repository(REPOSITORY).roles[BOT] = Role.ADMIN
    hook_receiver.status = 401
    await setup.create_webhook(REPOSITORY, hook_receiver.url, "a secret")
    [hook] = server.sandbox.store.hooks
    assert (hook.secret, hook.wants("issues")) == ("a secret", True)
    [ours] = await setup.webhooks(REPOSITORY)
    assert (ours.url, ours.active) == (hook_receiver.url, True)
    server.add_label(REPOSITORY, 1, "coding agent processing")
    await asyncio.to_thread(server.wait_for, server.sandbox.deliveries.all_ended)
    newest = (await setup.deliveries(REPOSITORY, ours))[0]
    assert newest.status == 401
    assert "issue" in newest.event
    fits_what_the_vendor_publishes(world)
