"""The trials of a search: which levels are screened, which trials are trained, and for how long."""
