"""`edgeclf export`: one verified file or none."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from edgeclf.export import exporter
from edgeclf.export.search import search
from edgeclf.export.verify import gate, timing
from edgeclf.export.verify.parity import FP32_LIMITS
from edgeclf.export.verify.verdict import Verdict, judge_parity
from edgeclf.runtime import Classifier
from edgeclf.runtime.timing.comparison import Ratio

from ...conftest import CLASSES, write_photographs

pytestmark = pytest.mark.slow


def test_the_file_keeps_the_contract_and_decides_like_the_run(exported, trained_run, photographs):
    onnx.checker.check_model(onnx.load(exported), full_check=True)
    assert [path.name for path in exported.parent.iterdir()] == [exported.name]
    spec = Classifier(exported).spec
    assert (spec.labels, spec.precision, spec.architecture) == (CLASSES, "fp32", "seed-cnn")
    assert [part["part"] for part in spec.parity["parts"]] == ["validation", "test"]
    assert all(part["agreement"] == 1.0 and part["max_error"] <= 1e-4 for part in spec.parity["parts"])
    assert spec.training["test_accuracy"] == trained_run.document["test"]["accuracy"]
    raw = exported.read_bytes()
    assert str(photographs).encode() not in raw
    assert str(trained_run.folder).encode() not in raw


def time_with_ratios(monkeypatch, module, ratio):
    """Has a module time models, and puts another ratio in place of those of all but the first."""
    time = module.time_models

    def replaced(models, spec, **options):
        first, *others = time(models, spec, **options)
        return [first, *(replace(one, infer_ratio=ratio) for one in others)]

    monkeypatch.setattr(module, "time_models", replaced)


def test_int8_shows_both_precisions_and_which_to_ship(call_edgeclf, trained_run, tmp_path, monkeypatch):
    time_with_ratios(monkeypatch, exporter, Ratio(0.5, 0.45, 0.55))
    out = tmp_path / "new" / "int8.onnx"
    done = call_edgeclf(
        "export", trained_run.folder, "--out", out, "--precision", "int8", "--json",
        "--min-agreement", 0, "--max-accuracy-drop", 1, "--calibration-images", 16,
    )  # fmt: skip
    assert done.code == 0, done.err
    document = done.json()
    assert (document["written"], document["precision"], document["out"]) == (True, "int8", str(out))
    assert [candidate["precision"] for candidate in document["candidates"]] == ["fp32", "int8"]
    fp32, int8 = document["candidates"]
    # The figures were taken before the spec went into the file.
    assert int8["file_bytes"] == pytest.approx(out.stat().st_size, abs=8192)
    assert out.stat().st_size < 0.4 * fp32["file_bytes"]
    assert all(candidate["latency"]["median_ms"] > 0 for candidate in document["candidates"])
    assert int8["latency"]["ratio"] == 0.5
    size = int8["file_bytes"] / fp32["file_bytes"]
    agreement = int8["parity"][-1]["agreement"]
    asked_for = {"min_agreement": 0.0, "max_error": None, "max_accuracy_drop": 1.0, "ignores_ties": False}
    assert document["limits"] == asked_for
    recorded = Classifier(out).spec.parity
    assert (recorded["limits"], recorded["verdict"]) == (asked_for, int8["verdict"])
    assert int8["verdict"] == {"outcome": "passed", "failures": [], "doubts": []}
    assert document["recommendation"] == {
        "precision": "int8",
        "reason": f"0.50x the time and {size:.2f}x the size of fp32, with the same label on {agreement:.2%} of the "
        f"{int8['parity'][-1]['part']} images",
    }
    assert Classifier(out).spec.precision == "int8"
    assert f"next: edgeclf infer {out}" in done.err
    assert "fitted to 16 images" in done.err
    assert len(document["recipes"]) >= 2
    assert document["recipes"][0]["parity"][0]["agreement"] == int8["parity"][0]["agreement"]
    assert all(recipe["latency"]["ratio"] > 0 for recipe in document["recipes"])
    spec = Classifier(out).spec.quantization
    assert (spec["target"], spec["saturation"]["holds"], spec["unsettled_sums"]) == ("any", True, [])


def test_a_handful_of_images_leaves_int8_undecided_and_the_file_is_written(call_edgeclf, trained_run, tmp_path):
    out = tmp_path / "int8.onnx"
    options = ("export", trained_run.folder, "--precision", "int8", "--effort", "quick", "--entrance", "int8")
    done = call_edgeclf(*options, "--out", out)
    # Whatever chance makes of the few flips, no sentence but this one is printed about them.
    assert (done.code, out.exists()) == (0, True), done.err
    parity = Classifier(out).spec.parity
    assert parity["limits"]["rule"] == "evidence"
    assert parity["verdict"]["outcome"] == "undecided"
    doubt = parity["verdict"]["doubts"][0]
    assert f"undecided: {doubt}"[:120] in " ".join(done.err.split())
    assert "images would tell" in doubt
    assert "undecided" in done.out
    assert "let expect" in " ".join(done.out.split())
    assert parity["parts"][0]["accuracy_drop_interval"][1] > 0.01


def test_quick_effort_a_target_and_a_picture(call_edgeclf, trained_run, tmp_path, monkeypatch):
    time_with_ratios(monkeypatch, exporter, Ratio(1.3, 1.2, 1.4))
    out, plot = tmp_path / "int8.onnx", tmp_path / "recipes.png"
    done = call_edgeclf(
        "export", trained_run.folder, "--out", out, "--precision", "int8", "--effort", "quick", "--target", "arm64",
        "--plot", plot, "--min-agreement", 0, "--max-accuracy-drop", 1, "--entrance", "int8",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "Parity with the Keras model" in done.out
    assert "Ship fp32: int8 takes 1.30x the time of fp32 on this CPU" in " ".join(done.out.split())
    assert plot.read_bytes().startswith(b"\x89PNG")
    quantization = Classifier(out).spec.quantization
    assert (quantization["target"], quantization["pair_constraint"]) == ("arm64", False)
    assert quantization["float_entrance"] == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--precision", "int8", "--effort", "huge"), "quick or normal or max"),
        (("--precision", "int8", "--target", "mips"), "any, x86-avx2, x86-vnni, arm64 or this"),
        (("--precision", "int8", "--keep-float", "nonsense"), "no layer 'nonsense' to keep in float"),
        (("--precision", "int8", "--entrance", "wide"), "auto, int8 or a number of layers"),
        (("--precision", "int8", "--entrance", "0"), "expected at least 1"),
        (("--entrance", "int8"), "--entrance is about int8"),
        (("--plot", "x.png"), "--plot is about int8"),
        (("--or-fp32",), "--or-fp32 is about int8"),
        (("--precision", "int8", "--target", "any,mips"), "any, x86-avx2, x86-vnni, arm64 or this"),
        (("--target", "arm64"), "--target is about int8"),
        (("--calibration-images", 256), "--calibration-images is about int8"),
        (("--min-agreement", 0.9), "--min-agreement and --max-accuracy-drop are for int8 and fp16 files"),
        (("--keep-float", "conv1"), "--keep-float is about int8 and fp16"),
    ],
)
def test_int8_options_that_do_not_fit_are_usage_errors(call_edgeclf, trained_run, tmp_path, options, said):
    out = tmp_path / "m.onnx"
    done = call_edgeclf("export", trained_run.folder, "--out", out, *options)
    assert done.code == 2, done.err
    assert said in " ".join(done.err.split())
    assert not out.exists()


def test_where_nothing_passes_it_says_what_would_and_or_fp32_writes_that(
    call_edgeclf, trained_run, tmp_path, monkeypatch
):
    def judge(facts, limits):
        # fp32 has its own limits; whatever is in 8 bits is refused.
        is_fp32 = limits == FP32_LIMITS
        return judge_parity(facts, limits) if is_fp32 else Verdict(("nothing is good enough",))

    monkeypatch.setattr(gate, "judge_parity", judge)
    monkeypatch.setattr(search, "judge_parity", judge)
    out = tmp_path / "m.onnx"
    options = ("export", trained_run.folder, "--out", out, "--precision", "int8", "--effort", "quick", "--no-qat")
    refused = call_edgeclf(*options)
    said = " ".join(refused.err.split())
    assert refused.code == 4, refused.err
    assert not out.exists()
    assert "nothing is good enough" in said
    for way in ("--or-fp32: the fp32 file", "--min-agreement ", "--target this", f"--from {trained_run.folder} --qat"):
        assert way in said, way
    assert "more in fixed point" in refused.out
    assert "portable" in refused.out
    # The table marks one recipe, and its figures are those of the headline.
    (best,) = [line for line in refused.out.splitlines() if line.rstrip(" |\u2502").endswith("best")]
    assert "failed" in best

    done = call_edgeclf(*options, "--or-fp32", "--json")
    assert done.code == 0, done.err
    document = done.json()
    assert (document["written"], document["precision"], document["written_precision"]) == (True, "int8", "fp32")
    assert "is the fp32 file, as --or-fp32 asks" in " ".join(done.err.split())
    assert Classifier(out).spec.precision == "fp32"
    # All that failed is known by now.
    assert document["reused_recipes"] == len(document["recipes"]) > 2


def test_data_that_moved_is_asked_for_and_found(call_edgeclf, trained_run, photographs, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained_run.folder, run)
    facts = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**facts, "data_root": str(tmp_path / "gone")}))
    out = tmp_path / "m.onnx"
    done = call_edgeclf("export", run, "--out", out)
    assert (done.code, done.out) == (3, "")
    assert "cannot find the images of" in done.err
    assert "--data" in done.err
    assert not out.exists()
    moved = tmp_path / "moved"
    shutil.copytree(photographs, moved)
    (moved / "coffee" / "00.png").write_bytes(b"")
    done = call_edgeclf("export", run, "--out", out, "--data", moved)
    assert done.code == 3
    assert "1 image could not be read" in done.err
    assert Classifier(out).spec.labels == CLASSES
    done = call_edgeclf("export", run, "--out", out, "--data", tmp_path / "nowhere")
    assert done.code == 3


@pytest.mark.parametrize("where", ["file/m.onnx", "folder", "x" * 300 + ".onnx"])
def test_an_output_that_cannot_be_written_is_one_sentence(call_edgeclf, trained_run, tmp_path, where):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    done = call_edgeclf("export", trained_run.folder, "--out", tmp_path / where)
    assert done.code == 3
    assert len(done.err.splitlines()) == 1
    assert "cannot write" in done.err
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]


def test_bad_requests(call_edgeclf, trained_run, tmp_path):
    assert call_edgeclf("export", trained_run.folder, "--out", tmp_path / "m.onnx", "--precision", "int4").code == 2
    assert call_edgeclf("export", trained_run.folder).code == 2
    for source, said in ((tmp_path, "is not a run folder"), (tmp_path / "nowhere", "no such file or folder")):
        done = call_edgeclf("export", source, "--out", tmp_path / "m.onnx")
        assert done.code == 3
        assert said in done.err
    assert list(tmp_path.iterdir()) == []


# The whole command with a conversion that goes wrong in one of three ways: what each exit code was, as JSON.
FAULTS = """
import contextlib, io, json, sys
import numpy as np
from onnx import helper, numpy_helper
import edgeclf.export.graph.convert as conversion
from edgeclf.toolkit.cli import main

