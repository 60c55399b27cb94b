"""The findings of checks: one line for each, which says what to change. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from coding_agent_core.forge.changes import ActorKind, ChangeEventKind, ChangeSnapshot
from coding_agent_core.settings.forges import Labels
from coding_agent_core.task.agenttask_schema import describe_gaps, schema_gaps, schema_of
from coding_agent_forges.rest.setup import DeliveryResponse, RepositoryFacts, RepositoryWebhook, TokenFacts

from kubectl_agenttask import plain
from kubectl_agenttask.destinations import NAMESPACE_LABEL, Destination, ServicePods

_SOON = timedelta(days=14)
"""How long before its end a token is reported; the reporter's Event has the same limit."""
_CLOCK_OFF = timedelta(seconds=30)
"""A difference that is more than a slow answer. GitHub refuses a JWT whose clock is a minute ahead."""
_NO_ANSWER = "the forge cannot reach the receiver: check DNS, the certificate, and the Ingress"
_WEBHOOK_REFUSALS = {
    0: _NO_ANSWER,
    401: "the secret at the forge is not the receiver's: enter the one in the Secret {secret}",
    403: "the receiver refuses the sender's address: check webhook.allowed_networks and trusted_proxies",
    404: "the path is wrong: it must end with /webhook/PLATFORM",
    502: _NO_ANSWER,  # GitHub shows this and 504 if there was no answer
    504: _NO_ANSWER,
    413: "a proxy before the receiver refuses large bodies: raise its limit (docs/install.md)",
}
_PROGRAM_PUSHES_WITHIN = timedelta(seconds=60)
_PROGRAM_PUSHES = 2
"""A person who pushes so soon after us does it once by chance."""


class Level(StrEnum):
    """The result of a check."""

    OK = "ok"
    WARNING = "warning"
    """It works now, but somebody should act."""
    OFF = "off"
    """A feature that the installation does not use."""
    WRONG = "wrong"
    UNKNOWN = "unknown"
    """It could not be checked."""


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        about: what was checked, in a word or two.
        text: what was found; for `WRONG` also what to change.
    """

    level: Level
    about: str
    text: str

    @property
    def line(self) -> str:
        return plain(f"{self.level:<8} {self.about:<12} {self.text}")


def ok(about: str, text: str) -> Finding:
    return Finding(Level.OK, about, text)


def warning(about: str, text: str) -> Finding:
    return Finding(Level.WARNING, about, text)


def off(about: str, text: str) -> Finding:
    return Finding(Level.OFF, about, text)


def wrong(about: str, text: str) -> Finding:
    return Finding(Level.WRONG, about, text)


def unknown(about: str, text: str) -> Finding:
    return Finding(Level.UNKNOWN, about, text)


def token_findings(facts: TokenFacts, host: str, place: str, now: datetime) -> list[Finding]:
    """Return the finding about a token that the forge accepts.

    Args:
        place: where a person sets the token.
    """
    rights = facts.rights
    if rights.lacks:
        has = ", ".join(sorted(rights.scopes or ())) or "none"
        return [
            wrong(
                "token",
                f"the token of {facts.login} lacks the scope {', '.join(rights.lacks)} (it has: {has}). "
                f"Create one with this scope on {host} and set {place}",
            )
        ]
    ends = rights.expires_at
    if ends is not None and ends <= now + _SOON:
        return [
            warning(
                "token", f"the token of {facts.login} expires on {ends:%Y-%m-%d}. Renew it and set {place}"
            )
        ]
    known = [] if rights.scopes is None else [f"scopes: {', '.join(sorted(rights.scopes))}"]
    known.append("no expiry date is shown" if ends is None else f"expires on {ends:%Y-%m-%d}")
    return [ok("token", f"{host} accepts the token of {facts.login} ({'; '.join(known)})")]


def repository_findings(facts: RepositoryFacts, login: str) -> list[Finding]:
    """Return the rights that the account lacks in a repository, or the finding that it has all."""
    if facts.lacks:
        return [wrong("repository", f"{facts.path} for {login}: {lack}") for lack in facts.lacks]
    return [ok("repository", f"{login} may read, label and push in {facts.path}")]


def label_findings(repository: str, there: Iterable[str], settings: Labels, place: str) -> list[Finding]:
    """Compare a repository's labels with those that ask for work.

    Args:
        there: the names of the repository's labels; ours are spelled as in the settings.
        place: the setting with the name of the label.
    """
    names, wanted = frozenset(there), settings.bot_label
    ours = {*settings.triggers, settings.processing_label, settings.done_label, settings.failed_label}
    alike = sorted(name for name in names - ours if _letters(name) == _letters(wanted))
    shown = ", ".join(map(repr, alike))
    if wanted in names:
        if not alike:
            return [ok("label", f"{repository} has the label {wanted!r}")]
        text = f"{repository} has {shown} beside {wanted!r}. Only {wanted!r} asks for work: delete the other"
        return [warning("label", text)]
    if alike:
        return [
            wrong(
                "label",
                f"{repository} has the label {shown}, but only {wanted!r} asks for work: rename the label, "
                f"or set {place} to its name",
            )
        ]
    return [
        warning(
            "label",
            f"{repository} has no label {wanted!r}, so nobody can ask for work: create it (kubectl agenttask "
            f"init does), or set {place} to the name of another one",
        )
    ]


def _letters(name: str) -> str:
    """Normalize a label name, so that names that people take for the same are equal."""
    return "".join(character for character in name.casefold() if character.isalnum())


def clock_findings(name: str, theirs: datetime, ours: datetime) -> list[Finding]:
    """Compare a server's clock with the clock of this machine."""
    ahead = ours - theirs
    if abs(ahead) <= _CLOCK_OFF:
        return [ok("clock", f"{name} and this machine differ by {abs(ahead.total_seconds()):.0f} s")]
    side = "ahead of" if ahead > timedelta() else "behind"
    return [
        wrong(
            "clock",
            f"this machine is {abs(ahead.total_seconds()):.0f} s {side} {name}. Correct the clock of the one "
            "that is wrong, for example with NTP",
        )
    ]


