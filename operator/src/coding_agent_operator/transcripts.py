"""What a Job says beforehand of its transcript, so that it can be found when its agent is killed. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coding_agent_core.agenttask import ANNOTATION_TRANSCRIPT, ANNOTATION_TRANSCRIPT_URL
from coding_agent_core.settings.attempts import ContextStorage
from coding_agent_core.transcripts import key_of, place_of, url_of

from coding_agent_operator.observed import Task


def noted(manifest: Mapping[str, Any], task: Task, number: int, storage: ContextStorage) -> dict[str, Any]:
    """The manifest of attempt `number` with the place of its transcript, if it is kept anywhere."""
    key = key_of(task.spec.item, task.spec.run, task.spec.uuid, number)
    places = {ANNOTATION_TRANSCRIPT: place_of(storage, key), ANNOTATION_TRANSCRIPT_URL: url_of(storage, key)}
    notes = {name: place for name, place in places.items() if place is not None}
    if not notes:
        return dict(manifest)
    metadata = manifest["metadata"]
    annotations = {**(metadata.get("annotations") or {}), **notes}
    return {**manifest, "metadata": {**metadata, "annotations": annotations}}
