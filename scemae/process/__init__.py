"""What surrounds a program while it runs: streams, signals, progress bars, the import path."""
