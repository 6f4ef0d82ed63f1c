"""Examples of the web page: scenes of the embedded data set, drawn here and now, each with texts to ask."""
import io
from functools import cache

from PIL import Image

NUMBER, SEED = 3, 0


@cache
def example_scenes() -> tuple[tuple[bytes, tuple[str, ...]], ...]:
    """Return (PNG, texts) of each scene; the texts describe objects that are in it."""
    from ovdense.data.shapes_scene import compose_scene, plan_scenes, shape_categories

    known, found = shape_categories(), []
    for n, planned in enumerate(plan_scenes(SEED, "val", NUMBER)):
        scene = compose_scene(SEED, "val", n, planned)
        out = io.BytesIO()
        Image.fromarray(scene.image).save(out, format="PNG")
        found.append((out.getvalue(), tuple(dict.fromkeys(known[k].definition for k in planned))[:4]))
    return tuple(found)
