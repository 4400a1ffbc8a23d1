"""From a goal to a model: deploy, screen, halve, finish."""
