"""`python -m coding_agent_operator`: the operator with the settings of `CONFIG_FILE` and the environment."""

import os

from coding_agent_operator.program import main
from coding_agent_operator.settings import load

main(load(os.environ))
