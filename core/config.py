"""Every setting of the system; its default is the published value where one was published.

Precedence: command line, then the --config file, then the default. A YAML file holds names of fields and their values:

    crop_size: 96
    scales: [0.7, 1.0, 1.3]
"""
import dataclasses
import difflib
import functools
import math
import operator
import os
import reprlib
import unicodedata
from typing import Any, Dict, FrozenSet, Sequence, Tuple, get_args

from core.classes import IGNORE_LABEL, VOC_CLASSES
from core.errors import UserError
from core.io.files import read_yaml
from core.paths import Layout

STRIDE = 8  # input pixels per cell of the network's score maps
MODELS = ("init", "final")
POLY_POWER = 0.9  # of learning_rate_decay: Chen et al., "DeepLab" (PAMI 2018), section 4.1
_NAME_BYTES = 200  # of a class's name: files are called after it, and file systems allow 255 with all that is added


def _setting(default, help_text, *, at_least=None, at_most=None, above=None, choices=None, group=None):
    """A field of Config with the sentence that documents it and the range its value (or each item of it) lies in.

    Args:
        group: title of the group of settings that this one is the first of.
    """
    limits = {"at_least": at_least, "at_most": at_most, "above": above, "choices": choices}
    return dataclasses.field(default=default, metadata={"help": help_text, "group": group, **limits})


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of one run.

    Raises:
        UserError: a value of the wrong type, out of its range, or at odds with another.
    """

    classes: Tuple[str, ...] = _setting(VOC_CLASSES, "class names in the order of their indices, background first",
                                        group="Classes and folders")
    root: str = _setting(".", "folder that holds dataset/, models/, snapshots/, cache/, outputs/ and log/")
    voc_dir: str = _setting("dataset/VOCdevkit/VOC2012", "PASCAL VOC 2012; a relative path starts at root")
    sbd_dir: str = _setting("dataset/benchmark_RELEASE/dataset", "Semantic Boundaries Dataset; a relative path starts "
                            "at root")
    base_model: str = _setting("models/resnet50.params", "start of the backbone; a relative path starts at root; "
                               "efficientnet_lite2 needs none")

    web_images_per_class: int = _setting(2700, "most web images kept of each class", at_least=1, at_most=999999,
                                         group="Web images; the paper names no values")
    web_longest_side: int = _setting(500, "longest side of a stored web image, pixels; larger ones are shrunk",
                                     at_least=32, at_most=20000)
    web_shortest_side: int = _setting(100, "web images with a shorter side below this are left out, pixels",
                                      at_least=16, at_most=20000)
    web_hash_distance: int = _setting(70, "most bits of 256 in which the perceptual hashes of near duplicates differ",
                                      at_least=0, at_most=255)
    web_rate: float = _setting(2.0, "most requests a second to one host", at_least=0.001, at_most=100000)
    web_user_agent: str = _setting("fetch_web_images/1.0 (research)", "User-Agent of downloads; some sites want a "
                                   "contact address in it")

    cosegmented_images: str = _setting("web", "images that create_web_masks.py segments together: web; or web+train, "
                                       "the training images too, once for each of their image-level labels",
                                       choices=("web", "web+train"), group="Masks of web images")
    web_side: int = _setting(288, "longest side at which images are co-segmented, pixels; the network that compares "
                             "them sees twice as many", at_least=64, at_most=512)
    web_min_score: float = _setting(0.4, "agreement of an image's masks below which it is left out as noise",
                                    at_least=0, at_most=1)
    web_min_likeness: float = _setting(0.5, "probability, estimated from the other images, that an image shows its "
                                       "class rather than an average other one, below which it is left out as noise; "
                                       "0: not judged", at_least=0, at_most=1)
    web_min_foreground: float = _setting(0.01, "share of foreground below which a web image is left out", at_least=0,
                                         at_most=1)
    web_max_foreground: float = _setting(0.95, "share of foreground above which a web image is left out", at_least=0,
                                         at_most=1)

    backbone: str = _setting("resnet50", "resnet50, the paper's, or efficientnet_lite2, for CPUs: its ImageNet weights "
                             "come with the packages", choices=("resnet50", "efficientnet_lite2"), group="Network")
    width: int = _setting(64, "channels of conv1; residual stage k (2 to 5) has width * 2^k outputs", at_least=1,
                          at_most=1024)
    units: Tuple[int, ...] = _setting((3, 4, 6, 3), "residual units in stages 2, 3, 4 and 5", at_least=1, at_most=26)
    stride_on: str = _setting("1x1", "convolution that halves a stage's resolution: the unit's first 1x1, as in the "
                              "Caffe model, or its 3x3, as in torchvision and timm", choices=("1x1", "3x3"))
    head_channels: int = _setting(512, "channels of new_conv1 and fc", at_least=1, at_most=16384)
    head_dilation: int = _setting(12, "dilation of new_conv1, in cells of 8 pixels", at_least=1, at_most=1000)
    global_channels: int = _setting(1024, "channels of g_multi_fc1 and g_multi_fc2", at_least=1, at_most=65536)
    dropout: float = _setting(0.5, "share of activations dropped in training", at_least=0, at_most=0.99)
    new_layer_deviation: float = _setting(0.01, "standard deviation of the initial weights of layers without base "
                                          "weights; 0: sqrt(2 / fan-in)", at_least=0, at_most=100)
    mean_rgb: Tuple[float, ...] = _setting((123.0, 117.0, 104.0), "mean red, green and blue, subtracted from the input",
                                           at_least=0, at_most=255)

    seed: int = _setting(0, "seed of all random choices", at_least=0, at_most=2 ** 31 - 1, group="Training")
    batch_size: int = _setting(16, "images in a batch, over all devices and processes", at_least=1, at_most=65536)
    crop_size: int = _setting(320, "side of the training crop, pixels, a multiple of 8", at_least=8, at_most=8192)
    scale_range: Tuple[float, ...] = _setting((0.7, 1.3), "lowest and highest scale of a training image", at_least=0.05,
                                              at_most=8)
    flip_probability: float = _setting(0.5, "share of training images mirrored left to right", at_least=0, at_most=1)
    label_sampling: str = _setting("corner", "pixel of each 8 x 8 cell whose label trains the cell: corner, as "
                                   "published, or center, where the upsampled scores have their samples",
                                   choices=("corner", "center"))
    learning_rate: float = _setting(16e-4, "step size of SGD", above=0, at_most=1000)
    frozen_stages: int = _setting(0, "first stages of the backbone that training leaves as they are: 1 is conv1, or "
                                  "EfficientNet's stem and first block", at_least=0, at_most=7)
    learning_rate_decay: str = _setting("none", "none, or poly: (1 - step / last step) ^ 0.9 times learning_rate",
                                        choices=("none", "poly"))
    web_sampling: str = _setting("uniform", "share of a class in the batches' web images: uniform, as in the web list, "
                                 "or balanced, the same for all classes", choices=("uniform", "balanced"))
    final_web_share: float = _setting(0.0, "share of web images, with their masks, in the final model's batches",
                                      at_least=0, at_most=0.9)
    web_masks: str = _setting("cosegmented", "masks of the web images that train: cosegmented, or estimated, those of "
                              "est_voc_train_masks.py --images web", choices=("cosegmented", "estimated"))
    label_loss: str = _setting("mean", "image-level loss of an image: mean or sum over the classes",
                               choices=("mean", "sum"))
    momentum: float = _setting(0.9, "momentum of SGD", at_least=0, at_most=0.9999)
    weight_decay: float = _setting(5e-4, "weight decay of SGD on weights and gammas", at_least=0, at_most=1000)
    init_epoch_size: int = _setting(200, "batches in an epoch of the init model", at_least=1, at_most=1000000000)
    final_epoch_size: int = _setting(700, "batches in an epoch of the final model", at_least=1, at_most=1000000000)
    max_epoch: int = _setting(40, "training ends before this epoch; the first one is 1", at_least=1, at_most=1000000)
    workers: int = _setting(0, "threads that decode and augment images; 0: one for each CPU core", at_least=0,
                            at_most=1024)

    engine: str = _setting("auto", "what computes the networks: mxnet; torch; or auto: MXNet where it is installed and "
                           "can use the device, else torch, which in all but predict.py also computes "
                           "EfficientNet-Lite2 where both are installed", choices=("auto", "mxnet", "torch"),
                           group="Computing")
    dtype: str = _setting("auto", "type the network computes in, in training by torch only: float32; bfloat16 (MXNet: "
                          "on CPUs); float16 (GPUs); tf32 (torch, GPUs); int8 (a trained network, on CPUs with VNNI); "
                          "or auto: bfloat16 in predict.py on a CPU where it is faster and in training by torch on "
                          "GPUs from Ampere on, else float32",
                          choices=("auto", "float32", "tf32", "bfloat16", "float16", "int8"))
    accumulate: int = _setting(1, "parts, one after the other, in which torch trains on a device's share of a batch: "
                               "the same step with less memory", at_least=1, at_most=65536)

    scales: Tuple[float, ...] = _setting((0.7, 1.0, 1.3), "scales whose scores --ms and mask estimation sum", above=0,
                                         at_most=8, group="Inference")
    inference_side: int = _setting(0, "longest side that images are resized to before --scales, pixels: about that of "
                                   "the images that the network learned from; 0: the images' own. The default of "
                                   "predict.py is 500", at_least=0, at_most=20000)
    logit_adjustment: float = _setting(0.0, "power to which mask estimation divides the init model's scores by the "
                                       "share of each class in the masks that it was trained on; 1 takes the training "
                                       "set's prior out of them", at_least=0, at_most=4)
    min_confidence: float = _setting(0.0, "probability up to which a pixel of a pseudo mask is 255, which training "
                                     "leaves out; 0: none is", at_least=0, at_most=0.99)
    crf_engine: str = _setting("own", "implementation of the dense CRF: own, or the published pydensecrf, if it is "
                               "installed", choices=("own", "pydensecrf"))
    crf_iterations: int = _setting(10, "mean-field iterations of the dense CRF", at_least=1, at_most=10000)
    crf_gaussian_sxy: float = _setting(2.0, "standard deviation of the smoothness kernel, pixels", at_least=0.01,
                                       at_most=100000)
    crf_gaussian_compat: float = _setting(3.0, "weight of the smoothness kernel", at_least=0, at_most=1000)
    crf_bilateral_sxy: float = _setting(55.0, "spatial standard deviation of the appearance kernel, pixels",
                                        at_least=0.01, at_most=100000)
    crf_bilateral_srgb: float = _setting(3.0, "colour standard deviation of the appearance kernel, of 255",
                                         at_least=0.01, at_most=100000)
    crf_bilateral_compat: float = _setting(4.0, "weight of the appearance kernel", at_least=0, at_most=1000)

    # Names of the settings that flags or the --config file gave, at their default or not
    given: FrozenSet[str] = dataclasses.field(default=frozenset(), repr=False, compare=False)

    def __post_init__(self) -> None:
        for field in FIELDS.values():
            value = _convert(field, getattr(self, field.name))
            if field.name == "classes":  # names of folders may be decomposed, as on macOS
                value = tuple(unicodedata.normalize("NFC", name) for name in value)
            object.__setattr__(self, field.name, value)
            for item in value if isinstance(value, tuple) else (value,):
                _check_limits(field, item)
        self._check_together()

    def _check_together(self):
        lengths = {"units": 4, "mean_rgb": 3, "scale_range": 2}
        for name, length in lengths.items():
            if len(getattr(self, name)) != length:
                raise UserError(f"setting {name} has {len(getattr(self, name))} values; {length} are expected")
        if not self.scales:
            raise UserError("setting scales is empty; at least one scale is expected")
        if self.scale_range[0] > self.scale_range[1]:
            raise UserError(f"setting scale_range: the lowest scale comes first, not {self.scale_range}")
        if not self.web_user_agent.isprintable() or not self.web_user_agent.isascii():
            raise UserError(f"setting web_user_agent is {self.web_user_agent!r}; one line of ASCII is expected, as it "
                            "goes into the header of a request")
        stride = STRIDE if self.backbone == "resnet50" else 2 * STRIDE
        if self.crop_size % stride:
            raise UserError(f"setting crop_size is {self.crop_size}; a multiple of {stride}, the network's stride, is "
                            "expected")
        if not 2 <= len(self.classes) <= IGNORE_LABEL:
            raise UserError(f"setting classes has {len(self.classes)} names; the background and 1 to "
                            f"{IGNORE_LABEL - 1} classes are expected")
        for name in self.classes:
            if not name or self.classes.count(name) > 1:
                raise UserError(f"setting classes: every class needs a name of its own, not {name!r}")
            if "/" in name or "," in name or name != name.strip() or not name.isprintable() or name.startswith(".") or (
                    len(name.encode("utf-8")) > _NAME_BYTES):
                raise UserError(f"setting classes: {reprlib.repr(name)} can't be part of a file name: leave out "
                                "slashes, commas, a leading dot and spaces around it; at most 200 bytes of UTF-8 fit")

    @functools.cached_property
    def layout(self) -> Layout:
        """Paths of the files that the stages read and write."""
        return Layout(self)

    @property
    def num_classes(self) -> int:
        """Number of classes, background included."""
        return len(self.classes)

    def class_index(self, name: str) -> int:
        """Index of the class with this name; a UserError gives the nearest one."""
        name = unicodedata.normalize("NFC", name)
        if name not in self.classes:
            near = difflib.get_close_matches(name, self.classes, 1, 0.5)
            hint = f"did you mean {near[0]}?" if near else f"the classes are: {', '.join(self.classes)}"
            raise UserError(f"there is no class {name!r}; {hint}")
        return self.classes.index(name)

    def path(self, *names: str) -> str:
        """Path below the root folder; an absolute name stays as it is."""
        return os.path.normpath(os.path.join(self.root, *names))

    def is_set(self, name: str) -> bool:
        """Whether a flag or the --config file gave the setting, or it has another value than the published one."""
        return name in self.given or name in self.changed()

    def changed(self) -> Dict[str, Any]:
        """Settings that differ from the published ones: dict from name to value, in the order of the fields."""
        return {name: getattr(self, name) for name, field in FIELDS.items() if getattr(self, name) != field.default}


FIELDS = {field.name: field for field in dataclasses.fields(Config) if "help" in field.metadata}

# What parameters are trained for: with other values they don't fit, or silently give wrong scores.
NETWORK_SETTINGS = ("classes", "backbone", "width", "units", "stride_on", "head_channels", "head_dilation",
                    "global_channels", "mean_rgb")

# What decides the course of a training run, besides the network, the samples and the initial weights.
TRAINING_SETTINGS = ("dropout", "new_layer_deviation", "seed", "batch_size", "crop_size", "scale_range",
                     "flip_probability", "label_sampling", "web_sampling", "final_web_share", "label_loss",
                     "learning_rate", "learning_rate_decay", "momentum", "weight_decay", "frozen_stages")


def network_settings(config: Config, names: Sequence[str] = NETWORK_SETTINGS) -> Dict[str, Any]:
    """The settings `names` as JSON keeps them: dict from name to number, text or list."""
    values = {name: getattr(config, name) for name in names}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def side_settings(config: Config) -> Dict[str, int]:
    """The setting inference_side as records keep it: images of their own size go without saying."""
    return {"inference_side": config.inference_side} if config.inference_side else {}


def adopt_settings(config: Config, recorded: Dict[str, Any], source: str) -> Config:
    """Config with the settings that a file was made with.

    Args:
        recorded: dict from the name of a setting to its value; settings it lacks stay as they are.
        source: name of the file, for messages.

    Raises:
        UserError: a flag or the --config file gave one of them another value, or a value is out of its range.
    """
    for name in recorded:
        check_setting_name(name, source)
    try:
        adopted = dataclasses.replace(config, **recorded)
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    for name in recorded:
        mine, theirs = getattr(config, name), getattr(adopted, name)
        if mine != theirs and config.is_set(name):
            raise UserError(f"setting {name} is {_as_yaml(mine)}, but {source} was made with {_as_yaml(theirs)}: use "
                            "that, or leave the setting out")
    return adopted


def _as_yaml(value):
    return f"[{', '.join(map(str, value))}]" if isinstance(value, tuple) else value


def item_type(field: dataclasses.Field) -> Tuple[type, bool]:
    """(type of the field's value or of its items, whether it is a tuple)."""
    if field.type in (str, int, float):
        return field.type, False
    return get_args(field.type)[0], True


def _convert(field, value):
    value_type, many = item_type(field)
    if not many:
        return _convert_item(field, value_type, value)
    if not isinstance(value, (list, tuple)):
        raise UserError(f"setting {field.name} is a list, not {reprlib.repr(value)}")
    return tuple(_convert_item(field, value_type, item) for item in value)


def _convert_item(field, value_type, value):
    try:
        if isinstance(value, bool) or value_type is str and (not isinstance(value, str) or "\0" in value):
            raise ValueError
        converted = value_type(value)  # also text: YAML 1.1 reads 16e-4 as such
        if value_type is int and converted != float(value) or value_type is float and not math.isfinite(converted):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        names = {str: "text", int: "a whole number", float: "a number"}
        raise UserError(f"setting {field.name}: {reprlib.repr(value)} is not {names[value_type]}") from None
    return converted


def _check_limits(field, value):
    limits = field.metadata
    for name, broken in (("at_least", operator.lt), ("at_most", operator.gt), ("above", operator.le)):
        limit = limits[name]
        if limit is not None and broken(value, limit):
            raise UserError(f"setting {field.name} is {value}; it must be {name.replace('_', ' ')} {limit}")
    if limits["choices"] and value not in limits["choices"]:
        raise UserError(f"setting {field.name} is {value!r}; it must be one of: {', '.join(limits['choices'])}")


def read_config_file(path: str) -> Dict[str, Any]:
    """Settings in a YAML file: dict from the name of a field of Config to its value, not yet checked."""
    values = read_yaml(path)
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no settings; lines like 'crop_size: 320' are expected")
    for key in values:
        check_setting_name(key, path)
    return values


def check_setting_name(key: Any, source: str) -> None:
    """Raise UserError, naming the nearest setting, unless `key` is the name of one."""
    if key not in FIELDS:
        near = difflib.get_close_matches(str(key), FIELDS, 1, 0.4)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"{source}: there is no setting {key!r}{hint}")


def make_config(*config_files: str, **overrides: Any) -> Config:
    """Config from the defaults, then YAML files, one after the other, then the overrides that are not None."""
    values: Dict[str, Any] = {}
    for path in config_files:
        values.update(read_config_file(path))
    values.update((name, value) for name, value in overrides.items() if value is not None)
    return Config(given=frozenset(values), **values)
