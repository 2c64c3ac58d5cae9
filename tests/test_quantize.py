"What the quantization page does not show: other architectures, refusals, interruptions, switching back and forth."
import json
import warnings
from collections import Counter

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("torch.ao.nn.quantized")

from wakekit.core import AudioError, SettingsError  # noqa: E402
from wakekit.data.synth import draw_utterances, synthesize  # noqa: E402
from wakekit.env import Settings, quant_scheme  # noqa: E402
from wakekit.learn.config import ModelConfig
from wakekit.learn.models import StreamingModel, WakeModel  # noqa: E402
from wakekit.ship import quantize as Q  # noqa: E402
from wakekit.ship.export import to_onnx  # noqa: E402
from wakekit.ship.ranges import FakeInt8, fake_int8, fold_norms, without_rounding  # noqa: E402

ENGINES = [n for n in ("fbgemm", "x86", "qnnpack") if quant_scheme(n).engine]
MEAN, MAX = .04, .25  # score differences of a network that was trained for seconds and is unsure of most steps


def said(texts, n, seed):
    rng = np.random.default_rng(seed)
    room = lambda x: (np.r_[np.zeros(3000), x, np.zeros(8000)] + 1e-3*rng.standard_normal(len(x) + 11000)).astype("f")
    return [room(x) for _, x in synthesize(draw_utterances(texts, n, seed=seed))]


