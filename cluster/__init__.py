"""Scripts and commands that start scemae as jobs of a cluster, imported as scemae.cluster.

They use scemae by its command line, the environment and the exit status alone.
"""
