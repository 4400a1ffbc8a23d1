"""Low-rank factorization of layers."""
