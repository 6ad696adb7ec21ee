"""Evaluating and predicting, on sessions whose outputs are made by hand."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import spiking
import tiny

from pmsm_cli.errors import DataError
from pmsm_cli.graph.ingest import ingest
from pmsm_cli.neuron.coding import Coding
from pmsm_cli.runtime.evaluate import Evaluation, evaluate
from pmsm_cli.runtime.predict import Prediction, predict
from pmsm_cli.runtime.session import open_session
from pmsm_cli.sources.images import Batch, SkippedImage

BROKEN = SkippedImage(name="broken.png", reason="cut short")


@dataclass
class Scripted:
    """A session that answers each image, known by its number, from tables of [images, ...] or, stacked, [steps, images, ...]."""

    outputs: dict[str, np.ndarray]
    stacked: frozenset[str] = field(default_factory=frozenset)

    @property
    def output_names(self) -> tuple[str, ...]:
        return tuple(self.outputs)

    def run(self, inputs: np.ndarray) -> list[np.ndarray]:
        chosen = inputs.astype(int)
        return [table[:, chosen] if name in self.stacked else table[chosen] for name, table in self.outputs.items()]


def flat(**outputs: np.ndarray) -> Scripted:
    return Scripted({name: np.asarray(table) for name, table in outputs.items()})


def stepwise(**outputs: np.ndarray) -> Scripted:
    """A checkpoint of several steps, from each output's [steps, images, ...]."""
    steps = {f"{name}_per_step": np.asarray(table) for name, table in outputs.items()}
    return Scripted({**{name: np.asarray(table)[-1] for name, table in outputs.items()}, **steps}, frozenset(steps))


def scores(*best: int, classes: int = 10) -> np.ndarray:
    """Scores that fall from the best class round to the one before it."""
    return np.stack([-((np.arange(classes) - top) % classes) for top in best]).astype(np.float32)


def batches(count: int, size: int, labels: list[int] | None = None, skipped: tuple[SkippedImage, ...] = ()):
    known = None if labels is None else np.array(labels)
    return spiking.batches_of(np.arange(count, dtype=np.float32), size, labels=known, skipped=skipped)


def evaluated(
    session: Scripted,
    labels: list[int] | None,
    *,
    timesteps: int = 1,
    source=None,
    size: int = 2,
    of_classes: str = "y",
) -> Evaluation:
    count = next(iter(session.outputs.values())).shape[0]
    return evaluate(session, batches(count, size, labels), timesteps=timesteps, scores=of_classes, source=source)


@pytest.mark.parametrize("size", [1, 3, 8])
def test_accuracies_and_agreement_are_percentages_of_the_images(size: int):
    snn, ann = flat(y=scores(0, 1, 2, 3, 9)), flat(y=scores(0, 1, 2, 4, 4))
    result = evaluated(snn, [0, 1, 9, 4, 4], source=ann, size=size)
    # The spiking network is right on images 0 and 1; 4 is second best of image 3, and fifth of image 4 is 3.
    assert (result.images, result.timesteps) == (5, 1)
    assert (result.snn.top1, result.snn.top5, result.snn.top1_per_step) == (40.0, 60.0, (40.0,))
    assert (result.ann.top1, result.ann.top5) == (80.0, 80.0)
    assert (result.agreement, result.agreement_per_step) == (60.0, (60.0,))
    assert result.drop == 40.0


@pytest.mark.parametrize("size", [1, 3])
def test_a_changed_class_is_expected_to_cost_what_the_source_believed_more_of_the_other(size: int):
    believed = np.array([[0.5, 0.3, 0.2], [0.6, 0.3, 0.1], [0.4, 0.35, 0.25]])
    chosen = np.array([[9.0, 0, 0], [0, 9, 0], [0, 0, 9]])  # the source's class, its second, its last
    for source in (believed, np.log(believed) + 3):  # probabilities, or scores of them
        result = evaluated(flat(y=chosen), None, source=flat(y=source), size=size)
        assert result.expected_drop == pytest.approx(100 * (0 + 0.3 + 0.15) / 3, abs=1e-3)
    assert evaluated(flat(y=chosen), None).expected_drop is None


def test_each_step_has_its_accuracy_agreement_and_error():
    steps = np.stack([scores(5, 5, 5), scores(0, 5, 5), scores(0, 1, 5)])
    ann = flat(y=scores(0, 1, 2))
    result = evaluated(stepwise(y=steps), [0, 1, 5], timesteps=3, source=ann)
    assert result.snn.top1_per_step == (33.3333, 66.6667, 100.0)
    assert result.snn.top1 == 100.0
    assert result.agreement_per_step == (0.0, 33.3333, 66.6667)
    norm = np.linalg.norm(ann.outputs["y"])
    expected = [100 * np.linalg.norm(step - ann.outputs["y"]) / norm for step in steps]
    (error,) = result.outputs
    assert error.name == "y"
    np.testing.assert_allclose(error.per_step, expected, rtol=1e-6)
    assert error.relative_error == error.per_step[-1]


