"""Models for other runtimes: ONNX, or torch.export, with the vocabulary folded in or the text embeddings as an input.

    from ovdense.export import ExportedModel, export
    model.set_vocabulary(["cat", "a red chair"])
    export(model, "cats.onnx", size_hw=(480, 640))      # or format="torch"
    results = ExportedModel("cats.onnx")("photo.jpg")
"""
from ovdense.export.running import ExportedModel
from ovdense.export.writing import FORMATS, export

__all__ = ["FORMATS", "ExportedModel", "export"]
