"""The store of tasks in a file on one machine: `objects` is the SQLite file, `tasks` its AgentTasks."""
