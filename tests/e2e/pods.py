"""Objects that the cluster's tests make: as small as Pod Security `restricted` allows."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coding_agent_testbed.cluster.access import Access

SECURITY = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def container(image: str, *command: str, **more: Any) -> dict[str, Any]:
    """A container that passes `restricted`; without a command it runs the image's entry point."""
    spec: dict[str, Any] = {
        "name": "main",
        "image": image,
        "imagePullPolicy": "Never",
        "securityContext": SECURITY,
        # Small requests, or the pods of one test alone would fill a machine of two cores.
        "resources": {
            "requests": {"memory": "32Mi", "cpu": "10m"},
            "limits": {"memory": "64Mi", "cpu": "500m"},
        },
    }
    return spec | ({"command": list(command)} if command else {}) | more


def python(image: str, program: str, **more: Any) -> dict[str, Any]:
    return container(image, "python3", "-c", program, **more)


def pod(name: str, main: dict[str, Any], labels: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    """A pod of one container that is not started again."""
    spec = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [main]} | more
    metadata = {"name": name, "labels": labels or {"app": name}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def job(name: str, main: dict[str, Any]) -> dict[str, Any]:
    spec = {"backoffLimit": 0, "template": {"spec": pod(name, main)["spec"]}}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec}


def job_end(access: Access, namespace: str, name: str) -> str:
    """`Complete` or `Failed` once the Job has ended, else nothing."""
    conditions = access.get("-n", namespace, "job", name).get("status", {}).get("conditions", [])
    return next((c["type"] for c in conditions if c["type"] in ("Complete", "Failed")), "")


def processes(uid: str) -> Iterator[tuple[int, str, str]]:
    """The processes of a pod as this machine, which is its node, sees them: pid, name and command line."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and uid in read_process(entry, "cgroup"):
            command = read_process(entry, "cmdline").replace("\0", " ")
            yield int(entry.name), read_process(entry, "comm").strip(), command


def read_process(process: Path, file: str) -> str:
    """A file of a process in /proc; empty if it has ended."""
    try:
        return (process / file).read_text(errors="replace")
    except OSError:
        return ""


def server(name: str, image: str) -> list[dict[str, Any]]:
    """A pod that serves HTTP on 8080 and a service on port 80 for it."""
    probe = {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1}
    serving = container(image, args=["serve"], readinessProbe=probe)
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8080}]},
    }
    return [pod(name, serving), service]
