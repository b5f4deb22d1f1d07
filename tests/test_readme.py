"""The README's promises that can be run: its plain-onnxruntime recipe, its commands, its embedding lines."""

import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage import data

from edgeclf.runtime import Classifier, ModelSpec, Preprocess, load_image, preprocess_bgr

from .randomness import fresh_rng

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
PYTHON_BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture
def photographs(tmp_path):
    """Crops of real photographs of many sizes, larger and smaller than the input, tinted so that labels differ."""
    rng = fresh_rng()
    paths = []
    for number, size in enumerate([(17, 40), (400, 300), (20, 300), (300, 20), (32, 32), (250, 333)] * 3):
        photo = data.astronaut()[..., ::-1]
        top, left = (int(rng.integers(0, 512 - side)) for side in size)
        crop = photo[top : top + size[0], left : left + size[1]].astype(np.int32)
        crop[..., number % 3] += 50
        path = tmp_path / f"{number:02d}.jpg"
        cv2.imwrite(str(path), np.clip(crop, 0, 255).astype(np.uint8))
        paths.append(path)
    return paths


@pytest.mark.parametrize("fit", ["stretch", "crop"])
def test_the_plain_recipe_the_classifier_and_infer_give_the_same_labels(
    run_edgeclf, make_colour_model, photographs, tmp_path, fit
):
    colour_model = make_colour_model(tmp_path / "m.onnx", spec_changes={"preprocess": Preprocess((32, 32), fit)})
    (recipe,) = [block for block in PYTHON_BLOCKS if "InferenceSession" in block]
    assert len(recipe.strip().splitlines()) <= 16  # 15 and a blank one
    (tmp_path / "recipe.py").write_text(recipe)
    done = subprocess.run(
        [sys.executable, tmp_path / "recipe.py", colour_model, *photographs],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    plain = [line.rsplit(" ", 1) for line in done.stdout.splitlines()]
    classifier = Classifier(colour_model, exact=True)
    embedded = [[str(path), classifier.predict(path).label] for path in photographs]
    inferred = run_edgeclf("infer", colour_model, *photographs, "--json", "--exact")
    records = [json.loads(line) for line in inferred.stdout.splitlines()]
    assert plain == embedded == [[record["source"], record["label"]] for record in records]
    assert len({label for _, label in plain}) > 1


def test_the_lines_of_the_interpolation_page_resize_as_edgeclf_does(photographs):
    page = (Path(__file__).parent.parent / "docs" / "interpolation.md").read_text(encoding="utf-8")
    (block,) = [block for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL) if "PIL" in block]
    preprocess = Preprocess((32, 32), "crop", 0.9, interpolation="bicubic")
    document = json.loads(ModelSpec(("a", "b"), preprocess).to_json())
    for path in photographs:
        # As PNG: two decoders of JPEG differ by a level here and there. Not tall: Pillow 13 takes the rows first there.
        image_bgr = load_image(path)
        if image_bgr.shape[0] > 2 * image_bgr.shape[1]:
            continue
        png = path.with_suffix(".png")
        cv2.imwrite(str(png), image_bgr)
        names = {"spec": document, "path": png}
        exec(compile(block, "interpolation.md", "exec"), names)
        assert np.array_equal(names["image"], preprocess_bgr(load_image(png), preprocess))


def test_the_embedding_lines_run(colour_model, photographs, monkeypatch, capsys, tmp_path):
    (block,) = [block for block in PYTHON_BLOCKS if " Classifier(" in block]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.onnx").write_bytes(colour_model.read_bytes())
    exec(compile(block, "README.md", "exec"), {"frame_bgr": cv2.imread(str(photographs[0])), "paths": photographs})
    assert re.match(r"(red|green|blue) 0\.\d+ \[LabelConfidence", capsys.readouterr().out)


def test_the_lines_for_a_camera_run(colour_model, monkeypatch, capsys, tmp_path):
    (block,) = [block for block in PYTHON_BLOCKS if "LiveClassifier(" in block]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.onnx").write_bytes(colour_model.read_bytes())
    writer = cv2.VideoWriter(str(tmp_path / "v.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 20, (64, 48))
    for _ in range(10):
        writer.write(np.full((48, 64, 3), (0, 0, 200), np.uint8))
    writer.release()
    exec(compile(block.replace("rtsp://192.168.0.20/live", "v.avi"), "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert lines
    assert all(re.fullmatch(r"red 0\.\d+ \d+ ms old", line) for line in lines)


def test_every_command_of_the_program_is_in_the_readme_and_the_other_way_round():
    from edgeclf.toolkit.commands import COMMANDS

    named = set(re.findall(r"\| `edgeclf (\w+)", README))
    assert named == set(COMMANDS)


def test_files_the_readme_points_to_exist():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (Path(__file__).parent.parent / target).exists(), target
