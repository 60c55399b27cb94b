"""What the programs of the coding agent share."""
