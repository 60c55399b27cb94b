"""Every number of the settings has bounds: what is outside is refused with its name, what is inside works."""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator
from decimal import Decimal
from math import inf, isfinite, nan
from pathlib import Path
from typing import Any

import pytest
import yaml
from coding_agent_core.errors import SettingsError
from coding_agent_core.settings.attempt_settings import Consumer
from coding_agent_core.settings.connections import ParentProxy
from coding_agent_core.settings.llm import Price
from coding_agent_core.settings.load import examine, load_settings
from coding_agent_core.settings.model import Settings
from coding_agent_core.settings.operator import Budgets
from coding_agent_core.settings.receiver import rates_of
from coding_agent_core.task.agenttask import Spec
from coding_agent_core.task.environment import VerifyCommand
from coding_agent_forges.github.app_settings import App
from pydantic import BaseModel
from pydantic.alias_generators import to_camel

TRIED = (-1, 0, inf, -inf, nan, 1e12, 10**12)
REQUIRED: dict[type[BaseModel], dict[str, Any]] = {
    App: {"app_id": 1, "private_key_file": "/key"},
    ParentProxy: {"host": "proxy"},
    Price: {"input": 1, "output": 1},
    VerifyCommand: {"run": "true"},
}
"""The settings without defaults of a section that has numbers."""
MAY_BE_LARGE = {
    *("github.app.app_id", "github.app.installation_id", "github.account_id"),
    *("gitlab.project_id.0", "gitlab.group_id", "rounds.budget.tokens"),
    *(f"budgets.{whose}.tokens" for whose in ("task", "repository", "namespace", "repositories.key")),
}
"""Numbers from which nobody computes a time or a size: those of a forge, and sums of tokens."""

With = Callable[[Any], Any]
"""Returns the settings with a value for one number."""


def is_number(annotation: Any) -> bool:
    return annotation in (int, float, Decimal) or any(map(is_number, typing.get_args(annotation)))


def sections_of(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in typing.get_args(annotation):
        yield from sections_of(part)


def numbers(model: type[BaseModel] = Settings) -> Iterator[tuple[str, With]]:
    """Yield the name of each number; an entry of a list is `0`, and one of a mapping is `key`."""
    for attribute, field in model.model_fields.items():
        name, kinds = field.alias or attribute, (field.annotation, *typing.get_args(field.annotation))
        containers = {typing.get_origin(kind) for kind in kinds}
        inner: str | int = 0 if tuple in containers else "key" if dict in containers else ""
        path = f"{name}.{inner}".rstrip(".")
        below: list[tuple[str, With]] = [(path, lambda value: value)] if is_number(field.annotation) else []
        for section in sections_of(field.annotation):
            below += ((f"{path}.{key}", given) for key, given in numbers(section))
        for key, given in below:
            yield key, _in(model, name, inner, given)


def _in(model: type[BaseModel], name: str, inner: str | int, given: With) -> With:
    def found(value: Any) -> dict[str, Any]:
        entry = given(value)
        # Shared budgets need one of a task, in the same unit; and an amount needs its currency.
        beside = {"task": given(1)} if model is Budgets else {"currency": "USD"} if name == "amount" else {}
        wrapped = [entry] if inner == 0 else {inner: entry} if inner else entry
        return {**REQUIRED.get(model, {}), **beside, name: wrapped}

    return found


NUMBERS = dict(numbers())


def test_the_numbers_are_found() -> None:
    assert {"operator.policy.keep_finished", "limits.overrides.key", "limits.global"} <= set(NUMBERS)
    assert {"llm.prices.key.input", "verify.commands.0.timeout_seconds"} | MAY_BE_LARGE <= set(NUMBERS)


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_is_refused_by_its_name_or_works(tmp_path: Path, name: str) -> None:
    for value in TRIED:
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(NUMBERS[name](value)))
        found = examine(tmp_path / "config.yaml", {})
        if found.settings is None:
            assert name.removesuffix(".0") in str(found.errors), f"{value}: {found.errors}"
        else:
            assert isfinite(value), "no clock and no sum can have it"
            assert value >= 0
            assert value < 1e12 or name in MAY_BE_LARGE, "no date can be so many seconds away"


def test_a_default_of_a_task_is_a_value_that_a_task_can_have() -> None:
    for name in ("max_attempts", "timeout_seconds"):
        ours, crd = (model.model_json_schema()["properties"] for model in (Consumer, Spec))
        assert ours[name]["maximum"] == crd[to_camel(name)]["maximum"]


@pytest.mark.parametrize("seconds", [0, 86_400, 3 * 86_400])
def test_tasks_are_kept_for_longer_than_a_forge_redelivers(tmp_path: Path, seconds: int) -> None:
    (tmp_path / "config.yaml").write_text(f"operator: {{policy: {{keep_finished: {seconds}}}}}")
    with pytest.raises(SettingsError, match=r"operator\.policy\.keep_finished: .*345600"):
        load_settings(tmp_path / "config.yaml", {})


@pytest.mark.parametrize(
    "rate", ["1000000000000/minute", "1 per 1000000000000 years", "0/minute", "1/0 minutes"]
)
def test_a_rate_has_bounds_too(rate: str) -> None:
    with pytest.raises(ValueError, match="is not a rate limit"):
        rates_of(rate)
