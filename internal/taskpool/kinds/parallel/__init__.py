"""The input language of GNU parallel: which jobs the command line of `tp-generator command` means.

    language     read this first: a command line becomes a `Source` of jobs
    options      its options, and what they mean together
    words        the template, and the inputs behind `:::` and its relatives
    inputs       the values of one input: a list, a file, the file that is read as the jobs run
    records      one value of each input: all combinations, or linked; columns; headers
    blocks       a stream that is cut, for the standard input of jobs (`--pipe`)
    packing      how many records make a job
    suspects     words that look like something which is not there, or is meant for a shell
    absent       what GNU parallel has and this program has not, with the way to do it here

All but reading files is pure, and a stream: of all inputs but the first the values are kept, of their combinations and
of the first input nothing. A stream of values or records has None before each item that takes a line of the file that
is read as the jobs run (see `Source.expands`).

Loaded by the generator alone: a worker has no use for it.
"""
