"""Training captions: the published draws, and the rules that keep them free of contradictions."""
import json
import pickle

import numpy as np
import pytest

from ovdense.data.description_queries import DescriptionQueries, ImageClasses, QuerySpec, build_description_query, build_published_query, confusable_classes
from ovdense.data.detection import LvisDetection
from ovdense.data.transforms import LoadImage, PackDetection, RandomCrop, ResizeShortestEdge
from ovdense.structures import ClassEntry, Vocabulary
from ovdense.text.phrases import phrase_map
from ovdense.text.prompts import description_piece
from ovdense.text.published_pieces import published_description, published_piece
from ovdense.text.tokenizers import embedded_tokenizer


def entry(name, description=None, **more):
    return ClassEntry(name=name, descriptions=(description,) if description else (), **more)


ANIMALS = Vocabulary((
    entry("cat", "furry; could meow", kind="animal", similar=("dog",)),
    entry("dog", "furry; could bark", kind="animal"),
    entry("bow_(weapon)", "curved; shoots arrows", kind="weapon"),
    entry("bow_(decoration)", "a knot with two loops", kind="decoration"),
    *(entry(f"thing{n}", f"part {n}", kind="object") for n in range(30)),
))  # fmt: skip
PLAIN = dict(confusable=0.0)


def words(text: str) -> int:
    return len(text.split())


def query(labels, seed=0, vocabulary=ANIMALS, names_only=False, present=(), absent=(), count=words, **spec):
    image = ImageClasses(labels=np.array(labels, dtype=np.int64), present=frozenset(present), absent=frozenset(absent))
    return build_description_query(np.random.default_rng(seed), vocabulary, image, count, QuerySpec(**spec), names_only=names_only)


def said(caption: str, spans) -> list[list[str]]:
    return [[caption[a:b] for a, b in s] for s in spans]


def test_query__spans_are_name_and_kind():
    caption, spans, keep = query([0, 0, 2], seed=3, name_prob=1.0)
    assert caption.startswith("Detect: ")
    for text, k in zip(said(caption, spans), np.array([0, 0, 2])[keep]):
        assert text == [["cat, a kind of animal, "], None, ["bow, a kind of weapon, "]][k]
    assert query([0], seed=3, name_prob=0.0)[0].count("cat") == 0


def test_query__branches_have_their_shares():
    counts = []
    for seed in range(600):
        caption, spans, keep = query([0, 2], seed=seed)
        counts.append((len({s for s in spans}), caption.count(". ")))
    both = np.mean([c == (2, 8) for c in counts])
    # 1/2 all; 2/5 fewer positives, of which 1/3 keep both; 1/10 fewer negatives, of which 1/7 keep six
    assert abs(both - (0.5 + 0.4 / 3 + 0.1 / 7)) < 0.06
    assert abs(np.mean([p == 0 for p, _ in counts]) - 0.4 / 3) < 0.04
    assert {n for _, n in counts} == set(range(2, 9))


def test_query__more_positives_than_pieces_bring_no_negative():
    labels = list(range(4, 16))
    for seed in range(30):
        caption, spans, keep = query(labels, seed=seed)
        assert caption.count(". ") == max(1, len(set(spans)))


def test_query__budget_holds_and_counts_what_is_written():
    count = embedded_tokenizer().count
    for seed in range(40):
        caption, spans, keep = query([0, 1, 2, 3, 5], seed=seed, count=count, max_tokens=40)
        assert count(caption) <= 40 and len(spans) == keep.sum()
    with pytest.raises(ValueError, match="must fit into 6 tokens, but class '.*' needs"):
        query([0], count=count, max_tokens=6, name_prob=1.0)


def test_query__boxes_of_absent_classes_go():
    dropped = 0
    for seed in range(60):
        caption, spans, keep = query([0, 5, 5], seed=seed, name_prob=1.0)
        assert keep[0] == ("cat, " in caption) and keep[1] == keep[2] == ("thing1, " in caption)
        dropped += not keep.all()
    assert dropped > 5


