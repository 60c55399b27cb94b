"""The code that the programs of the coding agent share."""
