"""What stands on a backbone: classifiers, detectors' pyramids, segmentation heads."""