def test_names_only__equal_nouns_share_one_span_and_are_never_negative():
    for seed in range(60):
        caption, spans, keep = query([2, 3, 0], seed=seed, names_only=True)
        assert not caption.startswith("Detect") and not caption.endswith(". ")
        texts = caption.split(". ")
        assert texts.count("bow") == 1 and keep.all() and spans[0] == spans[1]
        assert said(caption, spans) == [["bow"], ["bow"], ["cat"]]
        caption, spans, keep = query([2], seed=seed, names_only=True, num_name_negatives=None)
        assert caption.split(". ").count("bow") <= 1 and keep[0] == ("bow" in caption.split(". ")) and len(caption.split(". ")) <= 8
        # one of two positives that read the same is enough to ask for both
        caption, spans, keep = query([2, 3], seed=seed, names_only=True, num_name_negatives=None)
        assert keep[0] == keep[1]


def test_names_only__all_positives_and_up_to_so_many_negatives():
    numbers = [len(query([0, 1], seed=s, names_only=True, num_name_negatives=10)[0].split(". ")) - 2 for s in range(200)]
    assert set(numbers) == set(range(1, 11)) and numbers.count(10) > 80
    assert query([0], names_only=True, num_name_negatives=0)[0] == "cat"


def test_equal_descriptions__are_no_contradiction():
    twins = Vocabulary((entry("red cup", "round", kind="cup"), entry("blue cup", "round", kind="cup"), entry("fork", "long", kind="tool")))
    for seed in range(50):
        # names are never kept: the two cups read the same, so the second is not a negative of the first
        caption, spans, keep = query([0], seed=seed, vocabulary=twins, name_prob=0.0)
        assert caption.count("a kind of cup, round. ") <= 1 and keep[0] == ("kind of cup" in caption)


def test_negatives__neither_present_ones_nor_positives():
    others = set(range(4, 34))
    for seed in range(30):
        caption, _, _ = query([0], seed=seed, present=others | {2}, name_prob=1.0, confusable=0.0)
        assert "thing" not in caption and "weapon" not in caption
    # a bow that is there without a box (a crowd, cut away) keeps the other thing that is called bow from being a negative
    for seed in range(30):
        caption, _, _ = query([0], seed=seed, present={2}, names_only=True)
        assert "bow" not in caption.split(". ")
    # nothing may be asked for but the one positive
    assert all(query([0], seed=s, present=range(34))[2].all() for s in range(20))


def test_confusable__same_noun_and_similar_both_ways():
    near = confusable_classes(ANIMALS)
    assert near[0] == {1} and near[1] == {0} and near[2] == {3} and near[3] == {2} and near[4] == frozenset()


def test_confusable__come_as_often_as_asked():
    def share(confusable):
        captions = [query([0], seed=s, name_prob=1.0, confusable=confusable, num_pieces=3)[0] for s in range(200)]
        return np.mean(["dog, " in c for c in captions])

    assert share(0.0) < 0.2 and share(1.0) > 0.85


def test_federated__known_absent_classes_come_first():
    hits = []
    for seed in range(40):
        caption, _, _ = query([0], seed=seed, absent={10, 11, 12}, federated=True, name_prob=1.0, num_pieces=4, confusable=0.0)
        negatives = [t for t in caption.split() if t.startswith("thing")]
        hits += [t in ("thing6,", "thing7,", "thing8,") for t in negatives]
    assert all(hits) and hits


@pytest.mark.parametrize("names_only", [True, False])
def test_verified_only__no_other_class_is_a_negative(names_only):
    options = dict(federated=True, verified_only=True, name_prob=1.0, names_only=names_only)
    seen = set()
    for seed in range(40):
        caption, _, keep = query([0], seed=seed, absent={10, 11, 1}, **options)
        seen |= {w for w in caption.replace(".", "").replace(",", "").split() if w.startswith("thing") or w in ("dog", "bow")}
        assert query([0], seed=seed, **options)[0] == ("cat" if names_only else "Detect: cat, a kind of animal, furry, could meow. ")  # none known: none
        caption, _, _ = query([], seed=seed, present={0, 1, 2, 3}, **options)
        assert caption.count("thing") == 1  # a caption asks for something
    assert seen == {"thing6", "thing7", "dog"}
    with pytest.raises(ValueError, match="set federated=True"):
        QuerySpec(verified_only=True)


