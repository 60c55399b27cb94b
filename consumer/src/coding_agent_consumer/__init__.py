"""One attempt at a task: agent, workspace, pull request."""
