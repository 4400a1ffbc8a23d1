"""Run folders: the store of finished steps, running plans, saving evaluations, and opening models that the user names."""
