"""The embedded data set: scenes of shapes in LVIS v1 form, made by the package on first use.

Small scenes whose classes are told apart by description: several objects of an image share the noun and differ in
one attribute. `shapes_scene` says what is in them, `shapes_draw` draws, this file writes the folder:
`annotations/shapes_{train,val}.json` and `images/{train,val}/000001.png`.
"""
import contextlib
import json
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from ovdense.compat.paths import cache_root
from ovdense.data.shapes_scene import ATTRIBUTES, IMAGE_PX, Scene, ShapeCategory, compose_scene, plan_scenes, shape_categories, sibling_indices, stream

VERSION = 1
NUM_TRAIN, NUM_VAL = 1000, 200
NUM_WORKERS = 2
NUM_OTHER_NEGATIVES: int | None = 24
RELATION_MARGIN_PX = 32.0
POLYGON_TOLERANCE_PX = 0.6
MARKER = "finished.json"
STALE_SECONDS = 3600.0
_ZOOM = 4


def ensure_shapes(seed: int = 0, root: str | Path | None = None) -> Path:
    """Return the folder of the data set for `seed`, made first where it is not there.

    It lies in `root`, by default `cache_root() / "shapes"`. A making that was interrupted leaves no such folder and is
    redone; when two processes make it at once, both get the same finished folder.
    """
    return make_shapes(Path(root or cache_root() / "shapes") / f"v{VERSION}-seed{seed}", seed, NUM_TRAIN, NUM_VAL)


def make_shapes(folder: str | Path, seed: int, num_train: int, num_val: int, num_workers: int = NUM_WORKERS) -> Path:
    """Return `folder` holding `num_train` and `num_val` scenes; the files depend on seed and numbers, not on `num_workers`.

    A finished folder of the same seed and numbers is kept as it is; a folder that holds anything else is never
    overwritten: ValueError.
    """
    if seed < 0 or min(num_train, num_val) < 0:
        raise ValueError(f"seed, num_train and num_val must be at least 0, got {seed}, {num_train}, {num_val}")
    folder = Path(folder)
    content = {"version": VERSION, "seed": seed, "num_train": num_train, "num_val": num_val}
    if _is_finished(folder, content):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(folder)
    building = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", suffix=".part", dir=folder.parent))
    try:
        building.chmod(0o755)
        _write_all(building, seed, {"train": num_train, "val": num_val}, num_workers)
        (building / MARKER).write_text(json.dumps(content))
        _move_in(building, folder, content)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return folder


def _is_finished(folder: Path, content: dict) -> bool:
    """Return whether `folder` is the finished data set `content`; False where nothing is there; ValueError for anything else."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        found = json.loads((folder / MARKER).read_text())
    except (OSError, ValueError):
        found = "no readable " + MARKER
    if found != content:
        raise ValueError(f"{folder} must be empty or hold the shapes data set {content}, got {found}; delete it or choose another folder")
    return True


def _move_in(building: Path, folder: Path, content: dict) -> None:
    try:
        os.replace(building, folder)
    except OSError:
        if not _is_finished(folder, content):  # else another process was first, with the same files
            raise


def _remove_stale(folder: Path) -> None:
    """Remove what killed processes left beside `folder` long ago."""
    for part in folder.parent.glob(f".{folder.name}-*.part"):
        with contextlib.suppress(OSError):
            if time.time() - part.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(part, ignore_errors=True)


def _write_all(folder: Path, seed: int, numbers: dict[str, int], num_workers: int) -> None:
    jobs = []
    for split, number in numbers.items():
        (folder / "images" / split).mkdir(parents=True)
        jobs += [(folder, seed, split, k, categories) for k, categories in enumerate(plan_scenes(seed, split, number))]
    entries: dict[str, list[tuple[dict, list[dict]]]] = {split: [] for split in numbers}
    with _progress(len(jobs)) as advance:
        for job, entry in zip(jobs, _run(jobs, num_workers)):
            entries[job[2]].append(entry)
            advance()
    (folder / "annotations").mkdir()
    categories = _lvis_categories([annotations for _, annotations in entries.get("train", [])])
    for split, found in entries.items():
        annotations = [a for _, part in found for a in part]
        for n, annotation in enumerate(annotations, start=1):
            annotation["id"] = n
        text = json.dumps({"info": {"description": f"ovdense shapes v{VERSION}, seed {seed}, {split}", "version": str(VERSION)},
                           "licenses": [], "images": [image for image, _ in found], "annotations": annotations, "categories": categories})
        (folder / "annotations" / f"shapes_{split}.json").write_text(text)


def _run(jobs: Sequence[tuple], num_workers: int) -> Iterator[tuple[dict, list[dict]]]:
    """Yield each job's result in order, from forked workers where that works; else (no fork, or inside a worker) one after another."""
    workers = min(num_workers, os.cpu_count() or 1, len(jobs) // 8)
    if workers < 2 or "fork" not in multiprocessing.get_all_start_methods() or multiprocessing.current_process().daemon:
        yield from map(_write_scene, jobs)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), initializer=cv2.setNumThreads, initargs=(0,)) as pool:
        yield from pool.map(_write_scene, jobs, chunksize=8)


