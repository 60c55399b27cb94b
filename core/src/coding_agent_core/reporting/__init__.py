"""What people read on an item, and what they ask there: labels, the comment, commands."""
