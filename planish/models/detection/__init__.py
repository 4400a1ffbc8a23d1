"""Detectors: networks that return raw maps, and read them themselves (``loss``, ``decode``, ``distance``)."""

from planish.models.detection.detector import Detector

__all__ = ["Detector"]
