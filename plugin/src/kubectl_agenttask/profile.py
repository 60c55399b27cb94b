"""The profiles of `init`: which features an installation gets, what each costs, and how to turn it off. Pure.

The same table says in `doctor` why a feature that is off matters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from coding_agent_core.settings.model import Settings

from kubectl_agenttask import plain
from kubectl_agenttask.findings import Finding, off
from kubectl_agenttask.project_files import ECOSYSTEMS, hosts_of


class Profile(StrEnum):
    """How much of the product a new installation uses."""

    TEAM = "team"
    """What a team needs that works with the agent every day."""
    MINIMAL = "minimal"
    """Only the way from a label to a pull request; the values of an earlier file stay."""


@dataclass(frozen=True)
class Feature:
    """A feature that a profile turns on.

    Attributes:
        matters: what a team lacks without it.
        turn_on: what to set.
    """

    matters: str
    turn_on: str


FEATURES = {
    "rounds": Feature(
        "nobody works on reviews, failed checks and conflicts after the pull request is open",
        "config.rounds.enabled: true",
    ),
    "budget": Feature(
        "nothing limits what a task may spend on the model but its time and its number of requests",
        "config.budgets.task",
    ),
    "day budget": Feature(
        "nothing limits what the tasks of a repository may spend in a day",
        "config.budgets.repository",
    ),
    "egress proxy": Feature(
        "a command of the model can send the code to any public address on port 443",
        "egress.enabled: true",
    ),
    "transcripts": Feature(
        "nobody can read later what the model did and why",
        "transcripts.persistence.enabled: true, or config.context_storage.s3",
    ),
    "commands": Feature(
        "comments such as /cancel and /retry are not read",
        "config.webhook.commands.enabled: true, and --webhook",
    ),
}
TASK_MONEY, DAY_MONEY = "5.00", "50.00"
TASK_TOKENS, DAY_TOKENS = 5_000_000, 50_000_000
"""A usual task costs less than a fifth of this; tokens are about the same amount at the price of a mid-sized
model."""
_SHARED_STORAGE = frozenset(
    {
        "cephfs.csi.ceph.com",
        "driver.longhorn.io",
        "efs.csi.aws.com",
        "file.csi.azure.com",
        "filestore.csi.storage.gke.io",
        "nfs.csi.k8s.io",
        "rook-ceph.cephfs.csi.ceph.com",
    }
)
"""Provisioners whose volumes several nodes can mount for writing, by their own documentation."""


@dataclass(frozen=True)
class StorageClass:
    """A StorageClass of the cluster."""

    name: str
    provisioner: str
    default: bool = False


@dataclass(frozen=True)
class ClusterStorage:
    """The nodes and StorageClasses of the cluster. `nodes` is 0 if their number is not known."""

    nodes: int = 0
    classes: tuple[StorageClass, ...] = ()


@dataclass(frozen=True)
class ProfileFacts:
    """The facts by which a profile chooses.

    Attributes:
        webhook: whether the forge sends webhooks.
        currency: the currency of the model's price; empty if the price is not known.
        presets: the package managers of each repository (`project_files.ECOSYSTEMS`).
        earlier: the values of an earlier file, which win.
    """

    webhook: bool
    currency: str
    presets: Mapping[str, Sequence[str]] = field(default_factory=dict)
    storage: ClusterStorage = ClusterStorage()
    earlier: Mapping[str, Any] = field(default_factory=dict)

    def has(self, *keys: str) -> bool:
        """Whether the earlier file has a value."""
        return self.at(*keys) is not None

    def at(self, *keys: str) -> Any:
        found: Any = self.earlier
        for key in keys:
            found = found.get(key) if isinstance(found, Mapping) else None
        return found


@dataclass(frozen=True)
class Choice:
    """The choice that a profile made for a feature.

    Attributes:
        state: `on`, `off`, or `kept` if an earlier file decides.
        values: what is added to the values file.
    """

    feature: str
    state: str
    text: str
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def line(self) -> str:
        return plain(f"{self.state:<8} {self.feature:<12} {self.text}")


def choices(profile: Profile, facts: ProfileFacts) -> tuple[Choice, ...]:
    """Return what a profile chooses. A person's values in an earlier file are kept."""
    if profile is Profile.MINIMAL:
        return ()
    return (
        _rounds(facts),
        _budgets(facts),
        _egress(facts),
        _transcripts(facts),
        _commands(facts),
    )


def _kept(feature: str, where: str) -> Choice:
    return Choice(feature, "kept", f"the values file sets {where}")


