"""Fair comparisons of modifications, compression techniques and ensembles."""
