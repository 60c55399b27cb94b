"""The forges' products, and where the code of each one is found. Pure.

`forge/` has a folder for each platform, with modules of the same names. They are in different layers: items
need `facts` at once, and only `client` needs an HTTP library. Therefore `forge_module` imports a module where
it is needed; import-linter checks each of them by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from importlib import import_module
from types import ModuleType

from coding_agent_core.platforms import ItemKind, PlatformFacts


class Platform(StrEnum):
    """The product; an installation of it is identified by its host."""

    GITHUB = "github"
    GITLAB = "gitlab"


def forge_module(platform: Platform, name: str) -> ModuleType:
    """The module of this name in the platform's folder."""
    return import_module(f"{__package__}.forge.{platform}.{name}")


FACTS: Mapping[Platform, PlatformFacts] = {
    platform: forge_module(platform, "facts").FACTS for platform in Platform
}
KEY_FIELDS = frozenset({"type", "owner", "repo", "project_id"}) | {
    form.number for facts in FACTS.values() for form in facts.keys.values()
}
KEY_TYPES: Mapping[str, tuple[Platform, ItemKind]] = {
    form.type: (platform, kind) for platform, facts in FACTS.items() for kind, form in facts.keys.items()
}
HOSTS: dict[str, Platform] = {facts.web_host: platform for platform, facts in FACTS.items()}
"""The platform of each known host: of the public installations, and of those that `main.py` adds from the
settings."""
