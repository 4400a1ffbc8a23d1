"""Fair comparisons: modifications, techniques of compression, ensembles."""
