"""Processes: start them, see their death, reap them, and leave none behind.

All knowledge of pids, signals, /proc and the pool's lock file is in this package. It decides nothing about jobs.
Read `process_tree` first: how the descendants of a worker are found and ended is the hard part; then `orphans`, which
ends what an earlier dealer left, by its `control_group` among other traces. Then `reap` and `spawn`; `prctl`, `signals`
and `garbage` are what a process sets for itself and its children, `procfs`, `cpus` and `wait` what others look with;
`memory` and `oom` tell of a lack of memory, `niceness` is what a process is started with.
`state_dir`, `pool_lock` and `files` are about the disk, `settings` are what files and variables configure,
`writer` is about standard error.
"""
