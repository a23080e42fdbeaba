"""The protocol client: what talks to a dealer over its queues."""
