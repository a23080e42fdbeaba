"""The Python interface: `taskpool.Executor`, a `concurrent.futures.Executor` whose calls are jobs of a pool.

Read `executor` first, then `loop`, whose docstring says which thread does what.

    executor   Executor: submit, map, shutdown, options
    options    what an Executor and its calls are limited to, checked
    future     the future of one call: its cancel ends a running job
    errors     what a future raises when the pool, not the function, ends a call
    call       one call on its way: pickled, and put into a job
    loop       the background thread: calls in, outcomes out
    result     what an outcome means for its future
    link       the pool it uses: its own dealer or a named one, and the connection
    known      calls of an earlier run of the program, by what they are
    lifetime   what the end of the interpreter and a fork mean for it

`import taskpool` loads none of this: the names that it exports are looked up here when they are first used.
"""
