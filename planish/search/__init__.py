"""The search for a model that meets a goal: deployment, screening, successive halving, final measurement."""
