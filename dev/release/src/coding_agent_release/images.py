"""The images of a release: built, pushed to the registry, and listed package by package."""

import os
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from coding_agent_testbed.cluster import commands, images
from coding_agent_testbed.cluster.buildah import buildah

from coding_agent_release.chart import image_name
from coding_agent_release.errors import ReleaseError

_PUSH_TIMEOUT_S = 900.0
_SCAN_TIMEOUT_S = 600.0


def push(program: str, root: Path, *, registry: str, version: str, revision: str, plain_http: bool) -> str:
    """Build the image of a program and push it, with the version as its tag.

    Args:
        root: the top folder of the checkout.
        revision: the commit that the image is built from, for its labels.

    Returns:
        Its name in the registry, with its digest.

    Raises:
        ClusterError: it cannot be built or pushed.
    """
    image = images.program_image(program, root, tag=version)
    target = f"{registry}/{image_name(program)}"
    with TemporaryDirectory() as scratch, images.building(image, VERSION=version, REVISION=revision):
        digest = Path(scratch) / "digest"
        verify = "--tls-verify=false" if plain_http else "--tls-verify=true"
        buildah(
            *("push", verify, "--digestfile", str(digest), image.name, f"docker://{target}:{version}"),
            timeout=_PUSH_TIMEOUT_S,
        )
        return f"{target}@{digest.read_text().strip()}"


def write_sbom(reference: str, file: Path, *, plain_http: bool) -> None:
    """Write what an image in a registry consists of, as an SPDX document (https://spdx.dev).

    Raises:
        ReleaseError: syft is not installed.
        ClusterError: syft cannot read the image.
    """
    syft = shutil.which("syft", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if syft is None:
        raise ReleaseError("syft is missing: `make release` installs it from requirements/release.txt")
    environment = os.environ | {
        "SYFT_REGISTRY_INSECURE_USE_HTTP": str(plain_http).lower(),
        "SYFT_CHECK_FOR_APP_UPDATE": "false",
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    commands.run(
        [syft, "scan", f"registry:{reference}", "--quiet", "--output", f"spdx-json={file}"],
        timeout=_SCAN_TIMEOUT_S,
        env=environment,
    )
