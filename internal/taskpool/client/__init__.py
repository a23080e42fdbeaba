"""The protocol client: what talks to a dealer over its queues. docs/protocol.md, section 6, is the text it follows.

Read `connection` first: its `run_until` is the one loop that receives, sends and waits. Around it:

    session       the connection as a state machine: hello and welcome, liveness, commands; pure
    turn          what a connection waits for because others have it; pure
    submissions   jobs on their way in, a go-back-N window; pure
    deliveries    outcomes on their way out, in order and acknowledged; pure
    unreachable   why it cannot go on with its dealer, in words
    transport     the queues and the spool under a session
    opening       a connection of this process with a dealer of this machine
    queries       questions that change nothing: where a batch stands, what its outcomes are

It imports nothing of the generator. Notices, signals and the supervision of a private dealer are handed in, so that a
program of any kind, and any thread of it, can hold a connection.
"""
