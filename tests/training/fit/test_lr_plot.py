"""The picture of a learning-rate sweep: whole, and readable whatever the loss does at its end."""

import cv2
import numpy as np

from edgeclf.training.fit.lr_finder import LrSweep
from edgeclf.training.fit.lr_plot import plot_find_lr

from ..pictures import VALIDATION_BGR, margins


def test_a_sweep_is_drawn_whole_and_its_explosion_does_not_flatten_it(tmp_path):
    rates = np.geomspace(1e-6, 1, 100)
    position = np.log10(rates)
    losses = 0.7 - 0.5 / (1 + np.exp(-3 * (position + 3.5))) + np.where(position > -1, 40 * (position + 1) ** 2, 0)
    path = tmp_path / "lr.png"
    heights = []
    for end in (80, 100):
        plot_find_lr(LrSweep(rates[:end], losses[:end], losses[:end], 3e-4), path)
        image = cv2.imread(str(path))
        assert min(margins(image)) >= 4
        plot = image[:, image.shape[1] // 4 : image.shape[1] * 7 // 10]
        heights.append(np.ptp(np.flatnonzero((np.abs(plot.astype(int) - VALIDATION_BGR).sum(axis=2) < 30).any(axis=1))))
    assert heights[1] > 0.9 * heights[0] > 150
