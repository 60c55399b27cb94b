"""A repository's `.coding-agent.yaml` on a real node: its image, PostgreSQL next to it, setup commands."""

from pathlib import Path

import pytest
from coding_agent_core.settings.job_settings import FS_GROUP
from coding_agent_core.task.environment import ENVIRONMENT_FILE
from coding_agent_testbed.cluster import images

from tests.fixtures.cluster import ClusterUnderTest
from tests.fixtures.forge import git
from tests.fixtures.system_in_pods import PodSystem, StartPods
from tests.integration.main_job.scripts import finish, run, script

# Time for what may have to be built first.
pytestmark = [pytest.mark.needs_node, pytest.mark.timeout(1500)]

_DATA = "/var/lib/postgresql/data"
_PSQL = "PGPASSWORD=test psql -h 127.0.0.1 -U postgres -qAt -c"
# The server runs it: it says as whom, and what it may write.
_INSIDE = (
    f"id -u; id -G; stat -c %u:%a {_DATA}; touch /etc/made 2>&1; touch /var/run/postgresql/made && echo kept"
)
_LOOK = f"""\
{{ psql --version
{_PSQL} "select 'price ' || amount from prices"
{_PSQL} "copy answers from program '{_INSIDE}'; select word from answers"
id -u; }} > proof.md 2>&1; cat proof.md"""


def test_the_second_pod_has_the_image_and_the_database_and_setup_has_run(
    start_pods: StartPods, cluster: ClusterUnderTest, tmp_path: Path
) -> None:
    tools, database = (cluster.provide(images.database_image(target)) for target in images.DATABASE_TARGETS)
    allowed = {"images": [tools], "service_images": [database]}
    system = start_pods("github", script(run(_LOOK), finish()), repository_environment=allowed)
    commit(system, tmp_path / "tree", environment_file(tools, database))
    system.put_label(1)
    task = system.wait_for_phase("Succeeded")

    attempts = task["status"]["attempts"]
    assert [attempt["reason"] for attempt in attempts] == ["EnvironmentChanged", "Completed"]
    assert len(system.model.requests) == 2, "of the second attempt alone"
    assert "database at 127.0.0.1:5432" in str(system.model.requests[0]["messages"])

    proof = system.file_at("coding-agent/issue-1", "proof.md")
    version, *answers, workspace_user = proof.splitlines()
    assert version.startswith("psql (PostgreSQL)"), "the image's own tool"
    user = answers[1]
    assert answers == [
        "price 42",  # setup has made it
        user,
        f"{user} {FS_GROUP}",
        "0:2777",
        "touch: cannot touch '/etc/made': Read-only file system",
        "kept",
    ]
    assert user not in ("0", workspace_user)


def environment_file(tools: str, database: str) -> str:
    return f"""\
image: {tools}
setup:
  - {_PSQL} "create table prices (amount int); create table answers (word text)"
  - {_PSQL} "insert into prices values (42)"
services:
  database:
    image: {database}
    port: 5432
    env:
      POSTGRES_PASSWORD: test
      PGDATA: {_DATA}/here
    folders: [{_DATA}, /var/run/postgresql]
"""


def commit(system: PodSystem, tree: Path, content: str) -> None:
    system.git("worktree", "add", "--quiet", str(tree), "main")
    (tree / ENVIRONMENT_FILE).write_text(content)
    for arguments in (["add", ENVIRONMENT_FILE], ["commit", "--quiet", "--message", "Say what tasks need"]):
        done = git(*arguments, cwd=tree)
        assert done.returncode == 0, done.stderr
