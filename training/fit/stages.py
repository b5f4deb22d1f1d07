"""The fits of a training in their order: a head on frozen features and then perhaps its backbone, or a whole network."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeclf.export.int8.ranges import QuantParams
from edgeclf.export.keras_backend import inference_of
from edgeclf.runtime.progress import Progress
from edgeclf.training.data.dataset import Split
from edgeclf.training.data.loader import LabelledRows, TrainingBatches
from edgeclf.training.fit.checkpoint import Checkpoint
from edgeclf.training.fit.loop import Best, FitResult, FitState, fit, predict, validate
from edgeclf.training.inputs import Loaded
from edgeclf.training.networks.batch_norm import fold_batch_norm, with_batch_norm
from edgeclf.training.networks.blocks import backbone_blocks
from edgeclf.training.networks.dropout import scale_dropout
from edgeclf.training.networks.registry import assemble, build_head
from edgeclf.training.networks.weights import Size
from edgeclf.training.options import Settings
from edgeclf.training.qat.model import fake_quantized

HEAD, FINE_TUNE, WHOLE, QAT = "head", "fine-tune", "fit", "qat"
# Training images that the ranges of 8-bit values are chosen on.
_RANGE_IMAGES = 256


@dataclass(frozen=True, eq=False)
class Trained:
    """What the fits came to.

    Attributes:
        model: The whole network with its best weights, softmax at temperature 1.
        result: Epochs of all fits, and how the last one ended.
        probabilities: What the network says of the images of each part, (n, C) float32.
        ranges_8bit: What quantization-aware training has learned to round values with, by the layers that give them.
    """

    model: Any
    result: FitResult
    probabilities: dict[Split, npt.NDArray[np.float32]]
    ranges_8bit: dict[str, QuantParams] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Stages:
    """The fits of one training.

    Attributes:
        settings: How to train.
        loaded: On what, and from where.
        on_epoch: Told the stage and the state after every epoch.
        progress: Told of each stage.
    """

    settings: Settings
    loaded: Loaded
    on_epoch: Callable[[str, FitState], None]
    progress: Progress

    def run(self, checkpoint: Checkpoint | None) -> Trained:
        """Runs the fits, from the beginning or from a checkpoint.

        Raises:
            InputError: The loss stopped being a number in the first epoch, or weights do not fit.
            KeyboardInterrupt: Ctrl-C before the first epoch was complete.
        """
        if self.settings.qat:
            return self._fit_in_8_bits(checkpoint)
        if self.loaded.backbone is None:
            return self._fit_whole(checkpoint)
        return self._fit_head(checkpoint)

    def _fit_whole(self, checkpoint: Checkpoint | None) -> Trained:
        size_hw = self.settings.preprocess.size_hw
        progressive = self.settings.fit.progressive
        network = self.build_network((None, None) if progressive else size_hw)
        trained = self._in_training(network)
        result = self._fit(trained, WHOLE, self.settings.fit, None, checkpoint.state if checkpoint else None)
        if trained is not network:
            fold_batch_norm(trained, network)
        whole = network
        if progressive:
            # What is saved and exported takes one size, as every other network does.
            whole = self.build_network(size_hw)
            whole.set_weights(network.get_weights())
        return Trained(whole, result, self._predict(whole, None))

    def _in_training(self, network: Any) -> Any:  # noqa: ANN401
        """What is fitted in the network's place: itself, or the same with batch normalisation for the time being."""
        return with_batch_norm(network) if self.settings.fit.batch_norm else network

    def _fit_in_8_bits(self, checkpoint: Checkpoint | None) -> Trained:
        if self.loaded.transfer is None:
            raise ValueError("quantization-aware training goes on from a run")
        network = without_temperature(self.loaded.transfer.model)
        _train_all_but_statistics(network)
        training = self.loaded.data.part("train")
        chosen = np.random.default_rng(self.settings.fit.seed).permutation(len(training.rows))[:_RANGE_IMAGES]
        # Weights held to the pair constraint are right for every target.
        simulated = fake_quantized(network, training.read(np.sort(chosen)), paired=True, progress=self.progress)
        if checkpoint is not None:
            state = checkpoint.state
        else:
            validation = self.loaded.data.part("val")
            # What rounding alone gives is there before the first epoch, and is kept where none is better.
            before = validate(inference_of(simulated.model), validation, len(self.loaded.data.labels))
            value = None if before is None else before[self.settings.fit.monitor]
            best = None if value is None else Best(value, 0, simulated.model.get_weights())
            state = FitState(best=best)
        result = self._fit(simulated.model, QAT, self.settings.fit, None, state)
        if not result.best_epoch:
            return Trained(network, result, self._predict(network, None))
        simulated.settle()
        # What it is worth is what its file will be worth.
        return Trained(network, result, self._predict(simulated.model, None), simulated.ranges())

    def build_network(self, size_hw: Size) -> Any:  # noqa: ANN401 - keras carries no types
        """The network that is trained as a whole: all of it new, or with an earlier run's weights.

        Args:
            size_hw: Height and width in pixels, None for any.
        """
        network = self.settings.architecture.build_network(size_hw, len(self.loaded.data.labels), self.settings.weights)
        scale_dropout(network, self.settings.fit.dropout_scale)
        if self.loaded.transfer is not None:
            self.loaded.transfer.fill(network, self.loaded.data.labels)
        return network

    def _fit_head(self, checkpoint: Checkpoint | None) -> Trained:
        backbone, features = self.loaded.backbone, self.loaded.features
        head = self._build_head(backbone)
        in_fine_tune = checkpoint is not None and checkpoint.stage == FINE_TUNE
        if not in_fine_tune:
            state = checkpoint.state if checkpoint else FitState()
            result = self._fit(head, HEAD, self.settings.fit, features, state)
            if self.settings.fine_tune is None or result.ending == "interrupted":
                return Trained(assemble(backbone, head), result, self._predict(head, features))
            if state.best is None:
                raise ValueError("a fit that ended has a best epoch")
            value = state.best.value
        network = assemble(backbone, head)
        if self.settings.fine_tune is None:
            raise ValueError("a checkpoint of a stage that was not asked for")
        unfreeze(backbone, self.settings.fine_tune_blocks)
        # The head has it already.
        scale_dropout(backbone, self.settings.fine_tune.dropout_scale)
        if checkpoint is not None and in_fine_tune:
            state = checkpoint.state
        else:
            state = FitState(
                history=list(result.history),
                first=len(result.history),
                best=Best(value, result.best_epoch, network.get_weights()),
                seconds=list(result.seconds),
            )
        result = self._fit(network, FINE_TUNE, self.settings.fine_tune, None, state)
        return Trained(network, result, self._predict(network, None))

    def first_network(self) -> tuple[Any, Any]:
        """What the first fit trains, and what it is trained on: features, or None for the images themselves."""
        if self.loaded.backbone is None:
            return self._in_training(self.build_network(self.settings.preprocess.size_hw)), None
        return self._build_head(self.loaded.backbone), self.loaded.features

    def _build_head(self, backbone: Any) -> Any:  # noqa: ANN401
        head = build_head(backbone.output_shape[-1], len(self.loaded.data.labels))
        scale_dropout(head, self.settings.fit.dropout_scale)
        if self.loaded.transfer is not None:
            self.loaded.transfer.fill(head, self.loaded.data.labels)
        return head

    def _fit(self, network: Any, stage: str, options: Any, inputs: Any, state: FitState | None) -> FitResult:  # noqa: ANN401
        batches = TrainingBatches(self.loaded.data.part("train", inputs), len(self.loaded.data.labels), options)

        def on_epoch(now: FitState) -> None:
            self.on_epoch(stage, now)

        return fit(
            network,
            batches,
            self.loaded.data.part("val", inputs),
            options,
            stage=stage,
            state=state,
            on_epoch=on_epoch,
            progress=self.progress,
        )

    def _predict(self, network: Any, inputs: Any) -> dict[Split, npt.NDArray[np.float32]]:  # noqa: ANN401
        infer = inference_of(network)
        return {part: self._predict_part(infer, part, inputs) for part in self.loaded.data.parts if part != "train"}

    def _predict_part(self, infer: Any, part: Split, inputs: Any) -> npt.NDArray[np.float32]:  # noqa: ANN401
        data: LabelledRows = self.loaded.data.part(part, inputs)
        return predict(infer, data, lambda done: self.progress(f"evaluate on {part}", done, len(data.rows)))


def unfreeze(backbone: Any, blocks: int | None) -> None:  # noqa: ANN401
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


def _train_all_but_statistics(network: Any) -> None:  # noqa: ANN401
    """Makes a trained network trainable, in place, with batch normalisation in inference mode, see `unfreeze`."""
    from keras import layers

    network.trainable = True
    for layer in network.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.trainable = False


def without_temperature(model: Any) -> Any:  # noqa: ANN401
    """The network of a run, which shares its weights, with its softmax at temperature 1."""
    from keras import Model, layers

    return Model(model.input, layers.Softmax(name="probabilities")(model.get_layer("logits").output), name=model.name)


def with_temperature_layer(model: Any, temperature: float) -> Any:  # noqa: ANN401
    """The same network with its logits divided by the temperature before the softmax."""
    from keras import Model, layers

    x = layers.Rescaling(1.0 / temperature, name="temperature")(model.get_layer("logits").output)
    return Model(model.input, layers.Softmax(name="probabilities")(x), name=model.name)
