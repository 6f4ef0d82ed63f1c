"""Semantic datasets: photos with the class of every pixel, each with a Vocabulary.

Label files are PNGs of one number a pixel; what a number means comes with the data set, and is matched to the asked
vocabulary by name. Pixels of classes that are not asked for count for nothing (IGNORE_LABEL), so that the same files
serve VOC with and without background, and training on a part of the names.
"""
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from ovdense.compat.images import BrokenImage, stored_size_note, upright, upright_size
from ovdense.compat.voc import image_ids, split_names
from ovdense.data.annotations import near, read_json
from ovdense.data.detection import CocoDetection, Prompt, ShapesDetection, VocabularyLike, as_vocabulary, require_images
from ovdense.data.masks import paint
from ovdense.data.passes import DrawnDataset
from ovdense.data.roots import below_data_root, data_path, how_to_get, require_file, where_looked
from ovdense.registry import DATASETS, TRANSFORMS
from ovdense.structures import IGNORE_LABEL, ClassEntry, Vocabulary
from ovdense.text.class_maps import class_map_names, load_class_map
from ovdense.text.vocabulary import load_vocabulary, with_descriptions

BACKGROUND = ClassEntry(name="background", is_background=True)


class SemanticDataset(DrawnDataset):
    """Photos with label maps of the classes of a vocabulary; the base of the classes below.

    `vocabulary`: the classes asked for, in order, each a class of the data set (None: all of them); a bare name takes the data
    set's entry. `description_file`, `prompt`, `transforms`, `seed` as in `DetectionDataset`. `first`: only so many images, the
    first ones. A sample has `read_label_map` for LoadLabelMap; at test time that comes after the resize, so that the labels
    keep the file's size.
    """

    dataset_name = ""

    def __init__(self, *, known: Mapping[int, ClassEntry], paths: Sequence[Path], names: Sequence[str], image_folder: Path, data_root: str | None,
                 vocabulary: VocabularyLike, description_file: str | None, prompt: Prompt, transforms: Sequence[dict | Callable[[dict], dict]],
                 test_mode: bool, first: int | None, seed: int) -> None:
        if prompt not in ("names", "descriptions"):
            raise ValueError(f"prompt must be names or descriptions, got {prompt!r}")
        if first is not None and first < 1:
            raise ValueError(f"first must be at least 1, or None for all images, got {first}")
        if len(paths) == 0:
            raise ValueError(f"{self.dataset_name}: there must be at least one image, got none")
        self.prompt, self.test_mode, self.seed = prompt, test_mode, seed
        self.image_folder = image_folder
        self._paths, self._names, self._ids = tuple(paths)[:first], tuple(names)[:first], image_ids(names)[:first]
        self.vocabulary = _told(as_vocabulary(vocabulary, data_root), known)
        self._class_of_value = _class_of_value(self.vocabulary, known, self.dataset_name)
        if description_file is not None:
            self.vocabulary = with_descriptions(self.vocabulary, below_data_root(description_file, data_root))
        self.metainfo = {
            "classes": self.vocabulary.names,
            "background": tuple(e.is_background for e in self.vocabulary),
            "dataset": self.dataset_name,
            "image_ids": self._ids,
            "prompt": prompt,
            "ignore_label": IGNORE_LABEL,
            "protocol": {"dataset": self.dataset_name, "images_sha256": hashlib.sha256("\n".join(self._names).encode()).hexdigest()[:16]},
        }
        self.transforms = [TRANSFORMS.build(t) if isinstance(t, dict) else t for t in transforms]
        for step in self.transforms:
            if hasattr(step, "bind"):
                step.bind(self.vocabulary)

    def values(self, index: int) -> np.ndarray:
        """Return (H, W) unsigned integers as the data set says it, before classes are matched."""
        raise NotImplementedError

    def label_map(self, index: int) -> np.ndarray:
        """Return (H, W) uint8 class indices of the vocabulary at the file's size; IGNORE_LABEL where no asked class is."""
        return self._class_of_value[self.values(index)]

    def __len__(self) -> int:
        return len(self._paths)

    def image_info(self, index: int) -> dict:
        """Return image_id, file_name, path and size_hw of an image."""
        path = self._paths[index]
        return {"image_id": self._ids[index], "file_name": self._names[index], "path": str(path), "size_hw": image_size(path)}

    def __getitem__(self, index: int) -> dict:
        draw, i = self.draw_and_index(index)
        info = self.image_info(i)
        sample = {
            **info,
            "original_size_hw": info["size_hw"],
            "boxes_xyxy": np.zeros((0, 4), dtype=np.float32),
            "labels": np.zeros(0, dtype=np.int64),
            "read_label_map": lambda: self.label_map(i),
            "rng": np.random.default_rng([self.seed, draw, i]),
        }
        for step in self.transforms:
            sample = step(sample)
        return sample


