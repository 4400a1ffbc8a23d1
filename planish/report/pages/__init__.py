"""The HTML pages and tables of each job."""
