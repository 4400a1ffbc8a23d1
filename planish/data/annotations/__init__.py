"""Readers of annotations: COCO JSON, Pascal VOC XML, YOLO text files and mask images."""
