"""Images: folders, manifests and built-in sets, split, decoded and augmented."""

from planish.data.images import ImageData, ImageSplit, load_images

__all__ = ["ImageData", "ImageSplit", "load_images"]
