"""The options of the commands that take no settings: one file each, which imports nothing heavy.

A file has `add_arguments(parser)`; HELP, where the docstring of the command's module is not its
help text; and READS, the arguments whose paths must be there before the command's module is
imported. `scemae COMMAND --help` reads these files alone.
"""
