"""How long a person waits until the agent works: from the label to the first request to the model, on a node.

The label is put on an issue of the sandbox forge. Its webhook, the receiver, the operator, the kubelet and
the agent do the rest, as in an installation. The first line is the time that Kubernetes needs for a Job whose
program prints a word.
"""

from __future__ import annotations

import asyncio
import statistics
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx2

from coding_agent_testbed.bench.benchmark import Benchmark
from coding_agent_testbed.bench.errors import BenchError
from coding_agent_testbed.bench.program import ROOT
from coding_agent_testbed.bench.result import Case, Measure, Result
from coding_agent_testbed.bench.world import Part, World
from coding_agent_testbed.cluster import build, images, quick_start
from coding_agent_testbed.cluster.access import Access
from coding_agent_testbed.cluster.commands import run as run_program
from coding_agent_testbed.until import until_async

_PERSON_TOKEN, _WEBHOOK_SECRET = "alice-sandbox-token", "sandbox-webhook-secret"
_REPOSITORY = "acme/pricing"
_ISSUE = ROOT / "dev" / "testbed" / "samples" / "pricing.issue.md"
"""What dev/kubernetes/forge.yaml calls them, and an issue that the scripted model can work on."""
_LABEL, _DONE = "coding agent", "coding agent done"
_SECONDS = 120.0
"""How long a webhook, a Job or a task may take on a machine that does other things too."""
_ROUNDS = 8
_JOB = "a Job that prints a word"
_MEASURES = (Measure("median_s", "median (s)", 2), Measure("worst_s", "worst (s)", 2))


@dataclass(frozen=True)
class _Installation:
    """The release of `make try`, as a person and the benchmark reach it."""

    access: Access
    namespace: str
    forge: httpx2.AsyncClient
    model: httpx2.AsyncClient

    def kubectl(self, *arguments: str) -> str:
        return self.access.kubectl("--namespace", self.namespace, *arguments)


async def run(world: World) -> Result:
    """Measure; Jobs and labels take turns, and no two run at once."""
    access, namespace = world.node, quick_start.configuration()["deploy"]["kubectl"]["defaultNamespace"]
    person = {"Authorization": f"Bearer {_PERSON_TOKEN}"}
    forge, model = (
        access.get("--namespace", namespace, "service", name)["spec"] for name in ("forge", "model")
    )
    rounds = []
    async with (
        httpx2.AsyncClient(base_url=_address(forge), headers=person, timeout=_SECONDS) as forge_client,
        httpx2.AsyncClient(base_url=_address(model), timeout=_SECONDS) as model_client,
    ):
        installed = _Installation(access, namespace, forge_client, model_client)
        await asyncio.to_thread(_adapt, installed)
        await _webhooks_arrive(installed)
        # The first ones read their image from the disk.
        await _job(installed)
        await _label(installed)
        for _ in range(world.size(_ROUNDS, 1)):
            rounds.append({_JOB: await _job(installed), **await _label(installed)})
    return Result(_MEASURES, cases(rounds))


def cases(rounds: list[dict[str, float]]) -> tuple[Case, ...]:
    """Return the median and the worst of each step's seconds, in the order of the steps."""
    found = {step: [seconds[step] for seconds in rounds] for step in rounds[0]}
    return tuple(
        Case(step, {"median_s": statistics.median(seconds), "worst_s": max(seconds)})
        for step, seconds in found.items()
    )


def moments(log: str) -> dict[str, float]:
    """Return when the agent wrote its first line, and when it had cloned, as Unix time.

    Args:
        log: the agent's log with the kubelet's timestamps (`kubectl logs --timestamps`).

    Raises:
        BenchError: the log is empty, or nothing was cloned.
    """
    lines = [line.partition(" ") for line in log.splitlines()]
    cloned = [at for at, _, text in lines if "] Cloned " in text]
    if not cloned:
        raise BenchError(f"the agent did not clone; its log: {log[-2000:]}")
    return {"the agent's first log line": _unix(lines[0][0]), "the clone": _unix(cloned[0])}


def _unix(timestamp: str) -> float:
    """Return a timestamp of RFC 3339 as Unix time. It has nanoseconds, of which Python reads six digits."""
    seconds, _, fraction = timestamp.removesuffix("Z").partition(".")
    return datetime.fromisoformat(f"{seconds}+00:00").timestamp() + float(f"0.{fraction or 0}")


def _address(service: Mapping[str, Any]) -> str:
    return f"http://{service['clusterIP']}:{service['ports'][0]['port']}"


