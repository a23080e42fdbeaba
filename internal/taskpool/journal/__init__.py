"""Where accepted jobs and their outcomes are kept. Read `store` first: it is all that the dealer knows of this folder.

store        the interface: requests in, answers out
memory       the store of a pool without a journal
sqlite       the store of a pool with one; hands each request to
thread       the one thread that uses the file, which runs
engine       group commits, reads, a full disk, the end of a life
statements   what is written to the tables and read from them
sql          the text of the statements for it
coalesce     what a run of entries comes to, so that each job is written once
encoding     records as bytes with a checksum
schema       the tables and their version
wal          SQLite's write-ahead log, read without SQLite
seal         what the files must hold, so that damage is noticed
indexes      whether each index has all rows, and how one is built anew
file         how the file is made, opened, checked and closed
trouble      what is wrong with a journal, in words that help
retention    what is let go of, and when
ballast      disk space held back for a full disk
tools        what a person does with a journal while no dealer has it open
"""
