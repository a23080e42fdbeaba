"""A private pool: a dealer that is started for one batch.

`process` is the dealer as a child of its client (the generator, or a program that uses `taskpool.Executor`): started,
signalled, restarted when it is killed.
`notes` are the files that say what is kept: whose the batch is, how it was begun, how its last run ended.
`state` is its state directory: which batch it belongs to, and how long it stays.
`forget` removes what is kept.
"""
