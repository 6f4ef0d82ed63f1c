"""What MDETR does, at the smallest size: learning, asking, both LVIS protocols, and what is defined at the edges."""
import numpy as np
import pytest
import torch

from ovdense.compat.mm import from_det_data_sample, to_det_data_sample
from ovdense.methods.mdetr.criterion import MdetrCriterion
from ovdense.methods.mdetr.decode import phrase_scores
from ovdense.methods.mdetr.mask_head import MaskHead, box_places
from ovdense.methods.mdetr.model import Mdetr
from ovdense.methods.mdetr.prompts import many_class_prompts
from ovdense.structures import ClassEntry, Vocabulary
from ovdense.text.phrases import find_phrases
from tests.methods.mdetr.tiny import BIRD, DOG, ask, batch, image, losses, target, tiny, total

VARIANTS = [dict(), dict(slots_from="proposals", tokens="alignment"), dict(masks=True)]


def mask_of(boxes, size=(64, 96)):
    masks = torch.zeros(len(boxes), *size, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes):
        mask[y1:y2, x1:x2] = True
    return masks


def pair(masks=False):
    return [target(n, **kind, masks=mask_of(kind["boxes"]) if masks else None) for n, kind in enumerate((DOG, BIRD))]


@pytest.mark.parametrize("variant", VARIANTS, ids=["published", "proposals", "masks"])
def test_loss__falls_and_every_trained_parameter_gets_a_gradient(variant):
    model = tiny(**variant).train()
    targets = pair(masks=bool(variant.get("masks")))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    found = []
    for _ in range(8):
        loss = total(losses(model, targets))
        optimizer.zero_grad()
        loss.backward()
        if not found:
            unreached = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
            assert not unreached
        optimizer.step()
        found.append(float(loss.detach()))
    assert found[-1] < 0.9 * found[0]