@pytest.mark.parametrize("classes", [2, 5])
def test_top_5_of_five_classes_and_fewer_is_always_right(classes: int):
    result = evaluated(flat(y=scores(0, 1, classes=classes)), [1, 0])
    assert (result.snn.top1, result.snn.top5) == (0.0, 100.0)


def test_top_5_of_six_classes_leaves_one_out():
    result = evaluated(flat(y=scores(0, 0, 0, 0, 0, 0, classes=6)), [0, 1, 2, 3, 4, 5])
    assert result.snn.top5 == pytest.approx(500 / 6, abs=1e-4)


def test_without_labels_only_the_agreement_is_known():
    result = evaluated(flat(y=scores(0, 1)), None, source=flat(y=scores(0, 2)))
    assert (result.snn.top1, result.snn.top5, result.snn.top1_per_step) == (None, None, None)
    assert (result.ann.top1, result.ann.top5) == (None, None)
    assert result.agreement == 50.0
    assert result.drop == 50.0


def test_without_a_source_nothing_is_compared():
    result = evaluated(flat(y=scores(0, 1)), [0, 0])
    assert (result.snn.top1, result.ann, result.agreement, result.outputs, result.drop) == (50.0, None, None, (), None)


def test_a_label_beyond_the_classes_is_refused():
    with pytest.raises(DataError, match=r"^the labels need 11 classes, the network has 10\n"):
        evaluated(flat(y=scores(0, 1)), [0, 10])


def test_a_detector_has_no_accuracy_but_an_error_for_every_output():
    boxes, ann = np.ones((3, 4, 2, 2), np.float32), np.full((3, 4, 2, 2), 2, np.float32)
    result = evaluated(flat(boxes=boxes, maps=boxes), [0, 1, 2], source=flat(boxes=ann, maps=boxes))
    assert (result.snn.top1, result.ann.top1, result.agreement, result.drop) == (None, None, None, None)
    assert [(output.name, output.relative_error) for output in result.outputs] == [("boxes", 50.0), ("maps", 0.0)]


def test_the_output_that_scores_classes_counts():
    maps = np.zeros((2, 3, 4, 4), np.float32)
    snn = flat(maps=maps, y=scores(0, 1), other=scores(5, 5))
    result = evaluated(snn, [0, 1], source=flat(maps=maps, y=scores(0, 2), other=scores(5, 5)))
    assert (result.snn.top1, result.ann.top1, result.agreement) == (100.0, 50.0, 50.0)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, bool])
def test_outputs_of_other_types_are_compared_without_wrapping_round(dtype: type):
    mine, theirs = np.array([0, 0], dtype), np.array([1, 1], dtype)
    (output,) = evaluated(flat(index=mine), None, source=flat(index=theirs)).outputs
    assert output.relative_error == 100.0


def test_an_output_whose_name_ends_like_ours_is_an_output_of_the_source():
    (output,) = evaluated(flat(y_per_step=scores(0, 1)), [0, 1], source=flat(y_per_step=scores(0, 1))).outputs
    assert output.name == "y_per_step"
    steps = stepwise(y_per_step=np.stack([scores(1, 1), scores(0, 1)]))
    result = evaluated(steps, [0, 1], timesteps=2, source=flat(y_per_step=scores(0, 1)), of_classes="y_per_step")
    assert [output.name for output in result.outputs] == ["y_per_step"]
    assert result.snn.top1_per_step == (50.0, 100.0)


def test_a_source_of_zeros_gives_the_error_itself():
    (output,) = evaluated(
        flat(y=np.full((2, 2, 2, 2), 3, np.float32)), None, source=flat(y=np.zeros((2, 2, 2, 2), np.float32))
    ).outputs
    assert output.relative_error == 100 * 12.0


def test_scores_of_one_place_are_scores():
    result = evaluated(flat(y=scores(0, 1)[..., None, None]), [0, 2], source=flat(y=scores(0, 2)[..., None, None]))
    assert (result.snn.top1, result.ann.top1, result.agreement) == (50.0, 100.0, 50.0)
    first, *_ = predicted(flat(y=scores(3, 1)[..., None, None]))
    assert [score.index for score in first.top] == [3, 4]


def test_the_same_infinity_is_no_difference():
    masked, other = scores(0, 1), scores(0, 2)
    masked[:, 9] = other[:, 9] = -np.inf
    result = evaluated(flat(y=masked), [0, 2], source=flat(y=other))
    assert (result.snn.top1, result.agreement) == (50.0, 50.0)
    error = 100 * np.linalg.norm(masked[:, :9] - other[:, :9]) / np.linalg.norm(other[:, :9])
    assert result.output_errors == (pytest.approx(error),)


