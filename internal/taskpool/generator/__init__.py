"""The generator: what a person types. It reads jobs, submits them, and tells their outcomes.

Its modules, by what they are about:

    main cli options            the command line, parsed and wired
    limitfields halt            what jobs may use, and when a batch gives up
    feed lines jobfile          where jobs come from
    session submissions              the connection with the dealer: decisions only
    transport connection           the queues under it
    private private_state                a dealer started for one batch, and where it keeps its state
    batch submission            one batch: its parts, and its loop
    ending stopping resuming    how it ended, the signals that end it early, and how another run goes on with it
    remote present              one question to a running pool, and its answer
    queries reading             questions that may be asked again: wait, results, logs
    printer outflow keeporder   where outcomes go, in which order
    linefile                    the files among those places
    outcome joblog              what they look like there
    console progress            what the human sees meanwhile
    totals summary               what it adds up to
"""
