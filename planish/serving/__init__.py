"""HTTP service for bundles."""
