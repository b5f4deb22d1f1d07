"""The fits of a training in their order: a head on frozen features and then perhaps its backbone, or a whole network."""

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from edgeclf.export.keras_backend import Inference, KerasModel, inference_of
from edgeclf.runtime.arrays import FloatArray
from edgeclf.runtime.errors import UsageError
from edgeclf.runtime.progress import Progress
from edgeclf.training.data.dataset import Split
from edgeclf.training.data.loader import BatchLoader
from edgeclf.training.data.training_data import TrainingData
from edgeclf.training.fit.checkpoint import Checkpoint
from edgeclf.training.fit.loop import Best, FitResult, FitState, fit_network, predict, validate
from edgeclf.training.fit.resolve import ResolvedOptions
from edgeclf.training.fit.transfer import Transfer
from edgeclf.training.networks.batch_norm import fold_batch_norm, with_batch_norm
from edgeclf.training.networks.blocks import backbone_blocks
from edgeclf.training.networks.dropout import scale_dropout
from edgeclf.training.networks.registry import assemble, build_head
from edgeclf.training.networks.weights.layer_weights import Size
from edgeclf.training.options import FINE_TUNE, HEAD, QAT, WHOLE, FitOptions, Stage
from edgeclf.training.qat.model import fake_quantized

# Training images that the ranges of 8-bit values are chosen on.
_RANGE_IMAGES = 256

# The whole network with its best weights, softmax at temperature 1; the epochs of all fits; and for each split but the
# training images (n, C) probabilities.
Fitted: TypeAlias = tuple[KerasModel, FitResult, dict[Split, FloatArray]]
# Fits a network from a state, on features where it is a head, else on images.
_Fit: TypeAlias = Callable[[KerasModel, Stage, FitOptions, FitState | None], FitResult]


def run_stages(
    resolved: ResolvedOptions,
    data: TrainingData,
    transfer: Transfer | None,
    backbone: KerasModel | None,
    *,
    checkpoint: Checkpoint | None,
    on_epoch: Callable[[Stage, FitState], None],
    progress: Progress,
) -> Fitted:
    """Runs the fits of a training, from the beginning or from a checkpoint.

    Args:
        resolved: Which fits, and their options.
        data: Images, and features where a head is fitted.
        transfer: An earlier run's network to begin with; None for none.
        backbone: The frozen Keras backbone of a head; None where the whole network is fitted.
        checkpoint: The last finished epoch of a training that goes on; None for a new one.
        on_epoch: Called with the stage and its state after every epoch.
        progress: Called with each step.

    Returns:
        The whole network with its best weights, softmax at temperature 1; the result of all fits; and its (n, C) float32
        probabilities for the images of each split but `train`.

    Raises:
        InputError: The loss stopped being a number in the first epoch, or weights do not fit.
        KeyboardInterrupt: Ctrl-C before the first epoch was complete.
    """

    def fit(network: KerasModel, stage: Stage, options: FitOptions, state: FitState | None) -> FitResult:
        training, validation = (data.subset(split, features=stage == HEAD) for split in ("train", "val"))
        return fit_network(
            network,
            BatchLoader(training, len(data.labels), options),
            validation,
            options,
            stage=stage,
            state=state,
            on_epoch=lambda now: on_epoch(stage, now),
            progress=progress,
        )

    if resolved.first_stage == QAT:
        return _fit_in_8_bits(resolved, data, transfer, checkpoint=checkpoint, fit=fit, progress=progress)
    if resolved.first_stage == WHOLE:
        return _fit_whole(resolved, data, transfer, checkpoint=checkpoint, fit=fit, progress=progress)
    return _fit_head(resolved, data, transfer, backbone=backbone, checkpoint=checkpoint, fit=fit, progress=progress)


def _fit_whole(
    resolved: ResolvedOptions,
    data: TrainingData,
    transfer: Transfer | None,
    *,
    checkpoint: Checkpoint | None,
    fit: _Fit,
    progress: Progress,
) -> Fitted:
    size_hw, options = resolved.preprocess.size_hw, resolved.first
    network = _build_whole(resolved, data, transfer, (None, None) if options.progressive else size_hw)
    fitted = with_batch_norm(network) if options.batch_norm else network
    state = checkpoint.state if checkpoint else FitState() if transfer is None else _as_it_came(fitted, data, options)
    result = fit(fitted, WHOLE, options, state)
    if fitted is not network:
        fold_batch_norm(fitted, network)
    whole = network
    if options.progressive:
        # What is saved and exported takes one size, as every other network does.
        whole = _build_whole(resolved, data, transfer, size_hw)
        whole.set_weights(network.get_weights())
    return whole, result, _predict(whole, data, progress)


def _fit_in_8_bits(
    resolved: ResolvedOptions,
    data: TrainingData,
    transfer: Transfer | None,
    *,
    checkpoint: Checkpoint | None,
    fit: _Fit,
    progress: Progress,
) -> Fitted:
    if transfer is None:
        raise ValueError("quantization-aware training goes on from a run")
    options = resolved.first
    network = without_temperature(transfer.model)
    _train_all_but_statistics(network)
    training = data.subset("train")
    chosen = np.random.default_rng(options.seed).permutation(len(training.positions))[:_RANGE_IMAGES]
    # Weights held to the pair constraint are right for every target.
    simulated = fake_quantized(network, training.read(np.sort(chosen)), paired=True, progress=progress)
    # Epoch 0 is plain post-training quantization.
    state = checkpoint.state if checkpoint else _as_it_came(simulated.model, data, options)
    result = fit(simulated.model, QAT, options, state)
    if not result.best_epoch:
        return network, result, _predict(network, data, progress)
    simulated.write_back()
    # Its int8 file gives what the simulated network gives.
    return network, replace(result, scales_8bit=simulated.scales()), _predict(simulated.model, data, progress)


