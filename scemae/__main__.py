"""`python -m scemae`: the same as the `scemae` command."""

from scemae.module_path import leave_out_current_folder

leave_out_current_folder()

from scemae.cli import main  # noqa: E402: what it imports must not come from the current folder

main()
