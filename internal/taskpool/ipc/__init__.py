"""How the three programs talk: named POSIX message queues, and files for what does not fit them.

- names: what the queues of a pool are called
- budget: how large they may be under the kernel's limits
- queue: what a queue promises, whoever implements it
- mqueue: the kernel's queues (the only importer of posix_ipc)
- memory: the same promises without a kernel, for tests and simulation
- spool: files for messages larger than their queue
- leftovers: names of worker queues that a killed dealer left, and taking them away
"""
