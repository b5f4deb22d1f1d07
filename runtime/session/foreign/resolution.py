"""`resolve_foreign`: how a model file without an edgeclf spec is to be used, from the file, what lies beside it, and the user."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from edgeclf.runtime.errors import ModelFileError, UsageError
from edgeclf.runtime.session.foreign.activation import activation_in_graph, ends_in_tanh
from edgeclf.runtime.session.foreign.findings import ASSUMED, GIVEN, IN_GRAPH, Findings
from edgeclf.runtime.session.foreign.given import (
    ACTIVATION_NAMES,
    CHANNEL_ORDERS,
    PRESET_NAMES,
    Activation,
    ForeignModel,
    PixelScaling,
    numbers_text,
)
from edgeclf.runtime.session.foreign.graph_entry import chance_in_graph, graph_entry
from edgeclf.runtime.session.foreign.image_input import find_image_input
from edgeclf.runtime.session.foreign.labels import indices, labels_in_graph, told_apart
from edgeclf.runtime.session.foreign.metadata import read_metadata
from edgeclf.runtime.session.foreign.outputs import (
    ClassOutput,
    choice_in_graph,
    codes_in_graph,
    find_class_output,
    outputs_text,
)
from edgeclf.runtime.session.foreign.precision import precision_of
from edgeclf.runtime.session.foreign.presets import PRESETS
from edgeclf.runtime.session.foreign.sidecars import read_sidecars, read_timm_config
from edgeclf.runtime.session.foreign.use import Channels, Missing, ModelUse, PartName, label_count
from edgeclf.runtime.session.graph_outline import GraphOutline
from edgeclf.runtime.spec import AREA, INTERPOLATION_NAMES, MOST_PIXELS_OF_A_SIDE, FitMode, Interpolation

T = TypeVar("T")
_AS_THEY_ARE = PixelScaling((0.0,), (1.0,))
_PAD_VALUE = 114


def resolve_foreign(path: Path, outline: GraphOutline, given: ForeignModel) -> ModelUse:
    """How a model file without an edgeclf spec is to be used. Reads the files beside it, and opens no session.

    The user's word comes first, then a preset that the user names, the file's metadata, the files beside it, its graph.

    Args:
        path: The file.
        outline: Its graph.
        given: What the user says.

    Raises:
        UsageError: What the user says contradicts the file or itself.
        ModelFileError: The file is no image classifier, or not one that can be run here.
    """
    return _Resolution(path, outline, given).resolve()


def labels_mismatch(path: Path, labels: int, classes: int) -> ModelFileError:
    """The error for a number of labels that differs from the number of classes.

    Args:
        path: The model's file.
        labels: Number of labels.
        classes: Number of values an image that the model gives.
    """
    expected = f"{classes}, one for each output"
    if classes == 1:
        expected = "2, the second for a high value of its one output"
    elif classes == labels + 1:
        expected += " (the first may be a background class)"
    return ModelFileError(
        f"the labels do not match {path}", got=f"{labels} labels", expected=expected, hint="pass the right labels"
    )


class _Resolution:
    """One resolution: the sources, and what has been found, missed and noted on the way."""

    def __init__(self, path: Path, outline: GraphOutline, given: ForeignModel) -> None:
        self._path = path
        self._outline = outline
        self._given = given
        self._origins: dict[PartName, str] = {}
        self._missing: list[Missing] = []
        self._notes: list[str] = []
        self._entry = graph_entry(outline)
        self._input = find_image_input(
            outline.real_inputs, path, usual=self._entry.layout, usual_channels=self._entry.channels
        )
        self._sources = self._read_sources()
        self._refuse_chance()

    def _refuse_chance(self) -> None:
        operator = chance_in_graph(self._outline)
        if operator is not None:
            raise ModelFileError(
                f"{self._path} gives another answer each time",
                got=f"a {operator} in its graph" + (" that is in training mode" if operator == "Dropout" else ""),
                expected="a network in inference mode",
                hint="export it in evaluation mode (in PyTorch model.eval())",
            )

    def resolve(self) -> ModelUse:
        """See `resolve_foreign`."""
        output = self._output()
        classes = None if output is None else output.classes
        self._leave_out_other_models(classes)
        size_hw, channels, scaling = self._image_size(), self._channels(), self._scaling()
        fit: FitMode = self._first("fit", _fit_of, "stretch")
        interpolation: Interpolation = self._first("interpolation", lambda item: item.interpolation, AREA)
        return ModelUse(
            input=self._input,
            size_hw=size_hw,
            channels=channels,
            scaling=scaling,
            fit=fit,
            crop_fraction=next((item.crop_fraction for item in self._sources if item.crop_fraction is not None), 1.0),
            pad_value=next((item.pad_value for item in self._sources if item.pad_value is not None), _PAD_VALUE),
            interpolation=interpolation,
            output=None if output is None else output.name,
            codes=None if output is None else codes_in_graph(self._outline, output.name),
            classes=classes,
            activation=self._activation(output),
            labels=self._labels(classes),
            origins=self._origins,
            notes=tuple(dict.fromkeys(self._notes)),
            missing=tuple(self._missing),
            precision=precision_of(self._outline),
        )

    def _first(self, part: PartName, value_of: Callable[[Findings], T | None], default: T) -> T:
        """What the most trusted source says of a part."""
        for item in self._sources:
            value = value_of(item)
            if value is not None:
                self._origins[part] = item.origin
                return value
        self._origins[part] = ASSUMED
        return default

    def _miss(self, part: PartName, what: Missing) -> None:
        self._origins[part] = ""
        self._missing.append(what)

    def _read_sources(self) -> list[Findings]:
        """What each source says, the most trusted first."""
        given = self._given
        scaling = given.scaling
        if scaling is not None and scaling != (scaling := scaling.in_bytes()):
            self._notes.append(
                f"a std below 1 is for pixels of 0..1: mean {numbers_text(scaling.mean)} and std "
                f"{numbers_text(scaling.std)} are used, for pixels of 0..255"
            )
        said = Findings(
            GIVEN,
            labels=tuple(given.labels) or None,
            scaling=scaling,
            channels=next((order for order in CHANNEL_ORDERS if order == given.channels), None),
            fit=given.fit,
            crop_fraction=given.crop_fraction,
            pad_value=given.pad_value,
            interpolation=None if given.interpolation is None else INTERPOLATION_NAMES[given.interpolation],
            size_hw=given.image_size,
        )
        preset = None
        if given.preset == "timm":
            preset = self._timm_preset()
        elif given.preset is not None:
            preset = PRESETS[given.preset].findings
        metadata = read_metadata(self._outline.metadata, self._path)
        named = [item for item in (said, preset, metadata) if item is not None]
        return [*named, *read_sidecars(self._path), Findings(IN_GRAPH, labels=labels_in_graph(self._outline))]

    def _timm_preset(self) -> Findings:
        config = read_timm_config(self._path)
        if config is None:
            raise UsageError(
                f"the preset timm needs the model's config.json beside {self._path}",
                got="none that timm wrote",
                expected="one with mean, std, crop_pct and interpolation, which differ by model",
                hint="put it there (on the hub it lies beside the weights), or pass --mean, --std, --fit, --crop-fraction "
                "and --interpolation",
            )
        return config

    def _leave_out_other_models(self, classes: int | None) -> None:
        """Leaves out the sources that are about a model with another number of classes."""
        kept: list[Findings] = []
        count = None if classes is None else label_count(classes)
        for item in self._sources:
            said = item.classes if item.labels is None else len(item.labels)
            if count is None or said is None or said == count:
                kept.append(item)
                self._notes.extend(item.notes)
            elif classes is not None and item.origin == GIVEN:
                raise labels_mismatch(self._path, said, classes)
            else:
                self._notes.append(f"what is {item.origin} is left out: it is of {said} classes, the file has {count}")
        self._sources = kept

    def _output(self) -> ClassOutput | None:
        outputs, given = self._outline.outputs, self._given
        activated = (item.name for item in outputs if activation_in_graph(self._outline, item.name) in _ENDS)
        output = find_class_output(
            outputs,
            self._path,
            name=given.output,
            labels=next((len(item.labels) for item in self._sources if item.labels), 0),
            activated=frozenset(activated),
            coded=frozenset(item.name for item in outputs if codes_in_graph(self._outline, item.name) is not None),
            chosen={
                item.name: choice for item in outputs if (choice := choice_in_graph(self._outline, item)) is not None
            },
        )
        if output is None:
            missing = Missing(
                "has several outputs that could be the classes",
                outputs_text(outputs),
                "the name of one",
                "--output NAME (in Python ForeignModel(output=...))",
            )
            self._miss("output", missing)
            return None
        self._origins["output"] = output.origin
        if len(outputs) > 1 and given.output is None:
            self._notes.append(f"of {outputs_text(outputs)}, {output.name} is taken for the classes")
        return output

    def _image_size(self) -> tuple[int, int] | None:
        wanted = self._first("image size", lambda item: item.size_hw, None)
        fixed_height, fixed_width = self._input.size_hw
        if fixed_height is not None and fixed_width is not None:
            size_hw = fixed_height, fixed_width
        elif wanted is None:
            missing = Missing(
                "leaves the size of its images free",
                f"an input {self._input.shape_text()}",
                "the size that it was trained with",
                "--image-size 224, or 224,320 for height and width (in Python ForeignModel(image_size=(224, 320)))",
            )
            self._miss("image size", missing)
            return None
        else:
            size_hw = fixed_height or wanted[0], fixed_width or wanted[1]
        if not 1 <= min(size_hw) <= max(size_hw) <= MOST_PIXELS_OF_A_SIDE:
            raise ModelFileError(
                f"{self._path} takes images of another size than there are",
                got=f"{size_hw[0]} x {size_hw[1]}",
                expected=f"sides of 1 to {MOST_PIXELS_OF_A_SIDE} pixels",
                hint="export it again",
            )
        if wanted is not None and wanted != size_hw:
            self._refuse_size(wanted, size_hw)
        if None not in self._input.size_hw:
            self._origins["image size"] = IN_GRAPH
        return size_hw

    def _refuse_size(self, wanted: tuple[int, int], size_hw: tuple[int, int]) -> None:
        origin = self._origins["image size"]
        if origin == GIVEN:
            raise UsageError(
                f"{self._path} takes images of another size",
                got=f"{wanted[0]} x {wanted[1]}",
                expected=self._input.shape_text(),
                hint="leave --image-size out",
            )
        self._notes.append(
            f"the size {origin}, {wanted[0]} x {wanted[1]}, is not the file's: {size_hw[0]} x {size_hw[1]} is used"
        )

    def _channels(self) -> Channels:
        if self._input.channels == 3:
            return self._first("channels", lambda item: item.channels, "rgb")
        if self._given.channels is not None:
            raise UsageError(
                f"{self._path} takes grey images",
                got=f"channels {self._given.channels}",
                expected="none",
                hint="leave --channels out",
            )
        self._origins["channels"] = IN_GRAPH
        return "grey"

    def _scaling(self) -> PixelScaling | None:
        if self._input.is_uint8:
            self._refuse_scaling_of_bytes()
            return None
        scaling = self._first("scaling", lambda item: item.scaling, None)
        if scaling is not None and scaling.of_channels(self._input.channels) is None:
            self._refuse_colours(scaling)
            scaling = None
        if scaling is not None:
            if self._entry.scales_bytes and scaling.of_channels(1) != _AS_THEY_ARE.of_channels(1):
                self._notes.append(
                    "the graph begins with a normalisation of pixels 0..255, and the one "
                    f"{self._origins['scaling']} comes before it: pass --mean 0 --std 1 if that is one too many"
                )
            return scaling
        if self._entry.scales_bytes:
            self._origins["scaling"] = IN_GRAPH
            return _AS_THEY_ARE
        missing = Missing(
            "takes float pixels and does not say how they are scaled",
            next((item.unusable_scaling for item in self._sources if item.unusable_scaling), "no mean and std"),
            "the training's normalisation, R, G, B",
            "--mean and --std (123.675,116.28,103.53 and 58.395,57.12,57.375 for ImageNet's, 0 and 255 for a plain "
            f"division by 255), or --preprocess {'|'.join(PRESET_NAMES)} (in Python "
            "ForeignModel(scaling=PixelScaling(mean, std)) or ForeignModel(preset=...))",
        )
        self._miss("scaling", missing)
        return None

    def _refuse_scaling_of_bytes(self) -> None:
        given = self._given
        if given.scaling is not None:
            raise UsageError(
                f"{self._path} takes uint8 pixels", got="mean and std", expected="none", hint="leave them out"
            )
        if given.preset is not None:
            self._notes.append(f"mean and std of the preset {given.preset} are left out: the file takes uint8 pixels")
        self._origins["scaling"] = IN_GRAPH

    def _refuse_colours(self, scaling: PixelScaling) -> None:
        if self._given.scaling is not None or self._given.preset is not None:
            raise UsageError(
                f"{self._path} takes grey images",
                got=f"mean {numbers_text(scaling.mean)} and std {numbers_text(scaling.std)}",
                expected="one number each",
                hint="pass --mean and --std of its training, such as --mean 127.5 --std 127.5",
            )
        self._notes.append(
            f"the mean and std {self._origins['scaling']} are of three channels, and the file takes grey images"
        )

    def _activation(self, output: ClassOutput | None) -> Activation | None:
        activation: Activation | None = None
        if self._given.activation is not None:
            self._origins["activation"] = GIVEN
            activation = ACTIVATION_NAMES[self._given.activation]
        else:
            activation = None if output is None else activation_in_graph(self._outline, output.name)
            self._origins["activation"] = "" if activation is None else IN_GRAPH
            multi_label = next((item.origin for item in self._sources if item.is_multi_label), None)
            if activation == "logits" and multi_label is not None:
                activation, self._origins["activation"] = "sigmoid-logits", multi_label
        if self._given.activation is None and output is not None and ends_in_tanh(self._outline, output.name):
            raise ModelFileError(
                f"{self._path} ends in a Tanh",
                got=f"{outputs_text(self._outline.outputs)} of -1..1, which are neither probabilities nor logits",
                expected="an output in front of it, or one with a softmax or sigmoid",
                hint="export it without the Tanh, or pass --output-activation none if a softmax is to follow (of one output, "
                "a sigmoid)",
            )
        if activation == "softmax" and output is not None and output.classes == 1:
            raise ModelFileError(
                f"{self._path} has one output with a softmax, which is always 1",
                got=f"{outputs_text(self._outline.outputs)}, a softmax {self._origins['activation']}",
                expected="a sigmoid for two classes, or an output for each class",
                hint="pass --output-activation sigmoid if it is one, else train and export it with another last layer",
            )
        return activation

    def _labels(self, classes: int | None) -> tuple[str, ...] | None:
        default = None if classes is None else indices(label_count(classes))
        labels = self._first("labels", lambda item: item.labels, default)
        if labels is None:
            return None
        apart = told_apart(labels)
        example = next((other for label, other in zip(labels, apart, strict=True) if label != other), None)
        if example is not None:
            self._notes.append(f"names that several classes have get their index behind them, such as {example!r}")
        return apart


_ENDS = frozenset(("softmax", "sigmoid"))


def _fit_of(item: Findings) -> FitMode | None:
    # Whoever names a fraction means a crop, and whoever names a padding a letterbox.
    if item.fit is None and item.crop_fraction is not None:
        return "crop"
    return "letterbox" if item.fit is None and item.pad_value is not None else item.fit
