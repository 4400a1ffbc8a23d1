"""Devices that are reached over ssh: only Python 3.9, numpy and a runtime are needed there."""
