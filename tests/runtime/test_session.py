"""Sessions: batches of any size, fixed ones included, and onnxruntime's failures in our words."""

import gc

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import spiking
import tiny

from pmsm_cli.errors import SetupError, UnsupportedGraphError
from pmsm_cli.graph.ingest import ingest
from pmsm_cli.graph.scan import PER_STEP
from pmsm_cli.runtime import session as module
from pmsm_cli.runtime.session import open_session

IMAGES = tiny.images(10)


def opened(proto: onnx.ModelProto):
    return open_session(ingest(proto, subject="net.onnx").model, subject="net.onnx")


def opened_as_it_is(proto: onnx.ModelProto):
    return open_session(ir.from_proto(proto), subject="net.onnx")


@pytest.mark.parametrize("batch", [1, 3, 4, 16])
def test_a_fixed_batch_gives_what_an_open_one_gives(batch: int):
    (expected,) = opened(tiny.convolutional()).run(IMAGES)
    session = opened(tiny.convolutional(batch=batch))
    assert session.fixed_batch == batch
    (scores,) = session.run(IMAGES)
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("count", [1, 3, 4, 10])
@pytest.mark.parametrize("timesteps", [1, 2, 3])
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_the_steps_of_a_fixed_batch_are_never_taken_for_images(batch: int, timesteps: int, count: int):
    expected = open_session(
        spiking.checkpoint_of(tiny.convolutional(), IMAGES, timesteps=timesteps).model, subject="net.onnx"
    ).run(IMAGES[:count])
    checkpoint = spiking.checkpoint_of(tiny.convolutional(batch=batch), IMAGES, timesteps=timesteps)
    session = open_session(checkpoint.model, subject="net.onnx")
    assert session.output_names == (("scores", f"scores{PER_STEP}") if timesteps > 1 else ("scores",))
    for got, want in zip(session.run(IMAGES[:count]), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_windows_folded_into_a_fixed_batch_lose_the_padding_s_windows():
    proto = tiny.model(
        "g (float[4, 3, 8, 8] x) => (float[16, 48] y) { y = Reshape (x, s) }",
        s=np.array([-1, 48]),
    )
    (windows,) = opened(proto).run(IMAGES[:6])
    assert np.array_equal(windows, IMAGES[:6].reshape(24, 48))


def test_one_value_for_a_whole_batch_becomes_one_for_each_run():
    proto = tiny.model("g (float[4, 3, 8, 8] x) => (float y) { y = ReduceMax <keepdims = 0> (x) }")
    (peaks,) = opened(proto).run(IMAGES[:6])
    assert peaks.tolist() == [IMAGES[:4].max(), IMAGES[4:6].max()]


def test_further_inputs_are_the_same_for_all_images():
    proto = tiny.model(
        "g (float[N, 3, 8, 8] image, float[1] shift) => (float[N, 3, 8, 8] y) { y = Add (image, shift) }"
    )
    (shifted,) = open_session(proto.SerializeToString(), subject="x").run(IMAGES, {"shift": np.array([2], np.float32)})
    assert np.array_equal(shifted, IMAGES + np.float32(2))


def test_an_operator_without_a_kernel_is_reported():
    # A valid operator that onnxruntime computes in single precision alone.
    proto = tiny.model(
        "g (float[N, 3, 8, 8] x) => (double[N, 3, 8, 8] y) { d = Cast <to = 11> (x) y = LRN <size = 3> (d) }"
    )
    with pytest.raises(UnsupportedGraphError) as refused:
        open_session(proto.SerializeToString(), subject="net.onnx")
    assert refused.value.problem == "onnxruntime has no kernel for one of its operators"
    assert refused.value.subject == "net.onnx"
    assert "LRN" in refused.value.details[0]


def test_a_graph_that_cannot_be_built_is_reported_without_onnxruntime_s_codes():
    proto = tiny.model("g (float[N, 3, 8, 8] x) => (float[N, 3, 8, 8] y) { y = Add (x, w) }", w=np.ones(7, np.float32))
    with pytest.raises(UnsupportedGraphError) as refused:
        open_session(proto.SerializeToString(), subject="net.onnx")
    assert refused.value.problem == "onnxruntime cannot run it"
    assert "[ONNXRuntimeError]" not in str(refused.value)


def test_images_of_another_size_are_reported_by_the_network_s_name():
    session = opened(tiny.convolutional())
    with pytest.raises(UnsupportedGraphError, match=r"^net\.onnx: onnxruntime cannot run it\n"):
        session.run(tiny.images(2, 3, 9, 9))


@pytest.mark.parametrize("failure", [MemoryError(), RuntimeError("std::bad_alloc")])
def test_a_lack_of_memory_is_a_matter_of_the_machine(failure: Exception, monkeypatch: pytest.MonkeyPatch):
    def fail(*arguments: object, **options: object) -> None:
        raise failure

    monkeypatch.setattr(module.ort, "InferenceSession", fail)
    with pytest.raises(SetupError, match="there is not enough memory"):
        open_session(b"", subject="net.onnx")


def test_a_network_above_what_a_message_can_hold_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_LARGEST_MODEL", 1000)
    with pytest.raises(UnsupportedGraphError, match=r"^net\.onnx: its weights take 0\.0 GB; the limit is 2 GB$"):
        opened(tiny.convolutional())


def test_the_number_of_threads_reaches_onnxruntime(monkeypatch: pytest.MonkeyPatch):
    asked = []
    build = ort.InferenceSession

    def spy(data: bytes, options: ort.SessionOptions, **rest: object) -> ort.InferenceSession:
        asked.append(options.intra_op_num_threads)
        return build(data, options, **rest)

    monkeypatch.setattr(module.ort, "InferenceSession", spy)
    data = tiny.convolutional().SerializeToString()
    open_session(data, subject="net.onnx", threads=1)
    open_session(data, subject="net.onnx")
    assert asked == [1, 0]


LARGE = np.arange(1024, dtype=np.float32)  # a constant that is handed over apart from the message


def test_large_constants_outlive_the_model_that_held_them():
    proto = tiny.model("g (float[N, 1024] x) => (float[N, 1024] y) { y = Add (x, large) }", large=LARGE)
    session = opened_as_it_is(proto)
    del proto
    gc.collect()
    (sums,) = session.run(np.ones((2, 1024), np.float32))
    assert np.array_equal(sums, np.stack([LARGE + 1] * 2))


def test_a_large_constant_that_nothing_reads_is_no_hindrance():
    proto = tiny.model("g (float[N, 4] x) => (float[N, 4] y) { y = Relu (x) }", large=LARGE)
    assert "large" in {constant.name for constant in proto.graph.initializer}
    assert opened_as_it_is(proto).run(np.full((1, 4), -1, np.float32))[0].tolist() == [[0] * 4]


def test_a_large_constant_that_a_branch_reads_is_there():
    proto = tiny.model(
        """g (float[N, 1024] x, bool first) => (float[N, 1024] y) {
            y = If (first) <then_branch = a () => (float[N, 1024] p) { p = Add (x, large) },
                            else_branch = b () => (float[N, 1024] q) { q = Identity (x) }>
        }""",
        large=LARGE,
    )
    session = opened_as_it_is(proto)
    inputs = np.ones((1, 1024), np.float32)
    assert np.array_equal(session.run(inputs, {"first": np.array(True)})[0], [LARGE + 1])


def test_a_large_constant_that_leaves_the_network_leaves_it():
    proto = tiny.model("g (float[1024] x) => (float[1024] y, float[1024] large) { y = Relu (x) }", large=LARGE)
    named = opened_as_it_is(proto).run_all({"x": -LARGE})
    assert [each.tolist() for each in named] == [[0] * 1024, LARGE.tolist()]


def test_a_large_constant_that_may_be_given_instead_can_be():
    proto = tiny.model("g (float[1024] x, float[1024] large) => (float[1024] y) { y = Add (x, large) }", large=LARGE)
    session = opened_as_it_is(proto)
    assert np.array_equal(session.run_all({"x": LARGE})[0], 2 * LARGE)
    assert np.array_equal(session.run_all({"x": LARGE, "large": -LARGE})[0], 0 * LARGE)
