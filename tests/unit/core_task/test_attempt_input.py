import json
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.task.attempts import AttemptInput, EarlierAttempts
from coding_agent_core.task.model import Item, Origin, TaskRequest, Trigger
from coding_agent_core.task.queued_task import QueuedTask
from coding_agent_core.task.usage import Allowance

NOW = datetime(2026, 11, 25, 10, 0, tzinfo=UTC)


def an_input(**changes: object) -> AttemptInput:
    item = Item(
        platform=Platform.GITHUB, host="github.com", repository="acme/shop", kind=ItemKind.ISSUE, number=7
    )
    request = TaskRequest(
        item=item, user="ann", title="日本", url="https://github.com/acme/shop/issues/7",
        trigger=Trigger(origin=Origin.WEBHOOK, received_at=NOW, delivery_id="d1"),
    )  # fmt: skip
    fields: dict[str, object] = {
        "task": QueuedTask(request=request, uuid="u", run=2, attempt=3),
        "max_attempts": 4,
        "timeout_seconds": 60,
    }
    return AttemptInput.model_validate({**fields, **changes})


@pytest.mark.parametrize(
    "earlier",
    [EarlierAttempts(), EarlierAttempts(branch="b", change_url="u", recap="did x", transcripts=("a", "b"))],
)
def test_what_is_written_is_read_again(earlier: EarlierAttempts) -> None:
    allowance = Allowance(amount=Decimal("0.5"), currency="USD")
    whole = an_input(earlier=earlier, model="m", instructions="In Japanese.", allowance=allowance)
    assert AttemptInput.from_json(whole.to_json(), now=NOW) == whole


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ('{"type":"github_issue","owner":"a","repo":"b","number":1,"timeoutSeconds":0}', "timeout_seconds"),
        ('{"type":"github_issue","owner":"a","repo":"b","number":1,"earlier":{"x":1}}', r"x"),
        ('{"type":"github_issue","owner":"a","repo":"b","number":1,"allowance":{}}', r"either `amount`"),
    ],
)
def test_a_wrong_input_is_named(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        AttemptInput.from_json(text, now=NOW)


def test_a_key_of_another_repository_than_the_items_is_refused() -> None:
    message = json.loads(an_input().to_json())
    assert (message["owner"], message["repo"]) == ("acme", "shop")
    message["repo"] = "secret"
    with pytest.raises(ValueError, match=r"task\.item: not the item of the key"):
        AttemptInput.from_json(json.dumps(message), now=NOW)
