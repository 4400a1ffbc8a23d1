"""Measurements on real images; see ``run.py`` and ``peers``."""
