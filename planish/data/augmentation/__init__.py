"""Augmentation of training images and of their boxes, masks and label maps."""
