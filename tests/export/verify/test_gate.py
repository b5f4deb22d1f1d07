import numpy as np
import pytest
from onnx import numpy_helper

from edgeclf.export.graph.convert import onnx_from_keras
from edgeclf.export.int8.calibrator import quantize_int8
from edgeclf.export.source.classifier import TrainedClassifier
from edgeclf.export.source.images import LabelledImages
from edgeclf.export.verify.gate import CHECKED_IMAGES, Gate
from edgeclf.export.verify.parity import FP32_LIMITS, ParityLimits, compare_probabilities
from edgeclf.export.verify.rejection import threshold_that_rejects
from edgeclf.export.verify.verdict import DEFAULT_RULE, judge_parity
from edgeclf.runtime.progress import no_progress
from edgeclf.runtime.spec import ModelSpec, Preprocess

from ..conftest import LABELS, SIZE_HW, build_network

SPEC = ModelSpec(LABELS, Preprocess(SIZE_HW), architecture="tiny")


@pytest.fixture(scope="module")
def held_out(trained):
    splits = {"validation": slice(None, None, 2), "test": slice(1, None, 2)}
    return {
        split: LabelledImages(trained.held_out_rgb[rows], trained.held_out_indices[rows])
        for split, rows in splits.items()
    }


@pytest.fixture(scope="module")
def other():
    """The network before training."""
    return build_network(seed=5)


def gate_of(classifier, held_out, folder, precision="fp32"):
    return Gate(classifier, held_out, precision, folder, no_progress)


def copy_of(model):
    return type(model).FromString(model.SerializeToString())


def test_a_faithful_model_passes_with_its_figures_on_every_split(fp32, trained, held_out, tmp_path):
    gate = gate_of(TrainedClassifier(trained.model, SPEC), held_out, tmp_path)
    judged = gate.judge(copy_of(fp32), SPEC, FP32_LIMITS)
    assert judged.candidate.failures == ()
    assert [facts.split for facts in judged.candidate.parity] == ["validation", "test"]
    assert [facts.images for facts in judged.candidate.parity] == [60, 60]
    accuracy = (
        trained.model.predict_on_batch(trained.held_out_rgb[::2]).argmax(1) == trained.held_out_indices[::2]
    ).mean()
    assert judged.candidate.parity[0].reference_accuracy == pytest.approx(accuracy)
    expected = trained.model.predict_on_batch(trained.held_out_rgb[::2][:CHECKED_IMAGES])
    np.testing.assert_allclose(judged.first_probabilities, expected, atol=1e-5)


def test_fp32_is_held_to_its_limits_on_every_split_and_other_precisions_on_validation(fp32, other, held_out, tmp_path):
    gate = gate_of(TrainedClassifier(other, SPEC), held_out, tmp_path)
    limits = ParityLimits(0.99)
    for precision, splits in (("fp32", {"validation", "test"}), ("int8", {"validation"}), ("fp16", {"validation"})):
        judged = gate.judge(copy_of(fp32), SPEC.with_changes(precision=precision), limits)
        assert {failure.split(" images")[0].split()[-1] for failure in judged.candidate.failures} == splits
        assert len(judged.candidate.parity) == 2


def test_int8_is_compared_with_the_8_bit_arithmetic_of_the_training(fp32, trained, other, held_out, tmp_path):
    classifier = TrainedClassifier(other, SPEC, simulate=lambda: trained.model)
    gate = gate_of(classifier, held_out, tmp_path, "int8")
    assert gate.has_int8_reference
    int8_spec = SPEC.with_changes(precision="int8")
    assert gate.judge(copy_of(fp32), int8_spec, FP32_LIMITS).candidate.failures == ()
    assert gate.judge(copy_of(fp32), SPEC, FP32_LIMITS).candidate.failures
    (facts,) = gate.judge_trial(copy_of(fp32), SPEC)
    assert (facts.split, facts.agreement) == ("validation", 1.0)
    # The export of another precision needs no such reference.
    assert not gate_of(classifier, held_out, tmp_path, "fp32").has_int8_reference
    in_float = gate_of(TrainedClassifier(trained.model, SPEC), held_out, tmp_path, "int8")
    assert not in_float.has_int8_reference
    # The same references, so the same trials.
    assert in_float.int8_digest() == gate.int8_digest()


def test_known_comparisons_are_taken_over(fp32, trained, held_out, tmp_path):
    gate = gate_of(TrainedClassifier(trained.model, SPEC), held_out, tmp_path)
    spec = SPEC.with_changes(precision="int8")
    known = gate.judge_trial(copy_of(fp32), SPEC)
    judged = gate.judge(copy_of(fp32), spec, FP32_LIMITS, known)
    assert judged.candidate.parity[0] is known[0]
    assert judged.candidate.parity[1].split == "test"


def test_a_rounded_file_gets_a_rejection_threshold_that_rejects_as_many_as_the_trained_network(
    fp32, trained, other, held_out, tmp_path
):
    rate = 0.1
    # The reference is another network, so that its threshold does not fit the file.
    reference = other.predict_on_batch(held_out["validation"].images_rgb)
    spec = SPEC.with_changes(
        rejection_threshold=threshold_that_rejects(reference, round(rate * len(reference))),
        training={"calibration": {"false_rejection_rate": rate}},
    )
    gate = gate_of(TrainedClassifier(other, spec), held_out, tmp_path, "int8")
    rounded = spec.with_changes(precision="int8")
    known = gate.judge_trial(copy_of(fp32), spec)
    judged = gate.judge(copy_of(fp32), rounded, ParityLimits(0.0), known)
    fit = judged.candidate.rejection
    assert fit.reference_rejected == pytest.approx(rate)
    assert fit.rejected_at_trained != fit.reference_rejected
    assert judged.spec.rejection_threshold == fit.threshold != fit.trained_threshold
    validation, test = judged.candidate.parity
    assert validation.candidate_rejected == fit.rejected <= rate
    assert validation.decision_agreement is not None
    assert test.candidate_rejected is not None
    # What a trial measured with the threshold of the training is measured again.
    assert known[0].candidate_rejected == fit.rejected_at_trained
    # An fp32 file is the trained network and keeps its threshold.
    exact = gate.judge(copy_of(fp32), spec, FP32_LIMITS)
    assert (exact.candidate.rejection, exact.spec.rejection_threshold) == (None, spec.rejection_threshold)


