"""AgentTasks on a Kubernetes API server.

`transport` sends requests, `agenttask_client` is the client for AgentTasks, `task_sink` stores what the
receiver admits, `controller` holds the parts of the operator and the reporter. Nothing is imported here.
"""
