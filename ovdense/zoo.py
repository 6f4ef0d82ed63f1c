"""Short names of models: which config each stands for, what it answers with, and what weights it needs. A table and no more: nothing heavy is imported.

>>> find("desco_swin_t").config
'desco_lvis'
"""
import ast
import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

Needs = Literal["nothing", "photos", "training", "released", "own", "files"]
NEEDS: dict[str, str] = {
    "nothing": "works at once: all weights come with pip",
    "photos": "all weights come with pip; photos to look for examples in lie below the data root (OVDENSE_DATA), docs/guide/data.md says which",
    "training": "a checkpoint of your own, made in minutes on a CPU: python tools/train.py {config}",
    "released": "a released checkpoint, converted by tools/convert_weights.py, or your own: python tools/train.py {config}",
    "own": "a checkpoint of your own: python tools/train.py {config}; none was released",
    "files": "nothing is trained, but files of the networks that it is made of are named in the config: {config}",
}
METHODS = {"desco": "DesCo", "mdetr": "MDETR", "denseclip": "DenseCLIP", "clip": "DenseCLIP", "fpn": "DenseCLIP", "maskclip": "MaskCLIP", "ovdiff": "OVDiff",
           "reco": "ReCo"}  # fmt: skip
_BOXES, _PHRASES, _LABELS = "boxes", "boxes of phrases", "label map"