def test_swapped_channels_fail_the_default_rule(trained):
    images_rgb, true = trained.held_out_rgb, trained.held_out_indices
    before = trained.model.predict_on_batch(images_rgb)
    after = trained.model.predict_on_batch(images_rgb[..., ::-1].copy())
    verdict = judge_parity(compare_probabilities(before, after, "validation", true), DEFAULT_RULE)
    assert verdict.outcome == "failed"


@pytest.mark.parametrize("change", ["pixel", "label", "images", "reference"])
def test_the_digest_changes_with_whatever_trials_are_compared_by(trained, other, held_out, tmp_path, change):
    def digest(classifier, splits):
        return gate_of(classifier, splits, tmp_path, "int8").int8_digest()

    classifier = TrainedClassifier(trained.model, SPEC)
    validation = held_out["validation"]
    images, indices = validation.images_rgb.copy(), validation.true_indices.copy()
    if change == "pixel":
        images[3, 4, 5, 1] ^= 1
    elif change == "label":
        indices[0] = (indices[0] + 1) % 3
    elif change == "images":
        images, indices = images[:-1], indices[:-1]
    changed = digest(
        TrainedClassifier(other, SPEC) if change == "reference" else classifier,
        {**held_out, "validation": LabelledImages(images, indices)},
    )
    assert changed != digest(classifier, held_out)


@pytest.fixture(scope="module")
def unsure(trained):
    """The trained network with logits so small that it is sure of no held-out image."""
    network = build_network()
    network.set_weights(trained.model.get_weights())
    logits = np.sort(np.log(trained.model.predict_on_batch(trained.held_out_rgb)), axis=1)
    factor = 0.5 / (logits[:, -1] - logits[:, -2]).max()
    last = network.get_layer("logits")
    last.set_weights([factor * weights for weights in last.get_weights()])
    return network


@pytest.fixture(scope="module")
def unsure_int8(unsure, trained):
    return quantize_int8(onnx_from_keras(unsure), trained.train_rgb[::4]).model


def with_constants(model, changes):
    """A copy of a model with changed initializers: by a part of the name, the new values from the old."""
    changed = copy_of(model)
    for tensor in changed.graph.initializer:
        for part, change in changes.items():
            if part in tensor.name:
                values = numpy_helper.to_array(tensor)
                tensor.CopyFrom(numpy_helper.from_array(change(values).astype(values.dtype), tensor.name))
    return changed


def moved(values):
    """Each class gets what another had."""
    return np.roll(values, 1, axis=-1)


def first_alone(values):
    return np.where(np.arange(values.size) == 0, np.abs(values).max(), 0)


# By a part of a constant's name in the last layer, what becomes of its values.
DAMAGES = {
    "classes exchanged, unsure": {"weight": moved, "bias": moved},
    "classes exchanged, sure": {
        "weight_codes": moved,
        "bias": moved,
        "weight_scale": lambda values: 40 * moved(values),
    },
    "one answer": {"weight_codes": np.zeros_like},
    "one answer, sure": {"weight_codes": np.zeros_like, "bias_codes": lambda values: 10**5 * first_alone(values)},
    "uniform": {"weight_codes": np.zeros_like, "bias_codes": np.zeros_like},
}


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_weights_fail_also_where_the_network_is_sure_of_no_image(
    unsure, unsure_int8, trained, tmp_path, damage, labelled
):
    images = LabelledImages(trained.held_out_rgb, trained.held_out_indices if labelled else None)
    gate = gate_of(TrainedClassifier(unsure, SPEC), {"validation": images}, tmp_path, "int8")
    spec = SPEC.with_changes(precision="int8")
    whole = gate.judge(copy_of(unsure_int8), spec, DEFAULT_RULE).candidate
    assert whole.parity[0].sure_images == 0
    assert whole.verdict.outcome != "failed"
    changes = {f"logits/MatMul/MatMulAddFusion_{part}": change for part, change in DAMAGES[damage].items()}
    damaged = gate.judge(with_constants(unsure_int8, changes), spec, DEFAULT_RULE).candidate
    assert damaged.parity[0].agreement < 0.5
    assert damaged.verdict.outcome == "failed"


def test_random_weights_fail_without_labels_where_the_file_alone_is_sure(rng, unsure, unsure_int8, trained, tmp_path):
    held_out = {"validation": LabelledImages(trained.held_out_rgb)}
    gate = gate_of(TrainedClassifier(unsure, SPEC), held_out, tmp_path, "int8")
    for _ in range(20):
        changes = {
            "logits/MatMul/MatMulAddFusion_weight_codes": lambda codes: rng.integers(-127, 128, codes.shape),
            "logits/MatMul/MatMulAddFusion_weight_scale": lambda scales: 200 * scales,
        }
        damaged = gate.judge(
            with_constants(unsure_int8, changes), SPEC.with_changes(precision="int8"), DEFAULT_RULE
        ).candidate
        # Three classes and one layer: chance may let many labels agree.
        if damaged.parity[0].agreement < 0.6:
            break
    (facts,) = damaged.parity
    assert facts.sure_images == 0
    assert facts.max_error > 0.3
    assert damaged.verdict.outcome == "failed"