def test_whole_numbers_differ_or_not_and_count_only_where_there_is_nothing_else():
    best, other = np.array([[3, 1], [0, 2]]), np.array([[3, 2], [9, 2]])
    near, far = np.ones((2, 3, 1), np.float32), np.full((2, 3, 1), 1.5, np.float32)
    both = evaluated(flat(k=best, y=near), None, source=flat(k=other, y=far))
    assert [(output.whole_numbers, output.relative_error) for output in both.outputs] == [
        (True, 50.0),
        (False, pytest.approx(100 / 3)),
    ]
    assert both.output_errors == (pytest.approx(100 / 3),)
    assert evaluated(flat(k=best), None, source=flat(k=other)).output_errors == (50.0,)


def test_skipped_images_are_reported_and_progress_counts_them():
    told: list[int] = []
    result = evaluate(
        flat(y=scores(0, 1, 2)), batches(3, 2, skipped=(BROKEN,)), timesteps=1, scores="y", on_batch=told.append
    )
    assert (result.images, result.skipped, told) == (3, (BROKEN,), [2, 2])


def test_no_images_at_all_give_an_empty_result():
    nothing = Batch(inputs=np.zeros(0, np.float32), labels=None, names=(), skipped=(BROKEN,))
    result = evaluate(flat(y=scores(0)), [nothing], timesteps=1, scores="y", source=flat(y=scores(0)))
    assert (result.images, result.snn.top1, result.ann, result.agreement, result.outputs) == (0, None, None, None, ())


@pytest.mark.parametrize("batch", ["N", 4])
@pytest.mark.parametrize("timesteps", [1, 4])
@pytest.mark.parametrize("coding", Coding)
def test_real_sessions_agree_whatever_their_batch(batch: int | str, timesteps: int, coding: Coding):
    images = tiny.images(10)
    checkpoint = spiking.checkpoint_of(tiny.two_outputs(), images, timesteps=timesteps, coding=coding, levels=3)
    if batch == 4:
        proto = tiny.two_outputs()
        for value in (*proto.graph.input, *proto.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = 4
        checkpoint = spiking.checkpoint_of(proto, images, timesteps=timesteps, coding=coding, levels=3)
    session = open_session(checkpoint.model, subject="net.snn.onnx")
    source = open_session(ingest(tiny.two_outputs(), subject="net.onnx").model, subject="net.onnx")
    result = evaluate(session, spiking.batches_of(images, 4), timesteps=timesteps, scores="scores", source=source)
    assert [output.name for output in result.outputs] == ["scores", "map"]
    expected = source.run(images)
    named = dict(zip(session.output_names, session.run(images), strict=True))
    for output, want in zip(result.outputs, expected, strict=True):
        assert len(output.per_step) == timesteps
        error = 100 * np.linalg.norm(named[output.name] - want) / np.linalg.norm(want)
        assert output.relative_error == pytest.approx(error, rel=1e-4)
        assert 0 < error < 50
    assert result.agreement == 10 * (named["scores"].argmax(1) == expected[0].argmax(1)).sum()


def predicted(session: Scripted, *, labels: tuple[str, ...] = (), top_k: int = 2) -> list[Prediction | SkippedImage]:
    count = next(iter(session.outputs.values())).shape[0]
    read = batches(count, 2, skipped=(BROKEN,))
    return list(predict(session, read, scores=next(iter(session.outputs)), labels=labels, top_k=top_k))


def test_predictions_name_the_best_classes_of_the_last_step():
    session = stepwise(y=np.stack([scores(0, 0, 0, classes=3), scores(2, 1, 0, classes=3)]))
    *made, skipped = predicted(session, labels=("cat", "dog"))
    assert skipped is BROKEN
    assert [prediction.image for prediction in made] == ["image 0", "image 1", "image 2"]
    best = [[(score.index, score.label, score.score) for score in prediction.top] for prediction in made]
    assert best == [
        [(2, None, 0.0), (0, "cat", -1.0)],
        [(1, "dog", 0.0), (2, None, -1.0)],
        [(0, "cat", 0.0), (1, "dog", -1.0)],
    ]


def test_outputs_without_class_scores_are_summed_up():
    boxes = np.arange(16, dtype=np.float32).reshape(2, 2, 2, 2)
    first, second, _ = predicted(flat(boxes=boxes))
    assert first.top == ()
    (summary,) = second.outputs
    assert (summary.name, summary.shape, summary.lowest, summary.highest, summary.mean) == (
        "boxes",
        (2, 2, 2),
        8,
        15,
        11.5,
    )


def test_the_raw_outputs_of_each_batch_are_handed_on():
    seen: list[dict[str, np.ndarray]] = []
    steps = stepwise(y=np.stack([scores(0, 1, 2), scores(1, 2, 0)]))
    list(predict(steps, batches(3, 2), scores="y", labels=(), top_k=1, on_outputs=seen.append))
    assert [{name: value.shape for name, value in outputs.items()} for outputs in seen] == [
        {"y": (2, 10), "y_per_step": (2, 2, 10)},
        {"y": (1, 10), "y_per_step": (2, 1, 10)},
    ]
