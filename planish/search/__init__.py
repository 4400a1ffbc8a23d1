"""The search for a model that meets a goal: deployment, screening, training, final measurement."""
