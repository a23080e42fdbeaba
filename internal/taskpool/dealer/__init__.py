"""tp-dealer: a thin shell around the core. It waits, turns bytes into events, and performs the effects that come back.

Read `loop` first: a turn of the dealer, from the wait to the effects. Then `ingress` and `performer`, the two sides of
the core, and `takeover` for how a dealer begins where another has died.

main options      the command line, and the configuration behind it
examples          what its help shows
dealer            assembly and teardown: which part is made when, and in which order they end
takeover          locks, orphans and late reports: what makes a start safe, behind what killed pools have left
loop              one thread that waits, receives, lets the core decide, performs
ingress           bytes from a queue become events, or are refused and counted
performer         one small method per effect
processes         worker processes: started, signalled, reaped
slot_usage        what the worker in each slot uses, for the pages
template          the process that workers are copied from
platform linux    what a dealer needs of the operating system, and the real one; the simulator has another
input_queues      intake, control and events, which the dealer reads
reply_queues      the queues of generators, and what waits for room in them
log               the core's notes as lines, and a limit for warnings that other processes cause
membership        `--cluster`: begins and ends the bridge of `taskpool.cluster`
systemd           readiness and watchdog for a service manager
http              which numbers the HTTP server of `taskpool.metrics` shows, and its two probes
health            `--health`: asks a running dealer; a program of its own
cluster_cli       `tp-dealer cluster`: looks at the brokers; a program of its own
journal_cli       `tp-dealer journal`: works on the journal of a pool that is down; a program of its own
"""
