"""The runtimes for exported files, all with the same protocol."""