convert = conversion.onnx_from_keras

def swap_channels(graph):
    first = next(n for n in graph.node if n.op_type == "Conv")
    (weights,) = [t for t in graph.initializer if t.name == first.input[1]]
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights)[:, ::-1].copy(), weights.name))

def scale_twice(graph):
    position, cast = next((i, n) for i, n in enumerate(graph.node) if n.op_type == "Cast")
    for node in graph.node:
        node.input[:] = ["again" if name == cast.output[0] else name for name in node.input]
    graph.node.insert(position + 1, helper.make_node("Div", [cast.output[0], "n255"], ["again"], "again"))
    graph.initializer.append(numpy_helper.from_array(np.float32(255), "n255"))

def drop_layer(graph):
    relu = [n for n in graph.node if n.op_type == "Relu"][-1]
    relu.CopyFrom(helper.make_node("Identity", [relu.input[0]], list(relu.output), "dropped"))

def none(graph):
    pass

run = sys.argv[1]
ended = {}
for fault in (none, swap_channels, scale_twice, drop_layer):
    def faulty(model):
        converted = convert(model)
        fault(converted.graph)
        return converted
    conversion.onnx_from_keras = faulty
    sys.argv = ["edgeclf", "export", run, "--out", f"{fault.__name__}.onnx"]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            ended[fault.__name__] = [end.code or 0, out.getvalue(), err.getvalue()]
