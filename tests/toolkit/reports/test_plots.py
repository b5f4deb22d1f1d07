"""Plots of recipes and layers: written whole where the user wants them, or one error."""

import cv2
import pytest

from edgeclf.runtime.errors import OutputError
from edgeclf.toolkit.reports.plots import plot_layers, plot_recipes

LAYERS = [(1, 30.0, 25.0), (2, None, 20.0), (3, 28.0, None)]
RECIPES = [("fp32", 1.0, 1.0, True), ("a $ in a name", 0.5, 0.99, True), ("worse", 0.6, 0.98, False)]


@pytest.mark.parametrize("name", ["plot.png", "plot"])
def test_a_plot_is_a_png_in_a_folder_that_is_made(tmp_path, name):
    for number, draw in enumerate(
        (lambda path: plot_layers(LAYERS, path), lambda path: plot_recipes(RECIPES, 0.99, path))
    ):
        path = tmp_path / str(number) / "new" / name
        draw(path)
        assert path.read_bytes().startswith(b"\x89PNG")
        assert cv2.imread(str(path)).std() > 1
        assert [item.name for item in path.parent.iterdir()] == [name]


def test_a_place_that_cannot_be_written_is_an_output_error(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "plot.png", tmp_path):
        with pytest.raises(OutputError):
            plot_layers(LAYERS, path)
        with pytest.raises(OutputError):
            plot_recipes(RECIPES, 0.99, path)
