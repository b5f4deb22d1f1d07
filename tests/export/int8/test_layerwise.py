"""Layers fitted one after the other, or each as if it were the only one."""

from dataclasses import replace

import numpy as np
import pytest

from edgeclf.export.int8.calibrator import calibrate_network, partition_network
from edgeclf.export.int8.layerwise.fitting import LayerMethods, quantize_layers
from edgeclf.export.int8.recipe import QuantizationRecipe
from edgeclf.runtime.progress import no_progress

from .networks import residual_depthwise


@pytest.mark.parametrize("sequential", [True, False])
def test_a_layer_meets_the_errors_of_those_before_it_or_does_not(images, sequential):
    network = calibrate_network(residual_depthwise(), images, QuantizationRecipe(fixed_point=False))
    partition = partition_network(network.graph, network.recipe)
    first, second, *_ = partition.layers
    # Very few levels: an error that whatever reads the first layer cannot overlook.
    coarse = {**network.params, first.output: replace(network.params[first.output], scale=0.7)}
    methods = LayerMethods(sequential=sequential)
    fine_layer, coarse_layer = (
        quantize_layers(network.graph, partition, params, images, methods=methods, progress=no_progress)[second.name]
        for params in (network.params, coarse)
    )
    same = [
        np.array_equal(getattr(fine_layer, part), getattr(coarse_layer, part)) for part in ("codes", "scales", "bias")
    ]
    assert all(same) is not sequential
