"""Requests and answers: bodies, protocols, keys, limits."""