def test_empty__no_boxes_one_class():
    caption, spans, keep = query([], seed=0)
    assert spans == () and keep.shape == (0,) and caption.count(". ") >= 1
    one = Vocabulary.of(["cat"])
    for seed in range(10):
        assert query([0], seed=seed, vocabulary=one)[0] == "Detect: cat. " and query([0], seed=seed, vocabulary=one)[2].all()
    assert query([], vocabulary=one)[0] == "Detect: cat. "


def test_spec__rejects_what_cannot_be():
    for wrong in (dict(name_prob=2), dict(confusable=-1), dict(num_pieces=0), dict(max_tokens=0), dict(num_name_negatives=-1)):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            QuerySpec(**wrong)
    with pytest.raises(ValueError, match="published_quirks draws negatives as the release does"):
        QuerySpec(published_quirks=True)
    with pytest.raises(ValueError, match="bind"):
        DescriptionQueries()(dict(rng=np.random.default_rng(0), labels=np.zeros(1, int)))


class ListedDraws:
    """The draws of a published trace, in order, of every kind that the published code makes."""

    def __init__(self, trace):
        self.trace = list(trace)

    def _next(self, name):
        draw = self.trace.pop(0)
        assert draw[0] == name, f"wanted {name}, the trace has {draw}"
        return draw

    def random(self):
        return self._next("random.random")[1]

    def integers(self, high):
        name, *numbers = self.trace.pop(0)
        if name == "random.randint":
            low, last, value = numbers
            assert (low, last) == (0, high - 1)
            return value
        assert name in ("random.choice", "np.random.choice") and numbers[0] == high, f"wanted one of {high}, the trace has {name} {numbers}"
        return numbers[-1]

    def permutation(self, x):
        if self.trace[0][0] == "np.random.choice":
            _, population, _, drawn = self.trace.pop(0)
            assert len(population) == x
            places = [population.index(value) for value in drawn]
            return places + [n for n in range(x) if n not in places]
        order = self._next("random.shuffle")[1]
        assert len(order) == x
        return order


def published_cases(golden_root):
    """Return (case, its vocabulary) where our pieces of all classes are the release's: odd names and texts are spelt as published by the captions' own port."""
    found = []
    for case in json.loads((golden_root / "desco/captions/cases.json").read_text())["cases"]:
        if case["kind"] == "od_description":
            said = {d["object"]: d["gpt3_output"] for d in case["description"]}
            names = [case["ind_to_class"][str(k + 1)] for k in range(len(case["ind_to_class"]))]
            read = [published_description(said[n]) for n in names]
            entries = [entry(n, "; ".join(r.parts).strip(), kind=r.kind_phrase.removeprefix("a kind of ")) for n, r in zip(names, read)]
            pieces = [(description_piece(e, *e.descriptions).text if e.descriptions else "", published_piece(e.name, said[e.name]).text) for e in entries]
            if all(ours == theirs for ours, theirs in pieces):
                found.append((case, Vocabulary(tuple(entries))))
    return found


def test_published_quirks__golden_captions(golden_root):
    cases = published_cases(golden_root)
    assert cases
    count = embedded_tokenizer().count
    for case, vocabulary in cases:
        labels, wanted = np.array(case["labels"], dtype=int) - 1, case["expected"]
        draws = ListedDraws(case["rng_trace"])
        order = [k - 1 for k in case["positive_label_order"]]
        spec = QuerySpec(published_quirks=True, **PLAIN)
        caption, spans, keep = build_published_query(draws, vocabulary, labels, count, spec, positive_order=order)
        assert caption == wanted["caption"], case["name"]
        assert [[list(s) for s in spans_n] for spans_n in spans] == wanted["tokens_positive"], case["name"]
        assert (labels[keep] + 1).tolist() == wanted["kept_labels"] and not draws.trace


