"""Masks as run lengths and as polygons: exact outlines of pixels, and several loops as one by bridges of no width (YOLO has one loop an object)."""
from collections.abc import Sequence

import numpy as np
from pycocotools import mask as coco_mask

Points = list[tuple[float, float]]
Polygon = tuple[float, ...]


def encode(mask_HW: np.ndarray) -> bytes:
    """Return COCO's compressed run length of a bool mask."""
    return coco_mask.encode(np.asfortranarray(mask_HW.astype(np.uint8)))["counts"]


def encode_part(part_HW: np.ndarray, corner_xy: tuple[int, int], size_hw: tuple[int, int]) -> bytes:
    """Return the compressed run length of an image of `size_hw` that holds a bool mask with its first pixel at `corner_xy` (inside the image)."""
    height, width = map(int, size_hw)
    xs, ys = np.nonzero(part_HW.T)
    flat = (xs.astype(np.int64) + corner_xy[0]) * height + ys + corner_xy[1]
    gap = np.flatnonzero(np.diff(flat) > 1)
    begins, ends = (flat[[0, *(gap + 1)]], flat[[*gap, -1]] + 1) if len(flat) else (flat, flat)
    counts = np.diff(np.concatenate([[0], np.stack([begins, ends], 1).ravel(), [height * width]]))
    return coco_mask.frPyObjects({"counts": counts.tolist(), "size": [height, width]}, height, width)["counts"]


def polygons_rle(polygons: Sequence[Polygon], size_hw: tuple[int, int]) -> bytes:
    """Return the compressed run length of the polygons' union, filled as COCO fills them."""
    return coco_mask.merge(coco_mask.frPyObjects([list(p) for p in polygons], *map(int, size_hw)))["counts"]


def runs(flat: np.ndarray) -> list[int]:
    """Return lengths of False and True in turns, beginning with False (0 if it begins with True)."""
    change = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    lengths = np.diff(np.concatenate([[0], change, [flat.size]])).tolist()
    return [0, *lengths] if flat.size and flat[0] else lengths


def runs_of_columns(mask_HW: np.ndarray) -> list[int]:
    """Return COCO's uncompressed counts: down the columns."""
    return runs(mask_HW.ravel(order="F"))


def outlines(mask_HW: np.ndarray) -> tuple[Polygon, ...]:
    """Return polygons along the pixels' edges, one a 4-connected region; holes hang on their region by a bridge of no width."""
    import cv2

    num, region_HW, stats, _ = cv2.connectedComponentsWithStats(mask_HW.astype(np.uint8), connectivity=4)
    polygons = []
    for n in range(1, num):
        x, y, width, height = stats[n, :4].tolist()
        polygons.append(flat([(px + x, py + y) for px, py in _outline(region_HW[y:y + height, x:x + width] == n)]))
    return tuple(polygons)


def area(loop: Points) -> float:
    """Return the signed area of a closed loop: positive where it runs clockwise as seen in the picture (y points down)."""
    return sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in zip(loop, loop[1:] + loop[:1])) / 2


def _outline(region_HW: np.ndarray) -> Points:
    """Return the loop around one 4-connected region. A hole hangs on the edge that lies to the left of its leftmost corner."""
    loops = _edge_loops(region_HW)
    owner = {(a, b): n for n, loop in enumerate(loops) for a, b in zip(loop, loop[1:] + loop[:1])}
    outer = next(n for n, loop in enumerate(loops) if area(loop) > 0)
    hanging: dict[int, dict[tuple[int, int], list[int]]] = {}
    first: dict[int, tuple[int, int]] = {outer: loops[outer][0]}
    for n, loop in enumerate(loops):
        if n != outer:
            x, y = first[n] = min(loop)
            row = region_HW[y, :x]
            x = int(np.flatnonzero(~row)[-1]) + 1 if not row.all() else 0
            hanging.setdefault(owner[(x, y + 1), (x, y)], {}).setdefault((x, y), []).append(n)
    path: Points = []
    todo = [(outer, None)]  # loops to walk, and corners to come back to
    while todo:
        n, back = todo.pop()
        if n is None:
            path.append(back)
            continue
        loop, hooks = loops[n], hanging.get(n, {})
        start = loop.index(first[n])
        steps: list[tuple[int | None, tuple[int, int] | None]] = []
        for point in _corners(loop[start:] + loop[:start], {*hooks, first[n]}):
            steps.append((None, point))
            for hole in hooks.pop(point, ()):
                steps += [(hole, None), (None, point)]
        todo += reversed(steps + ([(None, first[n])] if n != outer else []))
    return path


