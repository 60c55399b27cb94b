"""The chart of a release: a copy in which the registry and the digests of the images are written down."""

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from coding_agent_release.errors import ReleaseError

VALUES = {
    "receiver": "receiver",
    "operator": "operator",
    "consumer": "attempts",
    "user-config": "userConfig",
    "egress": "egress",
}
"""The images of a release, and the values of the chart that name them."""
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def write(source: Path, target: Path, *, version: str, registry: str, digests: Mapping[str, str]) -> None:
    """Copy the chart to `target`, which becomes the chart of this version.

    Args:
        registry: what stands before the names of the images, such as `registry.example.com/team`.
        digests: of each image of `VALUES` the digest, `sha256:` and 64 hexadecimal digits.

    Raises:
        ReleaseError: a digest is missing or is none.
    """
    for image in VALUES:
        if not _DIGEST.fullmatch(digests.get(image, "")):
            raise ReleaseError(f"the digest of the image {image} is {digests.get(image)!r}, not sha256:…")
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    chart = (target / "Chart.yaml").read_text(encoding="utf-8")
    for field in ("version", "appVersion"):
        chart = with_value(chart, [field], version)
    (target / "Chart.yaml").write_text(chart, encoding="utf-8")
    values = with_value((target / "values.yaml").read_text(encoding="utf-8"), ["image", "registry"], registry)
    for image, section in VALUES.items():
        values = with_value(values, [section, "image", "digest"], digests[image])
    (target / "values.yaml").write_text(values, encoding="utf-8")


def with_value(text: str, path: Sequence[str], value: str) -> str:
    """A YAML text in which one scalar is another; comments, order and indentation stay.

    Args:
        text: block mappings, indented by two spaces, as values.yaml has them.
        path: the keys from the top, such as `["operator", "image", "digest"]`.

    Raises:
        ReleaseError: the text has no such key with a scalar on its line.
    """
    lines = text.splitlines(keepends=True)
    number = -1
    for depth, key in enumerate(path):
        indent = "  " * depth
        number += 1
        while number < len(lines) and not lines[number].startswith(f"{indent}{key}:"):
            outside = re.match(r" *(?=[^ #\n])", lines[number])
            if depth and outside and len(outside[0]) < len(indent):
                number = len(lines)
            number += 1
        if number >= len(lines):
            raise ReleaseError(f"the chart has no value {'.'.join(path)}")
    before, _, after = lines[number].partition(":")
    if not after.strip():
        raise ReleaseError(f"the chart's value {'.'.join(path)} is no single text")
    lines[number] = f'{before}: "{value}"\n'
    return "".join(lines)
