"""Commands that sign, verify, serve and monitor bundles."""