def _edge_loops(mask_HW: np.ndarray) -> list[Points]:
    """Return closed loops of corners around the True pixels: the inside is on the right as one walks, holes run the other way round."""
    padded = np.pad(mask_HW, 1)
    inside = padded[1:-1, 1:-1]
    sides = ((inside & ~padded[:-2, 1:-1], (0, 0), (1, 0)), (inside & ~padded[1:-1, 2:], (1, 0), (1, 1)),
             (inside & ~padded[2:, 1:-1], (1, 1), (0, 1)), (inside & ~padded[1:-1, :-2], (0, 1), (0, 0)))
    after: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for edge, (ax, ay), (bx, by) in sides:
        for y, x in zip(*(v.tolist() for v in np.nonzero(edge))):
            after.setdefault((x + ax, y + ay), []).append((x + bx, y + by))
    loops = []
    while after:
        loop = [next(iter(after))]
        while len(loop) < 2 or loop[-1] != loop[0]:
            loop.append(_take(after, loop))
        loops.append(loop[:-1])
    return loops


def _take(after: dict[tuple[int, int], list[tuple[int, int]]], loop: Points) -> tuple[int, int]:
    """Take the edge that goes on from the end of `loop`; where two pixels touch at a corner only, the one that turns right (stays with its pixel)."""
    here = loop[-1]
    ends = after[here]
    if len(ends) > 1 and len(loop) > 1:
        dx, dy = here[0] - loop[-2][0], here[1] - loop[-2][1]
        ends.sort(key=lambda end: end == (here[0] - dy, here[1] + dx))
    end = ends.pop()
    if not ends:
        del after[here]
    return end


def _corners(loop: Points, keep: set[tuple[int, int]]) -> Points:
    """Return the loop without the points between two edges of one direction, but for those to `keep`."""
    before, behind = loop[-1:] + loop[:-1], loop[1:] + loop[:1]
    return [p for a, p, b in zip(before, loop, behind) if p in keep or (p[0] - a[0], p[1] - a[1]) != (b[0] - p[0], b[1] - p[1])]


def join_loops(loops: Sequence[Points]) -> Points:
    """Return one loop that holds all: each further one is put in at the nearest pair of corners, a there, b here: ..., a, b, ..., b, a, ..."""
    path = list(loops[0])
    for loop in loops[1:]:
        gap = np.square(np.asarray(path, dtype=float)[:, None] - np.asarray(loop, dtype=float)[None]).sum(-1)
        i, j = divmod(int(gap.argmin()), len(loop))
        path = path[:i + 1] + list(loop[j:]) + list(loop[:j + 1]) + path[i:]
    return path


def join_parts(polygons: Sequence[Polygon]) -> Polygon:
    """Return the union of `polygons` as one: all are turned the same way round, so that a loop the other way round is a hole (see `split_parts`)."""
    if len(polygons) == 1:
        return polygons[0]
    loops = [pairs(p) for p in polygons]
    return flat(join_loops([loop if area(loop) >= 0 else loop[::-1] for loop in loops]))


def split_parts(polygon: Polygon) -> tuple[Polygon, ...]:
    """Return the parts that `join_parts` joined; holes stay in theirs, and a polygon without bridges comes back as it is."""
    found: list[Polygon] = []
    path: Points = []
    where: dict[tuple[float, float], list[int]] = {}
    turn = area(pairs(polygon))
    for point in pairs(polygon):
        hook = next((i for i in reversed(where.get(point, ())) if i < len(path) - 4 and path[i + 1] == path[-1]), None)
        if hook is not None and area(path[hook + 1:-1]) * turn > 0:
            found.append(flat(path[hook + 1:-1]))
            while len(path) > hook + 1:
                where[path.pop()].pop()
            continue
        where.setdefault(point, []).append(len(path))
        path.append(point)
    return (flat(path), *found)


def pairs(polygon: Sequence[float]) -> Points:
    """Return x, y, x, y, ... as points."""
    return list(zip(polygon[::2], polygon[1::2]))


def flat(points: Points) -> Polygon:
    """Return points as x, y, x, y, ..."""
    return tuple(float(v) for point in points for v in point)
