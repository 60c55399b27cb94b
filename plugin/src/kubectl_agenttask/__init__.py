"""`kubectl agenttask`: the tasks of the coding agent, for people at a terminal."""