OPTIONS = [
    dict(), dict(prob_descriptions=0.0), dict(federated=True), dict(federated=True, verified_only=True), dict(published_quirks=True, confusable=0.0),
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS)
def test_transform__on_real_photos(data_root, options):
    steps = [
        dict(type=LoadImage), dict(type=RandomCrop), dict(type=DescriptionQueries, **options), dict(type=ResizeShortestEdge, short_sides=(96,), max_size=192),
        dict(type=PackDetection),
    ]  # fmt: skip
    data = LvisDetection(
        ann_file="lvis_mini/annotations/lvis_v1_train.json", image_prefix="coco_mini/train2017", data_root=str(data_root), transforms=steps,
        description_file="descriptions/lvis_v1.description.v1.json",
    )  # fmt: skip
    tokenizer, boxes = embedded_tokenizer(), 0
    for i in range(12):
        target = data[i]["target"]
        assert options.get("published_quirks") or tokenizer.count(target.caption) <= 254
        assert target.caption.startswith("Detect: ") or options.get("prob_descriptions") == 0 or ", a kind of" not in target.caption
        tokens = phrase_map(tokenizer.encode([target.caption], max_tokens=600), 0, target.positive_spans).tokens_PL
        assert tokens.shape[0] == len(target.labels) and bool((tokens.sum(1) > 0).all())
        boxes += len(target.labels)
    assert boxes > 10
    again = pickle.loads(pickle.dumps(data))
    assert again[3]["target"].caption == data[3]["target"].caption != data[3 + len(data)]["target"].caption


def test_query__only_negatives_holds_no_class_of_the_image():
    vocabulary = Vocabulary(tuple(ClassEntry(name=f"thing {i}", descriptions=(f"has {i} legs",)) for i in range(30)))
    image = ImageClasses(labels=np.array([3, 7]), present=frozenset(), absent=frozenset())
    count = embedded_tokenizer().count
    for seed in range(5):
        spec = QuerySpec(num_pieces=6, confusable=0.0, name_prob=1.0, only_negatives=1.0)
        caption, spans, keep = build_description_query(np.random.default_rng(seed), vocabulary, image, count, spec)
        assert not keep.any() and spans == () and caption.count("thing") == 6
        assert "thing 3," not in caption and "thing 7," not in caption
    with pytest.raises(ValueError, match="only_negatives must lie in 0..1"):
        QuerySpec(only_negatives=1.5)


@pytest.mark.parametrize("names_only", [True, False])
def test_transform__masks_and_flags_go_with_their_boxes(names_only):
    transform, dropped = DescriptionQueries(prob_descriptions=0.0 if names_only else 1.0, num_pieces=1, only_negatives=0.3), 0
    transform.bind(ANIMALS)
    for seed in range(20):
        labels = np.arange(3)
        masks = np.zeros((3, 8, 8), dtype=bool)
        masks[labels, labels] = True  # the mask of class k is row k
        sample = {"rng": np.random.default_rng(seed), "labels": labels, "boxes_xyxy": np.array([[0, k, 8, k + 1] for k in labels], dtype=np.float32),
                  "masks": masks, "final": labels / 10, "positive_spans": (((0, 1),),) * 3, "image": np.zeros((8, 8, 3), dtype=np.uint8), "image_id": 1,
                  "file_name": "a.jpg", "original_size_hw": (8, 8)}  # fmt: skip
        target = PackDetection()(transform(sample))["target"]
        assert target.masks_NHW.float().argmax(1)[:, 0].tolist() == target.labels.tolist() == target.boxes_xyxy[:, 1].tolist()
        assert target.final.tolist() == pytest.approx([k / 10 for k in target.labels.tolist()]) and len(target.positive_spans) == len(target.labels)
        dropped += len(target.labels) < 3
    assert dropped > 3
