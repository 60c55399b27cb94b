"""A real Gitea on this machine: the forge that this project did not write.

with GiteaServer(folder) as server:
    sample = make_sample(server)
    server.api(sample.maintainer).add_label(sample.repository, 1, "coding agent")
"""

from coding_agent_testbed.gitea.accounts import Account
from coding_agent_testbed.gitea.api import Api
from coding_agent_testbed.gitea.errors import GiteaError
from coding_agent_testbed.gitea.program import BUILD_TIME, Program, find, prepare
from coding_agent_testbed.gitea.sample import Sample, make_sample
from coding_agent_testbed.gitea.server import GiteaServer
from coding_agent_testbed.gitea.web import WebSession

__all__ = [
    "BUILD_TIME",
    "Account",
    "Api",
    "GiteaError",
    "GiteaServer",
    "Program",
    "Sample",
    "WebSession",
    "find",
    "make_sample",
    "prepare",
]
