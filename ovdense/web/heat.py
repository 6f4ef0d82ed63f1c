"""Heat of boxes, for models that do not score places. K classes, h w as they fall."""
import numpy as np

from ovdense.structures import Results

GRID = 96  # cells of the longer side where heat is made of boxes


def box_heat(results: Results) -> np.ndarray:
    """Return (K, h, w): at each place the largest score of a box of the class that covers it, 0 where there is none."""
    height, width = results.size_hw
    step = max(height, width) / GRID
    heat = np.zeros((len(results.names), max(1, round(height / step)), max(1, round(width / step))), dtype=np.float32)
    for box, score, k in zip(results.boxes_xyxy.tolist(), results.scores.tolist(), results.labels.tolist()):
        x1, y1, x2, y2 = (v / step for v in box)
        place = heat[k, int(max(0, y1)) : int(np.ceil(y2)), int(max(0, x1)) : int(np.ceil(x2))]
        np.maximum(place, score, out=place)
    return heat
