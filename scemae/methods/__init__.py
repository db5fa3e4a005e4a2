"""The rivals that the paper compares with, one file each: rivals.py says what such a file has, and finds it by its name."""
