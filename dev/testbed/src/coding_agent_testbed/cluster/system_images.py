"""Images of the cluster's own programs: one static binary each, named after its version."""

from pathlib import Path

from coding_agent_testbed.cluster import build, oci, paths, pause
from coding_agent_testbed.cluster.locks import locked
from coding_agent_testbed.cluster.node_config import PAUSE_IMAGE
from coding_agent_testbed.cluster.parts import MODULES, part


def pause_image() -> Path:
    """The archive of the image that holds each pod's namespaces."""
    return _archive(PAUSE_IMAGE, pause.binary(), "/pause")


def part_image(name: str) -> tuple[str, Path]:
    """The image of a part: its name and its archive. The part is built when the cache lacks it."""
    binary = build.binaries([name])[name]
    version = build.source(MODULES[part(name).module]).version.removeprefix("v")
    image = f"localhost/{name}:{version}"
    return image, _archive(image, binary, f"/{name}")


def _archive(image: str, binary: Path, target: str) -> Path:
    file_name = f"{target.lstrip('/')}-{binary.parent.name}.tar"
    archive = paths.cache_root() / "images" / "system" / file_name
    with locked(archive.with_suffix(".lock")):
        if not archive.exists():
            oci.write(archive, image, {target: binary}, [target])
    return archive