def program_findings(changes: Iterable[ChangeSnapshot], known: Collection[str]) -> list[Finding]:
    """Return a finding for each account that seems to be a program, because it pushes right after us.

    Each of its pushes starts the counts of rounds anew, as if a person had asked for more.

    Args:
        changes: the open changes of our account.
        known: the logins of bots and programs in the settings.
    """
    listed = {login.casefold() for login in known}
    pushes = Counter[str]()
    for change in changes:
        own = change.own.id
        remarks = [*change.comments, *(one for thread in change.threads for one in thread.remarks)]
        pushed = [one for one in change.events if one.kind is ChangeEventKind.PUSHED and one.actor]
        ours = [one.at for one in pushed if one.actor and one.actor.id == own]
        ours += [one.published_at for one in remarks if one.author.id == own]
        for one in pushed:
            actor = one.actor
            if actor is None or actor.id == own or actor.kind is ActorKind.BOT:
                continue
            if any(timedelta(0) <= one.at - at <= _PROGRAM_PUSHES_WITHIN for at in ours):
                pushes[actor.login] += 1
    return [
        warning(
            "rounds",
            f"{login} pushed {count} times within {_PROGRAM_PUSHES_WITHIN.seconds} s after us. If it is a "
            "program, add it to config.rounds.programs, or each of its pushes asks for more rounds",
        )
        for login, count in sorted(pushes.items())
        if count >= _PROGRAM_PUSHES and login.casefold() not in listed
    ]


def webhook_findings(
    repository: str,
    ours: RepositoryWebhook | None,
    answers: Sequence[DeliveryResponse],
    *,
    url: str,
    secret: str,
) -> list[Finding]:
    """Return the finding about the last deliveries of our webhook.

    Args:
        ours: the webhook of the repository with our URL, if there is one.
        answers: the deliveries, the newest first.
        secret: the name of the Secret with the webhook's secret.
    """
    if ours is None:
        return [
            wrong(
                "webhook",
                f"{repository} has no webhook to {url}. Create it, or run `kubectl agenttask init --webhook`",
            )
        ]
    if not ours.active:
        return [
            wrong("webhook", f"the webhook of {repository} to {url} is turned off: turn it on at the forge")
        ]
    if not answers:
        return [ok("webhook", f"{repository} sends to {url}; no delivery is shown")]
    last = answers[0]
    if 200 <= last.status < 300:
        return [ok("webhook", f"{repository} sends to {url}; the last delivery got {last.status}")]
    why = _WEBHOOK_REFUSALS.get(last.status, "read the log of the receiver").format(secret=secret)
    status = last.status or "no answer"
    return [wrong("webhook", f"{repository}: the last delivery ({last.event}) got {status}: {why}")]


