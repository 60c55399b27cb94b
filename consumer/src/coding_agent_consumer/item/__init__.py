"""What an attempt reads of its item, and whether it may work and push."""
