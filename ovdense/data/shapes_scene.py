"""What the embedded data set shows: its 120 categories, which of them meet in an image, and how a scene is composed.

Everything is a function of (seed, split, index). Categories do not depend on the seed. Drawing is in `shapes_draw`.
"""
import functools
from dataclasses import dataclass
from itertools import combinations, product

import cv2
import numpy as np

from ovdense.data.shapes_draw import BODIES, PALETTE, PARTS, TEXTURES, Sprite, draw_background, draw_sprite, paste_sprite

IMAGE_PX = 256
NOUNS = tuple(BODIES)
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "size": ("small", "large"),
    "colour": tuple(PALETTE),
    "texture": TEXTURES,
    "part": PARTS,
}
COMBINATIONS_PER_NOUN = {"f": 6, "c": 5, "r": 4}
TABLE_SEED = 20240
TABLE_TRIES = 24
TRAIN_WEIGHT = {"f": 4.0, "c": 1.0, "r": 0.0}
VAL_WEIGHT = {"f": 1.0, "c": 1.0, "r": 1.0}
SIZE_PX = {"small": (36.0, 50.0), "large": (68.0, 104.0)}
NUM_OBJECTS = (4, 7)
THIRD_SIBLING_SHARE, SECOND_GROUP_SHARE = 0.4, 0.5
MAX_TURN_DEGREES, GAIN = 20.0, (0.9, 1.08)
MIN_VISIBLE, MIN_PART_VISIBLE = 0.6, 0.6
MIN_SPECK_PX = 8
OVERLAP_SHARE = 0.3
PLACE_TRIES, SCENE_TRIES, TRIES_PER_DRAWING = 40, 400, 5
SPLIT_CODES = {"train": 1, "val": 2}


@dataclass(frozen=True, kw_only=True)
class ShapeCategory:
    """One combination of a noun and four attributes; `index` is its place among the 120, `frequency` r, c or f."""

    index: int
    noun: str
    size: str
    colour: str
    texture: str
    part: str
    frequency: str

    @property
    def values(self) -> tuple[str, ...]:
        """Return the attribute values in the order of ATTRIBUTES."""
        return self.size, self.colour, self.texture, self.part

    @property
    def words(self) -> tuple[str, ...]:
        """Return the spoken attributes: ("large", "red", "striped", "with two handles"); an absent part is not spoken."""
        return tuple(v for v in self.values if v != "none")

    @property
    def name(self) -> str:
        """Return the LVIS-like name: "ring_(large_red_striped_with_two_handles)"."""
        return f"{self.noun}_({'_'.join(self.words)})".replace(" ", "_")

    @property
    def definition(self) -> str:
        """Return the full description: "a large red striped ring with two handles"."""
        tail = "" if self.part == "none" else f" {self.part}"
        return f"a {self.size} {self.colour} {self.texture} {self.noun}{tail}"

    def differing(self, other: "ShapeCategory") -> tuple[str, ...]:
        """Return the attributes in which two categories of one noun differ; ValueError for different nouns."""
        if self.noun != other.noun:
            raise ValueError(f"only categories of one noun compare, got {self.noun!r} and {other.noun!r}")
        return tuple(a for a, mine, its in zip(ATTRIBUTES, self.values, other.values) if mine != its)