# config: what it answers with, what it needs, further names
_TABLE: dict[str, tuple[str, Needs, tuple[str, ...]]] = {
    "maskclip_voc": (_LABELS, "nothing", ("mini", "maskclip")),
    "maskclip_voc_mini": (_LABELS, "nothing", ()),
    "maskclip_coco_mini": (_LABELS, "nothing", ()),
    "maskclip_panoptic_mini": (_LABELS, "nothing", ()),
    "maskclip_vitb16_voc": (_LABELS, "files", ("maskclip_vitb16",)),
    "reco_mini": (_LABELS, "photos", ("reco",)),
    "reco_coco_mini": (_LABELS, "photos", ()),
    "reco_panoptic_mini": (_LABELS, "photos", ()),
    "reco_shapes_mini": (_LABELS, "nothing", ()),
    "reco_voc": (_LABELS, "files", ()),
    "reco_cityscapes": (_LABELS, "files", ()),
    "reco_coco_stuff": (_LABELS, "files", ()),
    "reco_plus_mini": (_LABELS, "training", ()),
    "reco_plus_coco_mini": (_LABELS, "training", ()),
    "reco_plus_panoptic_mini": (_LABELS, "training", ()),
    "reco_plus_cityscapes": (_LABELS, "own", ()),
    "reco_plus_coco_stuff": (_LABELS, "own", ()),
    "ovdiff_voc_mini": (_LABELS, "photos", ("ovdiff_mini", "ovdiff")),
    "ovdiff_coco_object_mini": (_LABELS, "photos", ()),
    "ovdiff_context_mini": (_LABELS, "photos", ()),
    "ovdiff_shapes_mini": (_LABELS, "files", ()),
    "ovdiff_voc": (_LABELS, "files", ("ovdiff_sd15",)),
    "ovdiff_coco_object": (_LABELS, "files", ()),
    "ovdiff_context": (_LABELS, "files", ()),
    "desco_lvis_mini": (_BOXES, "training", ("desco_mini",)),
    "desco_coco_photos": (_BOXES, "training", ("desco_photos",)),
    "desco_lvis_photos": (_BOXES, "training", ()),
    "desco_lvis": (_BOXES, "released", ("desco_swin_t", "desco_glip_t", "desco")),
    "desco_lvis_fsdp": (_BOXES, "released", ()),
    "desco_lvis_accumulate": (_BOXES, "released", ()),
    "desco_coco": (_BOXES, "released", ()),
    "desco_flickr": (_BOXES, "released", ()),
    "desco_o365_goldg": (_BOXES, "released", ()),
    "desco_omnilabel": (_BOXES, "released", ()),
    "mdetr_shapes_mini": (_PHRASES, "training", ("mdetr_mini",)),
    "mdetr_shapes_masks_mini": (_PHRASES + ", masks", "training", ()),
    "mdetr_coco_photos": (_PHRASES, "training", ("mdetr_photos",)),
    "mdetr_pretrain_r101": (_PHRASES, "released", ("mdetr_r101", "mdetr")),
    "mdetr_pretrain_eb3": (_PHRASES, "released", ("mdetr_eb3",)),
    "mdetr_pretrain_eb5": (_PHRASES, "released", ("mdetr_eb5",)),
    "mdetr_flickr_r101": (_PHRASES, "released", ()),
    "mdetr_gqa_r101": (_PHRASES + ", answers", "released", ()),
    "mdetr_lvis_r101": (_BOXES, "released", ()),
    "mdetr_phrasecut_r101": (_PHRASES, "released", ()),
    "mdetr_phrasecut_masks_r101": (_PHRASES + ", masks", "released", ()),
    "mdetr_refcoco_r101": (_PHRASES, "released", ()),
    "mdetr_refcoco_plus_r101": (_PHRASES, "released", ()),
    "mdetr_refcocog_r101": (_PHRASES, "released", ()),
    "denseclip_voc_photos": (_LABELS, "training", ("denseclip_mini", "denseclip_photos")),
    "denseclip_voc15_photos": (_LABELS, "training", ()),
    "denseclip_closed_voc_photos": (_LABELS, "training", ()),
    "denseclip_shapes_mini": (_LABELS, "training", ()),
    "denseclip_r50_ade20k": (_LABELS, "released", ("denseclip_r50", "denseclip")),
    "denseclip_r101_ade20k": (_LABELS, "released", ("denseclip_r101",)),
    "denseclip_vitb16_ade20k": (_LABELS, "released", ("denseclip_vitb16",)),
    "denseclip_any_r50_ade20k": (_LABELS, "own", ()),
    "denseclip_pre_r50_ade20k": (_LABELS, "own", ()),
    "denseclip_r50_coco_stuff": (_LABELS, "own", ()),
    "denseclip_r101_coco_stuff": (_LABELS, "own", ()),
    "denseclip_vitb16_coco_stuff": (_LABELS, "own", ()),
    "denseclip_open_r50_coco_stuff": (_LABELS, "own", ()),
    "denseclip_r50_voc": (_LABELS, "own", ()),
    "denseclip_r101_voc": (_LABELS, "own", ()),
    "denseclip_vitb16_voc": (_LABELS, "own", ()),
    "denseclip_retinanet_r50_coco": (_BOXES, "released", ()),
    "denseclip_retinanet_r101_coco": (_BOXES, "released", ()),
    "denseclip_maskrcnn_r50_coco": (_BOXES + ", masks", "released", ("denseclip_maskrcnn",)),
    "denseclip_maskrcnn_r101_coco": (_BOXES + ", masks", "released", ()),
    "clip_fpn_r50_ade20k": (_LABELS, "released", ()),
    "clip_fpn_vitb16_ade20k": (_LABELS, "released", ()),
    "fpn_voc_photos": (_LABELS, "training", ()),
    "fpn_shapes_mini": (_LABELS, "training", ()),
}
# what is asked of a machine before it is a model: no model that answers with anything, but a config that trains one of its parts
PARTS = ("ovdiff_diffusion_shapes",)


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """One model: `config` is its config's name without .py, `task` what it answers with, `needs` the key of what it needs, `aliases` further names."""

    config: str
    task: str
    needs: Needs
    aliases: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Return the shortest way to say it: its first alias, or the config's name."""
        return self.aliases[0] if self.aliases else self.config

    @property
    def method(self) -> str:
        return METHODS[self.config.split("_")[0]]

    @property
    def path(self) -> Path:
        return config_folder() / f"{self.config}.py"

    @property
    def about(self) -> str:
        """Return the first line of the config's header."""
        return (ast.get_docstring(ast.parse(self.path.read_text(encoding="utf8"))) or "").partition("\n")[0]

    @property
    def trained_on(self) -> str:
        """Return what lies below the data root for the training of a small model, nothing for those that train on drawn shapes."""
        if self.needs != "training" or "photos" not in self.config and not self.config.startswith("reco_plus"):
            return ""
        return "photos below the data root" + (" and ReCo's labels of them" if self.config.startswith("reco_plus") else "")

    @property
    def advice(self) -> str:
        """Return the sentence that says what weights it needs and how to come by them."""
        on = f" on {self.trained_on} (docs/guide/data.md says which)" if self.trained_on else ""
        return NEEDS[self.needs].format(config=f"configs/{self.config}.py") + on


