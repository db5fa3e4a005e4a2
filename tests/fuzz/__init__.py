"""A fuzzer: it changes valid documents in a few places and calls what reads them.

    python -m tests.fuzz                      every target, more than 110,000 inputs
    python -m tests.fuzz manifest weights     these targets
    python -m tests.fuzz --inputs 50          50 inputs of each target
    python -m tests.fuzz --seed 1             other inputs
    python -m tests.fuzz --seconds 300        at most so long
    python -m tests.fuzz manifest --only 812  one input again, with its traceback

An input may be accepted, or refused in a sentence. It may not end in a traceback, take more than 10
seconds or 1 GiB, end the interpreter, start a program, open a connection, or write outside its own
folder.

Changes: trees.py (JSON, YAML), lines.py, binary.py, containers.py. What is read: of_shards.py,
of_runs.py, of_sources.py, of_weights.py, of_photographs.py. place.py holds the files of one input,
guard.py watches it, pool.py runs many.
"""
