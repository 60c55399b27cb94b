"""AgentTasks on a Kubernetes API server.

`transport` sends requests, `agenttask_client` is the client for AgentTasks, `task_sink` stores the tasks that
the receiver admits, and `controller` contains parts that operator and reporter share. This module imports
nothing.
"""
