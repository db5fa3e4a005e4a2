"""python -m bench.start_streamed read JOB: read our batches, for `bench streams`.

streamed.py makes them. As in a command of scemae, no garbage is collected until all is imported.
"""

import json
import sys

from scemae.process import collector

if __name__ == "__main__":
    collector.stop()
    from bench import streamed
    from bench.peers.streams import Job, read, say

    collector.go_on()
    say("imported")
    job = Job(**json.loads(sys.argv[2]))
    read(job, streamed.batches(job))
