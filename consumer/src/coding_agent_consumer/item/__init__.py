"""The item of an attempt: its conversation, its approval, and the permission to push."""
