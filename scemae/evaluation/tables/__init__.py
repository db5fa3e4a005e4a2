"""The paper's tables and figures for trained runs.

command.py is the entry point; measured_rows.py fills the records of cells.py, grid.py lays them
out, typeset.py and tables.html print them.
"""
