"""`python -m scemae`: the same as the `scemae` command."""

from scemae.process.import_path import leave_out_current_folder

leave_out_current_folder()

from scemae.cli import main  # noqa: E402

main()
