"""From a text vector to a support set: the best images of an archive, kept with where they came from."""
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mmengine import dist
from mmengine.logging import print_log
from torch import Tensor

from ovdense.support.retrieval import Engine, ImageIndex
from ovdense.support.store import SupportSet, SupportStore


def retrieve_support(
    name: str, query_D: Tensor, index: ImageIndex, k: int, store: SupportStore, *,
    deduplicate: bool = True, engine: Engine = "exact", said: Mapping[str, Any] | None = None,
) -> SupportSet:  # fmt: skip
    """Return the support set of class `name`: the k images nearest to `query_D`, fewer if the archive has no more.

    It is found again by the query's bytes, the archive's contents, k and the rules. `deduplicate`: a content that the archive
    has under several names counts once (the release does not look). Images that have gone since the archive was indexed are
    reported and the next ones taken. `said`: what else to write down (encoder, templates); it is part of what the set is known by.
    Each image's details are its rank, from 0, and its similarity.
    """
    query = hashlib.sha256(np.ascontiguousarray(query_D.detach().float().cpu().numpy()).tobytes()).hexdigest()[:32]
    made_with = {"by": "retrieval", "query": query, "archive": index.fingerprint(), "archive_images": len(index), "k": k,
                 "deduplicate": deduplicate, "engine": engine, **(said or {})}  # fmt: skip
    known = store.find_whole(name, made_with)
    is_there = [known is not None]
    dist.broadcast_object_list(is_there)  # all ranks go the same way
    if is_there[0]:
        return known or _stored(name, made_with, store)  # another run may have stored it between two ranks' looks
    chosen = _choose(query_D, index, k, deduplicate, engine)
    if not dist.is_main_process():
        dist.barrier()
        return _stored(name, made_with, store)
    images = [(path, {"rank": rank, "similarity": round(score, 6)}) for rank, (path, score) in enumerate(chosen)]
    with store.alone(name, made_with):  # another run may ask for the same at once
        made = store.find_whole(name, made_with) or store.put(name, made_with, images)
    dist.barrier()
    return made


def _stored(name: str, made_with: Mapping[str, Any], store: SupportStore) -> SupportSet:
    """Return the set that the first process has; FileNotFoundError where this one does not see it."""
    found = store.find(name, made_with)
    if found is None:
        raise FileNotFoundError(f"all processes must see one cache of support sets, rank {dist.get_rank()} does not see the first one's in {store.folder}; "
                                "set OVDENSE_CACHE to a folder that they share")  # fmt: skip
    return found


def _choose(query_D: Tensor, index: ImageIndex, k: int, deduplicate: bool, engine: Engine) -> list[tuple[Path, float]]:
    """Return the first k files that are there; asks for more as long as some drop out."""
    wanted = k
    while True:
        found = index.top_k(query_D[None], wanted, engine=engine)
        chosen, seen, gone = [], set(), []
        for position, score in zip(found.position_Qk[0].tolist(), found.score_Qk[0].tolist()):
            path, key = index.paths[position], index.keys[position]
            if not path.is_file():
                gone.append(path)
            elif not (deduplicate and key in seen):
                seen.add(key)
                chosen.append((path, score))
        if len(chosen) >= k or wanted >= len(index) or len(found.position_Qk[0]) < wanted:
            if gone and dist.is_main_process():
                print_log(
                    f"{len(gone)} retrieved images have gone since the archive was indexed, such as {gone[0]}; the next are taken", logger="current", level=30
                )
            if not chosen:
                raise ValueError(f"the archive must have at least one image left, but all {len(index)} have gone; index it again")
            return chosen[:k]
        wanted = min(2 * wanted, len(index))
