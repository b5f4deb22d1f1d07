"""The recipes: options of a fit that suit each kind of network and of fit, each overridable on the command line."""

from dataclasses import replace

from edgeclf.training.options import Recipe

# How a pretrained backbone is trained on, after its head: few gentle steps away from weights that are already good.
FINE_TUNING = Recipe(
    epochs=3,
    batch_size=32,
    optimizer="adamw",
    learning_rate=1e-4,
    patience=3,
    schedule="cosine",
    warmup_epochs=0.5,
    weight_decay=0.02,
    label_smoothing=0.0,
    augment="light",
)
# A trained network, in the arithmetic of its int8 file: as gentle, and a little longer, as every step is a rounded one.
QUANTIZATION_AWARE = replace(FINE_TUNING, epochs=5, patience=5)
# The head of a frozen backbone.
HEAD = Recipe(epochs=50, batch_size=64, optimizer="adam", learning_rate=1e-3, patience=10)
# A network with batch normalisation, trained from random weights.
FROM_SCRATCH = Recipe(
    epochs=120,
    batch_size=32,
    optimizer="adamw",
    learning_rate=2e-3,
    patience=40,
    schedule="cosine",
    warmup_epochs=3,
    weight_decay=0.05,
    label_smoothing=0.1,
    augment="strong",
)
# A trained network that goes on as a whole takes this share of the rate that it learned with from random weights: at all of it the
# first epochs undo more than they add, at a twentieth hardly anything changes (`benchmarks/training/going_on.py`).
_SHARE_OF_RATE = 0.25


def going_on(recipe: Recipe) -> Recipe:
    """The recipe for a network that was trained with a recipe from scratch and is trained on as a whole.

    Neither images of another size nor new batch normalisation: what the network knows would be lost in the first epochs.
    """
    return replace(recipe, learning_rate=_SHARE_OF_RATE * recipe.learning_rate, batch_norm=False, progressive=False)


SMALL_CNN = replace(FROM_SCRATCH, progressive=True)
# With its own dropout, 0.2 after each stage and 0.5 after both dense layers, it does not get to know even its training
# images: it guesses for some ten epochs and ends at 0.81. Without it, and without batch normalisation, it ends at 0.82.
SEED_CNN = replace(FROM_SCRATCH, dropout_scale=0.0, batch_norm=True)
