"""This machine, devices, and workers."""
