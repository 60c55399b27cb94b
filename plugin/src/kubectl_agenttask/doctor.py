"""`doctor`: checks an installation from outside, and says for each fault what to change."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

from coding_agent_core.errors import SettingsError
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.settings.credentials import credential_place
from coding_agent_core.settings.model import Settings
from coding_agent_core.settings.section import SecretSettings
from coding_agent_core.task.agenttask import GROUP, VERSION, AgentTask
from coding_agent_core.task.model import Phase
from coding_agent_core.task.objects import Metadata

from kubectl_agenttask import DeniedError, PluginError
from kubectl_agenttask.cluster_client import Body, waiting_for
from kubectl_agenttask.findings import (
    Finding,
    Level,
    clock_findings,
    definition_findings,
    egress_finding,
    ok,
    unknown,
    unknown_pods,
    warning,
    wrong,
)
from kubectl_agenttask.forge_checks import ForgeExamination, credential, repositories_of
from kubectl_agenttask.installation import Installation, Right, component_of, mounted_secrets, settings_of
from kubectl_agenttask.model_check import ask_model
from kubectl_agenttask.profile import what_is_off
from kubectl_agenttask.schema_check import check_schema, read_definition
from kubectl_agenttask.services import UnknownPodsError, destination_of, pods_behind
from kubectl_agenttask.session import Session

_TASKS = Right("list", "agenttasks", GROUP)
_OUR_RIGHTS = (
    _TASKS,
    Right("create", "agenttasks", GROUP),
    Right("watch", "agenttasks", GROUP),
    Right("patch", "agenttasks", GROUP),
    Right("delete", "agenttasks", GROUP),
    Right("list", "pods"),
    Right("get", "pods/log"),
    Right("list", "events"),
)
"""What the plugin's other commands need."""
_PROGRAM_RIGHTS = {
    "operator": (_TASKS, Right("patch", "agenttasks/status", GROUP), Right("create", "jobs", "batch")),
    "receiver": (_TASKS, Right("create", "agenttasks", GROUP)),
    "reporter": (_TASKS, Right("patch", "agenttasks/status", GROUP)),
}
"""The rights without which a program can do nothing. The chart's Roles have more."""
_NOT_PULLED = "set image.registry and image.pullSecrets so that nodes can pull it; kubectl describe pods"
_WAITING = {
    "ErrImagePull": _NOT_PULLED,
    "ImagePullBackOff": _NOT_PULLED,
    "CreateContainerConfigError": "a Secret or ConfigMap is missing; kubectl describe pods",
    "CrashLoopBackOff": "the program ends at once; kubectl logs deployment/{name}",
    "Unschedulable": "no node has room for it; kubectl describe pods",
}
"""What to do about a pod that waits, by the reason; a command is last, which lacks the namespace."""
_OTHER = "kubectl describe pods"
_RECENT = 20
"""The number of the newest tasks whose ends and repositories are looked at."""


def doctor(session: Session, arguments: Namespace) -> None:
    """`doctor`: print a line for each check.

    Raises:
        PluginError: something is wrong.
    """
    made = failed = 0
    if arguments.crd:
        findings = check_schema(session, read_definition(arguments.crd))
    else:
        findings = _Examination(session, tuple(arguments.repo or ())).findings()
    # Checks of servers that do not answer take long, so each result is shown at once.
    for finding in findings:
        session.out.print(finding.line, soft_wrap=True)
        made += 1
        failed += finding.level is Level.WRONG
    result = f"{failed} found something wrong." if failed else "Nothing is wrong."
    session.notes.print(f"{made} {'check' if made == 1 else 'checks'}. {result}")
    if failed:
        raise PluginError("correct what is wrong, and run doctor again.")


