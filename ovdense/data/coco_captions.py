"""COCO's captions as grounding data: each mention of a class has the boxes of that class (`grounding_builders.coco_captions`), made on first use."""
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from ovdense.compat.atomic import replace_file
from ovdense.compat.paths import cache_root
from ovdense.data.annotations import read_json
from ovdense.data.grounding import GroundingDetection, PhraseGroundingDetection
from ovdense.data.grounding_builders import coco_captions
from ovdense.data.roots import require_file
from ovdense.registry import DATASETS
from ovdense.text.mentions import coco_words, mentions_of

VERSION = 1


def ensure_coco_captions(captions_file: str, instances_file: str, data_root: str | None = None, images: int | None = None) -> Path:
    """Return the grounding file of these two files (paths below the data root), made where it is not there; it lies in the cache.

    `images`: only the first so many images of `instances_file`.
    """
    paths = [require_file(f, data_root, "COCO 2017") for f in (captions_file, instances_file)]
    digest = hashlib.sha256(json.dumps([VERSION, images, coco_words()], sort_keys=True).encode())
    for path in paths:
        digest.update(path.read_bytes())
    out = cache_root() / "grounding" / f"coco_captions_{digest.hexdigest()[:16]}.json"
    if not out.is_file():
        captions, instances = (read_json(p) for p in paths)
        if images is not None:
            kept = {i["id"] for i in instances["images"][:images]}
            instances = instances | {"images": [i for i in instances["images"] if i["id"] in kept],
                                     "annotations": [a for a in instances["annotations"] if a["image_id"] in kept]}  # fmt: skip
        replace_file(out, json.dumps(coco_captions(captions, instances, mentions_of)))
    return out


@DATASETS.register_module()
class CocoCaptionGrounding(GroundingDetection):
    """Captions of COCO with the boxes of the classes that their words name; for training. Files are below the data root, as is `image_prefix`."""

    def __init__(self, *, captions_file: str, instances_file: str, image_prefix: str, data_root: str | None = None,
                 transforms: Sequence[dict | Callable[[dict], dict]] = (), seed: int = 0, with_masks: bool = False, images: int | None = None) -> None:
        path = ensure_coco_captions(captions_file, instances_file, data_root, images)
        super().__init__(ann_file=str(path), image_prefix=image_prefix, data_root=data_root, dataset_name="COCO 2017", transforms=transforms, seed=seed,
                         with_masks=with_masks, invalid_boxes="drop")


@DATASETS.register_module()
class CocoCaptionPhrases(PhraseGroundingDetection):
    """The same for testing: each caption is asked for the phrases that name a class."""

    def __init__(self, *, captions_file: str, instances_file: str, image_prefix: str, data_root: str | None = None,
                 transforms: Sequence[dict | Callable[[dict], dict]] = (), images: int | None = None) -> None:
        path = ensure_coco_captions(captions_file, instances_file, data_root, images)
        super().__init__(ann_file=str(path), image_prefix=image_prefix, data_root=data_root, dataset_name="COCO 2017", transforms=transforms,
                         invalid_boxes="drop")  # fmt: skip
