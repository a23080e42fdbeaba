"""The generator: what a person types. It reads jobs, submits them, and writes their outcomes.

Read `main` first, then `submit` (how one batch is put together) and `run` (what happens in each turn of its loop).

    main  parser  options     the command line, parsed and checked
    examples                  what its help shows
    settings                  what stands below it: variables, taskpool.toml
    dealer_values             those of a private dealer, checked before it is started
    job_limits  halt          what a job may use; when a batch gives up, or has enough
    input/  source            where jobs come from
    submit  run  result       one batch: its parts, its turns, how it ended
    cluster_run               all of that for a pool that several hosts share
    totals  failures          what its outcomes add up to; jobs that did not succeed
    pace  pool_watch          how fast it goes; what the pool does meanwhile
    signals                   the signals that end it early
    resume  advice            a kept batch: gone on with; what a person is told of it
    rerun  selection  new_runs  jobs that ended badly: chosen, asked for again, waited for
    completion                what a shell offers for a word
    batches                   which batches there are, and forgetting them
    top/                      running pools, live, at a terminal
    doctor/                   what of this host a pool would trip over
    selftest/                 whether this installation keeps its promise, tried with real kills
    admin  queries            commands to a running pool; questions: wait, results, logs
    output/                   where outcomes go, and what a person sees meanwhile

The connection with the dealer is `taskpool.client`; a dealer started for one batch is `taskpool.private`.
"""
