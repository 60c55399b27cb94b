"""The agent: the model, its tools, its limits and its memory."""
