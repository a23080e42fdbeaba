"""What the dealer shows of itself over HTTP. Read-only, and off the loop: it reads counters, never changes them."""
