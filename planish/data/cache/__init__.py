"""Decoded images on disk: made once, found again by content."""
