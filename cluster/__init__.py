"""Scripts that start scemae on a Slurm cluster; they and scemae meet only in a command line, the environment and an
exit status. Imported as scemae.cluster."""
