"""Reading and writing files: within bounds, whole, and only what may be trusted."""
