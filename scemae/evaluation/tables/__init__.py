"""The paper's tables and figures: evaluation/tables/harness.py is the command,
evaluation/tables/measure.py what is measured, evaluation/tables/cells.py what is written down.
"""
