"""This machine, and the processes in which models are loaded and timed."""