def _fit_head(
    resolved: ResolvedOptions,
    data: TrainingData,
    transfer: Transfer | None,
    *,
    backbone: KerasModel,
    checkpoint: Checkpoint | None,
    fit: _Fit,
    progress: Progress,
) -> Fitted:
    head = _build_head(resolved, data, transfer, backbone)
    if checkpoint is not None and checkpoint.stage == FINE_TUNE:
        network, state = assemble(backbone, head), checkpoint.state
    else:
        if checkpoint is not None:
            head_state = checkpoint.state
        else:
            head_state = FitState() if transfer is None else _as_it_came(head, data, resolved.first, features=True)
        result = fit(head, HEAD, resolved.first, head_state)
        network = assemble(backbone, head)
        if resolved.fine_tune is None or result.ending == "interrupted":
            return network, result, _predict(head, data, progress, features=True)
        if head_state.best is None:
            raise ValueError("a fit that ended has a best epoch")
        state = FitState(
            history=list(result.history),
            first=len(result.history),
            best=Best(head_state.best.value, result.best_epoch, network.get_weights()),
            seconds=list(result.seconds),
        )
    if resolved.fine_tune is None:
        raise ValueError("a checkpoint of a stage that was not asked for")
    unfreeze(backbone, resolved.fine_tune_blocks)
    # The head has it already.
    scale_dropout(backbone, resolved.fine_tune.dropout_scale)
    result = fit(network, FINE_TUNE, resolved.fine_tune, state)
    return network, result, _predict(network, data, progress)


def build_first_network(
    resolved: ResolvedOptions, data: TrainingData, transfer: Transfer | None, backbone: KerasModel | None
) -> KerasModel:
    """Builds the network of the first fit: a head on features, or the whole network at its full size."""
    if resolved.freezes_backbone:
        return _build_head(resolved, data, transfer, backbone)
    network = _build_whole(resolved, data, transfer, resolved.preprocess.size_hw)
    return with_batch_norm(network) if resolved.first.batch_norm else network


def _build_whole(resolved: ResolvedOptions, data: TrainingData, transfer: Transfer | None, size_hw: Size) -> KerasModel:
    network = resolved.architecture.build_network(size_hw, len(data.labels), resolved.weights)
    scale = resolved.first.dropout_scale
    # Of a network of the user's own this is not known before it is built.
    if not scale_dropout(network, scale) and scale != 1 and resolved.architecture.is_own:
        raise UsageError(
            f"--dropout-scale does not go with {resolved.architecture.name}",
            got="a network without dropout",
            expected="one with dropout",
            hint="leave --dropout-scale out",
        )
    if transfer is not None:
        transfer.fill(network, data.labels)
    return network


def _build_head(
    resolved: ResolvedOptions, data: TrainingData, transfer: Transfer | None, backbone: KerasModel
) -> KerasModel:
    head = build_head(backbone.output_shape[-1], len(data.labels))
    scale_dropout(head, resolved.first.dropout_scale)
    if transfer is not None:
        transfer.fill(head, data.labels)
    return head


def _as_it_came(network: KerasModel, data: TrainingData, options: FitOptions, *, features: bool = False) -> FitState:
    """The state of a network that goes on, before its first epoch: epoch 0, which is kept where no epoch is better."""
    before = validate(inference_of(network), data.subset("val", features=features), len(data.labels))
    return FitState(best=None if before is None else Best(before[options.monitor], 0, network.get_weights()))


def _predict(
    network: KerasModel, data: TrainingData, progress: Progress, *, features: bool = False
) -> dict[Split, FloatArray]:
    infer = inference_of(network)
    return {
        split: _predict_split(infer, data, split, progress, features=features)
        for split in data.splits
        if split != "train"
    }


def _predict_split(
    infer: Inference, data: TrainingData, split: Split, progress: Progress, *, features: bool
) -> FloatArray:
    subset = data.subset(split, features=features)
    return predict(infer, subset, lambda done: progress(f"evaluate on {split}", done, len(subset.positions)))


def unfreeze(backbone: KerasModel, blocks: int | None) -> None:
    """Makes the last blocks of a frozen backbone trainable, in place; batch normalisation stays as it is.

    In Keras a frozen BatchNormalization layer runs in inference mode, with the statistics of the large data set it was
    trained on: those of small batches of a small one would undo what the other layers know.

    Args:
        backbone: The backbone, all of it frozen.
        blocks: How many of its blocks, counted from its end; None for all, more than there are is all as well.
    """
    from keras import layers

    every = backbone_blocks(backbone)
    for block in every if blocks is None else every[-blocks:]:
        for layer in block:
            layer.trainable = not isinstance(layer, layers.BatchNormalization)


def _train_all_but_statistics(network: KerasModel) -> None:
    """Makes a trained network trainable, in place, with batch normalisation in inference mode, see `unfreeze`."""
    from keras import layers

    network.trainable = True
    for layer in network.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.trainable = False


def without_temperature(model: KerasModel) -> KerasModel:
    """The network of a run, which shares its weights, with its softmax at temperature 1."""
    from keras import Model, layers

    return Model(model.input, layers.Softmax(name="probabilities")(model.get_layer("logits").output), name=model.name)


def with_temperature_layer(model: KerasModel, temperature: float) -> KerasModel:
    """The same network with its logits divided by the temperature before the softmax."""
    from keras import Model, layers

    x = layers.Rescaling(1.0 / temperature, name="temperature")(model.get_layer("logits").output)
    return Model(model.input, layers.Softmax(name="probabilities")(x), name=model.name)
