"""Everything that a person asks for first when something in a namespace went wrong, as one text."""

from coding_agent_testbed.cluster.access import Access, KubectlError

# Beyond this many characters a report hides more than it shows; the end of a log is where the error is.
_LIMIT = 6000


def namespace_dump(access: Access, namespace: str) -> str:
    """The namespace's objects, events and container logs; never raises, so that a report is never lost."""
    sections = {
        "objects": ("get", "all,configmaps,networkpolicies", "-o", "wide"),
        "custom resources": ("get", "agenttasks", "-o", "yaml"),
        "events": ("get", "events", "--sort-by=.lastTimestamp"),
        "pods": ("get", "pods", "-o", "yaml"),
    }
    text = [_section(access, title, "-n", namespace, *command) for title, command in sections.items()]
    try:
        pods = access.kubectl("-n", namespace, "get", "pods", "-o", "name", timeout=10).split()
    except KubectlError:
        pods = []
    for pod in pods:
        logs = ("logs", pod, "--all-containers", "--prefix", "--tail=100")
        text.append(_section(access, f"log of {pod}", "-n", namespace, *logs))
    return "\n".join(t for t in text if t)


def _section(access: Access, title: str, *command: str) -> str:
    try:
        content = access.kubectl(*command, timeout=15)
    except KubectlError as error:
        content = error.stderr
        if "the server doesn't have a resource type" in content:
            return ""
    return f"--- {title}\n{content[-_LIMIT:].rstrip()}"
