"""The platforms of forges, and the import of each platform's code. Pure.

The distribution `forges` has a folder for each platform, with modules of the same names. Core imports them by
name: items need `facts` at once, the settings need `settings`, and only `client` needs an HTTP library. So
`forge_module` imports a module when it is needed, and import-linter checks each module separately.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from importlib import import_module
from types import ModuleType

from coding_agent_core.platforms.facts import ItemKind, PlatformFacts


class Platform(StrEnum):
    """The product of a forge. An installation of it is identified by its host."""

    GITHUB = "github"
    GITLAB = "gitlab"
    GITEA = "gitea"


def forge_module(platform: Platform, name: str) -> ModuleType:
    """Import the module with this name from the platform's folder."""
    return import_module(f"coding_agent_forges.{platform}.{name}")


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
"""The platform of each known host. `main.py` adds the hosts in the settings to the public installations."""
