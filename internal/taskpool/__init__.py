"""taskpool: a crash-proof job pool for Linux hosts.

Read docs/architecture.md first, then `core/reactor.py`. Layers; imports point one way only (tests/test_tidy.py):

    generator | dealer | worker   the three programs; none imports another
    private                       a dealer started for one batch, and its state directory
    client                        a generator's side of the protocol
    ipc procs metrics journal kinds   the edges: queues, processes, pages, storage, job kinds
    core                          decisions: events in, effects out, no I/O
    chaos durations sizes log codec certificate messages identifiers limits clock errors   what all layers share
"""

__version__ = "0.2.0"
