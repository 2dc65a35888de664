"""The co-segmentation's region classifiers in a file, read without running anything that the file names.

scikit-learn can store them as pickles only, and a pickle may call any Python function. The unpickler here gives it
nothing but numpy's arrays and the classes of that classifier, none of which touches files or starts programs.
"""
import io
import pickle
import re

from core.cosegmentation.region_classifier import Model
from core.errors import UserError
from core.io.files import read_bytes, write_bytes

_KNOWN = re.compile(r"""(core\.cosegmentation\.region_classifier:Directions
    | numpy:(ndarray|dtype) | numpy\.core\.multiarray:(_reconstruct|scalar)
    | numpy\.random\._pickle:__(bit_)?generator_ctor | numpy\.random\._pcg64:PCG64
    | (sklearn\._loss\.)?_loss:(__pyx_unpickle_)?CyHalfSquaredError
    | sklearn\._loss\.(link:(IdentityLink|Interval)|loss:HalfSquaredError)
    | sklearn\.ensemble\._hist_gradient_boosting\.(binning:_BinMapper|predictor:TreePredictor
        |gradient_boosting:HistGradientBoostingRegressor))""", re.VERBOSE)


def write_models(path, models):
    """Write a list of `self_training.Model`."""
    write_bytes(path, pickle.dumps([tuple(model) for model in models]))


def read_models(path):
    """List of `self_training.Model` that `write_models` wrote.

    Raises:
        UserError: the file is missing or damaged, or names anything but such models.
    """
    content = read_bytes(path)
    try:
        return [Model(*parts) for parts in _Unpickler(io.BytesIO(content)).load()]
    except Exception as error:  # a damaged pickle can make the unpickler raise anything
        raise UserError("%s is damaged, or no file of models: remove it and run the same command again (%s)"
                        % (path, error)) from error


class _Unpickler(pickle.Unpickler):

    def find_class(self, module, name):
        if not _KNOWN.fullmatch("%s:%s" % (module, name)):
            raise ValueError("it names %s.%s, which is not run" % (module, name))
        return super().find_class(module, name)
