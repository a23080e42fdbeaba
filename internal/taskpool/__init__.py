"""taskpool: a crash-proof job pool for Linux hosts.

Layers, imports point one way only:

    generator | dealer | worker   the three programs; none imports another
    ipc procs metrics journal kinds   the edges: queues, processes, pages, storage, job kinds
    core                          decisions: events in, effects out, no I/O
    chaos durations log codec messages limits clock errors ids   words everybody shares
"""

__version__ = "0.2.0"
