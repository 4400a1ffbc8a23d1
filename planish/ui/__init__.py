"""A local page on which runs are looked at, compared, started, stopped and resumed."""
