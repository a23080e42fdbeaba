"""Where outcomes go, and what a person sees meanwhile.

Read `printer` first: it takes a batch's outcomes and writes what was asked for. It uses

    stream           standard output and error, whose reader may be slow or gone
    keep_order       `--keep-order`
    resumable_file   the files of `--results` and `--joblog`, which a later run goes on with
    output_dir       `--output-dir`: a folder for each job
    formats          what an outcome or an answer looks like: JSON, job log, words and tables
    outcome_object   the object that says how a job ended, and its JSON Schema
    job_view         what `show` prints of one job

`console` is standard error: lines for a person, and below them the bar that `progress` draws.
"""
