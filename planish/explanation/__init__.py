"""Where a model's time and error go, why, and what to do about it."""
