"""Where files run and are timed: this machine, and the processes that are timed on it."""
