"""What is wrong with a setting is said in our words, never in those of the library that checks it."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from coding_agent_core.platforms.text import first_problem, problem_of
from coding_agent_core.settings.model import Settings
from coding_agent_core.task.model import RoundTrigger, Trigger
from coding_agent_core.task.usage import Allowance
from pydantic import BaseModel, Field, ValidationError

WRONG: tuple[Any, ...] = (
    "x",
    "",
    "x" * 70_000,
    -1,
    10**30,
    0.5,
    float("nan"),
    [],
    ["x"] * 500,
    {},
    {"x": {}},
    True,
)
FOREIGN = re.compile(
    r"Input should|should (be|have|match)|Unable to|Field required|Extra inputs|valid (?!JSON)\w+, "
)


def places(
    schema: dict[str, Any], definitions: dict[str, Any], path: tuple[str, ...] = ()
) -> Iterator[tuple[str, ...]]:
    """The path of each setting."""
    for branch in (schema, *schema.get("anyOf", ()), *schema.get("allOf", ())):
        if "$ref" in branch and len(path) < 6:
            yield from places(definitions[branch["$ref"].rsplit("/", 1)[-1]], definitions, path)
        for name, node in branch.get("properties", {}).items():
            yield (*path, name)
            yield from places(node, definitions, (*path, name))


def nested(path: tuple[str, ...], value: Any) -> Any:
    for part in reversed(path):
        value = {part: value}
    return value


def test_no_setting_has_a_problem_in_words_of_the_library() -> None:
    schema = Settings.model_json_schema()
    found = set()
    for path in sorted(set(places(schema, schema["$defs"]))):
        for value in WRONG:
            try:
                Settings.model_validate(nested(path, value))
            except ValidationError as error:
                found |= {problem_of(dict(detail)) for detail in error.errors(include_url=False)}
    assert len(found) > 40, "wrong values are found"
    assert [text for text in sorted(found) if FOREIGN.search(text)] == []


class Words(BaseModel):
    """Has a field for each row below."""

    tags: tuple[str, ...] = Field(default=(), max_length=2)
    name: str = Field(default="a", min_length=1, max_length=3, pattern="^a")
    count: int = Field(default=1, ge=1, lt=9)


@pytest.mark.parametrize(
    ("model", "value", "words"),
    [
        (Words, {"tags": ["a", "b", "c"]}, "tags: has more than 2 entries"),
        (Words, {"tags": "a"}, "tags: must be a list"),
        (Words, {"tags": [1]}, "tags.0: must be text"),
        (Words, {"name": "abcd"}, "name: has more than 3 characters"),
        (Words, {"name": ""}, "name: needs at least 1 characters"),
        (Words, {"name": "b"}, "name: does not match ^a"),
        (Words, {"count": 0}, "count: must be at least 1"),
        (Words, {"count": 9}, "count: must be less than 9"),
        (Words, {"count": "many"}, "count: must be a whole number"),
        (Words, [], "Words: must be a mapping"),
        (Trigger, {"origin": "telepathy"}, "origin: must be one of 'webhook'"),
        (RoundTrigger, {}, ": is missing"),
        (Allowance, {}, "give either `amount` with `currency`, or `tokens`"),
    ],
)
def test_the_first_problem_names_the_field_and_what_to_change(
    model: type[BaseModel], value: Any, words: str
) -> None:
    with pytest.raises(ValidationError) as error:
        model.model_validate(value)
    assert words in first_problem(error.value)
