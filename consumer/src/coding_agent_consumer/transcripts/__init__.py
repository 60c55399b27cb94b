"""What an agent did: its messages without secrets, and where they are kept."""
