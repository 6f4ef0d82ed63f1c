"""The background class of a segmenter that only knows things: where nothing scores enough, or something else scores more."""
from torch import Tensor


def with_background(score_KHW: Tensor, background_K: Tensor, threshold: float | None) -> Tensor:
    """Return the maps with those of the background classes raised to `threshold`, so that weaker classes lose to them.

    With None the background classes compete by their own names' scores alone, as any other. ValueError for a threshold where the
    vocabulary has no background class: it would do nothing. Works on maps of any resolution, before they are resized.
    """
    if threshold is None:
        return score_KHW
    background_K = background_K.to(score_KHW.device)
    if not bool(background_K.any()):
        raise ValueError("a background threshold needs a background class in the vocabulary, got none; drop the threshold or add the class")
    raised_KHW = score_KHW.clone()
    raised_KHW[background_K] = threshold
    return raised_KHW
