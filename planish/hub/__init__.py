"""Bundles in repositories of the Hugging Face Hub, with a model card made from their measurements."""
