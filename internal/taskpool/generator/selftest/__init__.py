"""`tp-generator selftest`: a pool of its own, real kills, and an audit of what became of each job.

It uses the installed programs as a person does, and judges them by three records that agree or do not: what the jobs
themselves wrote down, what was told to the one who submitted them, and what the journal has. It never judges by time.

Read `plan` first: from a seed, what each job does and who is killed when.

    plan        the jobs and the blows of one seed; pure
    workload    what a job does, inside a worker
    programs    programs of this package as processes, and what they leave on this host
    trial       the pool is started, fed, struck, and asked for its records
    records     the three records, read
    audit       the judgement; pure
    selftest    the command, and what is told to people and programs
"""
