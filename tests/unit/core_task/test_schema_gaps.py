"""What the schema of a cluster lacks in comparison with the schema of this release."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from coding_agent_core.task.agenttask_schema import (
    SchemaGap,
    describe_gaps,
    published_schema,
    schema_gaps,
    schema_of,
    wanted_schema,
)

from tests.fixtures.crd import of_november_28

CRD = Path(__file__).parents[3] / "crds" / "agenttask.yaml"
WANTED: dict[str, Any] = {
    "type": "object",
    "properties": {
        "metadata": {"type": "object"},
        "spec": {
            "type": "object",
            "required": ["run"],
            "x-kubernetes-validations": [{"rule": "self.run == oldSelf.run", "message": "run stays"}],
            "properties": {
                "run": {"type": "integer", "minimum": 1, "maximum": 100},
                "description": {"type": "string", "maxLength": 20, "default": "x"},
                "runner": {"type": "string", "enum": ["codex", "opencode"]},
                "tags": {"type": "array", "maxItems": 3, "items": {"type": "string", "pattern": "^a"}},
                "spent": {"type": "object", "additionalProperties": {"type": "number"}},
            },
        },
    },
    "x-kubernetes-selectable-fields": [{"fieldPath": "spec.run"}],
}


def at(path: str, schema: dict[str, Any]) -> dict[str, Any]:
    for part in filter(None, path.split("/")):
        schema = schema[part]
    return schema


RUN, TAGS = "properties/spec/properties/run", "properties/spec/properties/tags"
SPEC, RUNNER = "properties/spec", "properties/spec/properties/runner"
TEXT = "properties/spec/properties/description"


@pytest.mark.parametrize(
    ("path", "change", "expected", "harmful"),
    [
        ("properties/spec/properties", {"tags": None}, "spec.tags is missing", True),
        ("properties/spec/properties", {"description": None}, "spec.description is missing", True),
        (RUNNER, {"enum": ["codex"]}, "spec.runner does not allow opencode", True),
        (TAGS, {"enum": ["a"]}, "spec.tags allows only a", True),
        (TEXT, {"maxLength": 10}, "spec.description allows at most 10 characters instead of 20", True),
        (TAGS, {"maxItems": 2}, "spec.tags allows at most 2 entries instead of 3", True),
        (RUN, {"maximum": 9}, "spec.run allows at most 9 instead of 100", True),
        (RUN, {"minimum": 2}, "spec.run requires at least 2", True),
        (TEXT, {"minLength": 1}, "spec.description requires at least 1 characters", True),
        (SPEC, {"required": ["run", "tags"]}, "spec requires tags", True),
        (RUN, {"type": "string"}, 'spec.run has type "string" instead of "integer"', True),
        (TAGS + "/items", {"pattern": "^b"}, 'spec.tags[] has pattern "^b" instead of "^a"', True),
        (TAGS + "/items", {"pattern": None}, 'spec.tags[] has pattern none instead of "^a"', True),
        (
            "properties/spec/properties/spent/additionalProperties",
            {"type": "string"},
            'spec.spent.* has type "string" instead of "number"',
            True,
        ),
        (
            TEXT,
            {"x-of-a-later-kubernetes": 1},
            "spec.description has x-of-a-later-kubernetes 1 instead of none",
            True,
        ),
        ("", {"x-kubernetes-selectable-fields": None}, "spec.run cannot be used to select tasks", True),
        (SPEC, {"x-kubernetes-validations": None}, "spec lacks the rule “run stays”", False),
        # What a later release may add.
        (RUNNER, {"enum": ["codex", "opencode", "new"]}, "", False),
        (RUNNER, {"enum": None}, "", False),
        (TEXT, {"maxLength": None, "default": "y", "description": "text"}, "", False),
        (RUN, {"maximum": 1000, "minimum": 0}, "", False),
        (SPEC, {"required": []}, "", False),
        ("properties/spec/properties", {"new": {"type": "string"}}, "", False),
        ("properties/metadata", {"type": None, "allOf": [{"$ref": "#/ObjectMeta"}]}, "", False),
    ],
)
def test_a_difference_is_a_gap_if_what_this_release_writes_is_lost_or_refused(
    path: str, change: dict[str, Any], expected: str, harmful: bool
) -> None:
    installed = deepcopy(WANTED)
    node = at(path, installed)
    node.update(change)
    for key, value in change.items():
        if value is None:
            del node[key]
    gaps = schema_gaps(installed, WANTED)
    assert [str(gap) for gap in gaps] == ([expected] if expected else [])
    assert all(gap.harmful is harmful for gap in gaps)


def test_a_rule_that_was_changed_is_named_once_and_a_rule_of_another_release_too() -> None:
    installed = deepcopy(WANTED)
    rules = installed["properties"]["spec"]["x-kubernetes-validations"]
    rules[0]["rule"] = "true"
    assert [str(gap) for gap in schema_gaps(installed, WANTED)] == ["spec lacks the rule “run stays”"]
    rules[0] = WANTED["properties"]["spec"]["x-kubernetes-validations"][0]
    rules.append({"rule": "self.run > 3"})
    [gap] = schema_gaps(installed, WANTED)
    assert str(gap) == "spec has another rule “self.run > 3”"
    assert not gap.harmful


def test_the_schema_of_an_older_commit_lacks_fields_and_values_and_its_own_lacks_nothing() -> None:
    [old] = of_november_28()["spec"]["versions"]
    text = describe_gaps(schema_gaps(schema_of(old)))
    for part in (
        "fields are missing (spec.trigger.round, status.attempts[].answered, ",
        "spec.source.platform does not allow gitea",
        "spec.trigger.cause does not allow checks, conflict, review",
        "status.phase does not allow Starting",
    ):
        assert part in text
    [version] = yaml.safe_load(CRD.read_text())["spec"]["versions"]
    assert schema_gaps(schema_of(version)) == ()
    assert published_schema({"components": {"schemas": {}}}) is None
    published = {"components": {"schemas": {"dev.coding-agent.v1alpha1.AgentTask": wanted_schema()}}}
    assert published_schema(published) == wanted_schema()


def test_the_description_names_the_first_gaps_and_counts_the_rest() -> None:
    fields = [SchemaGap(f"f{number}", "is missing", missing=True) for number in range(10)]
    named = ", ".join(f"f{number}" for number in range(8))
    assert describe_gaps(fields) == f"10 fields are missing ({named}, and 2 more)"
    assert describe_gaps(fields[:1]) == "1 field is missing (f0)"
    assert describe_gaps([SchemaGap("a", "is x"), *fields[:1]]) == "1 field is missing (f0); a is x"
    assert describe_gaps([]) == ""
