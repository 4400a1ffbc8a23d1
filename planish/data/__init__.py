"""Images: folders, manifests and built-in sets, split, decoded and augmented."""

from planish.data.images import (
    Decoding,
    ImageData,
    ImageSplit,
    images_per_class,
    load_images,
    load_listed,
    require_classes,
    task_in,
    tile_images,
)

__all__ = [
    "Decoding",
    "ImageData",
    "ImageSplit",
    "images_per_class",
    "load_images",
    "load_listed",
    "require_classes",
    "task_in",
    "tile_images",
]
