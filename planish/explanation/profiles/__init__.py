"""Profiles of the layers that a runtime executed."""
