"""Processes: start them, hear of their death, reap them, and leave none behind.

All knowledge of pids, signals, /proc and the pool's lock file is in this package. It decides nothing
about jobs.
"""
