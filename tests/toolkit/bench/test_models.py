import json
import subprocess
import sys

import cv2
import numpy as np
import pytest

from edgeclf.runtime.cpus import cpu_info, usable_cpus

QUICK = ("--duration", "0", "--warmup", "1")


def bench_json(run_edgeclf, *arguments):
    done = run_edgeclf("bench", *arguments, *QUICK, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def test_every_batch_size_is_measured_with_every_number_of_threads(run_edgeclf, colour_model):
    document, notes = bench_json(
        run_edgeclf, colour_model, "--batch-sizes", "1,8,1", "--threads", "1", "--min-queries", "100"
    )
    assert notes == ""
    assert [(item["threads"], item["batch_size"]) for item in document["results"]] == [(1, 1), (1, 8)]
    assert document["precision"] == "fp32"
    assert document["cpu"] == cpu_info().to_json()
    for item in document["results"]:
        assert item["provider"] == "CPUExecutionProvider"
        assert item["query"]["samples"] == 100
        stages_ms = sum(item[stage]["mean_ms"] for stage in ("preprocess", "infer", "postprocess"))
        assert stages_ms * item["batch_size"] == pytest.approx(item["query"]["mean_ms"])
        assert item["images_per_s"] == pytest.approx(1000 * item["batch_size"] / item["query"]["mean_ms"])


def test_one_thread_and_all_cpus_are_the_default(run_edgeclf, colour_model):
    document, _ = bench_json(run_edgeclf, colour_model, "--min-queries", "2")
    assert [item["threads"] for item in document["results"]] == sorted({1, usable_cpus()})


def test_the_table_names_the_provider_the_cpu_and_the_input_and_makes_no_percentile_up(run_edgeclf, colour_model):
    done = run_edgeclf("bench", colour_model, *QUICK, "--threads", "1", "--min-queries", "12")
    assert done.returncode == 0
    for words in ("CPUExecutionProvider", cpu_info().model, "synthetic 640x480 frame", "images/s", "fp32"):
        assert words in done.stdout
    (row,) = [line for line in done.stdout.splitlines() if line.startswith("│ 1 ")]
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    assert cells[3] != "-"
    assert cells[4:6] == ["-", "-"]
    assert "too few queries" in done.stderr


def test_a_file_is_measured_with_its_decoding(run_edgeclf, colour_model, tmp_path):
    path = tmp_path / "red.jpg"
    cv2.imwrite(str(path), np.full((200, 300, 3), (0, 0, 255), np.uint8))
    document, _ = bench_json(run_edgeclf, colour_model, "--image", path, "--threads", "1", "--min-queries", "2")
    assert document["results"][0]["source"] == str(path)
    assert document["results"][0]["includes_decode"] is True


def cpu_record(**changes):
    return cpu_info().to_json() | changes


def test_a_file_verified_on_another_cpu_is_pointed_out(run_edgeclf, make_colour_model, tmp_path):
    other = make_colour_model(
        tmp_path / "other.onnx",
        spec_changes={"parity": {"cpu": cpu_record(model="Other CPU", isa_flags=["avx512_vnni_next"])}},
    )
    document, notes = bench_json(run_edgeclf, other, "--min-queries", "1", "--threads", "1")
    assert notes.startswith(f"warning: {other} was verified and timed on another CPU: next to Other CPU, ")
    assert "lacks avx512_vnni_next" in notes
    assert "lacks avx512_vnni_next" in document["isa_difference"]
    same = make_colour_model(tmp_path / "same.onnx", spec_changes={"latency": {"cpu": cpu_record()}})
    document, notes = bench_json(run_edgeclf, same, "--min-queries", "1", "--threads", "1")
    assert (document["isa_difference"], notes) == (None, "")


def test_more_threads_than_cpus_are_pointed_out(run_edgeclf, colour_model):
    _, notes = bench_json(run_edgeclf, colour_model, "--min-queries", "1", "--threads", str(usable_cpus() + 1))
    assert notes == f"warning: {usable_cpus() + 1} threads share the {usable_cpus()} CPUs this process may use\n"


def test_a_foreign_file_is_measured_with_labels(run_edgeclf, make_colour_model, tmp_path):
    foreign = make_colour_model(tmp_path / "foreign.onnx", with_spec=False)
    refused = run_edgeclf("bench", foreign, *QUICK, "--mean", "0", "--std", "255")
    assert refused.returncode == 2
    assert "takes uint8 pixels" in refused.stderr
    (tmp_path / "names.txt").write_text("red\ngreen\nblue\n")
    document, notes = bench_json(
        run_edgeclf, foreign, "--labels", tmp_path / "names.txt", "--min-queries", "1", "--threads", "1"
    )
    assert (document["architecture"], document["precision"]) == ("foreign", None)
    assert document["used_as"]["labels"] == {"value": ["red", "green", "blue"], "origin": "given"}
    assert "has no edgeclf spec" in notes


def test_options_for_files_without_a_spec_are_for_these_alone(run_edgeclf, make_colour_model, colour_model, tmp_path):
    foreign = make_colour_model(tmp_path / "foreign.onnx", with_spec=False)
    (tmp_path / "names.txt").write_text("red\ngreen\nblue\n")
    rest = ("--labels", tmp_path / "names.txt", "--min-queries", "8", "--duration", "0", "--json")
    done = run_edgeclf("bench", colour_model, foreign, *rest)
    assert done.returncode == 0, done.stderr
    ours, theirs = json.loads(done.stdout)["models"]
    assert ours["used_as"] is None
    assert theirs["used_as"]["labels"]["origin"] == "given"
    refused = run_edgeclf("bench", colour_model, colour_model, *rest)
    assert (refused.returncode, "describe themselves" in refused.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "exit_code", "words"),
    [
        (["--batch-sizes", "0"], 2, "bad --batch-sizes: got '0'"),
        (["--batch-sizes", "1,,2"], 2, "bad --batch-sizes"),
        (["--threads", "two"], 2, "bad --threads: got 'two'"),
        (["--device", "tpu"], 2, "unknown device 'tpu'"),
        (["--duration", "-1"], 2, "--duration"),
        (["--image", "missing.jpg"], 3, "missing.jpg: got no such file"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(run_edgeclf, colour_model, arguments, exit_code, words):
    done = run_edgeclf("bench", colour_model, *QUICK, *arguments)
    assert (done.returncode, done.stdout) == (exit_code, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the limit of a shell bounds no memory")
@pytest.mark.parametrize("more", [[], ["--scenario", "offline", "--quick", "--duration", "0.1"]])
def test_batches_that_do_not_fit_into_the_memory_are_one_sentence(make_colour_model, tmp_path, more):
    if more:
        pytest.importorskip("mlperf_loadgen")
    model = make_colour_model(tmp_path / "large.onnx", size_hw=(512, 512))
    # The pixels of such a batch are 51 GB.
    command = [sys.executable, "-m", "edgeclf.toolkit", "bench", str(model), "--batch-sizes", "65536", *more]
    line = ["bash", "-c", 'ulimit -v 8000000; exec "$@"', "bash", *command]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (3 if more else 2, ""), done.stderr
    assert "memory" in done.stderr
    assert done.stderr.count("\n") == 1


def test_several_models_have_one_thread_each(run_edgeclf, colour_model):
    done = run_edgeclf("bench", colour_model, colour_model, "--threads", "2", "--duration", "0")
    assert (done.returncode, done.stdout) == (2, "")
    assert "got 2 threads inside one inference" in done.stderr
    assert "measure each model alone with --threads 2" in done.stderr
