"""tp-dealer: the thin shell around the core.

options   what the command line and the configuration file say
start     locks, orphans, queues: in the order that makes a start safe
loop      wait, collect events, let the core decide, perform: nothing else
door      bytes from a queue become events, or are refused and counted
perform   one small method per effect
staff     worker processes: started, signalled, buried
replies   the reply queues of generators, and what waits for room in them
transcript   notes become lines of the log
"""
