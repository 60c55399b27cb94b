"""git over HTTPS through the proxy: a real server, git's own, with a certificate of the test's authority."""

import os
import subprocess
from pathlib import Path

from coding_agent_core.task.egress import VARIABLES

from tests.chart.edge import certificate
from tests.fixtures.egress import StartEgress
from tests.integration.consumer_workspace.git_server import TOKEN, USERNAME, serve

_HOST = "git.inside"
_IDENTITY = ("-c", "user.name=a", "-c", "user.email=a@example.com")


def test_git_clones_and_pushes_at_a_listed_host_only(start_egress: StartEgress, tmp_path: Path) -> None:
    authority = certificate(tmp_path, f"DNS:{_HOST},DNS:canary.inside")
    served = tmp_path / "served"
    served.mkdir()
    with serve(served, (authority, authority.with_name("tls.key"))) as server:
        bare = server.make("r.git")
        lists = {"repositories": {"o/mine": [f"{_HOST}:{server.port}"]}, "private": [_HOST]}
        proxy = start_egress({"egress": lists}, {_HOST: "127.0.0.1", "canary.inside": "127.0.0.1"})
        own = {name: value for name, value in os.environ.items() if name not in VARIABLES}
        own |= {"GIT_SSL_CAINFO": str(authority), "GIT_TERMINAL_PROMPT": "0"}

        def git(*arguments: str, repository: str = "o/mine") -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                ["git", *_IDENTITY, *arguments],
                cwd=tmp_path,
                env=own | proxy.variables("git-1", repository=repository),
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )

        def url(host: str, scheme: str = "https") -> str:
            return f"{scheme}://{USERNAME}:{TOKEN}@{host}/r.git"

        listed = url(f"{_HOST}:{server.port}")
        denied = git("clone", listed, "clone", repository="o/another")
        assert denied.returncode != 0
        assert "403" in denied.stderr, denied.stderr
        cloned = git("clone", listed, "clone")
        assert cloned.returncode == 0, cloned.stderr
        git("-C", "clone", "commit", "--allow-empty", "-m", "Work")
        pushed = git("-C", "clone", "push", "origin", "HEAD:refs/heads/work")
        assert pushed.returncode == 0, pushed.stderr
        for canary in (
            url(f"canary.inside:{server.port}"),
            url(f"127.0.0.2:{server.port}"),
            url("canary.inside", "http"),
        ):
            sent = git("-C", "clone", "push", canary, "HEAD:refs/heads/stolen")
            assert sent.returncode != 0
            assert "403" in sent.stderr, sent.stderr
        heads = git("--git-dir", str(bare), "for-each-ref", "--format=%(refname:short)").stdout.split()
        assert heads == ["main", "work"]
