"""The decisions of the dealer, without any I/O.

Rules of this folder:
1. Events in, effects out: `Reactor.handle(event, now) -> list[Effect]`. The same events give the same effects.
2. Nothing here reads a clock, a file, a queue or a random number; a test forbids the imports.
3. Time is an `Instant` handed in; deadlines are integer nanoseconds of the monotonic clock.
4. Branching on a job's or a worker's state is a table with every cell filled; "stale" is a named entry.
5. `handle` never raises on what came from outside. An assertion here means an error in this folder.

Who does what:

    reactor   routes events to the others, and ticks
    scheduler      which jobs go to which worker
    completion      how attempts end and what becomes of their jobs
    restore      what a restarted dealer makes of what it finds
    shutdown      how a dealer stops
    intake         conversations with generators: hello, submit, acknowledge, lease
    commands     what a person may ask of a running pool
    supervisor         worker processes: wanted against actual, slots, deadlines
    commits       what must be stored before it may be told, and what is told then
    backlog      the order in which jobs run
    job worker batch   the records, with their tables
    restart      when a dead worker is replaced, and when not
    counters        plain counters for the metrics
    invariants   what must hold after every step
"""
