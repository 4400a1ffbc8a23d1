"""Heads on a backbone: classifiers, feature pyramids of detectors, segmentation heads."""
