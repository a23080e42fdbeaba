"""The generator: what a person types. It reads jobs, submits them, and tells their outcomes.

Its modules, by what they are about:

    main cli options            the command line, parsed and wired
    limitfields halt            what jobs may use, and when a batch gives up
    feed lines jobfile          where jobs come from
    session outbox              the conversation with the dealer: decisions only
    link conversation           the queues under it
    private                     a dealer started for one batch
    submission batch stopping   one batch: its loop, its end, and the signals that end it early
    remote present              one question to a running pool, and its answer
    printer outflow keeporder   where outcomes go, in which order
    outcome joblog              what they look like there
    console progress            what the human sees meanwhile
    tally summary               what it adds up to
"""
