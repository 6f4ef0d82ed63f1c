"""Write a model for another runtime, with all that is needed to use it: names, prompt, sizes, what to do with the outputs."""
import json
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch

import ovdense
from ovdense.compat.atomic import atomic_write
from ovdense.export.networks import CannotExport, fixed_sizes, network_of
from ovdense.methods.base import OpenVocabModel

FORMATS = ("onnx", "torch")
METADATA = "ovdense"  # the key of the JSON in the file
OPSET = 18


def export(model: Any, path: str | Path, *, format: Literal["onnx", "torch"] = "onnx", fold: bool = True, size_hw: tuple[int, int] | None = None) -> Path:
    """Write the model, asked by the vocabulary that was set, for images of one size; return the path.

    `model`: an OpenVocabModel or a predictor of one. `format`: "onnx" (needs `pip install "ovdense[export]"`), or "torch" (torch.export).
    `fold`: the vocabulary goes into the file; False: the text embeddings (K, C) are an input, for models that compare places with one vector
    a class (MaskCLIP, DenseCLIP's open form): the file serves any vocabulary, its own is kept as the default. `size_hw`: height and width of the
    input, None: the config's test size with 4:3 (landscape). The input is float32 RGB of 0..255, (1, 3, H, W); the file normalises. The file says the
    names, prompt, sizes, mean and std, outputs and how they are read (`ExportedModel` does); of a predictor's names, how many of the last only compete.

    ValueError (`CannotExport`) says what cannot be exported, and why.
    """
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    rivals, model = getattr(model, "rivals", None), getattr(model, "model", model)
    if not isinstance(model, OpenVocabModel):
        raise ValueError(f"a model of ovdense, or its predictor, can be exported, got {type(model).__name__}")
    if model.vocabulary is None:
        raise ValueError("the model must know its classes first; call set_vocabulary(vocabulary)")
    size_hw, path = _size(model, size_hw), Path(path).expanduser()
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), fixed_sizes(model, size_hw):
            network, task = network_of(model, fold, size_hw)
            about = _about(model, network, task, fold, size_hw) | {"negatives": rivals.num_negatives if rivals is not None else 0}
            (_write_onnx if format == "onnx" else _write_torch)(network.eval(), path, size_hw, about)
    finally:
        model.train(training)
    return path


def _size(model: OpenVocabModel, size_hw: tuple[int, int] | None) -> tuple[int, int]:
    step = model.data_preprocessor.divisor
    if size_hw is None:
        short, most = _test_sides(getattr(model, "cfg", None))
        long = min(most, short * 4 // 3)
        size_hw = tuple(-(-v // max(step, 32)) * max(step, 32) for v in (short, long))
    if len(size_hw) != 2 or min(size_hw) < 32 or any(v % step for v in size_hw):
        raise ValueError(f"size_hw must be height and width of at least 32, multiples of {step}, got {size_hw}")
    return int(size_hw[0]), int(size_hw[1])


def _test_sides(cfg: Any) -> tuple[int, int]:
    steps = (((cfg or {}).get("test_dataloader") or {}).get("dataset") or {}).get("transforms") or ()
    for step in steps:
        if "short_sides" in step:
            return int(step["short_sides"][0]), int(step.get("max_size") or 2**20)
    raise ValueError("size_hw must be given: the model has no config with a resize among its test transforms")


def _about(model: OpenVocabModel, network: Any, task: str, fold: bool, size_hw: tuple[int, int]) -> dict[str, Any]:
    pre = model.data_preprocessor
    return {
        "format": "ovdense export 1", "version": ovdense.__version__, "model": type(model).__name__, "task": task, "folded": fold,
        "names": list(model.vocabulary.names), "background": [e.is_background for e in model.vocabulary], "prompt": model.prompt,
        "vocabulary_sha256": model.vocabulary.fingerprint(), "size_hw": list(size_hw), "input": "images: float32 RGB 0..255, (1, 3, H, W)",
        "mean": pre.mean.flatten().tolist(), "std": pre.std.flatten().tolist(), "normalised": "inside the file",
        "outputs": list(network.outputs), **network.about,
        **({} if network.text is None else {"text": network.text.tolist(), "text_width": network.text.shape[1]}),
    }


def _inputs(network: Any, size_hw: tuple[int, int]) -> tuple[tuple[torch.Tensor, ...], Any]:
    images = torch.rand(1, 3, *size_hw, device=network.model.data_preprocessor.mean.device) * 255
    if network.text is None:
        return (images,), None
    return (images, torch.cat([network.text, network.text])), ({}, {0: torch.export.Dim("classes", min=1, max=2**20)})


def _program(network: Any, size_hw: tuple[int, int]) -> torch.export.ExportedProgram:
    inputs, shapes = _inputs(network, size_hw)
    return torch.export.export(network, inputs, dynamic_shapes=shapes, strict=False)


def _write_torch(network: Any, path: Path, size_hw: tuple[int, int], about: dict[str, Any]) -> None:
    with atomic_write(path) as file:
        torch.export.save(_program(network, size_hw), file, extra_files={METADATA: json.dumps(about)})


def _write_onnx(network: Any, path: Path, size_hw: tuple[int, int], about: dict[str, Any]) -> None:
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(f'ONNX needs {" and ".join(missing)}: pip install "ovdense[export]"', name=missing[0])
    import onnx

    inputs, shapes = _inputs(network, size_hw)
    names = ["images", "text"][: len(inputs)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about its own insides
        program = torch.onnx.export(network, inputs, dynamo=True, opset_version=OPSET, input_names=names, output_names=list(network.outputs),
                                    dynamic_shapes=shapes, verbose=False)
    proto = program.model_proto
    onnx.helper.set_model_props(proto, {METADATA: json.dumps(about)})
    if proto.ByteSize() >= 2**31 - 1:
        raise CannotExport("the model is larger than 2 GB, which one ONNX file cannot hold; export fewer captions at a time, or format='torch'")
    with atomic_write(path) as file:
        file.write(proto.SerializeToString())
