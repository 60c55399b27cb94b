"""A sandbox forge for development and tests: GitHub and GitLab shapes over real git repositories."""

from coding_agent_testbed.forge.faults import Fault
from coding_agent_testbed.forge.model import Flavour, Kind
from coding_agent_testbed.forge.seed import Seed
from coding_agent_testbed.forge.server import ForgeServer

__all__ = ["Fault", "Flavour", "ForgeServer", "Kind", "Seed"]
