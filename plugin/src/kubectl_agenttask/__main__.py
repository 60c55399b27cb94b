"""`python -m kubectl_agenttask`, where the script is not on PATH."""

from kubectl_agenttask.program import run

run()
