"""HTML pages and terminal tables for each kind of result."""
