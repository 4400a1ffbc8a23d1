"""The space of networks that an architecture search chooses from."""
