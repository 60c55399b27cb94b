"""Counts active Jobs from a watch of the test's own, never from the operator's word."""

from collections import Counter

from coding_agent_core.task.agenttask import LABEL_REPOSITORY

from tests.fixtures.watcher import Object, Watcher
from tests.integration.operator.world import World


class JobCount(Watcher):
    """How many Jobs were active at a time at the most, in all and of one repository.

    Attributes:
        order: names of the Jobs, each once for each time that one was made.
    """

    def __init__(self, world: World) -> None:
        super().__init__(world.plane.batch.list_namespaced_job, world.namespace)
        self._active: dict[str, str] = {}
        self._seen: set[str] = set()
        self.most = 0
        self.most_of_one = 0
        self.order: list[str] = []
        self.repositories: list[str] = []

    def see(self, kind: str, found: Object) -> None:
        meta, conditions = found["metadata"], found.get("status", {}).get("conditions", [])
        uid, repository = meta["uid"], meta["labels"].get(LABEL_REPOSITORY, "")
        if uid not in self._seen:
            self._seen.add(uid)
            self.order.append(meta["name"])
            self.repositories.append(repository)
        over = any(c["type"] in ("Complete", "Failed") and c["status"] == "True" for c in conditions)
        if kind == "DELETED" or over:
            self._active.pop(uid, None)
            return
        self._active[uid] = repository
        self.most = max(self.most, len(self._active))
        self.most_of_one = max(self.most_of_one, *Counter(self._active.values()).values())
