"""Stages 2 and 5: train the init or the final model, data-parallel over the devices."""
import contextlib
import hashlib
import json
import os
import time

import numpy as np

from core.classes import IGNORE_LABEL
from core.config import STRIDE
from core.dataset.samples import BatchLoader, samples_record, training_samples
from core.errors import UserError
from core.io.locks import locked
from core.io.logs import logger, progress
from core.network.fcn import base_layer_name, is_base_parameter, parameter_shapes, training_symbol
from core.network.snapshots import adopt_recorded, load_snapshot, read_parameters
from core.paths import Layout
from core.runtime.mxnet_backend import explaining_out_of_memory, mx
from core.training.checkpoint import Checkpoint, find_checkpoint, run_record, save_checkpoint, start_file

_LINES_PER_EPOCH = 4
_BASE_SETTINGS = ("stride_on", "mean_rgb")  # what the ResNet stages fit beside their shapes
_POLY_POWER = 0.9  # Chen et al., "DeepLab" (PAMI 2018), section 4.1


def train(config, model, *, devices, start_epoch=None, resume=False, keep=None, store=None):
    """Train `model` up to `config.max_epoch`, with a snapshot after every epoch.

    Args:
        model: "init" (on web images) or "final" (on training images with estimated masks).
        devices: list of mxnet.Context that share every batch.
        start_epoch: epoch whose snapshot to start from, with fresh momentum; 0 or None starts from the base model.
        resume: go on with the run of this start (of any start, if it is None) that was interrupted here, exactly as if
            it never had been; without one, start.
        keep: number of the run's last snapshots that stay, beside the best one of eval_loop.py's ranking; None: all.
        store: mxnet.kvstore.KVStore of the workers that share every batch; the one of rank 0 alone logs and saves.

    Raises:
        UserError: samples, base model or snapshot are missing or wrong, the run to go on with had other settings,
            another process trains the model here, the memory ran out, or the loss is no longer finite.
    """
    layout = Layout(config)
    if store and store.rank:
        _train(config, layout, model, devices, start_epoch, resume, keep, store)
        return
    with locked(layout.training_lock(model), "training of the %s model in %s" % (model, layout.snapshots)):
        for path in layout.unfinished(model):
            os.remove(path)
        _train(config, layout, model, devices, start_epoch, resume, keep, store)


@explaining_out_of_memory("lower --batch-size or --crop-size")
def _train(config, layout, model, devices, start_epoch, resume, keep, store):
    rank, workers = (store.rank, store.num_workers) if store else (0, 1)
    total = len(devices) * workers
    if config.batch_size % total:
        raise UserError("a batch of %d images can't be shared evenly by %d devices: change --batch-size or the "
                        "devices" % (config.batch_size, total))
    samples = training_samples(model, layout, config)
    logger.info("%d training images for the %s model", len(samples), model)
    data = samples_record(samples, layout)
    checkpoint = None
    if resume:
        config, checkpoint = find_checkpoint(layout, model, config, data=data, start_epoch=start_epoch, devices=total)
        if checkpoint and checkpoint.epoch + 1 >= config.max_epoch:
            logger.info("epoch %d, the last before max_epoch %d, is trained already", checkpoint.epoch,
                        config.max_epoch)
            return
        logger.info("going on after epoch %d" % checkpoint.epoch if checkpoint else "there is no run to go on with")
    if checkpoint is None:
        config, checkpoint = _start(config, layout, model, devices, samples, data, start_epoch or 0, total)

    if store:
        _check_agreement(store, checkpoint)
    trainer = _Trainer(config, model, devices, checkpoint.parameters, checkpoint.epoch, checkpoint.momentum, store)
    batches = _loader(config, model, samples, rank, workers).batches(checkpoint.epoch * trainer.epoch_size)
    try:
        for epoch in range(checkpoint.epoch + 1, config.max_epoch):
            trainer.train_epoch(epoch, batches)
            if rank:
                continue
            reached = Checkpoint(epoch, trainer.parameters(), trainer.momentum(), checkpoint.record)
            path = save_checkpoint(layout, model, config, trainer.symbol, reached, keep)
            logger.info("[epoch: %d] saved %s", epoch, path)
    finally:
        batches.close()


