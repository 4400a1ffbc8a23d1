"""Image data sets from folders, manifests and built-in names: loading, splits, decoding and augmentation."""

from planish.data.images import (
    Decoding,
    ImageData,
    ImageSplit,
    images_per_class,
    load_images,
    load_listed,
    require_classes,
    task_in,
)
from planish.data.tiling.cut import tile_images
from planish.data.unlabelled import is_unlabelled, load_unlabelled

__all__ = [
    "Decoding",
    "ImageData",
    "ImageSplit",
    "images_per_class",
    "is_unlabelled",
    "load_images",
    "load_listed",
    "load_unlabelled",
    "require_classes",
    "task_in",
    "tile_images",
]
