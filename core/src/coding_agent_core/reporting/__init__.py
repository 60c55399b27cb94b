"""The labels and the comment that show a task on its item, and the commands that people write there."""
