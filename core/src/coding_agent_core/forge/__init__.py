"""The types of items and changes on a forge, and the interface that the rules need of a forge."""
