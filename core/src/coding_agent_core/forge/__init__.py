"""An item and a change as a forge shows them, and what the rules need of a forge."""
