"""The plot of latencies: names of files are no formulas, and none is left out of the legend."""

import pytest

from edgeclf.toolkit.bench.plot import Curve, draw_curves


@pytest.mark.parametrize("name", ["a$b$c.onnx", "$\\frac$", "_model.onnx", "x^{2", "\x1b[2J", "$"])
def test_any_name_is_drawn(tmp_path, rng, name, monkeypatch):
    from matplotlib.figure import Figure

    drawn = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure,
        "savefig",
        lambda figure, *given, **more: (drawn.extend(figure.legends), save(figure, *given, **more))[1],
    )
    curves = [Curve(name, rng.uniform(1, 2, 50), 1.9, "p90"), Curve("other", rng.uniform(1, 2, 50), 1.9, "p90")]
    draw_curves(tmp_path / "a.png", curves, title=name)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    (legend,) = drawn
    texts = [text.get_text() for text in legend.get_texts()]
    assert len(texts) == 2
    assert all(text.isprintable() for text in texts)
    assert texts[1].startswith("other")