@torch.no_grad()
def test_predict__a_batch_equals_single_images():
    model = tiny()
    targets = [target(n) for n in range(3)]
    images = [image(n) for n in range(3)]
    together = ask(model, DOG["caption"], DOG["phrases"], images, targets)
    for n in range(3):
        (alone,) = ask(model, DOG["caption"], DOG["phrases"], images[n : n + 1], targets[n : n + 1])
        torch.testing.assert_close(together[n].scores, alone.scores, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(together[n].boxes_xyxy, alone.boxes_xyxy, atol=1e-3, rtol=1e-4)


@torch.no_grad()
def test_predict__names_the_phrases_and_permutes_with_them():
    model = tiny()
    (one,) = ask(model, DOG["caption"], DOG["phrases"])
    (other,) = ask(model, DOG["caption"], DOG["phrases"][::-1])
    assert one.names == ("a red dog", "two small cats") == other.names[::-1]
    for k in range(2):
        torch.testing.assert_close(one.scores[one.labels == k], other.scores[other.labels == 1 - k])
    assert len(one) == 12 and bool((one.scores.diff() <= 0).all())
    assert bool((one.boxes_xyxy >= 0).all()) and bool((one.boxes_xyxy <= torch.tensor([96, 64, 96, 64])).all())


def test_phrase_scores__sum_is_the_probability_of_the_phrase_and_none_without_tokens():
    logit = torch.log(torch.tensor([[0.2, 0.3, 0.1, 0.4]]))
    tokens = torch.tensor([[True, True, False], [False, False, True], [False, False, False]])
    assert phrase_scores(logit, tokens)[0].tolist() == pytest.approx([0.5, 0.1, 0.0])
    assert phrase_scores(logit, tokens, "max")[0].tolist() == pytest.approx([0.3, 0.1, 0.0])
    assert phrase_scores(logit, tokens, "object")[0].tolist() == pytest.approx([0.6, 0.6, 0.0])
    assert phrase_scores(logit, tokens, "object", torch.tensor([-1.0]))[0].tolist() == pytest.approx([0.6 / (1 + np.e), 0.6 / (1 + np.e), 0.0])
    with pytest.raises(ValueError, match='"sum", "max" or "object"'):
        phrase_scores(logit, tokens, "mean")


@torch.no_grad()
def test_final__what_the_caption_is_about_scores_above_what_it_names_on_the_way():
    """CLEVR-Ref+: the release multiplies the score of an expression by the probability of being final."""
    model, plain = tiny(head=dict(final=True), phrase_score="object"), tiny(phrase_score="object")
    plain.load_state_dict({n: t for n, t in model.state_dict().items() if not n.startswith("head.final")})
    model.head.final.weight.zero_()
    model.head.final.bias.fill_(-2.0)
    (ours,), (without,) = (ask(m, BIRD["caption"], BIRD["phrases"]) for m in (model, plain))
    torch.testing.assert_close(ours.scores, without.scores * torch.tensor(-2.0).sigmoid())
    assert model.protocol()["score"] == "1 - P(no object) x P(final)" and plain.protocol()["score"] == "1 - P(no object)"
    assert tiny(head=dict(final=True)).protocol()["score"] == "1 - P(no object)", "a class asked alone is no expression"


def test_auxiliary__layers_are_trained_or_the_last_one_alone():
    """The release's --no_aux_loss, with which it trains question answering; answers are read from the first layer all the same."""
    answers = [{"type": 0, "obj": 2}, {"type": 4, "cat": 600}]
    targets = [target(n, **kind, answers=a) for n, (kind, a) in enumerate(zip((DOG, BIRD), answers))]
    every, last = (losses(tiny(head=dict(answers="gqa"), criterion=dict(auxiliary=a)).train(), targets) for a in (True, False))
    assert {k for k in every if k not in last} == {f"{k}_0" for k in ("loss_token", "loss_box", "loss_giou", "loss_align", "cardinality_error")}
    for name, value in last.items():
        torch.testing.assert_close(value, every[name], msg=name)


NAMES = ["cat", "dog", "bow_(weapon)", "hot_dog", "traffic_light"]


@torch.no_grad()
def test_lvis__one_name_a_caption_is_the_same_whatever_is_computed_together():
    found = []
    for pairs in (1, 3, 8):
        model = tiny(pairs=pairs)
        model.set_vocabulary(Vocabulary.of(NAMES))
        (result,) = model.predict(*batch(model, [target()]).values())
        found.append(result)
    for result in found:
        assert len(result) == 6 * len(NAMES)
        torch.testing.assert_close(result.scores, found[0].scores, atol=1e-5, rtol=1e-4)
    assert model.protocol()["classes_per_caption"] == 1 and model.protocol()["captions"] == len(NAMES)


@torch.no_grad()
def test_lvis__many_names_a_caption_says_so_and_runs_once():
    model = tiny(prompts="many")
    model.set_vocabulary(Vocabulary.of(NAMES))
    (result,) = model.predict(*batch(model, [target()]).values())
    assert len(result) == 6 * len(NAMES) and set(result.labels.tolist()) == set(range(len(NAMES)))
    protocol = model.protocol()
    assert protocol["captions"] == 1 and "as many as fit" in protocol["classes_per_caption"] and "sum" in protocol["score"]
    assert result.scores.nbytes + result.labels.nbytes + result.boxes_xyxy.nbytes == 28 * len(result)


def test_lvis__a_threshold_leaves_out_what_is_absent():
    model = tiny(prompts="many", score_thr=0.999)
    model.set_vocabulary(Vocabulary.of(NAMES))
    assert len(model.predict(*batch(model, [target()]).values())[0]) == 0


def test_text__is_encoded_once_a_vocabulary(monkeypatch):
    model, calls = tiny(), []
    encode = model.text_encoder.encode
    monkeypatch.setattr(model.text_encoder, "encode", lambda tokenized: (calls.append(len(tokenized.captions)), encode(tokenized))[1])
    model.set_vocabulary(Vocabulary.of(NAMES))
    for _ in range(3):
        model.predict(*batch(model, [target()]).values())
    assert calls == [len(NAMES)]
    plain = [prompt.text_LC for prompt in model.text()]
    model.train().eval()
    with torch.autocast("cpu", torch.bfloat16):  # the text is kept: the precision of the first image is not that of a later one's text
        assert len(model.predict(*batch(model, [target()]).values())[0])
    assert calls == [len(NAMES)] * 2
    assert all(torch.equal(a.text_LC, b) for a, b in zip(model.text(), plain, strict=True))


def test_loss__does_not_depend_on_the_padding_that_batch_mates_bring():
    """Captions of unequal length: the sum of two images' losses is that of each alone; the release's is not."""
    def parts(published):
        model = tiny(criterion=dict(published=published, align_weight=1.0))
        with torch.no_grad():
            both = losses(model, pair())
            alone = [losses(model, [t], [image(n)]) for n, t in enumerate(pair())]
        counts = torch.tensor([2.0, 1.0])
        return float(both["loss_align"]), float((torch.stack([a["loss_align"] for a in alone]) * counts).sum() / counts.sum())

    both, apart = parts(published=False)
    assert both == pytest.approx(apart, rel=1e-5)
    both, apart = parts(published=True)
    assert both > apart + 1e-3


def test_loss__images_without_boxes_and_batches_without_any():
    model = tiny(slots_from="proposals", tokens="alignment").train()
    empty = target(0, caption="a tree")
    for targets in ([empty, target(1, **BIRD)], [empty, target(1, caption="nothing here")]):
        found = losses(model, targets)
        loss = total(found)
        model.zero_grad()
        loss.backward()
        assert torch.isfinite(loss) and all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert found["loss_box"].item() == found["loss_align"].item() == 0 and found["loss_token"].item() > 0


def test_loss__without_a_caption_says_which_image():
    with pytest.raises(ValueError, match="image 0.jpg has none"):
        losses(tiny(), [target(boxes=[(0, 0, 9, 9)])])


def long_caption(words=400):
    caption = " ".join(["tree"] * words) + " and a red dog"
    return caption, find_phrases(caption, ["a red dog"])


def test_caption__over_the_limit_is_cut_in_training_and_an_error_when_asked():
    model = tiny().train()
    caption, _ = long_caption()
    found = losses(model, [target(caption=caption, phrases=["a red dog"], boxes=[(4, 4, 40, 50)])])
    assert torch.isfinite(total(found)) and float(found["loss_box"]) > 0 and float(found["loss_align"]) == 0
    with pytest.raises(ValueError, match="at most 255 tokens"):
        ask(model.eval(), caption, ["a red dog"])


def test_columns__the_last_one_is_no_object_alone():
    """A token in the place of "no object" has no column of its own; the release lets both speak through it."""
    tokens = torch.zeros(1, 300, dtype=torch.bool)
    tokens[0, 254:258] = True
    own, published = MdetrCriterion().positive_columns(tokens, 256), MdetrCriterion(published=True).positive_columns(tokens, 256)
    assert own[0].nonzero().flatten().tolist() == [254] and float(own.sum()) == 1
    assert published[0].nonzero().flatten().tolist() == [254, 255] and float(published.sum()) == 2
    assert tiny().max_tokens == 255 and tiny(criterion=dict(published=True)).max_tokens == 512


def test_alignment_tokens__the_release_reads_the_first_caption_where_a_span_ends_on_a_blank():
    from ovdense.methods.mdetr.truth import published_alignment_tokens

    model = tiny()
    tokenized = model.tokenize(["one two three four five", "a  dog"])
    spans = [[(1, 6)]]  # begins on a blank: the neighbours are looked for
    from ovdense.text.phrases import phrase_map

    right, published = phrase_map(tokenized, 1, spans).tokens_PL, published_alignment_tokens(tokenized, 1, spans)
    assert right[0].nonzero().flatten().tolist() == [2]
    assert published[0].tolist() != right[0].tolist()


def test_phrase__without_a_token_gets_nothing_and_disturbs_nothing():
    model = tiny()
    (usual,) = ask(model, "a dog \u200b cat", ["a dog"])
    from ovdense.structures import ClassEntry
    from ovdense.text.prompts import PromptChunk

    both = Vocabulary((ClassEntry(name="a dog"), ClassEntry(name="nothing")))
    model.ask([PromptChunk(caption="a dog \u200b cat", class_indices=(0, 1), spans_per_class=(((0, 5),), ((6, 7),)))], both)
    (result,) = model.predict(*batch(model, [target()]).values())
    assert float(result.scores[result.labels == 1].sum()) == 0
    torch.testing.assert_close(result.scores[result.labels == 0], usual.scores)


def test_ask__each_class_must_be_said():
    model = tiny()
    from ovdense.text.caption_prompts import caption_prompt

    _, prompt = caption_prompt("a cat", [[(0, 5)]])
    with pytest.raises(ValueError, match="must stand in one of the captions"):
        model.ask([prompt], Vocabulary.of(["a cat", "a dog"]))
    with pytest.raises(ValueError, match="must have a phrase"):
        caption_prompt("a cat", [])


def test_masks__of_matched_slots_and_at_the_files_size():
    model = tiny(masks=True)
    (result,) = ask(model, DOG["caption"], DOG["phrases"])
    assert result.masks_NHW.shape == (len(result), 64, 96) and result.masks_NHW.dtype == torch.bool
    with pytest.raises(ValueError, match="masks are trained, but image 0.jpg has none"):
        losses(model, [target(**DOG)])


def test_masks_only__trains_the_mask_head_alone():
    model = tiny(masks="only").train()
    trained = {n.split(".")[0] for n, p in model.named_parameters() if p.requires_grad}
    assert trained == {"mask_head"}
    assert set(losses(model, pair(masks=True))) == {"loss_mask", "loss_dice"}


def test_box_places__are_half_sides_from_the_centre_and_shares_of_a_place_at_a_border():
    across, down, inside = box_places(torch.tensor([[0.5, 0.5, 0.5, 0.25]]), (4, 8))[0]
    assert across[0].tolist() == [-1.75, -1.25, -0.75, -0.25, 0.25, 0.75, 1.25, 1.75]
    assert down[:, 0].tolist() == [-2, -1, 1, 2], "cut off at 2"
    assert inside[1].tolist() == [0, 0, 0.5, 0.5, 0.5, 0.5, 0, 0]
    assert inside[:, 2].tolist() == [0, 0.5, 0.5, 0], "the box is one place high, half of it in each row"


def test_mask_boxes__tell_slots_apart_and_are_shares_of_the_padded_input():
    torch.manual_seed(0)
    head = MaskHead(128, 8, (8, 8, 8), boxes=True)
    source, memory, valid = torch.randn(1, 128, 2, 3), torch.randn(1, 6, 128), torch.ones(1, 6, dtype=torch.bool)
    fine = [torch.randn(1, 8, 2 * k, 3 * k) for k in (2, 4, 8)]
    slots, which = torch.randn(1, 128).expand(2, -1), torch.zeros(2, dtype=torch.int64)
    boxes = torch.tensor([[0.2, 0.2, 0.2, 0.2], [0.7, 0.7, 0.4, 0.4]])
    one, other = head(slots, which, source, memory, valid, fine, boxes)
    assert float((one - other).abs().max()) > 1e-2, "the same slot with another box has another mask"
    with pytest.raises(ValueError, match="boxes_N4 must be given"):
        head(slots, which, source, memory, valid, fine)
    model = tiny(masks=True, mask_boxes=True)
    shares = model._mask_boxes(torch.tensor([[0.5, 0.5, 1.0, 1.0]]), torch.tensor([0]), [target(size=(32, 72))], (64, 96))
    assert shares.tolist() == [[0.375, 0.25, 0.75, 0.5]]
    (result,) = ask(model, DOG["caption"], DOG["phrases"])
    assert result.masks_NHW.shape == (len(result), 64, 96)
    assert {"loss_mask", "loss_dice"} < set(losses(model.train(), pair(masks=True)))


def test_answers__are_read_from_slots_of_their_own():
    model = tiny(head=dict(answers="gqa")).train()
    answers = [{"type": 0, "obj": 2}, {"type": 4, "cat": 600}]
    targets = [target(n, **kind, answers=a) for n, (kind, a) in enumerate(zip((DOG, BIRD), answers))]
    found = losses(model, targets)
    assert {k for k in found if "answer" in k} == {f"loss_answer_{n}" for n in ("type", "obj", "rel", "attr", "cat", "global")}
    assert float(found["loss_answer_rel"]) == 0 < float(found["loss_answer_obj"])
    assert len(ask(model.eval(), DOG["caption"], DOG["phrases"])[0]) == 12


def test_settings__are_checked():
    for wrong in (dict(prompts="two"), dict(pairs=0)):
        with pytest.raises(ValueError):
            tiny(**wrong)
    with pytest.raises(ValueError, match="slots_from"):
        tiny(slots_from="nowhere")
    assert np.isfinite(sum(p.sum().item() for p in tiny().parameters()))


def test_answers__of_a_question_are_those_of_its_type_and_come_with_the_results():
    model = tiny(head=dict(answers="gqa")).eval()
    heads = model.head.answers
    for module, index in ((heads.to_type, 1), (heads.to_attr, 7), (heads.to_obj, 2)):
        module.weight.data.zero_()
        module.bias.data.zero_()[index] = 5.0
    result = ask(model, DOG["caption"], DOG["phrases"])[0]
    assert result.answers == {"type": 1, "attr": 7}, "of type 1, attr; the other heads say nothing"
    assert from_det_data_sample(to_det_data_sample(result), result.names).answers == result.answers
    model.set_vocabulary(Vocabulary.of(["dog", "cat"]))
    assert model.predict(*batch(model, [target()]).values())[0].answers is None, "classes are no question"


def test_answers__of_clevr_are_yes_or_no_a_number_or_an_attribute():
    model = tiny(head=dict(answers="clevr")).train()
    answers = [{"type": 0, "binary": 1}, {"type": 2, "reg": 19}]
    targets = [target(n, **kind, answers=a) for n, (kind, a) in enumerate(zip((DOG, BIRD), answers))]
    found = losses(model, targets)
    assert {k for k in found if "answer" in k} == {f"loss_answer_{n}" for n in ("type", "binary", "reg", "attr")} and float(found["loss_answer_attr"]) == 0
    assert float(found["loss_answer_binary"].detach()) > 0 and float(found["loss_answer_reg"].detach()) > 0
    for wrong in ({"type": 0, "binary": 2}, {"type": 2, "reg": 20}, {"type": 3, "attr": 0}):
        with pytest.raises(ValueError, match="1.jpg must come with answers"):
            losses(model, [targets[0], target(1, **BIRD, answers=wrong)])
    heads = model.eval().head.answers
    for kind, bias, said in ((0, 3.0, {"type": 0, "binary": 1}), (0, -3.0, {"type": 0, "binary": 0}), (2, 3.0, {"type": 2, "reg": 4})):
        heads.to_type.bias.data.zero_()[kind] = 50.0
        heads.to_binary.bias.data.fill_(50 * bias)
        heads.to_reg.layers[-1].bias.data.zero_()[4] = 50.0
        assert ask(model, DOG["caption"], DOG["phrases"])[0].answers == said


def with_background(*names):
    return Vocabulary((*(ClassEntry(name=n) for n in names), ClassEntry(name="grass", is_background=True)))


@torch.no_grad()
@pytest.mark.parametrize("prompts", ["one", "many"])
def test_background__is_not_detected_and_alone_is_an_error(prompts):
    model = tiny(prompts=prompts)
    model.set_vocabulary(with_background("cat", "dog"))
    (result,) = model.predict(*batch(model, [target()]).values())
    assert set(result.labels.tolist()) == {0, 1}
    model.set_vocabulary(Vocabulary((ClassEntry(name="grass", is_background=True),)))
    with pytest.raises(ValueError, match="not background"):
        model.text()


def test_texts__are_asked_as_they_are_and_long_ones_alone():
    vocabulary = Vocabulary((*Vocabulary.of(["a man (left) with a bag", "tv_set", "red St. Bernard", "dog"]), with_background()[0]))
    chunks = many_class_prompts(vocabulary, tiny().text_encoder.tokenizer, prompt="texts", max_classes=None, max_tokens=100)
    assert [(c.caption, c.class_indices) for c in chunks] == [
        ("a man (left) with a bag. grass", (0,)), ("red St. Bernard. grass", (2,)), ("tv_set. dog. grass", (1, 3))]
    for chunk in chunks:
        said = [chunk.caption[slice(*span)] for (span,) in (*chunk.spans_per_class, *chunk.background_spans)]
        assert said == [*(vocabulary[k].name for k in chunk.class_indices), "grass"]
    few = many_class_prompts(Vocabulary.of([f"thing{k}" for k in range(9)]), tiny().text_encoder.tokenizer, prompt="texts", max_classes=None, max_tokens=8)
    assert len(few) > 1 and sorted(k for c in few for k in c.class_indices) == list(range(9))


@torch.no_grad()
def test_text__follows_weights_that_are_loaded_into_a_part_of_the_model():
    model, other = tiny(), tiny()
    model.set_vocabulary(Vocabulary.of(NAMES))
    for part in ("text_encoder", "transformer.text_projection"):
        before = model.text()
        assert model.text() is before
        state = {n: p + torch.rand_like(p) if p.is_floating_point() else p for n, p in other.get_submodule(part).state_dict().items()}
        model.get_submodule(part).load_state_dict(state)
        assert not torch.equal(model.text()[0].text_LC, before[0].text_LC), part


def test_loss__says_which_image_lacks_what_the_heads_learn():
    marked = target(0, **DOG, final=torch.tensor([1.0, 0.0]))
    model = tiny(head=dict(final=True)).train()
    assert "loss_final" in losses(model, [marked, target(1, caption="a bird")])
    with pytest.raises(ValueError, match="1.jpg"):
        losses(model, [marked, target(1, **BIRD)])
    asked = tiny(head=dict(answers="gqa")).train()
    for wrong in (None, {"type": 0}, {"type": 7, "obj": 1}, {"obj": 1}, {"type": 0, "obj": 3}, {"type": 0, "obj": -1}):
        with pytest.raises(ValueError, match="1.jpg must come with answers"):
            losses(asked, [target(0, **DOG, answers={"type": 0, "obj": 1}), target(1, **BIRD, answers=wrong)])
    with pytest.raises(ValueError, match="0.jpg"):
        losses(tiny().train(), [target(0, caption="a bird", phrases=["a bird"], boxes=[(1, 1, float("nan"), 9)])])


def test_model__says_what_it_cannot_be_made_with():
    from ovdense.text.piecewise import PiecewiseTextEncoder

    for wrong in (dict(phrase_score="avg"), dict(max_classes=0), dict(max_dets=0), dict(max_dets=-3), dict(prompts="many", phrase_score="object")):
        with pytest.raises(ValueError, match="phrase_score|max_classes|max_dets"):
            tiny(**wrong)
    model = tiny()
    with pytest.raises(ValueError, match="PiecewiseTextEncoder"):
        Mdetr(backbone=model.backbone, text_encoder=PiecewiseTextEncoder(model.text_encoder))
    with pytest.raises(ValueError, match="not background"):
        model.ask([], Vocabulary((ClassEntry(name="grass", is_background=True),)))
    assert {model.protocol()["boxes"], tiny(clip=False).protocol()["boxes"]} == {"cut at the image's border", "not cut"}
