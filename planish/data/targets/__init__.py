"""Boxes, masks and label maps, and how they move with their images."""