def definition_findings(crd: Mapping[str, Any], version: str) -> list[Finding]:
    """Compare the schema of the CRD with the one of this release.

    Args:
        crd: the CustomResourceDefinition as the API server shows it.
        version: the version of the API that this plugin uses.
    """
    name = crd["metadata"]["name"]
    served = {one["name"]: one for one in crd["spec"]["versions"] if one.get("served")}
    if version not in served:
        return [wrong("CRD", f"{name} does not serve {version}: apply crds/agenttask.yaml of this release")]
    gaps = schema_gaps(schema_of(served[version]))
    if any(gap.harmful for gap in gaps):
        return [
            wrong(
                "CRD",
                f"{name} is not of this plugin's release: {describe_gaps(gaps)}. The API server drops or "
                "refuses what programs of this release write: upgrade the Helm release that installs it, "
                "or kubectl apply --server-side --force-conflicts -f crds/agenttask.yaml",
            )
        ]
    if gaps:
        return [
            warning("CRD", f"{name} has the rules of another release than this plugin: {describe_gaps(gaps)}")
        ]
    return [ok("CRD", f"{name} {version} has all fields, values and rules of this release")]


@dataclass(frozen=True)
class SchemaVerdict:
    """The API server's answer about a stored task under another schema.

    Attributes:
        task: NAMESPACE/NAME.
        ended: whether the task has ended.
        lost: the paths of the fields that the schema does not have, such as `status.attempts[0].denied`.
        refused: why the schema refuses the task; empty if it does not.
    """

    task: str
    ended: bool
    lost: tuple[str, ...] = ()
    refused: str = ""


