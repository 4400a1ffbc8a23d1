"""Commands for controlled comparisons: compression techniques, training settings, ensembles."""
