"""Processes with limits, in which foreign files are read."""
