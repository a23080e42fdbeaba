"""Where jobs come from. Read `feed` first: it hands them on a frame at a time, from arguments, a file or a pipe.

    feed         the jobs of one batch, checked before anything runs where that is possible
    lines        lines of a file or a pipe, as they come
    jobs_file    lines that are job objects of any kind, and their JSON Schema

Lines of one kind (`tp-generator command`, `tp-generator python`) are read by that kind: see `taskpool.kinds`.
"""
