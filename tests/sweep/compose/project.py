"""What docker compose makes of docker-compose.yml, with the images' own commands from their Dockerfiles."""

import json
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
FILE = ROOT / "docker-compose.yml"
ALL_PROFILES = "--profile=*"


class ComposeError(Exception):
    """What docker compose said."""


@dataclass(frozen=True)
class Project:
    """The file with all variables replaced."""

    data: dict[str, Any]

    @property
    def services(self) -> dict[str, Any]:
        """By name."""
        return dict(self.data["services"])

    def environment(self, service: str) -> dict[str, str]:
        """What its process finds."""
        return {k: v for k, v in (self.services[service].get("environment") or {}).items() if v is not None}

    def image(self, service: str) -> tuple[Path, str] | None:
        """Dockerfile and target (empty: the last stage) of its image; `None` for another's image."""
        match = re.fullmatch(r"coding-agent-([a-z-]+):.+", self.services[service]["image"])
        if not match:
            return None
        name = match[1]
        if (own := ROOT / f"Dockerfile.{name}").exists():
            return own, ""
        common = ROOT / "Dockerfile"
        runners = ROOT / "consumer" / "runners.Dockerfile"
        return (common if f" AS {name}\n" in common.read_text(encoding="utf-8") else runners), name

    def arguments(self, service: str) -> list[str]:
        """Its command line: compose's words over those of the image."""
        image = self.image(service)
        assert image is not None
        dockerfile, target = image
        stages = re.split(r"^(?=FROM )", dockerfile.read_text(encoding="utf-8"), flags=re.M)
        (stage,) = (
            [s for s in stages if s.split("\n")[0].endswith(f" AS {target}")] if target else stages[-1:]
        )
        own = {
            key: json.loads(value) for key, value in re.findall(r"^(ENTRYPOINT|CMD) (\[.*\])$", stage, re.M)
        }
        given = self.services[service]
        return [
            *(given.get("entrypoint") or own["ENTRYPOINT"]),
            *(given.get("command") or own.get("CMD", [])),
        ]

    def mounts(self, service: str) -> dict[str, str]:
        """Paths in the container: a path of this machine (absolute), or the name of a volume."""
        given = self.services[service]
        found = {secret["target"]: secret["source"] for secret in given.get("volumes") or []}
        for secret in given.get("secrets") or []:
            found[secret["target"]] = self.data["secrets"][secret["source"]]["file"]
        return found


def compose(
    program: Path, folder: Path, *arguments: str, variables: Mapping[str, str], more: Sequence[str] = ()
) -> str:
    """Run docker compose on the file, and `more` files beside it, with nothing of this machine's environment.

    Raises:
        ComposeError: it refuses.
    """
    env_file = folder / ".env"
    env_file.write_text("".join(f"{key}={value}\n" for key, value in variables.items()), encoding="utf-8")
    files = [word for file in (FILE, *(ROOT / name for name in more)) for word in ("--file", str(file))]
    done = subprocess.run(
        [str(program), *files, "--env-file", str(env_file), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": os.environ["PATH"], "HOME": str(folder)},
    )
    if done.returncode:
        raise ComposeError(done.stderr)
    return done.stdout


def render(program: Path, folder: Path, services: Sequence[str], variables: Mapping[str, str]) -> Project:
    """The file as compose understands it; without named services those of all profiles."""
    which = [] if services else [ALL_PROFILES]
    arguments = [*which, "config", "--format", "json", *services]
    return Project(json.loads(compose(program, folder, *arguments, variables=variables)))
