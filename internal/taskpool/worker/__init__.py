"""tp-worker: takes frames of jobs from its own queue, says `started`, computes, reports.

Read `loop` first, the exchange with the dealer, then `runner`: one attempt from its start to its report.

- main: the command line, and a worker's start
- loop: frames in, `started` and reports out
- runner: one attempt, from its time-out to the end of the last of its descendants
- process_state: what such an attempt may change about the process, restored
- timeout: interrupts a job that is past its deadline
- capture: what a job inside the worker prints
- chaos: what `--chaos` does to a worker
- log: the lines a worker writes for people
"""
