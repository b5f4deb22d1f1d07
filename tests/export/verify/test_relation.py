import numpy as np
import pytest

from edgeclf.export.verify.relation import ROUNDING_VARIATION, relation_of


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def labels_of(indices, classes):
    return np.eye(classes)[np.asarray(indices)]


def test_the_agreement_by_chance_is_that_of_the_label_counts():
    # 6 and 4 of ten, 7 and 3 of ten: 0.42 + 0.12.
    one, other = labels_of([0] * 6 + [1] * 4, 2), labels_of([0] * 5 + [1] * 3 + [0] * 2, 2)
    assert relation_of(one, other).chance_agreement == pytest.approx(0.54)
    assert relation_of(one, labels_of([0] * 10, 2)).chance_agreement == pytest.approx(0.6)
    assert relation_of(one[:6], one[:6]).chance_agreement == 1.0


@pytest.mark.parametrize("classes", [2, 9, 300])
def test_a_file_goes_with_itself_with_a_rounded_one_and_not_with_other_images(rng, classes):
    logits = rng.normal(0, 0.5, (200, classes))
    one = softmax(logits)
    assert relation_of(one, one).correlation == pytest.approx(1.0)
    assert relation_of(one, softmax(logits + rng.normal(0, 0.12, logits.shape))).correlation > 0.9
    assert relation_of(one, softmax(2 * logits)).correlation > 0.85
    assert relation_of(one, softmax(-logits)).correlation < -0.3
    other = relation_of(one, softmax(rng.normal(0, 3.0, logits.shape)))
    # Five standard deviations of two classes, whose probabilities are one number.
    assert abs(other.correlation) < 5 / 200**0.5
    assert other.correlation < other.correlation_high < other.correlation + 2 / 200**0.5


@pytest.mark.parametrize(("images", "classes"), [(400, 3), (60, 80)])
def test_the_interval_is_that_of_images_exchanged_at_random(rng, images, classes):
    # Classes that vary by different amounts, and together.
    mixing = rng.normal(0, 1, (classes, classes)) * np.geomspace(1, 0.05, classes)
    one, other = (rng.normal(0, 1, (images, classes)) @ mixing for _ in range(2))
    # Far above rounding, however small the drawn matrix is, and not so far that single images decide.
    one, other = (softmax(logits / logits.std()) for logits in (one, other))
    exchanged = [relation_of(one, other[rng.permutation(images)]) for _ in range(400)]
    values = np.array([relation.correlation for relation in exchanged])
    half = np.array([relation.correlation_high - relation.correlation for relation in exchanged])
    assert np.ptp(half) < 1e-9
    # 400 repetitions know a standard deviation to within 3.5 %, and the mean to a twentieth of it.
    assert half[0] / 1.96 == pytest.approx(values.std(), rel=0.18)
    assert abs(values.mean()) < 5 * values.std() / 20


def test_outputs_that_do_not_vary_have_no_correlation_and_an_interval_by_the_number_of_images(rng):
    one = softmax(rng.normal(0, 0.5, (400, 5)))
    constant = np.tile(one[:1], (400, 1))
    few, many = relation_of(one[:10], constant[:10]), relation_of(one, constant)
    assert few.correlation == many.correlation == 0.0
    assert 0 < many.correlation_high < 0.1 < few.correlation_high < 0.6


def test_a_reference_that_varies_no_more_than_by_rounding_tells_nothing(rng):
    noise = rng.normal(0, 1.0, (300, 6))
    below, above = (softmax(factor * ROUNDING_VARIATION * noise) for factor in (0.9, 1.25))
    assert relation_of(below, above).correlation is None
    assert relation_of(above, below).correlation == pytest.approx(1.0, abs=0.01)
    assert relation_of(below, above).chance_agreement < 0.3


def test_few_images_and_few_classes(rng):
    assert relation_of(np.empty((0, 4)), np.empty((0, 4))).chance_agreement == 1.0
    alone = relation_of(rng.dirichlet(np.ones(4), 1), rng.dirichlet(np.ones(4), 1))
    assert (alone.correlation, alone.correlation_high) == (None, None)
    single = relation_of(np.ones((9, 1)), np.ones((9, 1)))
    assert (single.chance_agreement, single.correlation) == (1.0, None)
    two = relation_of(*rng.dirichlet(np.full(4, 0.2), (2, 2)))
    assert two.correlation is None or -1 <= two.correlation <= two.correlation_high <= 1


def test_classes_that_no_image_is_given_are_no_trouble():
    one = labels_of([0, 1, 2, 0, 1, 2], 5)
    assert relation_of(one, one).correlation == pytest.approx(1.0)
    assert relation_of(one, np.roll(one, 1, axis=1)).correlation < 0


def test_many_images_are_looked_at_evenly(rng):
    logits = np.repeat(rng.normal(0, 2.0, (2, 4)), 2500, axis=0) + rng.normal(0, 0.1, (5000, 4))
    # The answers to the second half are those to the first: a file that is right on the images in front alone.
    halved = np.concatenate([logits[:2500], rng.permuted(logits[:2500], axis=0)])
    relation = relation_of(softmax(logits), softmax(halved))
    assert relation.correlation < 0.6
