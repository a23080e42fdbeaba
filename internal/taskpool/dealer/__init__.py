"""tp-dealer: the thin shell around the core.

main options      the command line, and the configuration behind it
start             locks, orphans, queues: in the order that makes a start safe
platform host      what a dealer needs of its platform, and the real one
loop              wait, collect events, let the core decide, perform: nothing else
ingress              bytes from a queue become events, or are refused and counted
perform           one small method per effect
processes             worker processes: started, signalled, buried
queues            the dealer's own three
reply_queues           the reply queues of generators, and what waits for room in them
log        notes become lines of the log
sparing           warnings that anybody can cause, and not as many as he likes
herald pages      what the service manager is told, and whoever asks over HTTP
health journal    `--health`, and the journal's tools: programs of their own
"""
