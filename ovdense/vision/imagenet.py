"""ImageNet-1k's classes in words: the names that CLIP was measured with, and WordNet's definitions."""


def imagenet_names() -> tuple[str, ...]:
    """Return the 1,000 class names in the order of the classifiers' outputs, as open_clip has them ("tench", "goldfish" ...)."""
    from open_clip import IMAGENET_CLASSNAMES

    return tuple(IMAGENET_CLASSNAMES)


def imagenet_glosses() -> tuple[str, ...]:
    """Return WordNet's definition of each class, without the name before it ("any sport fish of the genus ..."), as timm has them."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet1k")
    glosses = []
    for k in range(info.num_classes()):
        name, full = info.index_to_description(k), info.index_to_description(k, detailed=True)
        glosses.append(full.removeprefix(name).strip(" :,-") or name)
    return tuple(glosses)
