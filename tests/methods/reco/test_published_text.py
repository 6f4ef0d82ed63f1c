"""ReCo's text side (85 templates, CLIP's tokens and tower) and its running score against the release."""
import json
import re

import numpy as np
import torch
from open_clip.transformer import QuickGELU, TextTransformer

from ovdense.evaluation.segmentation import class_scores, confusion_matrix, summary
from ovdense.text.encoders import OpenClipTextEncoder
from ovdense.text.prompts import fill_template, find_templates
from tests.golden import load_fill, stated


def golden_text(folder, fill) -> OpenClipTextEncoder:
    """Return an encoder with the case's tower in place of its own."""
    state = {k: v for k, v in fill(json.loads((folder / "spec.json").read_text()), stated(folder, "seed")).items() if k != "logit_scale"}
    (vocabulary, width), context = state["token_embedding.weight"].shape, len(state["positional_embedding"])
    layers = len({k.split(".")[2] for k in state if k.startswith("transformer.resblocks.")})
    heads = int(re.search(r"(\d+) heads?\b", (folder / "README.md").read_text())[1])  # the weights do not show it
    tower = TextTransformer(context_length=context, vocab_size=vocabulary, width=width, heads=heads, layers=layers,
                            output_dim=state["text_projection"].shape[1], act_layer=QuickGELU)  # fmt: skip
    tower.load_state_dict(state)
    encoder = OpenClipTextEncoder(model_name="RN50-quickgelu")
    encoder.text, encoder.width = tower.eval(), width
    return encoder


def test_text__has_the_published_tokens_and_vectors(golden_root):
    folder = golden_root / "reco" / "retrieve"
    given, wanted = np.load(folder / "inputs.npz"), np.load(folder / "outputs.npz")
    encoder, templates = golden_text(folder, load_fill(golden_root).fill), find_templates("imagenet_scene")
    for category in map(str, given["categories"]):
        tokens = given[f"tokens__{category.replace(' ', '_')}"]
        ids = encoder.tokenizer.encode([fill_template(t, category) for t in templates]).ids_BL.numpy()
        assert sorted(map(tuple, tokens[:, : ids.shape[1]].tolist())) == sorted(map(tuple, ids.tolist())) and not tokens[:, ids.shape[1] :].any()
        got = encoder.embed([category], templates)[0]
        np.testing.assert_allclose(got, wanted[f"text__{category.replace(' ', '_')}"], atol=1e-5)
        similarity = got @ torch.from_numpy(given["image_embeddings"]).T
        np.testing.assert_allclose(similarity, wanted[f"similarity__{category.replace(' ', '_')}"], atol=1e-5)


def test_score__is_the_published_running_score(golden_root):
    """Truth outside the classes is ignored; a class nowhere is left out of the mean, one that is only predicted counts as 0."""
    folder = golden_root / "reco" / "miou"
    given, wanted = np.load(folder / "inputs.npz"), np.load(folder / "outputs.npz")
    steps = sorted(int(k[2:]) for k in given.files if k.startswith("gt"))
    num = len(wanted["after0__iou"])
    total = np.zeros((num, num), dtype=np.int64)
    for step in steps:
        truth = given[f"gt{step}"]
        total += confusion_matrix(np.where((truth >= 0) & (truth < num), truth, 255), given[f"pred{step}"], num)
        assert np.array_equal(total, wanted[f"after{step}__confusion"])
        np.testing.assert_allclose(class_scores(total)["IoU"] / 100, wanted[f"after{step}__iou"], atol=1e-6)
        got = summary(total)
        np.testing.assert_allclose([got[k] / 100 for k in ("aAcc", "mAcc", "fwIoU", "mIoU")], wanted[f"after{step}__scores"], atol=1e-6)
