"""Reading files with size limits and checks of trust, and writing them atomically."""
