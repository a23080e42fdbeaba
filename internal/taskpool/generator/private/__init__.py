"""A private pool: a dealer that is started for one batch.

`process` is the dealer as a child of the generator: started, signalled, restarted when it is killed.
`state` is its state directory: which batch it belongs to, and how long it stays.
"""
