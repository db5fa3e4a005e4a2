"""A real Slurm of several virtual nodes on this machine, for tests; see rig.py."""