def _told(asked: Vocabulary | None, known: Mapping[int, ClassEntry]) -> Vocabulary:
    """Return the asked classes, where only the name was given with all that the data set knows of it (descriptions, background); None: all."""
    entry_of = {e.name: e for e in known.values()}
    if asked is None:
        return Vocabulary(tuple(entry_of.values()))
    return Vocabulary(tuple(entry_of.get(e.name, e) if e == ClassEntry(name=e.name) else e for e in asked))


def image_size(path: Path) -> tuple[int, int]:
    """Return (height, width) of a photo, upright; BrokenImage for what is no image."""
    try:
        return upright_size(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"the image {path} is missing") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BrokenImage(f"{path}: must be a whole image file, could not be read: {error}") from None


def read_values(path: Path, size_hw: tuple[int, int], photo: Path | None = None) -> np.ndarray:
    """Return a label PNG as (H, W) uint8: palette indices or grey values. ValueError for colours, 16 bits, or another size than the photo's, upright."""
    try:
        with Image.open(path) as picture:
            mode, values = picture.mode, np.asarray(upright(picture))
    except FileNotFoundError:
        raise FileNotFoundError(f"the label file {path} is missing") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BrokenImage(f"{path}: must be a whole image file, could not be read: {error}") from None
    if mode not in ("P", "L"):
        raise ValueError(f"{path}: a label file must have one number of 8 bits a pixel (palette or grey), got an image of mode {mode}; convert it first")
    if values.shape != tuple(size_hw):
        why = (stored_size_note(photo, values.shape) if photo else "") or "do photo and labels belong together?"
        raise BrokenImage(f"{path}: must have its photo's size {tuple(size_hw)} (height, width), got {values.shape}; {why}")
    return values


def known_classes(classes: Mapping[int, str] | str | Path | Sequence[str], first_value: int, data_root: str | None) -> dict[int, ClassEntry]:
    """Return what each pixel value stands for.

    `classes`: {value: name}, a JSON file of it ({"1": "person", ...}), a built-in class map of pixel values ("ade150_png",
    "coco_stuff171_png", ...: `text/class_maps`), or what `load_vocabulary` reads, whose classes have the values `first_value`,
    `first_value` + 1, ...
    """
    if isinstance(classes, str) and classes in class_map_names():
        table, target = load_class_map(classes).table, load_class_map(classes).target
        return {value: target[k] for k, value in sorted((int(k), value) for value, k in enumerate(table.tolist()) if 0 <= k < len(target))}
    if isinstance(classes, (str, Path)):
        path = Path(below_data_root(classes, data_root))
        content = read_json(path) if path.suffix == ".json" and path.is_file() else None
        if isinstance(content, dict) and content and all(k.isdigit() and isinstance(v, str) for k, v in content.items()):
            classes = {int(k): v for k, v in content.items()}
        else:
            classes = load_vocabulary(path if path.is_file() else classes)
    if isinstance(classes, Mapping):
        known = {int(value): ClassEntry(name=name) for value, name in classes.items()}
    else:
        vocabulary = classes if isinstance(classes, Vocabulary) else Vocabulary.of(list(classes))
        known = {first_value + k: entry for k, entry in enumerate(vocabulary)}
    outside = [v for v in known if not 0 <= v < IGNORE_LABEL]
    if outside:
        raise ValueError(f"pixel values must lie in 0..{IGNORE_LABEL - 1}, got classes at {outside[:5]}")
    return known


def _class_of_value(vocabulary: Vocabulary, known: Mapping[int, ClassEntry], dataset: str) -> np.ndarray:
    """Return (V,) uint8, V at least 256: the class of each pixel value, IGNORE_LABEL for values of no asked class."""
    names = list(dict.fromkeys(entry.name for entry in known.values()))
    unknown = [n for n in vocabulary.names if n not in names]
    if unknown:
        listed = "; ".join(f"{n!r}{near(n, names)}" for n in unknown[:5])
        raise ValueError(f"{dataset}: every class of the vocabulary must be one of the {len(names)} of the label files, but {len(unknown)} are not: {listed}; "
                         "write the names as the data set does")
    if len(vocabulary) > IGNORE_LABEL:
        raise ValueError(f"a label map holds at most {IGNORE_LABEL} classes, got {len(vocabulary)}; ask for some of them: vocabulary=[...]")
    table = np.full(max(256, *known) + 2, IGNORE_LABEL, dtype=np.uint8)
    asked = {name: k for k, name in enumerate(vocabulary.names)}
    for value, entry in known.items():  # several values may stand for one class
        table[value] = asked.get(entry.name, IGNORE_LABEL)
    return table


