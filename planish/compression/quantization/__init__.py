"""Fewer bits: after training, during training, and with learned rounding."""
