"""The same pool past one host: what stands between one dealer and the engine that several share (docs/cluster.md).

Each host runs a dealer of its own; beside its loop a bridge takes jobs from the engine, submits them to the dealer as
any generator would, and records what becomes of them. Nothing of it is in the dealer's core.

Read `engine` first: what can be asked of the engine, as data. Then:

    subjects      names of streams and subjects, their settings, the address; the only file that spells them
    job           a job of the cluster as bytes and as a local job, and the mark that leads from one to the other
    demand        how many jobs a member asks for; pure
    member        what a member does with what it holds; pure
    local_batch   where a member's jobs are in the local dealer, from one life to the next
    bridge        the thread that is a client of both, and does what `member` decides
    profile       whether the brokers keep what they accept; pure
    nats_connection   the engine as NATS JetStream: a loop in a thread, streams made and judged
    opening       a connection begun, where the client library is there
    nats_calls    each request as calls of it
    submission    a submitter's side: jobs to the engine, outcomes from it; pure
    memory        an engine in memory, for tests, whose connections fail as they are told
"""