def a_model(**config):
    "A few steps of training: batch norm statistics of speech, scores that move"
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = WakeModel(ModelConfig(**config))
    x = torch.tensor(np.stack([np.resize(x, 24_000) for x in [*said(["hey jarvis"], 8, 1), *said(["computer"], 8, 2)]]))
    y = torch.tensor([1.]*8 + [0.]*8)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(15):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(model(x)[:, -1], y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return StreamingModel(model.eval())


@pytest.fixture(scope="module", params=["tcn", "bcresnet"])
def made(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    stream = a_model(**(dict(arch="tcn", channels=32) if request.param == "tcn" else dict(arch="bcresnet", channels=8, dilations=(1, 1, 2))))
    to_onnx(stream, folder/"model.onnx")
    feeds = Q.calibration_feeds(folder/"model.onnx", said(["hey jarvis", "computer"], 10, 0), max_feeds=260)
    held = Q.calibration_feeds(folder/"model.onnx", said(["hey jarvis", "what time is it"], 6, 7))
    return folder, stream, feeds, held


def settings(folder, backend):
    (folder/".env").write_text(f"WAKEKIT_QUANT_BACKEND={backend}\n", encoding="utf-8")
    return Settings.load(env_file=folder/".env", environ={})


def chunks(run, x, sizes, state_size):
    state, out, at = np.zeros((1, state_size), "f"), [], 0
    for n in sizes:
        if at >= len(x): break
        score, state = run(x[None, at:at + 320*n], state)
        out.append(score[0])
        at += 320*n
    return np.concatenate(out)


@pytest.mark.skipif(not {"fbgemm", "qnnpack"} <= set(ENGINES), reason="this torch lacks one of the engines")
def test_one_line_of_env_switches_the_artifacts_and_both_run(made, tmp_path):
    source, stream, feeds, held = made
    (tmp_path/"model.onnx").write_bytes((source/"model.onnx").read_bytes())
    want, seen = Q.score_feeds(Q.run_onnx(source/"model.onnx"), held), {}
    assert np.ptp(want) > .3  # a constant would agree with anything
    before = torch.backends.quantized.engine
    for backend in "fbgemm", "qnnpack", "fbgemm":
        record = Q.quantize_files(tmp_path, stream, feeds, settings(tmp_path, backend))
        assert (record["requested"], record["resolved"], record["engine"], record["why"]) == (backend, backend, backend, "set by .env")
        assert [a["file"] for a in record["artifacts"]] == ["model.int8.onnx", f"model.int8.{backend}.ts"] and record["skipped"] == []
        assert {p.name for p in tmp_path.glob("model*")} == {"model.onnx", *(a["file"] for a in record["artifacts"])}
        json.dumps(record)
        for a, run in zip(record["artifacts"], (Q.run_onnx(tmp_path/"model.int8.onnx"), Q.run_engine(tmp_path/f"model.int8.{backend}.ts", backend))):
            off = abs(Q.score_feeds(run, held) - want)
            assert 0 < off.max() < MAX and off.mean() < MEAN
            assert a["bytes"] == (tmp_path/a["file"]).stat().st_size and 0 < a["max_score_difference"] < MAX
        scores = [Q.score_feeds(Q.run_onnx(tmp_path/"model.int8.onnx"), held), Q.score_feeds(Q.run_engine(tmp_path/f"model.int8.{backend}.ts", backend), held)]
        if backend in seen:  # back again: the same artifacts as the first time
            for a, b in zip(seen[backend], scores): assert np.array_equal(a, b)
        seen[backend] = scores
    for a, b in zip(seen["fbgemm"], seen["qnnpack"]): assert abs(a - b).max() > 1e-4
    assert torch.backends.quantized.engine == before


@pytest.mark.parametrize("engine", ENGINES)
def test_engine_artifact_is_int8_smaller_and_streams(made, tmp_path, engine):
    folder, stream, feeds, held = made
    float_ts = tmp_path/"float.ts"
    with Q.retirement_notices():
        x = torch.zeros(1, 1280), torch.zeros(1, stream.state_size)
        torch.jit.save(torch.jit.freeze(torch.jit.trace(stream, x, check_trace=False), optimize_numerics=False), str(float_ts))
        path = Q.quantize_engine(stream, tmp_path/"int8.ts", quant_scheme(engine), feeds)
        graph = torch.jit.load(str(path)).inlined_graph
    found = Counter(n.kind() for n in graph.nodes())
    convs = sum(isinstance(m, (torch.nn.Conv1d, torch.nn.Conv2d)) for m in stream.modules())
    assert sum(n for kind, n in found.items() if kind.startswith("quantized::conv")) == convs - 1
    assert found["aten::_convolution"] == 1  # the logit's
    if stream.model.config.arch == "tcn": assert path.stat().st_size < float_ts.stat().st_size  # where weights are more than wrapping
    run, x = Q.run_engine(path, engine), np.concatenate(said(["hey jarvis"], 3, 5))[:320*200]
    whole, rng = chunks(run, x, [200], stream.state_size), np.random.default_rng(1)
    for sizes in [1]*200, [4]*50, [7]*29, rng.integers(1, 40, 200):
        off = abs(chunks(run, x, sizes, stream.state_size) - whole)
        assert np.median(off) < 1e-5 and off.max() < .05  # a front-end sum on a rounding edge may move one input by one step


def test_the_default_detector_is_small_and_stays_as_it_is(tmp_path):
    from wakekit.ship.compact import compacted
    stream = a_model()
    to_onnx(stream, tmp_path/"model.onnx")
    feeds = Q.calibration_feeds(tmp_path/"model.onnx", said(["hey jarvis", "computer"], 6, 0), max_feeds=120)
    path = Q.quantize_onnx(tmp_path/"model.onnx", tmp_path/"int8.onnx", feeds, quant_scheme("x86"))
    assert path.stat().st_size <= 64_000  # front end included
    (tmp_path/"again.onnx").write_bytes(compacted(onnx.load(path), stream.model.config.features).SerializeToString())
    assert Q.onnx_kernels(path) == Q.onnx_kernels(tmp_path/"again.onnx")
    assert np.array_equal(Q.score_feeds(Q.run_onnx(path), feeds), Q.score_feeds(Q.run_onnx(tmp_path/"again.onnx"), feeds))


@pytest.mark.parametrize("tiny", [1., 1e-7])
def test_scales_and_biases_that_16_bits_cannot_hold_keep_32(tiny, tmp_path):
    from wakekit.data.mel import FeatureConfig
    from wakekit.ship.compact import compacted
    tensor, node, rng = onnx.numpy_helper.from_array, onnx.helper.make_node, np.random.default_rng(0)
    scale = rng.uniform(.001, .02, 8).astype(np.float32)
    scale[3] *= tiny
    bias = np.r_[40_000 if tiny < 1 else 400, rng.integers(-900, 900, 7)].astype(np.int32)
    given = dict(xs=np.float32(.02), xz=np.uint8(3), w=rng.integers(-60, 60, (8, 8, 1, 3)).astype(np.int8), ws=scale, wz=np.zeros(8, np.int8), b=bias, bs=scale*np.float32(.02), bz=np.zeros(8, np.int32))
    nodes = [node("QuantizeLinear", ["x", "xs", "xz"], ["q"]), node("DequantizeLinear", ["q", "xs", "xz"], ["y"]), node("DequantizeLinear", ["w", "ws", "wz"], ["v"], axis=0),
             node("DequantizeLinear", ["b", "bs", "bz"], ["c"], axis=0), node("Conv", ["y", "v", "c"], ["z"], kernel_shape=[1, 3], pads=[0, 1, 0, 1], strides=[1, 1])]
    port = lambda name: onnx.helper.make_tensor_value_info(name, 1, [1, 8, 1, 20])
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [port("x")], [port("z")], [tensor(np.asarray(v), k) for k, v in given.items()]), opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    x = rng.normal(size=(1, 8, 1, 20)).astype(np.float32)
    run = lambda m: Q.ort.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    before = run(model)
    after = run(compacted(model, FeatureConfig()))
    np.testing.assert_allclose(after, before, rtol=2e-3, atol=1e-3*abs(before).max())
    kinds = Counter(i.data_type for i in model.graph.initializer)
    assert (kinds[onnx.TensorProto.FLOAT16], kinds[onnx.TensorProto.INT16]) == ((1, 1) if tiny == 1 else (0, 0))


@pytest.mark.parametrize("backend", ["fbgemm", "qnnpack", "xnnpack"])
def test_portable_graph(made, tmp_path, backend):
    folder, stream, feeds, held = made
    path = Q.quantize_onnx(folder/"model.onnx", tmp_path/"int8.onnx", feeds, quant_scheme(backend))
    model, source = onnx.load(path), onnx.load(folder/"model.onnx")
    onnx.checker.check_model(model)
    assert [(o.domain, o.version) for o in model.opset_import] == [(o.domain, o.version) for o in source.opset_import]
    assert model.ir_version <= source.ir_version
    assert [i.name for i in model.graph.input] == ["pcm", "state"] and [o.name for o in model.graph.output] == ["score", "state_out"]
    weights = {i.name: i for i in model.graph.initializer}
    int8 = [i for i in weights.values() if i.data_type == onnx.TensorProto.INT8 and len(i.dims) > 2]
    convs = [n for n in source.graph.node if n.op_type == "Conv"]
    assert len(int8) == len(convs) - 1
    top = max(abs(onnx.numpy_helper.to_array(i).astype(int)).max() for i in int8)
    assert top <= 64 if quant_scheme(backend).reduce_range else top == 127
    if stream.model.config.arch == "tcn": assert path.stat().st_size < (folder/"model.onnx").stat().st_size
    off = abs(Q.score_feeds(Q.run_onnx(path), held) - Q.score_feeds(Q.run_onnx(folder/"model.onnx"), held))
    assert 0 < off.max() < MAX and off.mean() < MEAN
    assert Q.onnx_kernels(path, signed=True)["QLinearConv"] == len(convs) - 1
    x, run = np.concatenate(said(["hey jarvis"], 3, 5))[:320*200], Q.run_onnx(path)
    whole = chunks(run, x, [200], stream.state_size)
    for sizes in [1]*200, [3, 1, 9]*70:
        off = abs(chunks(run, x, sizes, stream.state_size) - whole)
        assert np.median(off) < 1e-5 and off.max() < .05


def test_norms_fold_without_a_trace(made):
    _, stream, feeds, _ = made
    folded, relus = fold_norms(stream)
    assert not any(isinstance(m, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)) for m in folded.modules())
    assert any(isinstance(m, torch.nn.BatchNorm1d) for m in stream.modules())  # the original is untouched
    for f in feeds[40:80:10]:
        args = torch.from_numpy(f["pcm"]), torch.from_numpy(f["state"])
        with torch.inference_mode():
            for a, b in zip(folded(*args), stream(*args)): assert torch.allclose(a, b, atol=2e-4)


