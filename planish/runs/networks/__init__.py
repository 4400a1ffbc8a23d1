"""Networks that are compared as exported files and by short trainings."""
