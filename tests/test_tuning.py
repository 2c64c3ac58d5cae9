"A network that learns to round: when an export does it, what it keeps, what it leaves alone, and what Ctrl-C takes away."
import dataclasses
import json
from functools import partial

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
from wakekit.data.batches import prepare  # noqa: E402
from wakekit.data.spoken import DataConfig  # noqa: E402
from wakekit.env import Settings, quant_scheme  # noqa: E402
from wakekit.learn.config import ModelConfig, preset  # noqa: E402
from wakekit.learn.models import StreamingModel, WakeModel  # noqa: E402
from wakekit.learn.train import train  # noqa: E402
from wakekit.ship import export as E  # noqa: E402
from wakekit.ship import tuning as T  # noqa: E402
from wakekit.ship.evaluate import Gates  # noqa: E402
from wakekit.ship.quantize import calibration_feeds, quantize_onnx, run_onnx, score_feeds  # noqa: E402

ANYTHING = Gates(**dict.fromkeys(Gates.hints()))  # limits nothing


def settings(**how): return Settings.load(environ={}, device="cpu", compile="off", quant_backend="xnnpack", **how)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    "A network that has learned a little, and the data"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    tmp = tmp_path_factory.mktemp("world")
    sets = prepare(tmp/"data", DataConfig(phrase="computer", synthetic=100, near_misses=20, filler=30, synthetic_rooms=2, valid_voices=.4))
    config = preset("fast", ["epochs=2", "steps_per_epoch=15", "warmup_steps=5", "batch.batch_size=48", "verifier.steps=0"])
    yield train(sets, config, tmp/"run", settings(), quiet=True), sets
    torch.set_num_threads(threads)


@torch.no_grad()
def uneven(model, spread):
    "The same scores from channels that are far from equally loud"
    draw = torch.Generator().manual_seed(0)
    for block in model.net.blocks:
        by = torch.exp(torch.randn(len(block.norm.weight), generator=draw)*spread)
        block.norm.weight *= by
        block.norm.bias *= by
        block.mix[0].weight /= by[None, :, None]
    return model


@pytest.fixture(scope="module")
def costly(world):
    "The same network, but eight bits take most of it away"
    model = WakeModel(world[0].config.model)
    model.load_state_dict(world[0].model.state_dict())
    return dataclasses.replace(world[0], model=uneven(model.eval(), 2.)), world[1]


@pytest.fixture(scope="module")
def plain(world, tmp_path_factory):
    "What an export writes where eight bits cost nothing"
    result, sets = world
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(E, "tune", lambda *_, **__: pytest.fail("there was no reason to fine-tune"))
        return E.export(result, sets, tmp_path_factory.mktemp("plain")/"b", "computer", settings=settings(), gates=ANYTHING)


@pytest.fixture(autouse=True, scope="module")
def few_windows():
    "Calibration on some seconds of sound"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(E, "calibration_feeds", lambda path, waves, **_: calibration_feeds(path, waves, max_feeds=250))
        yield


def int8_files(bundle): return {p.name: p.read_bytes() for p in sorted(bundle.path.glob("model.int8.*"))}


def test_a_good_int8_is_left_alone(plain):
    found = plain.manifest["quantization"]["tuning"]
    assert (found["asked"], found["kept"], found["steps"]) == ("auto", False, 0) and found["why"].startswith("int8 misses")
    assert "Fine-tuned" not in (plain.path/"README.md").read_text(encoding="utf-8")


def test_a_costly_int8_is_tuned_kept_and_recorded(costly, tmp_path, monkeypatch):
    result, sets = costly
    monkeypatch.setattr(E, "tune", partial(T.tune, steps=15, rounds=2))
    b = E.export(result, sets, tmp_path/"b", "computer", settings=settings(), gates=ANYTHING)
    found, card = b.manifest["quantization"]["tuning"], (b.path/"README.md").read_text(encoding="utf-8")
    rates = found["false_reject_rate"]
    assert found["asked"] == "auto" and found["kept"] and found["steps"] == 15 and "more than float32" in found["why"]
    assert rates["int8"] > rates["float32"] + .1 and found["false_reject_rate_after"] < (rates["int8"] + rates["float32"])/2
    held = json.loads((b.path/"metrics.json").read_text(encoding="utf-8"))["held_out"]["int8"]["at_bundle_threshold"]
    assert held["false_reject_rate"] == found["false_reject_rate_after"] and held["threshold"] == b.manifest["graphs"]["int8"]["threshold"]
    assert f"Fine-tuned for eight bits: misses {found['false_reject_rate_after']:.1%}" in card
    for name, value in result.model.state_dict().items(): assert torch.equal(value, E.load_model(b.path).state_dict()[name]), name  # float stays as it was trained
    assert {p.name for p in b.path.glob("model*")} == {"model.onnx", "model.ts", "model.pt", *(a["file"] for a in b.manifest["quantization"]["artifacts"])}
    assert all(a["mean_score_difference"] < .05 for a in b.manifest["quantization"]["artifacts"])  # from the float graph of the training, the engine's too


