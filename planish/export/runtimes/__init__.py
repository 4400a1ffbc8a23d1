"""The runtimes that run exported files, each behind one protocol."""