@DATASETS.register_module()
class VocSegmentation(SemanticDataset):
    """Pascal VOC: `split_file` is .../ImageSets/Segmentation/NAME.txt; photos in JPEGImages, labels in SegmentationClass, border 255.

    The 20 classes, and with `background` the class "background" before them (the 21-class protocol; without it those pixels count for
    nothing). `image_prefix` replaces JPEGImages.
    """

    dataset_name = "Pascal VOC segmentation"

    def __init__(self, *, split_file: str, image_prefix: str | None = None, data_root: str | None = None, background: bool = True,
                 vocabulary: VocabularyLike = None, description_file: str | None = None, prompt: Prompt = "names",
                 transforms: Sequence[dict | Callable[[dict], dict]] = (), test_mode: bool = False, first: int | None = None, seed: int = 0) -> None:
        path = require_file(split_file, data_root, "Pascal VOC").absolute()
        if len(path.parts) < 4:
            raise ValueError(f"split_file must be .../ImageSets/Segmentation/NAME.txt, got {path}")
        names = split_names(path)
        folder = data_path(image_prefix, data_root) if image_prefix else path.parents[2] / "JPEGImages"
        files = [f"{n}.jpg" for n in names]
        self._label_folder = path.parents[2] / "SegmentationClass"
        require_images(folder, files, path, how_to_get("Pascal VOC"))
        require_images(self._label_folder, [f"{n}.png" for n in names], path, how_to_get("Pascal VOC"))
        classes = {k + 1: entry for k, entry in enumerate(load_vocabulary("voc"))}
        self._stems = names
        super().__init__(known=({0: BACKGROUND} if background else {}) | classes, paths=[folder / f for f in files], names=files, image_folder=folder,
                         data_root=data_root, vocabulary=vocabulary, description_file=description_file, prompt=prompt, transforms=transforms,
                         test_mode=test_mode, first=first, seed=seed)

    def values(self, index: int) -> np.ndarray:
        photo = self._paths[index]
        return read_values(self._label_folder / f"{self._stems[index]}.png", image_size(photo), photo)


@DATASETS.register_module()
class FolderSegmentation(SemanticDataset):
    """A folder of photos and one of label PNGs: ADE20K, COCO-Stuff, Cityscapes, Pascal Context, your own.

    A photo PREFIX/a/b`image_suffix` belongs to LABELS/a/b`label_suffix`; photos without labels are left out only with `labelled_only`, else
    they are an error. `classes`, `first_value`: what the values mean, see `known_classes`; other values count for nothing. A built-in class map
    lists all values of its data set: another one (but 255) is an error, since the labels are then of another form than the map.
    """

    dataset_name = "folder"

    def __init__(self, *, image_prefix: str, label_prefix: str, classes: Mapping[int, str] | str | Sequence[str], first_value: int = 0,
                 image_suffix: str = ".jpg", label_suffix: str = ".png", dataset_name: str | None = None, labelled_only: bool = False,
                 data_root: str | None = None, vocabulary: VocabularyLike = None, description_file: str | None = None, prompt: Prompt = "names",
                 transforms: Sequence[dict | Callable[[dict], dict]] = (), test_mode: bool = False, first: int | None = None, seed: int = 0) -> None:
        self.dataset_name = dataset_name or self.dataset_name
        photos, labels = data_path(image_prefix, data_root), data_path(label_prefix, data_root)
        for folder, argument in ((photos, image_prefix), (labels, label_prefix)):
            if not folder.is_dir():
                advice = f"{where_looked(argument, data_root)}{how_to_get(self.dataset_name)}"
                raise FileNotFoundError(f"{self.dataset_name}: the folder {folder} is missing. {advice}")
        stems = sorted(p.relative_to(photos).as_posix().removesuffix(image_suffix) for p in photos.rglob(f"*{image_suffix}"))
        unlabelled = [s for s in stems if not (labels / f"{s}{label_suffix}").is_file()]
        if unlabelled and not labelled_only:
            raise FileNotFoundError(f"{self.dataset_name}: every photo must have a label file, {len(unlabelled)} of {len(stems)} have none, such as "
                                    f"{labels / (unlabelled[0] + label_suffix)}; pass labelled_only=True to leave them out")
        self._stems = sorted(set(stems) - set(unlabelled))
        self._labels, self._label_suffix = labels, label_suffix
        self._map = load_class_map(classes) if isinstance(classes, str) and classes in class_map_names() else None
        files = [f"{s}{image_suffix}" for s in self._stems]
        super().__init__(known=known_classes(classes, first_value, data_root), paths=[photos / f for f in files], names=files, image_folder=photos,
                         data_root=data_root, vocabulary=vocabulary, description_file=description_file, prompt=prompt, transforms=transforms,
                         test_mode=test_mode, first=first, seed=seed)

    def values(self, index: int) -> np.ndarray:
        photo = self._paths[index]
        path = self._labels / f"{self._stems[index]}{self._label_suffix}"
        values = read_values(path, image_size(photo), photo)
        if self._map is not None:
            there = np.flatnonzero(np.bincount(values.reshape(-1)))
            try:
                self._map(there[there != IGNORE_LABEL])
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from None
        return values


