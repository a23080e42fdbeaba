"""tp-worker: takes frames of jobs from its own queue, says `started`, computes, reports.

Read `loop` first, the exchange with the dealer, then `runner`: one attempt from its start to its report.

- main: the command line, and a worker's start
- template: the process that workers are copied from
- loop: frames in, `started` and reports out
- runner: one attempt, from its time-out to the end of the last of its descendants
- process_state: what such an attempt has changed about the process is put back, or kept when an import did it
- properties: what that may be, and how to look at it
- kernel_state: what the kernel keeps of it, in one look in C
- imports: watches what jobs load, and whether its files are edited
- helpers: the processes of multiprocessing, ended and forgotten between jobs
- timeout: interrupts a job that is past its deadline
- cancel: ends the program that the worker waits for
- capture: what a job inside the worker prints
- native_streams: what C and C++ code holds back of it, flushed
- chaos: what `--chaos` does to a worker
- log: the lines a worker writes for people
"""