print(json.dumps(ended))
"""


def test_the_gate_bites(trained_run, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, str(trained_run.folder)],
        cwd=tmp_path, capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ended = json.loads(done.stdout)
    assert {name: code for name, (code, _, _) in ended.items()} == {
        "none": 0, "swap_channels": 4, "scale_twice": 4, "drop_layer": 4,
    }  # fmt: skip
    for name, (code, out, err) in ended.items():
        if code == 4:
            assert "does not match the Keras model" in err, name
            assert "failed" in out, name
        # Nothing that differs from the trained network is to be shipped.
        assert ("ship this" in out) == ("Ship fp32" in out) == (code == 0), name
    assert [path.name for path in tmp_path.iterdir()] == ["none.onnx"]


def test_a_run_whose_validation_images_are_gone_is_refused(call_edgeclf, trained_run, tmp_path):
    data = write_photographs(tmp_path / "data", per_class=2)
    done = call_edgeclf("export", trained_run.folder, "--out", tmp_path / "m.onnx", "--data", data / "coffee")
    assert done.code == 3
    assert not (tmp_path / "m.onnx").exists()


def test_fp16_is_written_through_the_same_gate(call_edgeclf, trained_run, tmp_path):
    out = tmp_path / "half.onnx"
    done = call_edgeclf("export", trained_run.folder, "--out", out, "--precision", "fp16", "--json")
    assert done.code == 0, done.err
    document = json.loads(done.out)
    assert [candidate["precision"] for candidate in document["candidates"]] == ["fp32", "fp16"]
    assert document["candidates"][1]["file_bytes"] < 0.7 * document["candidates"][0]["file_bytes"]
    assert Classifier(out).spec.precision == "fp16"
    # What a GPU computes was not looked at.
    assert f"edgeclf verify {out} --device cuda says there whether it computes the same" in " ".join(done.err.split())


def test_only_a_file_for_this_kind_of_cpu_may_begin_in_float(call_edgeclf, trained_run, tmp_path, monkeypatch):
    # Whatever is timed, float is said to be faster.
    time_with_ratios(monkeypatch, timing, Ratio(0.5, 0.5, 0.5))
    found = {}
    for target in ("any", "this"):
        out = tmp_path / f"{target}.onnx"
        done = call_edgeclf(
            "export", trained_run.folder, "--out", out, "--precision", "int8", "--effort", "quick", "--target", target,
            "--min-agreement", 0, "--max-accuracy-drop", 1,
        )  # fmt: skip
        assert done.code == 0, done.err
        found[target] = Classifier(out).spec.quantization["float_entrance"]
    assert found["any"] == []
    assert len(found["this"]) >= 1


@pytest.mark.slow
def test_what_an_export_tried_the_next_one_knows(run_edgeclf, trained_run, tmp_path):
    options = (
        "--precision", "int8", "--effort", "quick", "--min-agreement", 0, "--max-accuracy-drop", 1, "--json",
        "--cache-folder", tmp_path / "cache",
    )  # fmt: skip
    found = []
    # Processes of their own: the converter numbers its nodes through a process.
    for more in ((), (), ("--fresh",)):
        done = run_edgeclf("export", trained_run.folder, "--out", tmp_path / "m.onnx", *options, *more)
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout))
    assert [document["reused_recipes"] for document in found] == [0, 1, 0]
    for document in found[1:]:
        assert [item["parity"] for item in document["recipes"]] == [item["parity"] for item in found[0]["recipes"]]


def test_fresh_is_about_int8(call_edgeclf, trained_run, tmp_path):
    done = call_edgeclf("export", trained_run.folder, "--out", tmp_path / "m.onnx", "--fresh")
    assert done.code == 2
    assert "--fresh is about int8" in done.err


def test_the_library_gives_what_the_command_gives(call_edgeclf, trained_run, photographs, tmp_path):
    from edgeclf.export import ExportOptions, ParityLimits, export_classifier, verify_classifier
    from edgeclf.runtime import ModelSession, image_paths
    from edgeclf.training import load_run

    options = ("--precision", "int8", "--effort", "quick", "--entrance", "int8", "--min-agreement", 0)
    done = call_edgeclf(
        "export", trained_run.folder, "--out", tmp_path / "command.onnx", *options, "--max-accuracy-drop", 1, "--json"
    )
    assert done.code == 0, done.err
    commanded = done.json()

    run = load_run(trained_run.folder)
    classifier, images = run.load_classifier(), run.load_images()
    options = ExportOptions("int8", effort="quick", float_prefix=False, limits=ParityLimits(0.0))
    report = export_classifier(classifier, images, tmp_path / "library.onnx", options)
    assert images.unreadable == ()
    for candidate, figures in zip(report.candidates, commanded["candidates"], strict=True):
        assert candidate.name == figures["precision"]
        assert [facts.to_json() for facts in candidate.parity] == figures["parity"]
    assert len(report.recipes) == len(commanded["recipes"])

    paths = image_paths([photographs])
    mine, theirs = (ModelSession(tmp_path / f"{name}.onnx") for name in ("library", "command"))
    assert verify_classifier(mine, theirs, paths, limits=ParityLimits(1.0, max_error=0.0)).passed
    verified = verify_classifier(mine, classifier, paths, limits=ParityLimits(0.0))
    assert verified.passed
    assert verified.parity.images == len(paths)


def test_the_lines_of_the_readme_export_and_verify_a_run(trained_run, photographs, monkeypatch, capsys, tmp_path):
    readme = (Path(__file__).parents[4] / "README.md").read_text(encoding="utf-8")
    (block,) = [
        block for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "export_classifier" in block
    ]
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "flowers").symlink_to(trained_run.folder)
    (tmp_path / "photographs").symlink_to(photographs)
    monkeypatch.chdir(tmp_path)
    # A network of three epochs need not be worth rounding.
    exec(compile(block.replace("int8", "fp32"), "README.md", "exec"), {})
    recommended, verified = capsys.readouterr().out.splitlines()
    assert recommended.startswith("fp32 the only precision exported")
    assert verified == "True 1.0 ()"