def _grow(combos: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return 15 rows of `combos`, grown one attribute change at a time: values spread evenly, siblings many and of all attributes."""
    total = sum(COMBINATIONS_PER_NOUN.values())
    levels = np.array([len(v) for v in ATTRIBUTES.values()])
    differs = combos[:, None] != combos[None]
    near = differs & (differs.sum(-1, keepdims=True) == 1)  # (n, n, attribute): siblings by that attribute
    chosen = [int(generator.integers(len(combos)))]
    while len(chosen) < total:
        mine = near[:, chosen]
        kinds, siblings = mine.any(1).sum(1), mine.any(2).sum(1)
        lonely = mine[chosen].any(2).sum(1) < 2
        used = (combos[chosen][None] == combos[:, None]).sum(1)
        score = 0.7 * np.minimum(kinds, 2) + 0.6 * np.minimum(mine[:, lonely].any(2).sum(1), 2)
        score += (used == 0).any(1) - 0.45 * (used * levels / total).sum(1) + generator.uniform(0, 0.8, len(combos))
        score[siblings == 0] = -np.inf
        score[chosen] = -np.inf
        chosen.append(int(score.argmax()))
    return combos[chosen]


def _split_rare(combos: np.ndarray, generator: np.random.Generator) -> tuple[float, np.ndarray]:
    """Return (score, rare (n,) bool): held-out rows whose every value is seen elsewhere and that have seen siblings. Score -inf: none."""
    near = (combos[:, None] != combos[None]).sum(-1) == 1
    holds = np.concatenate([combos[:, a, None] == np.arange(len(v)) for a, v in enumerate(ATTRIBUTES.values())], 1)
    picked = np.array(list(combinations(range(len(combos)), COMBINATIONS_PER_NOUN["r"])))
    rare_RN = (picked[:, :, None] == np.arange(len(combos))).any(1)
    siblings_RN = (~rare_RN).astype(int) @ near.astype(int)
    possible_R = ((~rare_RN).astype(int) @ holds.astype(int) > 0).all(1) & (near.sum(1).min() >= 2)
    possible_R &= (siblings_RN.min(1) >= 1) & (np.where(rare_RN, siblings_RN, 2).min(1) >= 2)
    spread_R = (rare_RN.astype(int) @ holds.astype(int) > 0).sum(1)
    score_R = np.minimum(siblings_RN, 3).mean(1) + 0.15 * spread_R + generator.uniform(0, 0.2, len(picked))
    score_R[~possible_R] = -np.inf
    best = int(score_R.argmax())
    return float(score_R[best]), rare_RN[best]


@functools.cache
def shape_categories() -> tuple[ShapeCategory, ...]:
    """Return the 120 categories, 15 of each noun: 6 frequent, 5 common, 4 rare.

    Each has at least two siblings (same noun, one attribute different), a rare one at least two among those that
    training shows; every attribute value of every noun occurs in training.
    """
    combos = np.array(list(product(*(range(len(v)) for v in ATTRIBUTES.values()))))
    out: list[ShapeCategory] = []
    for n, noun in enumerate(NOUNS):
        generator = np.random.default_rng([TABLE_SEED, n])
        best, table, rare = -np.inf, combos[:0], np.zeros(0, bool)
        for _ in range(TABLE_TRIES):
            grown = _grow(combos, generator)
            score, held_out = _split_rare(grown, generator)
            if score > best:
                best, table, rare = score, grown, held_out
        assert len(table), f"no table of combinations found for {noun}"
        seen = generator.permutation(np.flatnonzero(~rare))
        frequency = np.where(rare, "r", "c").astype(object)
        frequency[seen[: COMBINATIONS_PER_NOUN["f"]]] = "f"
        for row in np.lexsort(table.T[::-1]):
            values = {a: v[int(k)] for (a, v), k in zip(ATTRIBUTES.items(), table[row])}
            out.append(ShapeCategory(index=len(out), noun=noun, frequency=str(frequency[row]), **values))
    return tuple(out)


@functools.cache
def sibling_indices() -> tuple[tuple[int, ...], ...]:
    """Return for each category the indices of those with its noun and exactly one attribute different."""
    table = shape_categories()
    return tuple(
        tuple(o.index for o in table if o.noun == c.noun and len(c.differing(o)) == 1) for c in table
    )


def stream(seed: int, split: str, *numbers: int) -> np.random.Generator:
    """Return the random stream of this seed, split and `numbers` (the last not 0: NumPy pads keys with zeros)."""
    return np.random.Generator(np.random.PCG64([seed, SPLIT_CODES[split], *numbers]))


class _Quota:
    """Hands out categories so that their counts follow the split's weights."""

    def __init__(self, split: str, generator: np.random.Generator) -> None:
        weight = TRAIN_WEIGHT if split == "train" else VAL_WEIGHT
        self.weight = np.array([weight[c.frequency] for c in shape_categories()])
        self.count = np.zeros(len(self.weight))
        self.generator = generator

    def allowed(self, indices: tuple[int, ...], taken: list[int]) -> list[int]:
        return [k for k in indices if self.weight[k] > 0 and k not in taken]

    def pick(self, options: list[int]) -> int:
        due = (self.count[options] + self.generator.uniform(0, 2, len(options))) / self.weight[options]
        k = options[int(due.argmin())]
        self.count[k] += 1
        return k

    def pick_sibling(self, anchor: int, taken: list[int]) -> int | None:
        table = shape_categories()
        options = self.allowed(sibling_indices()[anchor], taken)
        if not options:
            return None
        attributes = sorted({table[anchor].differing(table[k])[0] for k in options})
        attribute = attributes[self.generator.integers(len(attributes))]
        return self.pick([k for k in options if table[anchor].differing(table[k]) == (attribute,)])


def plan_scenes(seed: int, split: str, num_images: int) -> list[tuple[int, ...]]:
    """Return for each image the categories in it, all different: one or two groups of siblings, then others.

    Every image has an anchor and one or two siblings of it. Counts follow TRAIN_WEIGHT (rare: none) or VAL_WEIGHT.
    """
    generator = stream(seed, split)
    quota = _Quota(split, generator)
    everything = tuple(range(len(shape_categories())))
    plan = []
    for _ in range(num_images):
        taken: list[int] = []
        num_objects = int(generator.integers(NUM_OBJECTS[0], NUM_OBJECTS[1] + 1))
        two_groups = generator.random() < SECOND_GROUP_SHARE
        for _group in range(1 + two_groups):
            nouns = {shape_categories()[k].noun for k in taken}
            options = [k for k in quota.allowed(everything, taken) if shape_categories()[k].noun not in nouns]
            taken.append(anchor := quota.pick(options))
            wanted = 1 + (generator.random() < THIRD_SIBLING_SHARE and len(taken) + 2 <= num_objects)
            for _ in range(wanted):
                sibling = quota.pick_sibling(anchor, taken)
                if sibling is not None:
                    taken.append(sibling)
        while len(taken) < num_objects:
            taken.append(quota.pick(quota.allowed(everything, taken)))
        plan.append(tuple(taken))
    return plan


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One picture: `image` (H, W, 3) uint8 RGB, and per object its category index and visible mask (H, W) bool, back to front."""

    image: np.ndarray
    categories: tuple[int, ...]
    visible: tuple[np.ndarray, ...]


def _sprite_of(category: ShapeCategory, generator: np.random.Generator) -> Sprite:
    return draw_sprite(
        noun=category.noun, colour=category.colour, texture=category.texture, part=category.part,
        size=float(generator.uniform(*SIZE_PX[category.size])),
        angle=float(generator.uniform(-MAX_TURN_DEGREES, MAX_TURN_DEGREES)), gain=float(generator.uniform(*GAIN)),
    )


def _place(sprites: list[Sprite], generator: np.random.Generator) -> tuple[list[tuple[int, int]], list[np.ndarray]] | None:
    """Return upper left corners and visible masks that keep every object and part recognisable, or None where tries run out."""
    corners: list[tuple[int, int]] = []
    visible: list[np.ndarray] = []
    parts: list[np.ndarray] = []
    solid = [(s.alpha > 127, s.part_alpha > 127) for s in sprites]
    for n, (mask, part) in enumerate(solid):
        h, w = mask.shape
        for _ in range(PLACE_TRIES):
            x, y = (int(generator.integers(1, IMAGE_PX - extent)) for extent in (w, h))
            window = np.s_[y : y + h, x : x + w]
            enough = all(
                v.sum() - (v[window] & mask).sum() >= MIN_VISIBLE * solid[k][0].sum()
                and p.sum() - (p[window] & mask).sum() >= MIN_PART_VISIBLE * solid[k][1].sum()
                for k, (v, p) in enumerate(zip(visible, parts))
            )
            clear = not any((v[window] & mask).any() for v in visible)
            if enough and (clear or generator.random() < OVERLAP_SHARE):
                break
        else:
            return None
        for other in (*visible, *parts):
            other[window] &= ~mask
        corners.append((x, y))
        for stack, piece in ((visible, mask), (parts, part)):
            stack.append(np.zeros((IMAGE_PX, IMAGE_PX), bool))
            stack[n][window] = piece
    return corners, visible


def _without_specks(mask: np.ndarray) -> np.ndarray:
    """Return `mask` without its connected pieces of fewer than MIN_SPECK_PX pixels."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    keep = stats[:, cv2.CC_STAT_AREA] >= MIN_SPECK_PX
    keep[0] = False
    return keep[labels]


def compose_scene(seed: int, split: str, index: int, categories: tuple[int, ...]) -> Scene:
    """Return the picture of image `index` (0-based) of `split` with these `categories`; the same bits whatever else was made before."""
    generator = stream(seed, split, index + 1)
    table = shape_categories()
    image = draw_background(generator, IMAGE_PX)
    for attempt in range(SCENE_TRIES):
        if attempt % TRIES_PER_DRAWING == 0:
            order = tuple(categories[k] for k in generator.permutation(len(categories)))
            sprites = [_sprite_of(table[k], generator) for k in order]
        placed = _place(sprites, generator)
        if placed is not None:
            break
    else:
        raise RuntimeError(f"image {index} of {split} (seed {seed}): no room for {len(categories)} objects after {SCENE_TRIES} tries")
    corners, visible = placed
    for sprite, (x, y) in zip(sprites, corners):
        paste_sprite(image, sprite, x, y)
    return Scene(image=image, categories=order, visible=tuple(_without_specks(v) for v in visible))
