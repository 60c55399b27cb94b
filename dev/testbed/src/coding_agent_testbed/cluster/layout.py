"""Images on their way from buildah to containerd: an OCI layout, of which only the missing blobs are sent.

Format: https://github.com/opencontainers/image-spec/blob/main/image-layout.md
"""

import io
import json
import shutil
import tarfile
from collections.abc import Collection
from pathlib import Path
from typing import IO, Any

from coding_agent_testbed.cluster.errors import ClusterError

_REF_NAME = "org.opencontainers.image.ref.name"


def blob(layout: Path, digest: str) -> Path:
    """The file of a blob."""
    return layout / "blobs" / digest.replace(":", "/", 1)


def manifest_entry(layout: Path, image: str) -> dict[str, Any]:
    """The image's entry in the layout's index.

    Raises:
        ClusterError: the layout has no such image.
    """
    entries: list[dict[str, Any]] = json.loads((layout / "index.json").read_text())["manifests"]
    for entry in entries:
        if entry.get("annotations", {}).get(_REF_NAME) == image:
            return entry
    raise ClusterError(f"there is no image {image} in {layout}")


def digests(layout: Path, entry: dict[str, Any]) -> list[str]:
    """The digests of an image's blobs: manifest, configuration, layers."""
    manifest = json.loads(blob(layout, entry["digest"]).read_text())
    return [entry["digest"], manifest["config"]["digest"], *(x["digest"] for x in manifest["layers"])]


def remove_if_broken(layout: Path) -> None:
    """Remove a layout whose index is half of one: whoever wrote it was killed."""
    try:
        json.loads((layout / "index.json").read_text())
    except FileNotFoundError:
        return
    except ValueError:
        shutil.rmtree(layout)


def holds(layout: Path, image: str, identity: str) -> bool:
    """Whether the layout has the image of that name as it is: its id is the digest of its configuration."""
    try:
        entry = manifest_entry(layout, image)
    except (ClusterError, FileNotFoundError):
        return False
    return digests(layout, entry)[1] == f"sha256:{identity}"


def prune(layout: Path) -> None:
    """Remove the blobs that no image of the layout uses any more."""
    entries = json.loads((layout / "index.json").read_text())["manifests"]
    used = {blob(layout, digest) for entry in entries for digest in digests(layout, entry)}
    for file in (layout / "blobs").glob("*/*"):
        if file not in used:
            file.unlink()


def write_archive(layout: Path, image: str, present: Collection[str], out: IO[bytes]) -> None:
    """Write the image as an archive for ``ctr images import``, without layers that are ``present`` there.

    After a source change that is a few hundred kilobytes, not the base image again.
    """
    entry = manifest_entry(layout, image)
    named = entry | {"annotations": {"io.containerd.image.name": image}}
    manifest, config, *layers = digests(layout, entry)
    with tarfile.open(fileobj=out, mode="w|") as tar:
        _add(tar, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        _add(tar, "index.json", json.dumps({"schemaVersion": 2, "manifests": [named]}).encode())
        for digest in dict.fromkeys([manifest, config, *(x for x in layers if x not in present)]):
            tar.add(blob(layout, digest), f"blobs/{digest.replace(':', '/', 1)}")


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))
