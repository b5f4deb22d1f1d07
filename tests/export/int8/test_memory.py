"""Quantization within a bound of memory: the same file, less memory, one sentence where the disk has no room."""

import shutil
import tempfile
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import onnxruntime
import pytest

from edgeclf.export.graph.light import sessions, weights
from edgeclf.export.graph.light.folder import ModelFolder
from edgeclf.export.graph.light.moving import moved_out
from edgeclf.export.int8.calibrator import Calibrator
from edgeclf.export.int8.gptq import gptq, gptq_with_scales, output_errors
from edgeclf.export.int8.layerwise import fitting
from edgeclf.export.int8.recipe import QuantizationRecipe
from edgeclf.export.int8.weights import PAIR_BOUND, largest_pair, quantize_rows
from edgeclf.export.search.sensitivity import rank_layers
from edgeclf.runtime.errors import OutputError
from edgeclf.runtime.progress import no_progress

from .networks import Builder, plain, relative_error, residual_depthwise, run

RECIPE = QuantizationRecipe()


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def hard_swish():
    """Codes handed on as they are, with another scale; and a product."""
    b = Builder(4)
    start = b.conv(16, strides=[2, 2])
    x = b.op("Add", start, b.constant(np.float32(3)))
    x = b.op("Clip", x, b.constant(np.float32(0)), b.constant(np.float32(6)))
    x = b.op("Mul", x, b.constant(np.float32(1 / 6)))
    b.x = b.op("Mul", x, start)
    b.conv(24, 1)
    return b.finish()


@pytest.mark.parametrize("build", [plain, residual_depthwise, hard_swish])
@pytest.mark.parametrize("recipe", [RECIPE, replace(RECIPE, fixed_point=False, keep_float=("conv5",))])
def test_values_in_files_give_the_same_bytes_as_values_in_memory(build, recipe, images):
    # 70 images: four batches and a smaller one.
    given = images[:70]
    if recipe.keep_float and not any(node.name == "conv5" for node in build().graph.node):
        recipe = replace(recipe, keep_float=())
    written = [
        Calibrator(build(), given, value_bytes=size).network(recipe).write().model.SerializeToString()
        for size in (1 << 30, 1 << 20, 0)
    ]
    assert written[0] == written[1] == written[2]


@pytest.mark.parametrize("build", [plain, residual_depthwise, hard_swish])
@pytest.mark.parametrize("recipe", [RECIPE, replace(RECIPE, equalize=True), replace(RECIPE, gptq=False)])
def test_large_weights_in_files_give_the_same_network(build, recipe, images, monkeypatch):
    given = images[:70]
    wanted = Calibrator(build(), given).network(recipe).write().model
    monkeypatch.setattr(weights, "LARGE_BYTES", 1 << 10)
    folder = ModelFolder()
    for model in (build(), moved_out(build(), folder.path)):
        network = Calibrator(model, given).network(recipe)
        assert weights.is_light(network.graph.model)
        got = network.write().model
        # Of a light model ONNX Runtime writes attributes that have their default values.
        assert list(got.graph.initializer) == list(wanted.graph.initializer)
        for one, other in zip(got.graph.node, wanted.graph.node, strict=True):
            assert (one.name, one.op_type, one.input, one.output) == (
                *(other.name, other.op_type),
                *(other.input, other.output),
            )
        np.testing.assert_array_equal(run(got, given), run(wanted, given))
        # The float graph outlives the calibrator, with the files of its weights.
        rank = rank_layers(network, given[:4], no_progress)
        assert len(rank) == len(network.layers)