@contextlib.contextmanager
def _progress(total: int) -> Iterator:
    """Give a function that counts one image; draws a bar on a terminal only."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"making the shapes data set ({total} images)", total=total)
        yield lambda: bar.advance(task)


def _write_scene(job: tuple[Path, int, str, int, tuple[int, ...]]) -> tuple[dict, list[dict]]:
    """Write one picture and return its LVIS image entry and annotations (their ids are given later)."""
    folder, seed, split, index, categories = job
    scene = compose_scene(seed, split, index, categories)
    name = f"{split}/{index + 1:06d}.png"
    if not cv2.imwrite(str(folder / "images" / name), scene.image[..., ::-1]):
        raise OSError(f"cannot write {folder / 'images' / name}; is the disk full?")
    image = {
        "id": index + 1, "file_name": name, "coco_url": f"shapes://{name}", "width": IMAGE_PX, "height": IMAGE_PX,
        "neg_category_ids": _negatives(scene.categories, stream(seed, split, index + 1, 1)), "not_exhaustive_category_ids": [],
    }
    return image, _annotations(scene, image["id"])


def _negatives(present: Sequence[int], generator: np.random.Generator) -> list[int]:
    """Return the ids of absent categories to list: all whose noun is in the image, and NUM_OTHER_NEGATIVES others (None: all)."""
    table = shape_categories()
    nouns = {table[k].noun for k in present}
    hard = [c.index for c in table if c.noun in nouns and c.index not in present]
    others = [c.index for c in table if c.noun not in nouns]
    if NUM_OTHER_NEGATIVES is not None:
        others = generator.permutation(others)[:NUM_OTHER_NEGATIVES].tolist()
    return sorted(k + 1 for k in (*hard, *others))


def _annotations(scene: Scene, image_id: int) -> list[dict]:
    table = shape_categories()
    categories = [table[k] for k in scene.categories]
    boxes = [_box_xywh(mask) for mask in scene.visible]
    return [
        {
            "id": 0, "image_id": image_id, "category_id": category.index + 1, "bbox": boxes[n], "area": float(mask.sum()),
            "segmentation": mask_polygons(mask), "noun": category.noun, "description": category.definition,
            "relations": relations(n, categories, boxes),
        }
        for n, (category, mask) in enumerate(zip(categories, scene.visible))
    ]


def _box_xywh(mask: np.ndarray) -> list[float]:
    x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))
    return [float(x), float(y), float(w), float(h)]


def relations(n: int, categories: Sequence[ShapeCategory], boxes_xywh: Sequence[Sequence[float]]) -> list[str]:
    """Return what is true of object `n`: "left of a blue star", ... .

    The other object is the only one of its colour and noun in the image. Box centres must be RELATION_MARGIN_PX apart
    along the named axis, so an object can be both left of and above another.
    """
    centres = [(x + w / 2, y + h / 2) for x, y, w, h in boxes_xywh]
    kinds = [(c.colour, c.noun) for c in categories]
    out = []
    for m, (colour, noun) in enumerate(kinds):
        if m == n or kinds.count((colour, noun)) != 1:
            continue
        thing = f"{'an' if colour[0] in 'aeiou' else 'a'} {colour} {noun}"
        for axis, (before, after) in enumerate((("left of", "right of"), ("above", "below"))):
            gap = centres[m][axis] - centres[n][axis]
            if abs(gap) >= RELATION_MARGIN_PX:
                out.append(f"{before if gap > 0 else after} {thing}")
    return out


def mask_polygons(mask: np.ndarray) -> list[list[float]]:
    """Return `mask` (H, W) bool as COCO polygons, [x1, y1, x2, y2, ...] in pixels, one per connected piece.

    COCO's polygons have no holes, so a hole is joined to the outline by a cut of no width, which the even-odd filling
    of COCO's tools leaves out.
    """
    zoomed = cv2.resize(mask.astype(np.uint8), None, fx=_ZOOM, fy=_ZOOM, interpolation=cv2.INTER_NEAREST)
    contours, tree = cv2.findContours(zoomed, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    smooth = [cv2.approxPolyDP(c, POLYGON_TOLERANCE_PX * _ZOOM, True)[:, 0] for c in contours]
    out = []
    for n, outline in enumerate(smooth):
        if tree[0][n][3] >= 0 or len(outline) < 3:
            continue
        for m, hole in enumerate(smooth):
            if tree[0][m][3] == n and len(hole) >= 3:
                outline = _with_hole(outline, hole)
        points = (outline + 0.5) / _ZOOM
        out.append([round(float(v), 2) for v in points.ravel()])
    return out


def _with_hole(outline: np.ndarray, hole: np.ndarray) -> np.ndarray:
    distance = ((outline[:, None] - hole[None]) ** 2).sum(-1)
    i, j = np.unravel_index(distance.argmin(), distance.shape)
    return np.concatenate([outline[: i + 1], np.roll(hole, -j, 0), hole[j : j + 1], outline[i:]])


def _lvis_categories(train: Sequence[Sequence[dict]]) -> list[dict]:
    """Return LVIS's category list; counts are of the train split in both files, as in LVIS."""
    table, siblings = shape_categories(), sibling_indices()
    per_image = [[a["category_id"] for a in annotations] for annotations in train]
    return [
        {
            "id": c.index + 1, "name": c.name, "synset": f"{c.noun}.n.01", "synonyms": [c.name], "def": c.definition,
            "frequency": c.frequency, "image_count": sum(c.index + 1 in ids for ids in per_image),
            "instance_count": sum(ids.count(c.index + 1) for ids in per_image), "noun": c.noun, "kind": "shape",
            "descriptions": ["; ".join(c.words)], "similar": [table[k].name for k in siblings[c.index]],
            "attributes": dict(zip(ATTRIBUTES, c.values)),
        }
        for c in table
    ]
