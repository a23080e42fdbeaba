"""How the three programs exchange messages: named POSIX message queues, and files for what does not fit them.

Read `queue` first: what a queue guarantees. docs/protocol.md, 3 and 4, is the reference.

- queue: the interface of a queue and of the namespace that it is found in
- mqueue: the kernel's queues (the only importer of posix_ipc)
- memory: the same interface without a kernel, for tests and simulation
- names: what the queues of a pool are called, and the names that a killed dealer left
- dead_pools: what killed pools left: found, and taken away
- sizing: how large the queues may be under the kernel's limits
- spool: files for messages larger than their queue
- held_reports: what a worker has not sent yet, in memory that its dealer reads when it dies
"""
