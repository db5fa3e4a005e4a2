"""`python -m scemae`: the same as the `scemae` command."""

from scemae.cli import main

main()
