"""Each single key of the values may be missing: what the chart makes is the same."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chart.helm import CHART, render_text
from tests.integration.chart.test_defaults import DEFAULTS, GIVEN, render_without_defaults

pytestmark = pytest.mark.timeout(900)

# Maps that are one value each: an entry that they lack is not filled in.
WHOLE = {"resources", "behavior", "labels"}


def paths(values: dict[str, Any], *begin: str) -> Iterator[tuple[str, ...]]:
    """Every key and every group of keys."""
    for key, value in values.items():
        yield (*begin, key)
        if isinstance(value, dict) and key not in WHOLE:
            yield from paths(value, *begin, key)


def without(path: tuple[str, ...]) -> dict[str, Any]:
    values = copy.deepcopy(DEFAULTS)
    parent = values
    for key in path[:-1]:
        parent = parent[key]
    del parent[path[-1]]
    return values


EVERY = list(paths(DEFAULTS))


@pytest.mark.parametrize("path", EVERY, ids=".".join)
def test_without_the_key_the_same_is_made(path: tuple[str, ...], tmp_path: Path) -> None:
    file = CHART / "ci" / "everything-values.yaml"
    assert render_without_defaults(tmp_path, without(path), file) == render_text(file, values=GIVEN)
