"""Who or what cancelled a task, as far as the AgentTask tells. Pure."""

from __future__ import annotations

from coding_agent_core.agenttask import ANNOTATION_CANCELLED
from coding_agent_core.kubernetes.transport import Body

_LIMIT = 256
_WITH_KUBECTL = "somebody cancelled it with kubectl"


def cancelled_because(body: Body) -> str:
    """Half a sentence for people, empty where it is not known.

    Whatever of ours cancels a task writes down why. Who does so by hand does not, but the API server keeps
    the name of the program that set `spec.cancel`: kubectl, and our plugin for it, give theirs.
    """
    meta = body["metadata"]
    if not (body.get("spec") or {}).get("cancel"):
        return ""
    written = str((meta.get("annotations") or {}).get(ANNOTATION_CANCELLED, ""))
    if written.strip():
        return " ".join(written.split())[:_LIMIT].removesuffix(".")
    return _WITH_KUBECTL if _set_by(body).startswith("kubectl") else ""


def _set_by(body: Body) -> str:
    """The program that wrote `spec.cancel` last."""
    for entry in body["metadata"].get("managedFields") or ():
        if "f:cancel" in ((entry.get("fieldsV1") or {}).get("f:spec") or {}):
            return str(entry.get("manager", ""))
    return ""
