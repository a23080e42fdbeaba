"""A private dealer and its state."""
