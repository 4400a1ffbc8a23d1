"""What a runtime executed, layer by layer."""