class _FromInstances(SemanticDataset):
    """Label maps painted from instance masks, small over large; the class "background" comes first unless `background` is False."""

    def _take(self, source: CocoDetection | ShapesDetection, *, background: bool, vocabulary: VocabularyLike, description_file: str | None,
              transforms: Sequence, first: int | None, data_root: str | None) -> None:
        self._source, self.dataset_name = source, f"{source.dataset_name} (label maps)"
        infos = [source.image_info(i) for i in range(len(source))]
        known = ({0: BACKGROUND} if background else {}) | {k + 1: entry for k, entry in enumerate(source.vocabulary)}
        super().__init__(known=known, paths=[Path(i["path"]) for i in infos], names=[i["file_name"] for i in infos], image_folder=source.image_folder,
                         data_root=data_root, vocabulary=vocabulary, description_file=description_file, prompt=source.prompt,
                         transforms=transforms, test_mode=source.test_mode, first=first, seed=source.seed)

    def values(self, index: int) -> np.ndarray:
        masks, labels = self._source.masks(index), self._source.annotations(index)["labels"]
        crowd = self._source.annotations(index)["crowd"]
        no_class = len(self._source.vocabulary) + 1
        return paint(masks, np.where(crowd, no_class, labels + 1), self._source.image_info(index)["size_hw"], 0, np.uint32)


@DATASETS.register_module()
class CocoSegmentation(_FromInstances):
    """Label maps of instance masks in COCO's or LVIS's form; crowds count for nothing. At most 255 classes may be asked for, the background among them."""

    def __init__(self, *, ann_file: str, image_prefix: str | None = None, data_root: str | None = None, background: bool = True,
                 vocabulary: VocabularyLike = None, description_file: str | None = None, prompt: Prompt = "names",
                 transforms: Sequence[dict | Callable[[dict], dict]] = (), test_mode: bool = False, first: int | None = None, seed: int = 0) -> None:
        source = CocoDetection(ann_file=ann_file, image_prefix=image_prefix, data_root=data_root, prompt=prompt, with_masks=True, filter_empty=False,
                               test_mode=test_mode, seed=seed)
        self._take(source, background=background, vocabulary=vocabulary, description_file=description_file, transforms=transforms, first=first,
                   data_root=data_root)


@DATASETS.register_module()
class ShapesSegmentation(_FromInstances):
    """The embedded shapes as label maps: 120 categories and "background"; drawn on first use, see `ShapesDetection`."""

    def __init__(self, *, split: str = "train", shapes_seed: int = 0, root: str | None = None, background: bool = True, vocabulary: VocabularyLike = None,
                 prompt: Prompt = "descriptions", transforms: Sequence[dict | Callable[[dict], dict]] = (), test_mode: bool = False,
                 first: int | None = None, seed: int = 0) -> None:
        source = ShapesDetection(split=split, shapes_seed=shapes_seed, root=root, prompt=prompt, with_masks=True, filter_empty=False, test_mode=test_mode,
                                 seed=seed)
        self._take(source, background=background, vocabulary=vocabulary, description_file=None, transforms=transforms, first=first, data_root=None)