def test_files_are_gone_afterwards_however_it_ends(images, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    calibrator = Calibrator(plain(), images[:20], value_bytes=0)
    calibrator.network(RECIPE)
    assert not list(tmp_path.iterdir())

    def stop(stage, done, _total):
        if (stage, done) == ("quantize", 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Calibrator(plain(), images[:20], stop, value_bytes=0).network(RECIPE)
    assert not list(tmp_path.iterdir())


def test_a_disk_without_room_is_said_in_one_sentence(images, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9, 1000))
    # In memory no disk is asked for.
    assert Calibrator(plain(), images[:20]).network(RECIPE).layers
    with pytest.raises(OutputError, match=r"0\.0 GB free in .*expected 0\.0 GB .*set TMPDIR") as caught:
        Calibrator(plain(), images[:20], value_bytes=0).network(RECIPE)
    assert "\n" not in caught.value.sentence


def test_observing_in_smaller_batches_changes_no_file(images, monkeypatch):
    from edgeclf.export.int8 import observe

    whole = Calibrator(plain(), images[:21]).network(RECIPE).write().model.SerializeToString()
    monkeypatch.setattr(observe, "_BATCH_BYTES", 1)
    assert Calibrator(plain(), images[:21]).network(RECIPE).write().model.SerializeToString() == whole


def test_a_large_model_goes_to_onnx_runtime_through_a_file_and_gives_the_same(images, monkeypatch):
    whole = Calibrator(plain(), images[:21]).network(RECIPE).write().model.SerializeToString()
    monkeypatch.setattr(sessions, "_LARGE_MODEL_BYTES", 1)
    monkeypatch.setattr(sessions, "open_session_from_bytes", None)
    assert Calibrator(plain(), images[:21]).network(RECIPE).write().model.SerializeToString() == whole


def test_codes_are_kept_in_a_byte_each(images):
    layers = Calibrator(residual_depthwise(), images[:20]).network(RECIPE).layers.values()
    assert {layer.codes.dtype for layer in layers} == {np.dtype(np.int8)}


def test_rows_too_wide_for_their_moments_are_rounded_in_blocks(images, monkeypatch):
    def build():
        b = Builder(6)
        b.conv(24, strides=[2, 2])
        b.relu()
        b.conv(24)
        b.relu()
        return b.finish()

    def error_of(recipe):
        model = Calibrator(build(), images, value_bytes=0).network(recipe).write().model
        onnxruntime.set_default_logger_severity(3)
        return relative_error(run(model, images), run(build(), images))

    plain_recipe = QuantizationRecipe(fixed_point=False)
    whole, nearest = error_of(plain_recipe), error_of(replace(plain_recipe, gptq=False))
    monkeypatch.setattr(fitting, "_MOST_MOMENTS", 60**2)
    blocks = error_of(plain_recipe)
    assert blocks != whole
    assert blocks < 1.2 * nearest


@pytest.mark.parametrize(
    ("width", "positions", "widths"),
    [
        (6144, 1, [6144]),
        (9216, 8192, [3072, 3072, 3072]),
        (25088, 256, [256] * 98),
        (6145, 8192, [3074, 3071]),
    ],
)
def test_blocks_are_even_and_no_wider_than_memory_and_positions_allow(width, positions, widths):
    blocks = fitting._column_blocks(width, positions=positions)
    assert [part.stop - part.start for part in blocks] == widths
    assert all(part.start % 2 == 0 for part in blocks)


def test_blocks_are_each_rounded_by_gptq_and_share_the_scale(rng):
    rows = rng.normal(size=(6, 70))
    inputs = rng.normal(size=(400, 12)) @ rng.normal(size=(12, 70)) + 0.1 * rng.normal(size=(400, 70))
    moments = inputs.T @ inputs / len(inputs)
    parts = [slice(0, 24), slice(24, 48), slice(48, 70)]
    blocks = [moments[part, part] for part in parts]
    _, scales = quantize_rows(rows, paired=True)
    codes, chosen = gptq_with_scales(rows, [scales], blocks, paired=True)
    np.testing.assert_array_equal(chosen, scales)
    for part, block in zip(parts, blocks, strict=True):
        np.testing.assert_array_equal(codes[:, part], gptq(rows[:, part], scales, block, paired=True))
    assert largest_pair(codes) <= PAIR_BOUND
    # Of several scales each row takes the one that is best over all blocks.
    tried = [scales * 2, scales, scales * 0.5]
    codes, chosen = gptq_with_scales(rows, tried, blocks, paired=True)
    errors = [
        sum(
            output_errors(rows[:, part], gptq(rows[:, part], scale, block, paired=True), scale, block)
            for part, block in zip(parts, blocks, strict=True)
        )
        for scale in tried
    ]
    np.testing.assert_array_equal(chosen, np.stack(tried)[np.argmin(errors, axis=0), np.arange(6)])
