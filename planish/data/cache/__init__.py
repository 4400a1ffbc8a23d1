"""On-disk cache of decoded images, keyed by content."""
