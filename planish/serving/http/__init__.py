"""HTTP requests and responses: bodies, protocols, keys, limits."""