def without_defaults(paths: Iterable[str], body: Any, schema: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the paths whose values are not the defaults of the schema, since a default is no loss.

    Args:
        paths: fields of an object, such as `spec.title`.
        body: the object.
        schema: the OpenAPI schema with which it is stored.
    """

    def differs(path: str) -> bool:
        value, at = body, schema
        for part in re.findall(r"[^.\[\]]+", path):
            listed = isinstance(value, list)
            value = value[int(part)] if listed else value[part]
            at = at.get("items", {}) if listed else at.get("properties", {}).get(part, {})
        return "default" not in at or value != at["default"]

    return tuple(path for path in paths if differs(path))


def schema_findings(answers: Iterable[SchemaVerdict]) -> Iterator[Finding]:
    """Yield a line for each task that a change of the schema would harm, and one for each group of others.

    A refused task stays stored, but the API server refuses later changes of what does not fit, and the
    programs of that release cannot read it. The API server removes a field that the schema does not have: in
    the spec, this changes what an unfinished task does; a status or an ended task only shows less.
    """
    total = harmed = 0
    shorter: Counter[tuple[str, ...]] = Counter()
    for answer in answers:
        total += 1
        lost = tuple(sorted({re.sub(r"\[\d+\]", "[]", path) for path in answer.lost}))
        unfinished = [path for path in lost if not answer.ended and path.startswith("spec.")]
        if answer.refused:
            end = "delete it" if answer.ended else "cancel it or let it end, and delete it"
            yield wrong("task", f"{answer.task} does not fit this schema ({answer.refused}): {end}")
        elif unfinished:
            yield wrong(
                "task",
                f"{answer.task} would go on without {', '.join(unfinished)}, which this schema does not "
                "have: cancel it or let it end",
            )
        elif lost:
            shorter[lost] += 1
        harmed += bool(answer.refused or unfinished)
    for paths, count in sorted(shorter.items()):
        yield warning("task", f"{count} of {total} would lose {', '.join(paths)}, and work as they do now")
    if not harmed:
        yield ok("CRD", f"this schema takes all {total} AgentTasks of the cluster")


def unknown_pods(name: str, destination: Destination, reason: str) -> Finding:
    """Return the warning that only a person can open the NetworkPolicy for a Service.

    Args:
        name: the section of `networkPolicy`: `forge` or `model`.
        reason: why its pods are not known.
    """
    condition = "" if destination.service else f"if {destination.host} is a Service of this cluster, "
    return warning(
        "egress",
        f"{reason.rstrip('.')}: {condition}set networkPolicy.{name}.to to a NetworkPolicyPeer of the pods "
        f"behind {destination.host}, and networkPolicy.{name}.ports to their port",
    )


def egress_finding(section: str, at: Destination, rules: Sequence[Mapping[str, Any]]) -> Finding:
    """Compare the egress rules for attempts, or for their proxy, with a destination.

    Args:
        section: the section of `networkPolicy`: `forge` or `model`.
    """
    if at.pods is not None and pods_reachable(rules, at.pods):
        return ok("egress", f"the NetworkPolicy lets attempts reach the pods behind {at.host}")
    if at.pods is None and at.address is None:
        return unknown("egress", f"this machine does not know the address of {at.host}")
    # The networks that are allowed may contain the pods: usually if they contain the Service.
    port = at.port if at.pods is None else at.pods.ports[0]
    if at.address is not None and reachable(rules, at.address, port):
        return ok("egress", f"the NetworkPolicy lets attempts reach {at.host}:{port}")
    if at.pods is not None:
        return wrong(
            "egress",
            f"the NetworkPolicy does not name the pods behind {at.host}: run init again, or set "
            f"networkPolicy.{section}.to and networkPolicy.{section}.ports",
        )
    return wrong(
        "egress",
        f"the NetworkPolicy blocks {at.host}:{port} ({at.address}): add them to "
        f"networkPolicy.{section}.cidrs and networkPolicy.{section}.ports",
    )


def pods_reachable(rules: Sequence[Mapping[str, Any]], pods: ServicePods) -> bool:
    """Whether egress rules of NetworkPolicies let a pod connect to the pods of a Service, by their labels."""
    return all(any(_rule_selects(rule, pods, port) for rule in rules) for port in pods.ports)


def _rule_selects(rule: Mapping[str, Any], pods: ServicePods, port: int) -> bool:
    ports, peers = rule.get("ports") or (), rule.get("to") or ()
    if ports and not any(_port_allows(entry, port) for entry in ports):
        return False
    return not peers or any(_peer_selects(peer, pods) for peer in peers)


def _peer_selects(peer: Mapping[str, Any], pods: ServicePods) -> bool:
    if "ipBlock" in peer:
        return False
    namespace = {NAMESPACE_LABEL: pods.namespace}
    return _selects(peer.get("namespaceSelector"), namespace) and _selects(
        peer.get("podSelector"), pods.labels
    )


def _selects(selector: Mapping[str, Any] | None, labels: Mapping[str, str]) -> bool:
    """Whether a selector matches an object with these labels. An absent selector matches everything."""
    if selector is None:
        return True
    return (
        not selector.get("matchExpressions") and (selector.get("matchLabels") or {}).items() <= labels.items()
    )


def reachable(rules: Iterable[Mapping[str, Any]], address: str, port: int) -> bool:
    """Whether egress rules of NetworkPolicies let a pod connect to an address outside the cluster."""
    return any(_rule_allows(rule, address, port) for rule in rules)


def _rule_allows(rule: Mapping[str, Any], address: str, port: int) -> bool:
    ports, peers = rule.get("ports") or (), rule.get("to") or ()
    if ports and not any(_port_allows(entry, port) for entry in ports):
        return False
    return not peers or any(_block_allows(peer.get("ipBlock"), address) for peer in peers)


def _port_allows(entry: Mapping[str, Any], port: int) -> bool:
    first = entry.get("port")
    if entry.get("protocol", "TCP") != "TCP" or isinstance(first, str):
        return False
    return first is None or first <= port <= (entry.get("endPort") or first)


def _block_allows(block: Mapping[str, Any] | None, address: str) -> bool:
    if block is None:
        return False
    at = ipaddress.ip_address(address)
    return at in ipaddress.ip_network(block["cidr"]) and not any(
        at in ipaddress.ip_network(cut) for cut in block.get("except") or ()
    )
