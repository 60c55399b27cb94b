"""The platforms of forges: how they differ, and text that is inert on each of them."""
