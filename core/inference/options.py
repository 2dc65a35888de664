"""How to score images and what to keep of them. Does not import mxnet: worker processes read it."""
import dataclasses
from typing import List, Optional, Tuple


@dataclasses.dataclass(frozen=True)
class InferenceOptions:
    """What decides the scores of an image, beside the snapshot.

    Attributes:
        scales: factors by which the image is resized; the scores add up over them.
        crf: whether the dense CRF refines the scores.
        dtype: what the network computes in, see `engines.resolve_dtype`.
    """
    scales: Tuple[float, ...] = (1.0,)
    crf: bool = False
    dtype: str = "float32"


@dataclasses.dataclass(frozen=True)
class EvaluationOptions:
    """What to evaluate and what to keep.

    Attributes:
        list, images, masks: file of the ids, folders of their images and masks; without masks (None) images are
            predicted and nothing is measured.
        output: folder for result.json, masks/ and scoremaps/.
        save_masks, save_scores: whether to keep predictions as masks/<id>.png and scoremaps/<id>.npy.
    """
    inference: InferenceOptions
    list: str
    images: str
    masks: Optional[str]
    output: str
    save_masks: bool = False
    save_scores: bool = False


@dataclasses.dataclass(frozen=True)
class SegmentationOptions:
    """How to segment pictures of the user's own and what to keep.

    Attributes:
        output: folder for masks/, overlays/, scoremaps/ and predictions.json.
        save_scores: whether to keep scoremaps/<name>.npy.
        allowed: indices of the classes that may occur besides the background; None allows all.
        max_side: pixels of the longer side above which a picture is scaled down.
    """
    inference: InferenceOptions
    output: str
    save_scores: bool = False
    allowed: Optional[List[int]] = None
    max_side: int = 1500
