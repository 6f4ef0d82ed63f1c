"""Run an exported file as its model would be run: the reference for other runtimes, and the check that a file is right."""
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ovdense.compat.images import ImageLike, load_image
from ovdense.export.writing import METADATA
from ovdense.heads.decode import select_detections
from ovdense.heads.segment import resized
from ovdense.rivals import Rivals, settled
from ovdense.structures import Results, Vocabulary


class ExportedModel:
    """A file of `export`, by onnxruntime or torch.export (told by its content).

    `about`: what the file says of itself; `names`: its classes without negatives, which never come back, as from a predictor. Images of
    another shape are fitted into the file's size, upper left, the rest is the mean colour; results are in pixels of the image.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"an exported model must be an existing file, got {path}")
        with open(path, "rb") as file:
            torch_file = file.read(2) == b"PK"
        self._run, about = (_torch_runner if torch_file else _onnx_runner)(path)
        try:
            self.about: dict[str, Any] = json.loads(about or "")
        except json.JSONDecodeError:
            raise ValueError(f"{path} must be a file of ovdense.export.export, it does not say what it is") from None
        self._asked: tuple[str, ...] = tuple(self.about["names"])
        self._num_negatives: int = self.about.get("negatives", 0)
        self.size_hw: tuple[int, int] = tuple(self.about["size_hw"])
        self._text = np.asarray(self.about["text"], dtype=np.float32) if "text" in self.about else None
        self._background = list(self.about["background"])

    @property
    def names(self) -> tuple[str, ...]:
        return self._asked[: len(self._asked) - self._num_negatives]

    def set_text(self, names: Sequence[str], text_KC: np.ndarray, background: Sequence[bool] | None = None) -> None:
        """Look for other classes: their embeddings (K, C), of the model's own text encoder. For files that were exported with fold=False."""
        if self._text is None:
            raise ValueError("the vocabulary is folded into this file; export the model with fold=False for one that takes others")
        text_KC = np.asarray(text_KC, dtype=np.float32)
        if text_KC.shape != (len(names), self.about["text_width"]):
            raise ValueError(f"text_KC must have shape {(len(names), self.about['text_width'])}, got {text_KC.shape}")
        background = [False] * len(names) if background is None else [bool(b) for b in background]
        if len(background) != len(names):
            raise ValueError(f"background must say of each of the {len(names)} classes whether it is one, got {len(background)}")
        self._asked, self._num_negatives, self._text, self._background = tuple(names), 0, text_KC, background

    def outputs(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Return the file's outputs by name for (1, 3, H, W) float32 RGB of 0..255, of the file's size."""
        given = {"images": np.ascontiguousarray(images, dtype=np.float32)}
        if self._text is not None:
            given["text"] = self._text
        return dict(zip(self.about["outputs"], self._run(given), strict=True))

    def __call__(self, image: ImageLike, score_thr: float = 0.0) -> Results:
        """Return what is found in one image."""
        rgb = load_image(image)
        size_hw, used = rgb.shape[:2], self._used(rgb.shape[:2])
        out = {name: torch.from_numpy(np.array(value)) for name, value in self.outputs(self.fitted(rgb)).items()}
        if self.about["task"] == "label map":
            return self._settled(self._label_map(out["scores"][0], used, size_hw))
        found = self._desco(out, used) if self.about["task"] == "desco" else self._mdetr(out)
        boxes, scores, labels = (torch.cat(column) for column in zip(*found))
        order = scores.argsort(descending=True, stable=True)[: self.about["decode"]["max_dets"]]
        boxes = boxes[order] * boxes.new_tensor([size_hw[1] / used[1], size_hw[0] / used[0]] * 2)
        results = Results(boxes_xyxy=boxes, scores=scores[order], labels=labels[order], names=self._asked, size_hw=size_hw)
        return self._settled(results).inside().above(score_thr)  # in a predictor's order: negatives compete by whole boxes

    def _settled(self, results: Results) -> Results:
        if not self._num_negatives:
            return results
        return settled(results, Rivals(asked=Vocabulary.of(self._asked), num_negatives=self._num_negatives), self._background)

    def _used(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        scale = min(have / want for have, want in zip(self.size_hw, size_hw))
        return tuple(min(have, max(1, round(v * scale))) for v, have in zip(size_hw, self.size_hw))

    def fitted(self, rgb: np.ndarray) -> np.ndarray:
        """Return an image (H, W, 3) uint8 as the file's input, (1, 3, H, W) float32: resized to fit (bilinear), the rest the mean colour."""
        used = self._used(rgb.shape[:2])
        if used != rgb.shape[:2]:
            rgb = np.asarray(Image.fromarray(rgb).resize(used[::-1], Image.Resampling.BILINEAR))
        whole = np.empty((1, 3, *self.size_hw), dtype=np.float32)
        whole[:] = np.asarray(self.about["mean"], dtype=np.float32)[None, :, None, None]
        whole[0, :, : used[0], : used[1]] = rgb.transpose(2, 0, 1)
        return whole

    def _label_map(self, score_KHW: torch.Tensor, used: tuple[int, int], size_hw: tuple[int, int]) -> Results:
        if self._text is not None and self.about.get("background_thr") is not None:
            score_KHW[torch.tensor(self._background)] = self.about["background_thr"]
        full = resized(resized(score_KHW[None], self.size_hw)[..., : used[0], : used[1]], size_hw)[0]
        return Results.of_label_map(full.argmax(0), self._asked)

    def _desco(self, out: dict[str, torch.Tensor], used: tuple[int, int]) -> list[tuple[torch.Tensor, ...]]:
        decode, group = self.about["decode"], torch.tensor(self.about["group_of_class"])
        classes, found = torch.tensor(self.about["classes"]), []
        for g in range(len(out["boxes"])):
            columns = (group == g).nonzero()[:, 0]
            box, score, label = select_detections(
                out["scores"][:, columns], out["centerness"][g], out["boxes"][g], self.about["num_per_level"], used, score_thr=decode["score_thr"],
                pre_nms=decode["pre_nms"], nms_iou=decode["nms_iou"], max_dets=decode["chunk_dets"], published=decode["published"])
            found.append((box, score, classes[columns][label]))
        return found

    def _mdetr(self, out: dict[str, torch.Tensor]) -> list[tuple[torch.Tensor, ...]]:
        group, classes, thr = torch.tensor(self.about["group_of_class"]), torch.tensor(self.about["classes"]), self.about["decode"]["score_thr"]
        slot, column = (out["scores"] > thr).nonzero(as_tuple=True) if thr > 0 else torch.ones_like(out["scores"]).nonzero(as_tuple=True)
        return [(out["boxes"][group[column], slot], out["scores"][slot, column], classes[column])]


def _onnx_runner(path: Path):
    try:
        import onnxruntime
    except ImportError as error:
        raise ModuleNotFoundError('ONNX files are run by onnxruntime: pip install "ovdense[export]"', name="onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ValueError(f"{path} cannot be read as ONNX: {str(error)[:200]}") from None
    return lambda given: session.run(None, given), session.get_modelmeta().custom_metadata_map.get(METADATA)


def _torch_runner(path: Path):
    extra = {METADATA: ""}
    try:
        with open(path, "rb") as file:
            program = torch.export.load(file, extra_files=extra).module()
    except (RuntimeError, KeyError, AssertionError, ValueError, OSError) as error:
        raise ValueError(f"{path} cannot be read as a program of torch.export: {str(error)[:200]}") from None

    def run(given: dict[str, np.ndarray]) -> list[np.ndarray]:
        with torch.no_grad():
            out = program(*map(torch.from_numpy, given.values()))
        return [t.numpy() for t in (out if isinstance(out, tuple | list) else (out,))]

    return run, extra[METADATA]
