"""The generator: what a person types. It reads jobs, submits them, and tells their outcomes.

    main cli options          the command line, parsed and wired
    limitfields halt          what a batch may use, and when it stops
    feed jobfile lines        where jobs come from
    session link              the conversation with the dealer: decisions, and the queues under them
    private                   a dealer started for one batch
    submission ending remote  the one loop for a batch; its last words; commands to a running pool
    outcome printer outflow   what an outcome looks like, and where it goes
    joblog keeporder          ... in which order and format
    console progress present  what the human sees
    tally summary             what is counted
"""
