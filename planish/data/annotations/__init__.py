"""Readers of annotations: boxes and masks in COCO's, Pascal VOC's and YOLO's files, and mask images."""