def _rounds(facts: ProfileFacts) -> Choice:
    if facts.has("config", "rounds"):
        return _kept("rounds", "config.rounds")
    rounds: dict[str, Any] = {"enabled": True, "draft": True}
    if facts.at("config", "consumer", "commits", "sign") == "github":
        rounds["conflict_rounds"] = 0  # GitHub cannot sign a merge, and the settings refuse the pair
    text = (
        "it opens drafts, and works on reviews and failed checks until they are ready. A round costs as much "
        "as a task. Off: config.rounds.enabled: false"
    )
    return Choice("rounds", "on", text, {"config": {"rounds": rounds}})


def _budgets(facts: ProfileFacts) -> Choice:
    if facts.has("config", "budgets"):
        return _kept("budget", "config.budgets")
    task: dict[str, Any] = {"tokens": TASK_TOKENS}
    day: dict[str, Any] = {"tokens": DAY_TOKENS}
    shown = f"{TASK_TOKENS:,} tokens a task, {DAY_TOKENS:,} a repository and day, as the price is not known"
    if facts.currency:
        task = {"amount": TASK_MONEY, "currency": facts.currency}
        day = {"amount": DAY_MONEY, "currency": facts.currency}
        shown = f"{TASK_MONEY} {facts.currency} a task, {DAY_MONEY} {facts.currency} a repository and day"
    budgets = {"task": task}
    if facts.at("config", "queue", "engine") == "kueue":
        shown += " (not with Kueue, which cannot share a budget: only the task's)"
    else:
        budgets["repository"] = day
    text = f"{shown}. A task that needs more ends, and says so. Off: config.budgets: {{}}"
    return Choice("budget", "on", text, {"config": {"budgets": budgets}})


def _egress(facts: ProfileFacts) -> Choice:
    if facts.at("egress", "enabled") is False:
        return _kept("egress proxy", "egress.enabled")
    used = [name for name in ECOSYSTEMS if any(name in names for names in facts.presets.values())]
    repositories = {repository: hosts_of(names) for repository, names in facts.presets.items() if names}
    known = facts.at("egress", "repositories") or {}
    values: dict[str, Any] = {"enabled": True}
    if added := {name: hosts for name, hosts in repositories.items() if name not in known}:
        values["repositories"] = added
    if facts.at("egress", "enabled") and list(values) == ["enabled"]:
        return _kept("egress proxy", "egress")
    suggested = f"the registries of {', '.join(used)}" if used else "no package registry"
    text = (
        f"commands reach {suggested} and nothing else. It costs two small pods, and you must allow every "
        "other host that a build needs in egress.repositories. Off: egress.enabled: false"
    )
    return Choice("egress proxy", "on", text, {"egress": values})


def _transcripts(facts: ProfileFacts) -> Choice:
    if facts.has("transcripts") or facts.has("config", "context_storage"):
        return _kept("transcripts", "transcripts or config.context_storage")
    storage = facts.storage
    shared = next((one for one in storage.classes if one.provisioner in _SHARED_STORAGE), None)
    persistence: dict[str, Any] = {"enabled": True}
    if shared is not None:
        persistence["storageClassName"] = shared.name
    elif storage.nodes == 1 and any(one.default for one in storage.classes):
        persistence["accessModes"] = ["ReadWriteOnce"]
    else:
        text = (
            "no StorageClass is known here whose volumes all nodes can write to, so nobody can read later "
            "what the model did. On: transcripts.persistence, or a bucket in config.context_storage.s3"
        )
        return Choice("transcripts", "off", text)
    text = (
        "each attempt's conversation is kept on a volume of 10Gi, and it can contain code. "
        "Off: transcripts.persistence.enabled: false"
    )
    return Choice("transcripts", "on", text, {"transcripts": {"persistence": persistence}})


def _commands(facts: ProfileFacts) -> Choice:
    if facts.has("config", "webhook", "commands"):
        return _kept("commands", "config.webhook.commands")
    if not facts.webhook:
        text = "comments come by webhook: with --webhook, people can write /cancel, /retry and /run"
        return Choice("commands", "off", text)
    text = (
        "people with write access can write /cancel, /retry and /run. It costs a delivery for each comment. "
        "Off: config.webhook.commands.enabled: false"
    )
    return Choice("commands", "on", text, {"config": {"webhook": {"commands": {"enabled": True}}}})


def what_is_off(settings: Settings) -> list[Finding]:
    """Return a finding for each feature that an installation does not use."""
    storage = settings.context_storage
    budgets = settings.budgets
    used = {
        "rounds": settings.rounds.enabled,
        "budget": budgets.task is not None,
        "day budget": bool(budgets.repository or budgets.repositories),
        "egress proxy": bool(settings.egress.proxy),
        # Without a volume, the folder is the attempt's own, and goes with its pod.
        "transcripts": storage.enabled and (storage.base_dir.is_absolute() or storage.s3 is not None),
        "commands": settings.webhook.commands.enabled,
    }
    return [
        off(name, f"{feature.matters}. On: {feature.turn_on}")
        for name, feature in FEATURES.items()
        if not used[name]
    ]
