"""A mutational fuzzer: valid documents of others, changed in one or two places, through the functions that read them.

    python -m tests.fuzz                      every target, about 100,000 inputs
    python -m tests.fuzz manifest weights     these; --inputs N of each, --seconds S at most, --seed 1 for others
    python -m tests.fuzz manifest --only 812  one input again, with its traceback

An input may be accepted or refused in a sentence. It may not end in a traceback, take more than 10 seconds or 1 GiB, end the
interpreter, start a program, open a connection, or write outside its own folder. mutations: trees.py (JSON, YAML), lines.py,
binary.py, containers.py; what is read: of_shards.py, of_runs.py, of_sources.py, of_weights.py; guard.py watches, pool.py runs.
"""
