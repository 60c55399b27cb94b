"""What an item says of its task: labels and one comment. Pure `render`, thin `publish`."""
