"""The chart of a release: a copy in which the registry and the digests of the images are written down."""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from coding_agent_release.errors import ReleaseError

IMAGES = ("receiver", "operator", "consumer", "user-config", "egress")
"""The programs whose images the chart names."""
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def image_name(program: str) -> str:
    """The name of a program's image in a registry, as values.yaml has it under `repository`."""
    return f"coding-agent-{program}"


def write(source: Path, target: Path, *, version: str, registry: str, digests: Mapping[str, str]) -> None:
    """Copy the chart to `target`, which becomes the chart of this version.

    Args:
        registry: what stands before the names of the images, such as `registry.example.com/team`.
        digests: of each program of `IMAGES` the digest of its image, `sha256:` and 64 hexadecimal digits.

    Raises:
        ReleaseError: a digest is missing or is none.
    """
    for program in IMAGES:
        if not _DIGEST.fullmatch(digests.get(program, "")):
            raise ReleaseError(f"the digest of the image {program} is {digests.get(program)!r}, not sha256:…")
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    file = target / "Chart.yaml"
    text = file.read_text(encoding="utf-8")
    file.write_text(re.sub(r"(?m)^(version|appVersion): .*$", rf"\1: {version}", text), encoding="utf-8")
    named = {image_name(program): digests[program] for program in IMAGES}
    released = json.dumps({"registry": registry, "digests": named}, indent=2) + "\n"
    (target / "files" / "release.json").write_text(released, encoding="utf-8")
