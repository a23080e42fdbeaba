"""The decisions of the dealer, without any I/O. Read `reactor` first, then `job` and `worker` for the two tables.

Rules of this folder:
1. Events in, effects out: `Reactor.handle(event, now) -> list[Effect]`. The same events give the same effects.
2. Nothing here reads a clock, a file, a queue or a random number; a test forbids the imports.
3. Time is an `Instant` handed in; deadlines are integer nanoseconds of the monotonic clock.
4. Branching on a job's or a worker's state is a table with every cell filled, stale events too.
5. `handle` never raises on what came from outside. An assertion here means an error in this folder.
6. An object's attributes are written by its own methods; a record is declared once, in `entries`.

A job on its way:

    clients      connections of generators: hello, lease, bye
    intake       jobs in: taken in order, or refused
    backlog      the order in which they wait
    scheduler    which job goes to which worker, and which share a frame
    pacing       a pause between starts
    supervisor   worker processes: wanted against actual, slots, deadlines
    respawn      when a dead worker is replaced, and when not
    completion   how attempts end, and what becomes of their jobs
    delivery     outcomes out: sent within a window, acknowledged
    reruns       new runs for jobs that have ended badly

What they share:

    state        the pool's state, and the effects of the present step
    job frame worker attempt batch   the objects, each the only writer of its own
    events effects             what happened, and what is to be done
    storage      questions to the store, each beside its answer
    entries      what the store keeps: records, and the entries that change them
    commits      what must be stored before it may be told
    metric counters gauges     declared metrics: what is counted, and what is computed for a page

Beside the way:

    commands     what a person may ask of a running pool
    recovery     what a dealer takes over from the one before
    shutdown     how a dealer stops
    invariants   what must hold after every step; called by tests and the simulator
"""
