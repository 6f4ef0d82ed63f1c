"""CLIP's text tower with contexts: the shared beginning equals the whole sequences, long names, weights files."""
import pytest
import torch

from ovdense.text.clip_context import ClipContextEncoder
from ovdense.text.vocabulary import load_vocabulary

SMALL = dict(embed_width=10, width=16, heads=2, layers=3)
NAMES = ["cat", "chest of drawers", "a long-haired orange tabby cat asleep"]


@pytest.fixture(scope="module")
def tower():
    torch.manual_seed(0)
    return ClipContextEncoder(**SMALL)


def whole_sequences(tower, tokens, contexts):
    """Return what open_clip's blocks give for [start, contexts, name, end, padding], all sequences in full."""
    text, (num_sets, num_contexts, _) = tower.text, contexts.shape
    embedded = text.token_embedding(tokens.ids_BL)
    out = []
    for b in range(num_sets):
        x = torch.cat([embedded[:, :1], contexts[b].expand(len(embedded), -1, -1), embedded[:, 1:]], 1)
        x = x + text.positional_embedding[: x.shape[1]]
        x = text.ln_final(text.transformer(x, attn_mask=text.attn_mask[: x.shape[1], : x.shape[1]]))
        end = tokens.valid_BL.sum(1) - 1 + num_contexts
        out.append(x[torch.arange(len(x)), end] @ text.text_projection)
    return torch.stack(out)


@pytest.mark.parametrize("num_sets, num_contexts", [(1, 8), (3, 2), (1, 0)])
def test_shared_beginning__equals_whole_sequences_and_their_gradients(tower, num_sets, num_contexts):
    contexts = torch.randn(num_sets, num_contexts, 16, generator=torch.Generator().manual_seed(1), requires_grad=True)
    tokens = tower.tokenize(NAMES, num_contexts)
    ours, theirs = tower.encode_names(tokens, contexts), whole_sequences(tower, tokens, contexts)
    assert torch.allclose(ours, theirs, atol=1e-6)
    if num_contexts:
        pull = torch.randn(ours.shape, generator=torch.Generator().manual_seed(2))
        grads = [torch.autograd.grad((x * pull).sum(), contexts, retain_graph=True)[0] for x in (ours, theirs)]
        assert torch.allclose(*grads, atol=1e-5 * grads[1].abs().max().item())


@torch.no_grad()
def test_names__do_not_depend_on_what_else_is_asked(tower):
    contexts = torch.randn(1, 4, 16, generator=torch.Generator().manual_seed(1))
    together = tower.encode_names(tower.tokenize(NAMES, 4), contexts)
    for k, name in enumerate(NAMES):  # padding to the longest changes nothing
        assert torch.allclose(tower.encode_names(tower.tokenize([name], 4), contexts)[0, 0], together[0, k], atol=1e-6)


def test_frozen_tower__contexts_still_learn(tower):
    contexts = torch.zeros(1, 4, 16, requires_grad=True)
    tower.encode_names(tower.tokenize(NAMES, 4), contexts).sum().backward()
    assert contexts.grad.abs().sum() > 0 and all(p.grad is None for p in tower.parameters())


@pytest.mark.parametrize("source", ["lvis", "coco"])
def test_every_name_of_a_vocabulary_has_room(tower, source):
    nouns = [entry.noun for entry in load_vocabulary(source)]
    tokens = tower.tokenize(nouns, 8)
    longest = int(tokens.valid_BL.sum(1).max())
    assert tokens.ids_BL.shape == (len(nouns), longest) and longest + 8 <= 77
    assert (tokens.ids_BL[torch.arange(len(nouns)), tokens.valid_BL.sum(1) - 1] == 49407).all()  # no name lost its end
    if source == "lvis":
        assert longest > 5  # the published length would not do
        with pytest.raises(ValueError, match="context_length=77"):
            ClipContextEncoder(**SMALL, context_length=13).tokenize(nouns, 8)


def test_every_panoptic_name_has_room(tower, data_root):
    import json

    named = json.loads((data_root / "coco_mini" / "annotations" / "semantic_classes.json").read_text())
    names = [c["name"] if isinstance(c, dict) else c for c in (named.values() if isinstance(named, dict) else named)]
    tokens = tower.tokenize(names, 8)
    assert len(names) > 100 and (tokens.ids_BL[torch.arange(len(names)), tokens.valid_BL.sum(1) - 1] == 49407).all()


def test_weights__a_longer_table_is_cut(tower, tmp_path):
    torch.save({name: value for name, value in tower.text.state_dict().items()} | {"logit_scale": torch.tensor(4.6)}, tmp_path / "clip.pt")
    short = ClipContextEncoder(**SMALL, context_length=13, weights=tmp_path / "clip.pt")
    assert torch.equal(short.text.positional_embedding, tower.text.positional_embedding[:13])
    assert tower.fingerprint() != short.fingerprint()
    with pytest.raises(ValueError, match="does not fit"):
        ClipContextEncoder(**SMALL | dict(layers=4), weights=tmp_path / "clip.pt")
