"""How an item shows the state of its task: labels and one comment. `render` is pure, `publish` writes."""
