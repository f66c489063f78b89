"""What the shell offers at the Tab key."""
