"""Run folders: their store, the steps that are finished, and the models that somebody names."""
