"""Planish makes convolutional networks accurate, small and fast, and proves it by measurement."""
