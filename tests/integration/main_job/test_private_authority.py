"""A self-managed forge whose certificate only an authority of one's own vouches for: API, clone and push."""

from __future__ import annotations

from pathlib import Path

import pytest
from coding_agent_forge.server import ForgeServer
from coding_agent_model.server import ModelServer

from tests.chart.edge import certificate
from tests.fixtures.system import DONE, MODEL_KEY, REPOSITORY, SECRET, System, sample_repository, until
from tests.integration.main_job.scripts import fixes_the_bug


@pytest.mark.long
def test_it_is_trusted_where_ssl_cert_file_says_so(tmp_path: Path) -> None:
    authority = certificate(tmp_path, "IP:127.0.0.1")
    both = tmp_path / "both.pem"
    both.write_text(authority.read_text() + authority.with_name("tls.key").read_text())
    with (
        ForgeServer("github", sample_repository(), tmp_path / "repositories", certificate=both) as forge,
        ModelServer(fixes_the_bug(), api_key=MODEL_KEY) as model,
    ):
        system = System(forge, model, tmp_path)
        try:
            port = system.start("--mode", "webhook", SSL_CERT_FILE=str(authority)).port()
            forge.add_hook(REPOSITORY, f"http://127.0.0.1:{port}/webhook/github", SECRET)
            system.put_label(1)
            until(lambda: DONE in system.labels(1), "the label", 180)
        finally:
            system.close()
        [change] = system.changes()
        assert change.head == "coding-agent/issue-1"
