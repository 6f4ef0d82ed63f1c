"""Annotations in and out: COCO, YOLO, Pascal VOC, LabelMe, CVAT over one neutral record.

    from ovdense.interchange import read_annotations, write_annotations
    data = read_annotations("instances.json")            # the format is recognised, or format="coco"
    write_annotations(data, "out", "labelme")
"""
from ovdense.interchange.formats import FORMATS, guess_format, read_annotations, write_annotations
from ovdense.interchange.labelme import to_labelme
from ovdense.interchange.records import AnnotatedImage, AnnotatedObject, AnnotationSet, Mask, record_of_results

__all__ = ["FORMATS", "AnnotatedImage", "AnnotatedObject", "AnnotationSet", "Mask", "guess_format", "read_annotations", "record_of_results", "to_labelme",
           "write_annotations"]