@cache
def config_folder() -> Path:
    """Return the folder of the configs: beside the package in the source tree, inside it where it is installed."""
    package = Path(__file__).resolve().parent
    for folder in (package.parent / "configs", package / "configs"):
        if (folder / "desco_lvis.py").is_file():
            return folder
    raise FileNotFoundError(f"the configs must lie in {package.parent / 'configs'} or {package / 'configs'}, they do not; install ovdense again")


def cards() -> Iterator[ModelCard]:
    """Yield every model, method by method."""
    for config, (task, needs, aliases) in _TABLE.items():
        yield ModelCard(config=config, task=task, needs=needs, aliases=aliases)


def names() -> tuple[str, ...]:
    """Return all names that `find` knows, the short ones first."""
    known = list(cards())
    return tuple(alias for card in known for alias in card.aliases) + tuple(card.config for card in known)


def find(name: str) -> ModelCard:
    """Return the model of this name; KeyError suggests near ones for an unknown name."""
    wanted = name.strip().casefold().replace("-", "_")
    for card in cards():
        if wanted in (card.config, *card.aliases):
            return card
    near = difflib.get_close_matches(wanted, names(), n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"short names are {', '.join(n for c in cards() for n in c.aliases[:1])}."
    raise KeyError(f"there is no model {name!r}; {hint} A config's file (ending in .py) is taken as well")


def config_path(name_or_path: str | Path) -> Path:
    """Return the config's file of a model's name or of a path; a path such as configs/desco_lvis.py is found from any folder.

    A run's folder means the config that the run wrote there. KeyError for an unknown name, FileNotFoundError for a missing file; both suggest what is near.
    """
    run = run_folder(name_or_path)
    if run is not None:
        return next(run.glob("*.py"))
    path = Path(name_or_path).expanduser()
    if path.suffix != ".py" and len(path.parts) == 1:
        return find(str(name_or_path)).path
    if path.is_file():
        return path
    packaged = config_folder() / path.name
    if path.parent == Path("configs") and packaged.is_file():
        return packaged
    there = path.parent if path.parent.is_dir() else config_folder()
    near = difflib.get_close_matches(path.name, [p.name for p in there.glob("*.py")], n=3)
    raise FileNotFoundError(f"the config {path} does not exist" + (f"; near it there are {', '.join(near)}" if near else ""))


def run_folder(name_or_path: str | Path) -> Path | None:
    """Return the folder if this is a run's, as ovdense train makes them, else None; ValueError if it holds several configs or none."""
    path = Path(name_or_path).expanduser()
    if not str(name_or_path) or not path.is_dir() or str(name_or_path).casefold().replace("-", "_") in names():
        return None
    configs = sorted(path.glob("*.py"))
    if len(configs) != 1:
        raise ValueError(f"a run's folder must hold the one config that it was trained with, {path} holds {len(configs)}; give the config's file")
    return path


def card_of(path: str | Path) -> ModelCard | None:
    """Return the model whose config this file is, None for a config of the user's own."""
    path = Path(path)
    return next((card for card in cards() if card.config == path.stem and path.resolve().parent == config_folder()), None)
