"""MMEngine registries of ovdense (scope "ovdense").

Each registry lists its `locations`, which MMEngine imports on the first look-up by name: importing the package
stays cheap, and nothing has to be imported "for effect". Configs name classes, so look-ups by string happen
only from the command line and from dumped configs.
"""
from mmengine import registry as mmengine_registry
from mmengine.registry import DATA_SAMPLERS as MM_DATA_SAMPLERS
from mmengine.registry import DATASETS as MM_DATASETS
from mmengine.registry import HOOKS as MM_HOOKS
from mmengine.registry import METRICS as MM_METRICS
from mmengine.registry import MODELS as MM_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as MM_OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.registry import OPTIM_WRAPPERS as MM_OPTIM_WRAPPERS
from mmengine.registry import PARAM_SCHEDULERS as MM_PARAM_SCHEDULERS
from mmengine.registry import TRANSFORMS as MM_TRANSFORMS
from mmengine.registry import Registry

SCOPE = "ovdense"

MODELS = Registry(
    "model",
    parent=MM_MODELS,
    scope=SCOPE,
    locations=[
        "ovdense.text.encoders",
        "ovdense.text.memory",
        "ovdense.text.piecewise",
        "ovdense.text.clip_context",
        "ovdense.vision.backbones",
        "ovdense.vision.clip",
        "ovdense.vision.memory",
        "ovdense.vision.extractors",
        "ovdense.vision.resnet",
        "ovdense.vision.vit",
        "ovdense.vision.trunk",
        "ovdense.layers.fpn",
        "ovdense.methods.desco.model",
        "ovdense.methods.mdetr.model",
        "ovdense.methods.desco.folded",
        "ovdense.methods.denseclip.model",
        "ovdense.methods.denseclip.decoders",
        "ovdense.methods.denseclip.open_decoder",
        "ovdense.methods.denseclip.backbones",
        "ovdense.methods.dual_encoder",
        "ovdense.methods.maskclip",
        "ovdense.methods.reco.model",
        "ovdense.methods.reco.plus",
        "ovdense.methods.ovdiff.diffusion",
        "ovdense.methods.ovdiff.model",
    ],
)
DATASETS = Registry(
    "dataset",
    parent=MM_DATASETS,
    scope=SCOPE,
    locations=[
        "ovdense.data.detection",
        "ovdense.data.described",
        "ovdense.data.grounding",
        "ovdense.data.expressions",
        "ovdense.data.coco_captions",
        "ovdense.data.segmentation",
        "ovdense.data.object_crops",
    ],
)
TRANSFORMS = Registry(
    "transform",
    parent=MM_TRANSFORMS,
    scope=SCOPE,
    locations=[
        "ovdense.data.transforms",
        "ovdense.data.label_maps",
        "ovdense.data.center_crop",
        "ovdense.data.strong_colours",
        "ovdense.data.description_queries",
        "ovdense.data.grounding_queries",
        "ovdense.data.hard_negative_transform",
        "ovdense.data.size_crops",
        "ovdense.data.false_sentences",
    ],
)
DATA_SAMPLERS = Registry("data sampler", parent=MM_DATA_SAMPLERS, scope=SCOPE, locations=["ovdense.data.samplers"])
METRICS = Registry(
    "metric",
    parent=MM_METRICS,
    scope=SCOPE,
    locations=[
        "ovdense.evaluation.detection",
        "ovdense.evaluation.voc",
        "ovdense.evaluation.segmentation",
        "ovdense.evaluation.descriptions",
        "ovdense.evaluation.omnilabel",
        "ovdense.evaluation.d3",
        "ovdense.evaluation.grounding",
        "ovdense.evaluation.absence",
        "ovdense.evaluation.answers",
        "ovdense.evaluation.referring",
        "ovdense.evaluation.phrase_masks",
        "ovdense.evaluation.phrase_cut",
        "ovdense.methods.reporting",
    ],
)
HOOKS = Registry(
    "hook",
    parent=MM_HOOKS,
    scope=SCOPE,
    locations=[
        "ovdense.methods.hooks",
        "ovdense.methods.checkpoints",
        "ovdense.methods.progress",
        "ovdense.methods.reporting",
        "ovdense.methods.sharding",
        "ovdense.methods.ovdiff.diffusion",
    ],
)
OPTIM_WRAPPERS = Registry("optim_wrapper", parent=MM_OPTIM_WRAPPERS, scope=SCOPE, locations=["ovdense.methods.amp", "ovdense.methods.sharding"])
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    "optimizer wrapper constructor",
    parent=MM_OPTIM_WRAPPER_CONSTRUCTORS,
    scope=SCOPE,
    locations=[
        "ovdense.methods.desco.optim",
        "ovdense.methods.mdetr.optim",
    ],
)
PARAM_SCHEDULERS = Registry("parameter scheduler", parent=MM_PARAM_SCHEDULERS, scope=SCOPE, locations=["ovdense.methods.mdetr.optim"])

# Nothing of ours is in these; MMEngine warns about every registry that a scope does not have.
_OTHERS = ("EVALUATOR", "FUNCTIONS", "LOG_PROCESSORS", "LOOPS", "MODEL_WRAPPERS", "OPTIMIZERS",
           "RUNNERS", "TASK_UTILS", "VISBACKENDS", "VISUALIZERS", "WEIGHT_INITIALIZERS")  # fmt: skip
_empty = [Registry(parent.name, parent=parent, scope=SCOPE) for parent in (getattr(mmengine_registry, name) for name in _OTHERS)]
