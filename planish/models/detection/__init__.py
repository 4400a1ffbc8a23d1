"""Detectors: networks that return raw maps and have methods for them (``loss``, ``decode``, ``distance``)."""

from planish.models.detection.detector import Detector

__all__ = ["Detector"]
