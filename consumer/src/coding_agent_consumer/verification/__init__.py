"""The commands that check the agent's work, in an attempt and in an evidence pod."""
