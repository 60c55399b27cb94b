"""Checks whether the API server's schema of AgentTask has all fields that this release writes.

The CustomResourceDefinition belongs to the whole cluster, so an upgrade of the operator does not imply an
upgrade of the schema (`crds.install: false`, or a rollback of the release that owns it). Under an older
schema the API server answers watches and lists as usual, and drops or refuses what the operator writes.
"""

from __future__ import annotations

import logging

from coding_agent_core.kubernetes.transport import ApiError, ApiServer
from coding_agent_core.runtime.background import forever
from coding_agent_core.task.agenttask import GROUP, PLURAL
from coding_agent_core.task.agenttask_schema import (
    OPENAPI_PATH,
    SchemaGap,
    describe_gaps,
    published_schema,
    schema_gaps,
)

_logger = logging.getLogger("operator.schema")

_INTERVAL_S = 60.0
_RETRY_S = 5.0
"""While something is wrong: the API server publishes a changed schema seconds after the change."""
_REMEDY = (
    "Apply crds/agenttask.yaml of the operator's release: kubectl apply --server-side --force-conflicts -f "
    "crds/agenttask.yaml. Or upgrade the Helm release that installs it (crds.install: true)."
)


class SchemaCheck:
    """Compares the published schema with the wanted one, at the start and once a minute.

    Attributes:
        problem: why the operator cannot record what happens; `None` if it can, or if the schema is unknown.
        done: whether the schema was read, or could not be read.
    """

    def __init__(self, server: ApiServer) -> None:
        self._server = server
        self.problem: str | None = None
        self.done = False
        self._gaps: tuple[SchemaGap, ...] = ()
        self._unreadable = False

    async def run(self) -> None:
        """Check until cancelled."""
        await forever("schema", self._checked)

    async def _checked(self) -> float:
        await self.once()
        return _RETRY_S if self.problem else _INTERVAL_S

    async def once(self) -> None:
        """Check once, and log the differences if they have changed since the last check."""
        try:
            installed = published_schema(await self._server.request("GET", OPENAPI_PATH))
        except ApiError as error:
            # Without the CustomResourceDefinition (404), no namespace can be served, which is logged.
            if error.status not in (404, None) and not self._unreadable:
                self._unreadable = True
                _logger.warning("Whether the schema of AgentTask is of this release is unknown: %s", error)
            self.done = True
            return
        self.done = True
        gaps = () if installed is None else schema_gaps(installed)
        if gaps != self._gaps:
            self._gaps = gaps
            self._log()
        harmful = [gap for gap in gaps if gap.harmful]
        self.problem = f"{_subject()}: {describe_gaps(harmful)}. {_REMEDY}" if harmful else None

    def _log(self) -> None:
        if not self._gaps:
            _logger.info("The schema of AgentTask is of this release now")
        elif any(gap.harmful for gap in self._gaps):
            _logger.error(
                "%s, so the API server drops or refuses what the operator writes: %s. %s",
                _subject(),
                describe_gaps(self._gaps),
                _REMEDY,
            )
        else:
            _logger.warning("%s: %s", _subject(), describe_gaps(self._gaps))


def _subject() -> str:
    return f"The CustomResourceDefinition {PLURAL}.{GROUP} is of another release"
