"""Cutting large images into overlapping tiles, and merging the predictions on tiles."""
