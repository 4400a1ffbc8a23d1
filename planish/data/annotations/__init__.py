"""Readers of annotations: boxes and masks in COCO's files, boxes in Pascal VOC's."""
