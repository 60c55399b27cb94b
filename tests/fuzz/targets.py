"""All targets by name. Each is a function of bytes, which returns whether it accepted them.

A target raises `AssertionError` if a property does not hold, and any other error is an undocumented one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from tests.fuzz import forge_targets, gateway_targets, object_targets

Target = Callable[[bytes], bool]

CORPUS = Path(__file__).parent / "corpus"
TARGETS: Mapping[str, Target] = {
    target.__name__: target
    for target in (
        forge_targets.github_webhook,
        forge_targets.gitlab_webhook,
        forge_targets.gitea_webhook,
        forge_targets.signature,
        forge_targets.sender,
        forge_targets.comment_state,
        object_targets.agent_task,
        object_targets.pod,
        object_targets.termination_message,
        object_targets.attempt_input,
        object_targets.environment_file,
        gateway_targets.gateway_request,
        gateway_targets.gateway_head,
        gateway_targets.gateway_answer,
    )
}


def inputs(target: str) -> dict[str, bytes]:
    """Return the committed inputs of a target by the names of their files."""
    return {path.name: path.read_bytes() for path in sorted((CORPUS / target).iterdir())}
