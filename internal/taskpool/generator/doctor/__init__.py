"""`tp-generator doctor`: what of this host a pool would trip over, and the cure for each.

Read `row` first. `host` looks at the host and decides nothing; `queue_checks` and `host_checks` are handed what was
read and give a row for it; `examination` puts them together, prints the rows, and cures what `--fix` may.
"""
