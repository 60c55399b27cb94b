"""The images that a released chart names, and what values change about them."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from coding_agent_release import chart

from tests.chart.helm import CHART, helm

DIGESTS = {name: f"sha256:{number:064x}" for number, name in enumerate(chart.IMAGES, 1)}
RELEASED = "registry.example.com/team"
OWN = f"sha256:{'f' * 64}"


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the chart."""
    folder = tmp_path_factory.mktemp("released") / "chart"
    chart.write(CHART, folder, version="0.2.0", registry=RELEASED, digests=DIGESTS)
    return folder


def images(folder: Path, values: dict[str, Any]) -> set[str]:
    """The names of receiver, operator and consumer."""
    text = helm("template", "coding-agent", str(folder), "--values", "-", stdin=yaml.safe_dump(values))
    return set(re.findall(r"image: \"?([^\s\"]*coding-agent-(?:receiver|operator|consumer)[^\s\"]*)", text))


def names(registry: str = RELEASED, **changed: str) -> set[str]:
    """The names with the digests of the release, but for those that the values change."""
    programs = ("receiver", "operator", "consumer")
    all_names = {program: f"{registry}/coding-agent-{program}@{DIGESTS[program]}" for program in programs}
    return set((all_names | changed).values())


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, names()),
        ({"global": {"imageRegistry": "mirror:5000"}}, names("mirror:5000")),
        ({"image": {"registry": "other/"}}, names("other")),
        (
            {
                "receiver": {"image": {"tag": "mine"}},
                "operator": {"image": {"repository": "own/coding-agent-operator"}},
                "attempts": {"image": {"digest": OWN}},
            },
            names(
                receiver=f"{RELEASED}/coding-agent-receiver:mine",
                operator="own/coding-agent-operator:0.2.0",
                consumer=f"{RELEASED}/coding-agent-consumer@{OWN}",
            ),
        ),
    ],
    ids=["none", "mirror", "registry", "own images"],
)
def test_values_change_what_a_release_names(
    released: Path, values: dict[str, Any], expected: set[str]
) -> None:
    assert images(released, values) == expected


def test_the_tag_of_all_images_takes_the_place_of_the_digests(released: Path) -> None:
    assert images(released, {"image": {"tag": "mine"}}) == {
        f"{RELEASED}/coding-agent-{program}:mine" for program in ("receiver", "operator", "consumer")
    }
