"""`ModelUse`: how a model file without an edgeclf spec is used, each part with its origin, and what is missing for it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from edgeclf.runtime.errors import ModelFileError
from edgeclf.runtime.session.foreign.findings import ASSUMED, MEASURED
from edgeclf.runtime.session.foreign.given import Activation, ChannelOrder, PixelScaling, numbers_text
from edgeclf.runtime.session.foreign.image_input import ImageInput
from edgeclf.runtime.session.foreign.labels import indices
from edgeclf.runtime.session.foreign.outputs import OutputCodes
from edgeclf.runtime.spec import INTERPOLATION_NAMES, FitMode, Interpolation, ModelSpec, Preprocess

PartName = Literal[
    "image size",
    "channels",
    "scaling",
    "fit",
    "interpolation",
    "output",
    "activation",
    "labels",
]
Channels = ChannelOrder | Literal["grey"]
_OPTION_OF_INTERPOLATION = {value: name for name, value in INTERPOLATION_NAMES.items()}
_WORDS: Mapping[Activation, str] = {
    "softmax": "softmax inside",
    "sigmoid": "sigmoids inside, each class on its own",
    "logits": "logits: a softmax follows",
    "sigmoid-logits": "logits: a sigmoid of each class follows",
}
_WORDS_OF_ONE: Mapping[Activation, str] = {
    "softmax": "one sigmoid inside, of the second of two classes",
    "sigmoid": "one sigmoid inside, of the second of two classes",
    "logits": "one logit: a sigmoid follows, of the second of two classes",
    "sigmoid-logits": "one logit: a sigmoid follows, of the second of two classes",
}


@dataclass(frozen=True)
class Missing:
    """Something without which a foreign model cannot be run.

    Attributes:
        what: What is missing, as the end of the sentence "FILE ...".
        got: What there is.
        expected: What would do.
        options: How it is said, on the command line and in Python.
    """

    what: str
    got: str
    expected: str
    options: str

    def error(self, path: Path) -> ModelFileError:
        """The error for a model that cannot be run for that reason."""
        return ModelFileError(f"{path} {self.what}", got=self.got, expected=self.expected, hint=f"pass {self.options}")


@dataclass(frozen=True)
class ModelUse:
    """How a model file without an edgeclf spec is used.

    Attributes:
        input: Its image input.
        size_hw: Height and width of the images it gets; None while they are missing.
        channels: Order of the colours, or `grey`.
        scaling: Pixel normalisation for pixels of 0..255; None for pixels as they are.
        fit: Fit mode.
        crop_fraction: With `crop`, the share that is kept.
        pad_value: With `letterbox`, the grey value of the padding.
        interpolation: Interpolation.
        output: Name of the output with the classes; None while it is missing.
        classes: Values an image that it gives; None while that is not known.
        activation: What they have been through; None until it is measured.
        labels: Class names; None for indices of classes whose number is not known yet.
        origins: Where each part comes from.
        notes: What the user has to know, sentences without a full stop.
        missing: Without what it cannot be run.
        codes: How the codes of its output are to be read; None of one that gives the numbers themselves.
        precision: What it computes in: `fp32`, `fp16` where its weights are float16, `int8` where it rounds values to 8 bits.
    """

    input: ImageInput
    size_hw: tuple[int, int] | None
    channels: Channels
    scaling: PixelScaling | None
    fit: FitMode
    crop_fraction: float
    pad_value: int
    interpolation: Interpolation
    output: str | None
    classes: int | None
    activation: Activation | None
    labels: tuple[str, ...] | None
    origins: Mapping[PartName, str]
    notes: tuple[str, ...] = ()
    missing: tuple[Missing, ...] = ()
    codes: OutputCodes | None = None
    precision: str = "fp32"

    @property
    def spec(self) -> ModelSpec:
        """The spec that stands in for the one that the file does not have.

        Raises:
            ValueError: Something is missing.
        """
        if self.size_hw is None or self.labels is None:
            raise ValueError("a part is missing")
        preprocess = Preprocess(self.size_hw, self.fit, self.crop_fraction, self.pad_value, self.interpolation)
        return ModelSpec(labels=self.labels, preprocess=preprocess, architecture="foreign", precision=self.precision)

    def with_measured(self, classes: int, activation: Activation | None) -> "ModelUse":
        """The same with what a run of the model has shown, where it was not known before."""
        use = replace(self, classes=classes)
        if self.activation is None and activation is not None:
            use = replace(use, activation=activation, origins={**use.origins, "activation": MEASURED})
        if self.labels is None:
            use = replace(use, labels=indices(label_count(classes)), origins={**use.origins, "labels": ASSUMED})
        return use

    def parts(self) -> list[tuple[str, str, str]]:
        """Name, value and origin of each part, as text for people."""
        fit: str = self.fit
        if self.fit == "crop":
            fit = f"crop, of which {self.crop_fraction:.6g} is kept"
        elif self.fit == "letterbox":
            fit = f"letterbox on grey {self.pad_value}"
        scaling = "pixels as they are, 0..255"
        if self.scaling is not None:
            scaling = (
                f"mean {numbers_text(self.scaling.mean)}, std {numbers_text(self.scaling.std)}, for pixels of 0..255"
            )
        elif not self.input.is_uint8 and self.origins["scaling"] == "":
            scaling = "missing"
        size = "missing" if self.size_hw is None else f"{self.size_hw[0]} x {self.size_hw[1]} (height x width)"
        count = "number unknown" if self.classes is None else f"{label_count(self.classes)}"
        words = _WORDS_OF_ONE if self.classes == 1 else _WORDS
        activation = "not known before it runs" if self.activation is None else words[self.activation]
        names = "indices" if self.labels is None or self.origins["labels"] == ASSUMED else shortened(self.labels)
        output = "missing" if self.output is None else self.output
        if self.codes is not None:
            output += f", codes of scale {self.codes.scale:.6g} and zero point {self.codes.zero_point}"
        rows: list[tuple[str, str, PartName]] = [
            ("image size", size, "image size"),
            ("channels", self.channels, "channels"),
            ("scaling", scaling, "scaling"),
            ("fit", fit, "fit"),
            ("interpolation", _OPTION_OF_INTERPOLATION[self.interpolation], "interpolation"),
            ("output", output, "output"),
            ("activation", activation, "activation"),
            ("classes", f"{count}: {names}", "labels"),
        ]
        return [(name, value, self.origins[part]) for name, value, part in rows]

    def to_json(self) -> dict[str, Any]:
        """The same as plain JSON values."""

        def part(name: PartName, **values: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON values
            return {**values, "origin": self.origins[name] or None}

        scaling = self.scaling
        return {
            "input": {
                "name": self.input.name,
                "dtype": self.input.dtype,
                "layout": self.input.layout,
                "shape": self.input.shape_text(),
                "batch": self.input.batch,
            },
            "image_size": part("image size", value=None if self.size_hw is None else list(self.size_hw)),
            "channels": part("channels", value=self.channels),
            "scaling": part(
                "scaling",
                mean=None if scaling is None else list(scaling.mean),
                std=None if scaling is None else list(scaling.std),
            ),
            "fit": part(
                "fit",
                value=self.fit,
                crop_fraction=self.crop_fraction if self.fit == "crop" else None,
                pad_value=self.pad_value if self.fit == "letterbox" else None,
            ),
            "interpolation": part("interpolation", value=_OPTION_OF_INTERPOLATION[self.interpolation]),
            "output": part(
                "output",
                value=self.output,
                values_per_image=self.classes,
                codes=None if self.codes is None else self.codes._asdict(),
            ),
            "activation": part("activation", value=self.activation),
            "labels": part("labels", value=None if self.labels is None else list(self.labels)),
            "precision": self.precision,
            "notes": list(self.notes),
            "missing": [{"what": item.what, "pass": item.options} for item in self.missing],
        }

    def sentence(self) -> str:
        """One line for people who run the file."""
        parts = [f"{name} {value} ({origin})" for name, value, origin in self.parts() if origin]
        return "; ".join(parts)


def label_count(classes: int) -> int:
    """Number of labels for so many values an image: one value is that of the second of two classes."""
    return 2 if classes == 1 else classes


def shortened(labels: tuple[str, ...], most: int = 12) -> str:
    """Labels in one line."""
    return ", ".join(labels[:most]) + (f", … ({len(labels) - most} more)" if len(labels) > most else "")