class _Examination:
    def __init__(self, session: Session, repositories: tuple[str, ...]) -> None:
        self._session = session
        self._cluster = session.cluster
        self._installation = Installation(session.cluster)
        self._named = repositories

    def findings(self) -> Iterator[Finding]:
        yield from _guarded("clock", self._clock)
        yield from _guarded("CRD", self._definition)
        yield from _guarded("your rights", self._own_rights)
        try:
            workloads = self._installation.deployments()
            config = self._installation.config()
        except DeniedError as error:
            yield unknown("release", str(error))
            return
        if config is None or not workloads:
            namespace = self._installation.namespace
            yield wrong(
                "release",
                f"namespace {namespace} has no release of the coding agent: give --namespace, or install it "
                "(kubectl agenttask init)",
            )
            return
        for workload in workloads:
            yield from _guarded("program", partial(self._program, workload))
        yield from _guarded("secret", partial(self._secrets, workloads))
        try:
            settings = settings_of(config)
        except SettingsError as error:
            yield wrong("settings", f"the programs cannot read their settings: {error}")
            return
        yield from what_is_off(settings)
        for about, check in (("storage", self._storage), ("egress", self._egress), ("model", self._model)):
            yield from _guarded(about, partial(check, settings))
        try:
            tasks = self._newest()
        except PluginError as error:
            yield unknown("tasks", str(error))
            tasks = []
        else:
            yield self._ends(tasks)
        forges = ForgeExamination(self._installation, settings, workloads, self._session.clock)
        for platform in Platform:
            if settings.forge(platform).connectable:
                seen = (*self._named, *repositories_of(tasks, platform))
                yield from _guarded("forge", partial(forges.findings, platform, seen))

    def _clock(self) -> Iterator[Finding]:
        theirs = self._installation.server_time()
        if theirs is not None:
            yield from clock_findings("the API server", theirs, datetime.now(UTC))

    def _definition(self) -> Iterator[Finding]:
        crd = self._installation.definition()
        if crd is None:
            yield wrong("CRD", "the cluster does not know AgentTask: apply crds/agenttask.yaml")
            return
        yield from definition_findings(crd, VERSION)

    def _own_rights(self) -> Iterator[Finding]:
        lacking = [str(right) for right in _OUR_RIGHTS if not self._installation.may(right)]
        if lacking:
            yield wrong(
                "your rights",
                f"you may not {', '.join(lacking)} in {self._installation.namespace}: ask for the "
                "ClusterRole `edit` in this namespace",
            )
        else:
            yield ok("your rights", f"you may use all commands in {self._installation.namespace}")

    def _program(self, workload: Body) -> Iterator[Finding]:
        name = Metadata.of(workload).name
        wanted = workload["spec"].get("replicas", 1)
        ready = (workload.get("status") or {}).get("readyReplicas", 0)
        image = workload["spec"]["template"]["spec"]["containers"][0]["image"]
        if ready >= wanted:
            yield ok("program", f"{name}: {ready} of {wanted} ready, image {image}")
        else:
            why = {waiting_for(pod) for pod in self._installation.pods(workload)}
            shown = ", ".join(sorted(why)) or "no pod"
            hint = next((text for reason, text in _WAITING.items() if reason in why), _OTHER).format(
                name=name
            )
            yield wrong(
                "program",
                f"{name}: {ready} of {wanted} ready ({shown}), image {image}: {hint} "
                f"-n {self._installation.namespace}",
            )
        account = workload["spec"]["template"]["spec"].get("serviceAccountName", "default")
        lacking = [
            str(right)
            for right in _PROGRAM_RIGHTS.get(component_of(workload), ())
            if not self._installation.may(right, account)
        ]
        if lacking:
            yield wrong(
                "rights", f"{name} may not {', '.join(lacking)}: upgrade the release, which has the Roles"
            )

    def _secrets(self, workloads: Iterable[Body]) -> Iterator[Finding]:
        """Check the Secrets that programs mount; forge and model have the checks of the attempts' Secrets."""
        wanted: dict[str, set[str]] = {}
        for workload in workloads:
            for name, mounted in mounted_secrets(workload):
                wanted.setdefault(name, set()).update(mounted)
        for name, keys in sorted(wanted.items()):
            there = self._installation.secret(name)
            lacking = keys - set(() if there is None else there.values)
            if there is None:
                yield wrong(
                    "secret", f"{name} does not exist. It needs: {', '.join(sorted(keys)) or 'a key'}"
                )
            elif lacking:
                yield wrong("secret", f"{name} lacks the key {', '.join(sorted(lacking))}")
            else:
                yield ok("secret", f"{name} has the key {', '.join(sorted(keys or there.values))}")

    def _storage(self, settings: Settings) -> Iterator[Finding]:
        cache = settings.operator.job.cache
        if not cache.enabled:
            return
        name = cache.storage_class or ""
        if self._installation.storage_class(name):
            yield ok("storage", f"StorageClass {name or 'of the cluster'} exists")
        elif name:
            yield wrong(
                "storage",
                f"StorageClass {name} does not exist: set config.operator.job.cache.storage_class to one of "
                "`kubectl get storageclasses`",
            )
        else:
            yield wrong(
                "storage",
                "the cluster has no default StorageClass: set config.operator.job.cache.storage_class",
            )

    def _egress(self, settings: Settings) -> Iterator[Finding]:
        """Compare the NetworkPolicy with the addresses of model and forge, as known here.

        It is the policy of attempts, or of the egress proxy through which they go.
        """
        rules = self._installation.egress_rules("attempt")
        if rules is None:
            yield warning(
                "egress", "no NetworkPolicy selects attempts, so commands can reach the whole cluster"
            )
            return
        if settings.egress.proxy:
            yield ok("egress", f"attempts use the proxy {settings.egress.proxy}")
            rules = self._installation.egress_rules("egress")
            if rules is None or settings.egress.parent is not None:
                return  # the proxy of another release, or one that goes through the company's
        urls = {"model": settings.llm.address}
        for platform in Platform:
            if settings.forge(platform).connectable:
                urls[f"{platform}"] = settings.forge(platform).api_url
        for about, url in urls.items():
            yield self._egress_to("model" if about == "model" else "forge", url, rules)

    def _egress_to(self, section: str, url: str, rules: list[Body]) -> Finding:
        at = destination_of(url)
        try:
            at = replace(at, pods=pods_behind(self._session.cluster.api_client, at))
        except UnknownPodsError as error:
            if at.service is not None:
                return unknown("egress", unknown_pods(section, at, str(error)).text)
        return egress_finding(section, at, rules)

    def _model(self, settings: Settings) -> Iterator[Finding]:
        provider = settings.llm.provider
        if settings.gateway.identity is not None:
            yield unknown("model", "attempts use a workload identity, which this machine does not have")
            return
        given = getattr(getattr(settings.llm, provider), "api_key", SecretSettings())
        if not given.configured:
            yield ask_model(settings.llm, "", f"config.llm.{provider}.api_key")
            return
        try:
            key = credential(self._installation, settings, given)
        except PluginError as error:
            yield wrong("model", str(error))
            return
        yield ask_model(settings.llm, key, credential_place(settings, f"llm.{provider}.api_key"))

    def _newest(self) -> list[AgentTask]:
        tasks = self._cluster.tasks(everywhere=False, active=False, repository=None)
        return sorted(tasks, key=lambda task: Metadata.of(task.body).created)[-_RECENT:]

    def _ends(self, newest: list[AgentTask]) -> Finding:
        """Report why tasks failed, because their reasons show problems that no other check can find."""
        failed = [task for task in newest if task.status.phase is Phase.FAILED]
        if not newest:
            return ok("tasks", "there are no tasks yet")
        if not failed:
            return ok("tasks", f"none of the newest {len(newest)} failed")
        last = failed[-1]
        return warning(
            "tasks",
            f"{len(failed)} of the newest {len(newest)} failed, the last with {last.status.reason}: "
            f"kubectl agenttask describe {last.name} -n {self._installation.namespace}",
        )


def _guarded(about: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Yield the findings of a check; if it cannot be made, e.g. for lack of a right, yield why."""
    try:
        yield from check()
    except PluginError as error:
        yield unknown(about, str(error))
