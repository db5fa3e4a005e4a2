"""The command line: the table of commands, their help texts and the parser of their options."""
