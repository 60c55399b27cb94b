"""One attempt at a task, from the clone to the change."""
