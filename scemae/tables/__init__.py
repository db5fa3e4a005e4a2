"""The paper's tables and figures: harness.py is the command, measure.py what is measured, cells.py what is written down."""
