"""tp-worker: takes frames of jobs from its own queue, says `started`, computes, reports.

- main: the command line, and a worker's start
- loop: the conversation with the dealer
- runner: one attempt, from its time-out to the last of its descendants
- process_state: what such an attempt may change about the process, put back
- timeout_signal: interrupts a job that is past its deadline
- capture: what a job inside the worker prints
- memory: how much a job inside the worker takes
- faults: what `--chaos` does to a worker
- log: the lines a worker writes for people
"""