def test_a_worse_tuned_graph_is_not_kept(world, plain, tmp_path, monkeypatch):
    result, sets = world
    def spoil(stream, *_, **__):
        worse = StreamingModel(WakeModel(stream.model.config).eval())  # has learned nothing
        worse.quiet = stream.quiet
        return worse, np.ones(10)
    monkeypatch.setattr(E, "tune", spoil)
    b = E.export(result, sets, tmp_path/"b", "computer", settings=settings(quant_tune="on"), gates=ANYTHING)
    found = b.manifest["quantization"]["tuning"]
    assert found["asked"] == "on" and not found["kept"] and found["steps"] == 10 and found["false_reject_rate_after"] > found["false_reject_rate"]["int8"]
    assert int8_files(b) == int8_files(plain) and b.manifest["graphs"] == plain.manifest["graphs"]
    assert b.manifest["quantization"]["artifacts"] == plain.manifest["quantization"]["artifacts"]


def test_ctrl_c_gives_up_the_tuning_and_not_the_bundle(world, plain, tmp_path, monkeypatch, caplog):
    result, sets = world
    def interrupted(*args, real=T.pictures):
        for i, mel in enumerate(real(*args)):
            if i == 3: raise KeyboardInterrupt
            yield mel
    monkeypatch.setattr(T, "pictures", interrupted)
    b = E.export(result, sets, tmp_path/"b", "computer", settings=settings(quant_tune="on"), gates=ANYTHING)
    found = b.manifest["quantization"]["tuning"]
    assert found["stopped"] and not found["kept"] and int8_files(b) == int8_files(plain) and "int8 stays as it was" in caplog.text


def test_a_tuning_that_fails_costs_no_bundle_unless_it_was_asked_for(costly, tmp_path, monkeypatch, caplog):
    result, sets = costly
    def broken(*_, **__): raise OSError("no space left")
    monkeypatch.setattr(E, "tune", broken)
    b = E.export(result, sets, tmp_path/"b", "computer", settings=settings(), gates=ANYTHING)
    found = b.manifest["quantization"]["tuning"]
    assert found["failed"] == "OSError: no space left" and not found["kept"] and "stays as it was" in caplog.text
    with pytest.raises(OSError): E.export(result, sets, tmp_path/"c", "computer", settings=settings(quant_tune="on"), gates=ANYTHING)
    assert [p.name for p in tmp_path.iterdir() if not p.name.startswith(".")] == ["b"]


def test_tuning_brings_int8_nearer_to_float_than_balancing_alone(world, tmp_path):
    result, sets = world
    stream, scheme, audio = StreamingModel(uneven(E.load_model(saved(result, tmp_path)), 1.)), quant_scheme("x86"), E.calibration_audio(sets[1], 40)
    def quantized(model):
        E.to_onnx(model, tmp_path/"float.onnx")
        return quantize_onnx(tmp_path/"float.onnx", tmp_path/"int8.onnx", calibration_feeds(tmp_path/"float.onnx", audio, max_feeds=250), scheme)
    E.to_onnx(stream, tmp_path/"model.onnx")
    held = calibration_feeds(tmp_path/"model.onnx", [sets[1].background.crop(np.random.default_rng(9), 160_000, 1)[0].astype(np.float32)/32768, *audio[:10]])
    logits = lambda path: (lambda s: np.log(s/(1 - s)))(score_feeds(run_onnx(path), held).clip(1e-6, 1 - 1e-6))
    want = logits(tmp_path/"model.onnx")
    off = lambda model: np.sqrt(np.square(logits(quantized(model)) - want).mean())
    mel = next(T.pictures(sets[0], result.config, stream))
    tuned, errors = T.tune(stream, quantized, scheme, sets[0], result.config, steps=30, rounds=2, quiet=True)
    before, balanced, after = map(off, (stream, T.balanced(stream, mel), tuned))
    assert len(errors) == 30 and after < .5*before and after < balanced, (before, balanced, after)


def saved(result, folder):
    E.to_pt(result.model, folder/"model.pt")
    return folder/"model.pt"


@pytest.mark.parametrize("arch", [dict(arch="tcn", channels=16, dilations=(1, 2)), dict(arch="bcresnet", channels=8, dilations=(1, 2))])
def test_balancing_changes_no_score_and_not_the_original(arch):
    torch.manual_seed(0)
    model = WakeModel(ModelConfig(**arch)).train()
    with torch.no_grad(): model(torch.randn(8, 32_000)*.05)
    stream = StreamingModel(model.eval())
    mel = stream.model.features(torch.randn(4, 40_000)*.05)
    before = {n: v.clone() for n, v in stream.state_dict().items()}
    even = T.balanced(stream, mel)
    other = stream.model.features(torch.randn(2, 40_000)*.2)
    assert torch.allclose(even.model.net(other), stream.model.net(other), atol=1e-4)
    for n, v in stream.state_dict().items(): assert torch.equal(v, before[n])
    heard = T._between(T.fold_norms(stream)[0], mel)[0]
    assert heard and any(not torch.equal(T.fold_norms(stream)[0].get_submodule(n).weight, even.get_submodule(n).weight) for n in heard)