def _check_agreement(store, checkpoint):
    """Raise UserError if this worker starts from other files or settings than the one of rank 0."""
    text = json.dumps([checkpoint.epoch, checkpoint.record], sort_keys=True)
    mine = np.frombuffer(hashlib.sha256(text.encode("utf-8")).digest(), np.uint8).astype(np.float32)
    first = mx.nd.zeros(mine.shape)
    store.init("agreement", mx.nd.array(mine))  # the value of rank 0 counts
    store.pull("agreement", first)
    if (first.asnumpy() != mine).any():
        raise UserError("worker %d starts from another epoch, list, base model or number of devices, or with other "
                        "images, masks or settings, than worker 0: all hosts need the same files, as in a shared "
                        "folder" % store.rank)


def _start(config, layout, model, devices, samples, data, epoch, total):
    """(config, Checkpoint) of a new run: from a snapshot, the base model, or from scratch; without momentum."""
    snapshot = load_snapshot(config, model, epoch) if epoch else None
    if epoch + 1 >= config.max_epoch:
        raise UserError("%s max_epoch is %d, and training ends before it: give a higher --max-epoch"
                        % ("epoch %d is trained already," % epoch if epoch else "the first epoch is 1,",
                           config.max_epoch))
    later = [other for other in layout.epochs(model) if other > epoch]
    if later:
        logger.warning("%s has epochs of an earlier run, %s: until this one has written them anew, --epoch newest and "
                       "eval_loop.py take them too; move them away", layout.snapshots, ", ".join(map(str, later)))
    if snapshot:
        config, parameters = snapshot.config, snapshot.parameters
    elif os.path.exists(layout.base_model) or "base_model" in config.changed():
        config, parameters = _from_base_model(config, model, layout.base_model)
    else:
        logger.warning("%s is missing: training starts from scratch", layout.base_model)
        parameters = _from_scratch(config, model, devices[0], _loader(config, model, samples))
    record = run_record(model, config, data=data, start_epoch=epoch, start_file=start_file(layout, model, epoch),
                        devices=total)
    return config, Checkpoint(epoch, parameters, {}, record)


def _loader(config, model, samples, rank=0, workers=1):
    return BatchLoader(samples, config, rank, workers, model == "init" and config.web_sampling == "balanced")