def _adapt(installed: _Installation) -> None:
    """Let the release take webhooks in place of polling, and write log lines that `moments` reads."""
    helm, chart = build.binaries(["helm"])["helm"], ROOT / "charts" / "coding-agent"
    secret = f"secrets.webhook.github={_WEBHOOK_SECRET}"
    flags = ("--set", f"receiver.enabled=true,polling.enabled=false,config.logging.format=text,{secret}")
    upgrade = ("upgrade", "coding-agent", str(chart), "--namespace", installed.namespace, "--reuse-values")
    run_program(
        [str(helm), *upgrade, *flags, "--wait", f"--timeout={_SECONDS:.0f}s"],
        timeout=2 * _SECONDS,
        env=installed.access.environment(),
    )


async def _webhooks_arrive(installed: _Installation) -> None:
    """Wait until a ping arrives: a Service leads to a ready pod only a moment after the pod is ready."""
    hooks = f"/api/v3/repos/{_REPOSITORY}/hooks"

    async def arrived() -> bool:
        [hook] = (await installed.forge.get(hooks)).raise_for_status().json()
        sent = (await installed.forge.get(f"{hooks}/{hook['id']}/deliveries")).raise_for_status().json()
        if any(delivery["status"] == "OK" for delivery in sent):
            return True
        (await installed.forge.post(f"{hooks}/{hook['id']}/pings")).raise_for_status()
        return False

    await until_async("a webhook arrives", arrived, timeout=_SECONDS, interval=0.5)


async def _job(installed: _Installation) -> float:
    """Return the seconds from the request that creates a Job until its program has printed a word."""
    name, jobs = f"print-{uuid.uuid4().hex[:6]}", installed.access.batch

    async def ended() -> bool:
        read = jobs.read_namespaced_job_status
        found = await asyncio.to_thread(read, name, installed.namespace, _request_timeout=_SECONDS)
        return bool(found.status.succeeded)

    began = time.time()
    await asyncio.to_thread(
        jobs.create_namespaced_job, installed.namespace, print_job(name), _request_timeout=_SECONDS
    )
    await until_async(f"the end of the Job {name}", ended, timeout=_SECONDS, interval=0.2)
    log = await _log(installed, name, "print")
    await asyncio.to_thread(installed.kubectl, "delete", "job", name)
    return _unix(log.partition(" ")[0]) - began


def print_job(name: str) -> dict[str, Any]:
    """Return a Job with the image of attempts that prints a word, under Pod Security `restricted`."""
    container = {
        "name": "print",
        "image": images.program_image("consumer").name,
        "imagePullPolicy": "IfNotPresent",
        "command": ["echo", "started"],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    pod = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {"backoffLimit": 0, "template": {"spec": pod}},
    }


async def _label(installed: _Installation) -> dict[str, float]:
    """Label a new issue; return the seconds until each step, after the agent has finished.

    Raises:
        BenchError: the agent did not finish in time.
    """
    title, _, text = _ISSUE.read_text(encoding="utf-8").removeprefix("# ").partition("\n")
    issues = f"/api/v3/repos/{_REPOSITORY}/issues"
    opened = await installed.forge.post(issues, json={"title": title, "body": text.strip()})
    issue = f"{issues}/{opened.raise_for_status().json()['number']}"
    known = await _jobs(installed)
    began = time.time()
    (await installed.forge.post(f"{issue}/labels", json={"labels": [_LABEL]})).raise_for_status()

    async def done() -> bool:
        labels = (await installed.forge.get(issue)).raise_for_status().json()["labels"]
        return _DONE in {label["name"] for label in labels}

    await until_async(f"{_DONE!r} on {issue}", done, timeout=_SECONDS, interval=0.5)
    [job] = await _jobs(installed) - known
    found = moments(await _log(installed, job, "agent"))
    asked = (await installed.model.get("/_sandbox/requests")).raise_for_status().json()
    found["the first request to the model"] = min(
        request["received"] for request in asked if request["received"] > began
    )
    return {step: at - began for step, at in found.items()}


async def _jobs(installed: _Installation) -> set[str]:
    arguments = ("get", "jobs", "--output", "jsonpath={.items[*].metadata.name}")
    return set((await asyncio.to_thread(installed.kubectl, *arguments)).split())


async def _log(installed: _Installation, job: str, container: str) -> str:
    """Return the log of a Job's pod with the kubelet's timestamps."""
    arguments = ("logs", "--timestamps", "--container", container, f"job/{job}")
    return await asyncio.to_thread(installed.kubectl, *arguments)


BENCHMARK = Benchmark(
    name="start",
    title="From the label to the first request to the model, on a node that has the images",
    needs=frozenset({Part.NODE}),
    limit=1800.0,
    run=run,
)
