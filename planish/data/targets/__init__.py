"""Boxes, masks and label maps, and their geometric transforms."""