@pytest.mark.parametrize("backend", ["x86", "qnnpack", "xnnpack"])
def test_float_that_rounds_scores_as_the_int8_graph(made, tmp_path, backend):
    folder, stream, feeds, held = made
    scheme = quant_scheme(backend)
    path = Q.quantize_onnx(folder/"model.onnx", tmp_path/"int8.onnx", feeds, scheme)
    twin, before = fake_int8(stream, path, scheme), {n: v.clone() for n, v in stream.state_dict().items()}
    assert sum(isinstance(m, FakeInt8) for m in twin.modules()) == len(fold_norms(stream)[1]) - 1
    def run(pcm, state):
        with torch.inference_mode(): return [t.numpy() for t in twin(torch.from_numpy(pcm), torch.from_numpy(state))]
    exact, plain, rounded = (np.concatenate([r(f["pcm"], f["state"])[0][0] for f in held]) for r in (Q.run_onnx(path), Q.run_onnx(folder/"model.onnx"), run))
    assert np.median(abs(rounded - exact)) < 1e-5 < np.median(abs(plain - exact))
    assert abs(rounded - exact).mean() < .25*abs(plain - exact).mean()  # where a sum lies on a rounding edge, its last bit decides
    mel = torch.randn(2, 40, stream.model.receptive_field//160 + 20)*2 - 8
    twin.model.net.requires_grad_(True)(mel).sum().backward()
    grads = [m.conv.weight.grad for m in twin.modules() if isinstance(m, FakeInt8)]
    assert all(g is not None and g.isfinite().all() and g.any() for g in grads)
    args = torch.from_numpy(held[5]["pcm"]), torch.from_numpy(held[5]["state"])
    with torch.inference_mode(): assert torch.allclose(without_rounding(stream, twin)(*args)[0], stream(*args)[0], atol=1e-4)
    for n, v in stream.state_dict().items(): assert torch.equal(v, before[n])


def test_feeds_hold_the_state_of_the_stream(made):
    folder, stream, _, _ = made
    feeds = Q.calibration_feeds(folder/"model.onnx", said(["hey jarvis"], 1, 3))
    starts = [i for i, f in enumerate(feeds) if not f["state"].any()]
    assert len(starts) == 5 and not feeds[0]["pcm"].any()  # silence first, three noises, the clip
    run, clip = Q.run_onnx(folder/"model.onnx"), feeds[starts[-1]:]
    before = np.hstack([f["pcm"] for f in clip[:6]])
    assert np.allclose(run(before, clip[0]["state"])[1], clip[6]["state"], atol=1e-3)
    assert len(Q.calibration_feeds(folder/"model.onnx", said(["hey jarvis"], 1, 3), max_feeds=7)) == 7
    tune, held = Q.hold_out(feeds[:3])  # one recording cannot be split
    assert tune and held


@pytest.mark.parametrize("waveforms, words", [([], "nothing to calibrate on"), ([np.zeros(100, "f")], "nothing to calibrate on"),
    ([np.full(32_000, np.nan, "f")], "NaN")])
def test_bad_calibration_audio(made, waveforms, words):
    with pytest.raises(AudioError, match=words): Q.calibration_feeds(made[0]/"model.onnx", waveforms)


def broken(*args, **kwargs): raise RuntimeError("Didn't find engine for operation quantized::conv1d_prepack")


def test_auto_falls_back_and_a_named_engine_is_refused(made, tmp_path, monkeypatch):
    source, stream, feeds, _ = made
    (tmp_path/"model.onnx").write_bytes((source/"model.onnx").read_bytes())
    monkeypatch.setattr(Q, "quantize_engine", broken)
    if ENGINES:
        with pytest.raises(SettingsError, match=f"WAKEKIT_QUANT_BACKEND={ENGINES[0]}.*Didn't find engine"):
            Q.quantize_files(tmp_path, stream, feeds, settings(tmp_path, ENGINES[0]))
        assert {p.name for p in tmp_path.iterdir()} == {"model.onnx", ".env"}  # nothing half-made
    record = Q.quantize_files(tmp_path, stream, feeds, Settings.load(env_file="", environ={}))
    assert record["requested"] == "auto" and [a["file"] for a in record["artifacts"]] == ["model.int8.onnx"]
    assert "Didn't find engine" in record["skipped"][0]["why"]


def test_an_interrupted_run_leaves_the_old_artifacts(made, tmp_path, monkeypatch):
    source, stream, feeds, _ = made
    old = {"model.onnx": (source/"model.onnx").read_bytes(), "model.int8.onnx": b"old", "model.int8.qnnpack.ts": b"old too"}
    for name, data in old.items(): (tmp_path/name).write_bytes(data)
    def stop(*args, **kwargs): raise KeyboardInterrupt
    monkeypatch.setattr(Q, "quantize_engine", stop)
    with pytest.raises(KeyboardInterrupt): Q.quantize_files(tmp_path, stream, feeds, Settings.load(env_file="", environ={}, quant_backend=(ENGINES or ["auto"])[0]))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == old


def test_executorch_that_fails_is_a_reason_too(made, tmp_path, monkeypatch):
    source, stream, feeds, _ = made
    (tmp_path/"model.onnx").write_bytes((source/"model.onnx").read_bytes())
    monkeypatch.setattr(Q, "quantize_executorch", broken)
    record = Q.quantize_files(tmp_path, stream, feeds, settings(tmp_path, "xnnpack"))
    assert "executorch failed: RuntimeError" in record["skipped"][-1]["why"] and (tmp_path/"model.int8.onnx").exists()


@pytest.mark.skipif(not ENGINES, reason="this torch has no integer engine")
def test_engine_is_put_back_after_an_error(made, tmp_path):
    before = torch.backends.quantized.engine
    (tmp_path/"bad.ts").write_bytes(b"no TorchScript")
    with pytest.raises(RuntimeError): Q.run_engine(tmp_path/"bad.ts", ENGINES[-1])
    assert torch.backends.quantized.engine == before
    with pytest.raises(SettingsError, match="must be one of"): settings(tmp_path, "onednn")


@pytest.mark.skipif(not ENGINES, reason="this torch has no integer engine")
def test_no_warning_reaches_the_user(made, tmp_path):
    _, stream, feeds, _ = made
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path = Q.quantize_engine(stream, tmp_path/"int8.ts", quant_scheme(ENGINES[-1]), feeds[:20])
        Q.score_feeds(Q.run_engine(path, ENGINES[-1]), feeds[:3])


def test_executorch(made, tmp_path):
    pytest.importorskip("executorch.runtime")
    source, stream, feeds, held = made
    (tmp_path/"model.onnx").write_bytes((source/"model.onnx").read_bytes())
    record = Q.quantize_files(tmp_path, stream, feeds, settings(tmp_path, "xnnpack"))
    assert [a["file"] for a in record["artifacts"] if a["engine"] == "executorch"] == ["model.int8.xnnpack.pte"], record["skipped"]
    off = abs(Q.score_feeds(Q.run_executorch(tmp_path/"model.int8.xnnpack.pte"), held) - Q.score_feeds(Q.run_onnx(source/"model.onnx"), held))
    assert 0 < off.max() < MAX and off.mean() < MEAN


def test_executorch_missing_is_a_reason_in_the_record(made, tmp_path, monkeypatch):
    source, stream, feeds, _ = made
    (tmp_path/"model.onnx").write_bytes((source/"model.onnx").read_bytes())
    monkeypatch.setattr(Q, "has_executorch", lambda: False)
    record = Q.quantize_files(tmp_path, stream, feeds, settings(tmp_path, "xnnpack"))
    assert "executorch" in {s["file"]: s["why"] for s in record["skipped"]}["model.int8.xnnpack.pte"]
    assert record["scheme"]["activation"] == "qint8" and record["artifacts"][0]["file"] == "model.int8.onnx"
    with pytest.raises(SettingsError, match="pip install executorch"): Q.quantize_executorch(stream, tmp_path/"m.pte", feeds)
