"""Operator and reporter in one process: attempts are processes of the machine, and tasks are in a file."""
