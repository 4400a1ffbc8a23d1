"""Why a model is slow or wrong, and what to do about it."""
