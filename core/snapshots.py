"""Snapshots of a network: <model>_fcn_resnet50-<epoch>.params, in MXNet's format."""
from core.backend import mx
from core.errors import UserError
from core.files import replacing, write_text
from core.network import parameter_shapes


def save_snapshot(layout, model, epoch, symbol, args, aux):
    """Write the parameters after `epoch`, and the network beside them.

    Args:
        args, aux: dicts from parameter name to mxnet.nd.NDArray.

    Returns:
        path of the parameters.
    """
    values = {"arg:" + name: value for name, value in args.items()}
    values.update(("aux:" + name, value) for name, value in aux.items())
    write_text(layout.symbol(model), symbol.tojson())
    path = layout.snapshot(model, epoch)
    with replacing(path) as temporary:
        try:
            mx.nd.save(temporary, values)
        except mx.MXNetError as error:
            raise UserError("%s can't be written: %s" % (path, _first_line(error))) from error
    return path


def read_parameters(path):
    """Content of a .params file.

    Returns:
        (args, aux): dicts from parameter name to mxnet.nd.NDArray on the CPU.

    Raises:
        UserError: the file is missing, damaged, or holds no named parameters.
    """
    try:
        open(path, "rb").close()
        values = mx.nd.load(path)
    except OSError as error:
        raise UserError("%s can't be read: %s" % (path, error.strerror)) from error
    except (mx.MXNetError, UnicodeDecodeError) as error:
        raise UserError("%s is damaged or no MXNet parameter file" % path) from error
    if not isinstance(values, dict):
        raise UserError("%s holds arrays without names: it is no snapshot" % path)
    parts = {"arg": {}, "aux": {}}
    for key, value in values.items():
        kind, _, name = key.partition(":")
        if kind in parts:
            parts[kind][name] = value
    return parts["arg"], parts["aux"]


def load_snapshot(layout, model, epoch, config):
    """Parameters of a snapshot, checked against the network that `config` describes.

    Returns:
        (args, aux): dicts with just the network's parameters; a published snapshot's fixed upsampling weights and
        other extras are left out.

    Raises:
        UserError: the snapshot is missing or damaged, lacks a parameter, or has one of another shape.
    """
    path = layout.snapshot(model, epoch)
    epochs = layout.epochs(model)
    if epoch not in epochs:
        raise UserError("%s is missing; %s" % (path, "epochs there: " + ", ".join(map(str, epochs)) if epochs
                                               else "train it with: train_seg_model.py --model %s" % model))
    checked = []
    for found, shapes in zip(read_parameters(path), parameter_shapes(model, config)):
        for name, shape in shapes.items():
            if name not in found:
                raise UserError("%s lacks the parameter %s: it is no snapshot of the %s model" % (path, name, model))
            if found[name].shape != shape:
                raise UserError("%s: %s has shape %s, the %s model wants %s; use the --config it was trained with"
                                % (path, name, found[name].shape, model, shape))
        checked.append({name: found[name] for name in shapes})
    return tuple(checked)


def _first_line(error):
    return str(error).strip().splitlines()[-1]
