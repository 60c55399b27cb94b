"""The project's images: built from the repository's Dockerfiles, handed to the node."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from coding_agent_testbed.cluster import base_image, layout, paths
from coding_agent_testbed.cluster.buildah import build, buildah, npm_flags
from coding_agent_testbed.cluster.locks import locked
from coding_agent_testbed.cluster.progress import step

TAG = "dev"
PROGRAMS = ("receiver", "operator", "consumer", "user-config", "egress", "sandbox")
"""The programs that have images, and the sandbox with which they are tried."""
TRIED_RUNNERS = ("claude-code", "codex", "opencode")
"""The CLI coding agents that are tried on a node."""
DATABASE_TARGETS = ("tools", "database")
"""A workspace with PostgreSQL's client, and its server: what a repository's environment is tried with."""


@dataclass(frozen=True)
class Image:
    """An image to be built: its name with tag, its Dockerfile and the folder that it may copy from.

    Attributes:
        target: stage of the Dockerfile; empty: the last one.
        uses_npm: its Dockerfile runs npm, in an image that it calls NODE_IMAGE.
    """

    name: str
    dockerfile: Path
    context: Path
    target: str = ""
    uses_npm: bool = False


def program_image(program: str, root: Path | None = None, tag: str = TAG) -> Image:
    """A program's image: from a Dockerfile of its own, or a target of the common one.

    Args:
        root: the top folder of the checkout from which it is built; `None`: of this one.
    """
    root = root or paths.repository_root()
    name, own = f"localhost/coding-agent-{program}:{tag}", root / f"Dockerfile.{program}"
    return Image(name, own, root) if own.exists() else Image(name, root / "Dockerfile", root, target=program)


def runner_image(runner: str) -> Image:
    """The workspace image of a CLI coding agent, by the name of its target."""
    folder = paths.repository_root() / "consumer"
    name = f"localhost/coding-agent-{runner}:{TAG}"
    return Image(name, folder / "runners.Dockerfile", folder, target=runner, uses_npm=True)


def test_image() -> Image:
    """The small image that the cluster's own tests use."""
    folder = paths.source_root() / "testdata"
    return Image("localhost/cluster-test:1", folder / "Dockerfile", folder)


def database_image(target: str) -> Image:
    """An image that a repository's `.coding-agent.yaml` names, by its target."""
    folder = paths.source_root() / "testdata" / "database"
    return Image(f"localhost/environment/{target}:1", folder / "Dockerfile", folder, target=target)


def layout_folder() -> Path:
    """The OCI layout that built images are exported to."""
    return paths.cache_root() / "images" / "layout"


def make(image: Image, hand_over: Callable[[Path], None] = lambda _: None) -> None:
    """Build an image, export it, and call ``hand_over`` with the OCI layout that has it.

    Raises:
        ClusterError: a step of the Dockerfile failed.
    """
    folder = layout_folder()
    with building(image):
        with step(f"export {image.name}"):
            layout.remove_if_broken(folder)
            folder.mkdir(parents=True, exist_ok=True)
            identity = buildah("inspect", "--type", "image", "--format", "{{.FromImageID}}", image.name)
            if not layout.holds(folder, image.name, identity.strip()):
                # buildah compresses every layer at each push; the same layer always to the same digest.
                fast = ["--compression-format=gzip", "--compression-level=1"]
                buildah("push", *fast, image.name, f"oci:{folder}:{image.name}", timeout=300)
        layout.prune(folder)
        hand_over(folder)


@contextmanager
def building(image: Image, **arguments: str) -> Iterator[None]:
    """Build an image with these build arguments; inside, the store has it under its name.

    All of it under one lock: another checkout may build an image of the same name at the same time.

    ``BASE_IMAGE`` names another base than the one made here, such as the public ``python:3.13-slim`` where
    its registry can be reached.

    Raises:
        ClusterError: a step of the Dockerfile failed.
    """
    base = os.environ.get("BASE_IMAGE") or base_image.ensure()
    with locked(layout_folder().with_suffix(".lock")):
        with step(f"image {image.name}"):
            flags = [
                *_flags(image, base),
                *(f"--build-arg={name}={text}" for name, text in arguments.items()),
            ]
            build(image.dockerfile, image.context, image.name, base, flags)
        yield


def _flags(image: Image, base: str) -> list[str]:
    """What buildah needs for an image besides its Dockerfile."""
    flags = ["--target", image.target] if image.target else []
    if image.uses_npm:
        node = os.environ.get("NODE_IMAGE") or base_image.ensure_node(base)
        flags += [f"--build-arg=NODE_IMAGE={node}", *npm_flags()]
    return flags