class _Trainer:
    """A bound network with its optimizer, and the epoch loop."""

    def __init__(self, config, model, devices, parameters, start_epoch, momentum=None, store=None):
        self._config = config
        self._model = model
        self.epoch_size = config.init_epoch_size if model == "init" else config.final_epoch_size
        self._rank, workers = (store.rank, store.num_workers) if store else (0, 1)
        total = len(devices) * workers
        self.symbol = training_symbol(model, config, config.batch_size // total)
        inputs, labels = _input_shapes(config, model, config.batch_size // workers)
        self._module = mx.mod.Module(self.symbol, [name for name, _ in inputs], [name for name, _ in labels],
                                     context=devices)
        self._module.bind(inputs, labels)
        self._module.init_params(arg_params=parameters[0], aux_params=parameters[1])
        settings = {"learning_rate": config.learning_rate, "momentum": config.momentum, "wd": config.weight_decay,
                    "rescale_grad": 1.0 / total}
        if config.learning_rate_decay == "poly":
            settings["lr_scheduler"] = mx.lr_scheduler.PolyScheduler(
                (config.max_epoch - 1) * self.epoch_size, config.learning_rate, _POLY_POWER)
            settings["begin_num_update"] = start_epoch * self.epoch_size
        self._module.init_optimizer(store or config.kv_store, "sgd", settings)
        self._set_momentum(momentum or {})

    def parameters(self):
        """(args, aux): dicts from parameter name to mxnet.nd.NDArray on the CPU."""
        # Those of the first device: the mean over equal devices, which get_params returns, may differ in the last bit.
        group = self._module._exec_group
        return tuple({name: arrays[0].copyto(mx.cpu()) for name, arrays in zip(*part)}
                     for part in ((group.param_names, group.param_arrays), (group.aux_names, group.aux_arrays)))

    def momentum(self):
        """dict from parameter name to mxnet.nd.NDArray; empty without momentum."""
        states = self._module._updater.states
        first = {name: states.get(index * len(self._module._context))
                 for index, name in enumerate(self._module._exec_group.param_names)}
        return {name: value for name, value in first.items() if value is not None}

    def _set_momentum(self, momentum):
        """Start from what `momentum` returned; every device has its own copy."""
        updater, devices = self._module._updater, self._module._context
        for index, name in enumerate(self._module._exec_group.param_names):
            for number, device in enumerate(devices if name in momentum else ()):
                updater.states[index * len(devices) + number] = momentum[name].copyto(device)
                updater.states_synced[index * len(devices) + number] = True

    def train_epoch(self, epoch, batches):
        """Train on the next `epoch_size` batches.

        Raises:
            UserError: the loss of a batch is not finite; its images are named.
        """
        # Dropout: the same when a run goes on from here, and another one in every worker.
        mx.random.seed(self._config.seed * 100003 + epoch + 1009 * self._rank)
        meter = _Meter(self._config, epoch, self.epoch_size)
        waiting = None
        steps = range(self.epoch_size)
        if not self._rank:
            steps = progress(steps, self.epoch_size, "%s model, epoch %d" % (self._model, epoch))
        for _ in steps:
            with meter.waiting_for_data():
                batch = next(batches)
            labels = [mx.nd.array(batch.labels)]
            if self._model == "final":
                labels.append(mx.nd.array(batch.image_labels))
            self._module.forward_backward(mx.io.DataBatch([mx.nd.array(batch.data)], labels))
            self._module.update()
            # Copies, for the next step writes over the outputs; read then, so that the devices never wait for Python.
            outputs = [output.copy() for output in self._module.get_outputs()]
            if waiting:
                meter.add(*waiting)
            waiting = batch, outputs
        meter.add(*waiting)


class _Meter:
    """Running loss, accuracy and speed of an epoch, logged a few times."""

    def __init__(self, config, epoch, epoch_size):
        self._batch_size = config.batch_size
        self._epoch = epoch
        self._epoch_size = epoch_size
        self._log_every = max(1, epoch_size // _LINES_PER_EPOCH)
        self._start = time.perf_counter()
        self._waited = self._loss = self._label_loss = 0.0
        self._batches = self._cells = self._correct = 0
        self._has_label_loss = False

    @contextlib.contextmanager
    def waiting_for_data(self):
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    def add(self, batch, outputs):
        """Count a step in.

        Args:
            outputs: class probabilities (b, classes, h, w) and, final model, image-level ones (b, classes, 1, 1).

        Raises:
            UserError: a loss is not finite.
        """
        self._batches += 1
        valid = batch.labels != IGNORE_LABEL
        truth = np.where(valid, batch.labels, 0).astype(np.intp)
        probabilities = outputs[0].asnumpy().reshape(len(truth), -1, truth.shape[1])
        loss = _cross_entropy(np.take_along_axis(probabilities, truth[:, None], axis=1)[:, 0][valid]).sum()
        label_loss = 0.0
        if len(outputs) > 1:
            present = outputs[1].asnumpy()
            label_loss = _cross_entropy(np.where(batch.image_labels > 0, present, 1 - present)).mean()
            self._has_label_loss = True
        if not np.isfinite(loss + label_loss):
            raise UserError("the loss is not finite in epoch %d, batch %d: lower --lr, or look at its images: %s"
                            % (self._epoch, self._batches, " ".join(batch.names)))
        self._loss += loss
        self._label_loss += label_loss
        self._cells += np.count_nonzero(valid)
        self._correct += np.count_nonzero((probabilities.argmax(1) == truth) & valid)
        if self._batches % self._log_every == 0 or self._batches == self._epoch_size:
            self._log()

    def _log(self):
        seconds = time.perf_counter() - self._start
        cells = max(self._cells, 1)
        line = "[epoch: %d] [batch: %d/%d] [loss: %.4f] [accuracy: %.4f]" % (
            self._epoch, self._batches, self._epoch_size, self._loss / cells, self._correct / cells)
        if self._has_label_loss:
            line += " [label loss: %.4f]" % (self._label_loss / self._batches)
        logger.info(line + " [images/s: %.1f] [waiting for data: %.1f %%]",
                    self._batches * self._batch_size / seconds, 100 * self._waited / seconds)


def _cross_entropy(probabilities):
    return -np.log(np.maximum(probabilities, 1e-30, dtype=np.float64))


def _input_shapes(config, model, batch_size):
    """(name, shape) pairs of the network's inputs and labels."""
    crop, cells = config.crop_size, (config.crop_size // STRIDE) ** 2
    labels = [("softmax_label", (batch_size, cells))]
    if model == "final":
        labels.append(("g_logistic_label", (batch_size, config.num_classes, 1, 1)))
    return [("data", (batch_size, 3, crop, crop))], labels


def _from_base_model(config, model, path):
    """The base model's parameters for the ResNet stages, in the global branch too, and random ones for new layers.

    A layer of the head that the file has in the right shape is taken too, so any snapshot can be a base model.

    Returns:
        (config, (args, aux)): config with the stride placement and the mean that the base model records.

    Raises:
        UserError: the base model is damaged, lacks a parameter of the stages, has one of another shape, or records
            another value of a setting than a flag or the --config file gave.
    """
    rng = np.random.default_rng((config.seed, 2))
    found = read_parameters(path)
    config = adopt_recorded(config, path, {name: found.settings[name] for name in _BASE_SETTINGS
                                           if name in found.settings})
    parts = {}, {}
    for part, base, shapes in zip(parts, (found.args, found.aux), parameter_shapes(model, config)):
        for name, shape in shapes.items():
            source = name if name in base else base_layer_name(name)
            if source in base and base[source].shape == shape:
                part[name] = base[source]
            elif not is_base_parameter(name):
                part[name] = _random(rng, name, shape, config)
            elif source not in base:
                raise UserError("%s lacks the parameter %s: it is no ResNet-50 base model" % (path, source))
            else:
                raise UserError("%s: %s has shape %s, the network wants %s" % (path, source, base[source].shape, shape))
    logger.info("the ResNet stages start from %s", path)
    return config, parts


def _from_scratch(config, model, device, loader):
    """Random parameters, and batch norms that store the statistics of the first batch."""
    rng = np.random.default_rng((config.seed, 2))
    arg_shapes, aux_shapes = parameter_shapes(model, config)
    args = {name: _random(rng, name, shape, config) for name, shape in arg_shapes.items()}

    batches = loader.batches(0)
    batch = next(batches)
    batches.close()
    inputs, labels = _input_shapes(config, model, config.batch_size)
    symbol = training_symbol(model, config, config.batch_size, stored_statistics=False)
    mx.random.seed(config.seed)
    executor = symbol.simple_bind(device, grad_req="write", **dict(inputs + labels))
    executor.copy_params_from(args)
    executor.forward(is_train=True, data=mx.nd.array(batch.data))
    executor.backward()  # it is this that stores the statistics
    return args, {name: executor.aux_dict[name].as_in_context(mx.cpu()) for name in aux_shapes}


def _random(rng, name, shape, config):
    """Start value of a parameter.

    Ones for gammas, zeros for betas and biases. Weights draw from Normal(0, d): d = sqrt(2 / fan-in) in the ResNet
    stages (He et al., "Delving Deep into Rectifiers", ICCV 2015, equation 10), new_layer_deviation in new layers.
    """
    if name.endswith(("_gamma", "_moving_var")):
        return mx.nd.ones(shape)
    if name.endswith(("_beta", "_bias", "_moving_mean")):
        return mx.nd.zeros(shape)
    deviation = 0 if is_base_parameter(name) else config.new_layer_deviation
    if name in ("score_weight", "g_score_weight"):
        deviation = 0.01  # the first softmax is nearly uniform, however wide the layers are
    return mx.nd.array(rng.normal(0, deviation or np.sqrt(2 / np.prod(shape[1:])), shape))
