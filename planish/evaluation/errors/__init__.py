"""Error analysis: errors by kind and cost, confident errors, and labels that are probably wrong."""
