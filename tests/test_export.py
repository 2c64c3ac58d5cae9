"Exporting where it is awkward: an int8 twin that is worse, several writers, what killed ones left, no background to speak of."
import dataclasses, json, os, shutil, subprocess, sys, textwrap
import numpy as np
import onnxruntime as ort
import pytest
torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
from wakekit.core import LockError
from wakekit.data.batches import prepare
from wakekit.data.spoken import DataConfig
from wakekit.env import Settings
from wakekit.learn.metrics import smooth_scores
from wakekit.learn.models import StreamingModel, WakeModel
from wakekit.data.voices import phrase_states
from wakekit.learn.verifier import Verifier
from wakekit.learn.config import preset
from wakekit.learn.train import TrainResult
from wakekit.ship import export as E, swap
from wakekit.ship import threshold as T
from wakekit.ship.evaluate import Gate, Gates
from wakekit.ship.quantize import verifier_feeds
from wakekit.ship.stream import Detector, verifier_session

DATA = DataConfig(phrase="computer", synthetic=30, near_misses=16, filler=12, synthetic_rooms=2, valid_voices=.3)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    "A network that has heard speech but learned nothing, and the data"
    sets = prepare(tmp_path_factory.mktemp("data"), DATA)
    config = preset("tiny")
    torch.manual_seed(0)
    model = WakeModel(config.model).train()
    with torch.no_grad():
        for k in range(3): model(torch.from_numpy(sets[0].background.crop(np.random.default_rng(k), 2*16_000, 8).astype(np.float32)/32768))
    return TrainResult(model.eval(), config, [], 1, .5, sets[0].key, sets[0].clips.folder), sets


@pytest.mark.parametrize("int8_passes", [True, False])
def test_a_worse_int8_twin_is_kept_and_marked(world, tmp_path, monkeypatch, int8_passes):
    verdict = lambda self, report: [Gate("false_reject_rate", report.graph == "float32" or int8_passes, .5, .1, "misses 50.0% of calls; 10.0% are allowed")]
    monkeypatch.setattr(Gates, "check", verdict)
    result, sets = world
    b = E.export(result, sets, tmp_path/"b", "computer", settings=Settings.load(environ={}, device="cpu", compile="off", quant_backend="xnnpack"))
    m, card = b.manifest, (b.path/"README.md").read_text(encoding="utf-8")
    assert m["gates"]["passed"] and [c["passed"] for c in m["gates"]["int8"]] == [int8_passes]
    assert m["quantization"]["accepted"] == int8_passes and (b.path/"model.int8.onnx").is_file()
    assert ("Not accepted" in card and "misses 50.0%" in card) != int8_passes


@pytest.fixture(scope="module")
def both(world, tmp_path_factory):
    "A bundle whose second look has the shipped encoder and a head that learned nothing"
    (result, sets), out = world, tmp_path_factory.mktemp("both")/"b"
    torch.manual_seed(1)
    verifier = Verifier(states=phrase_states("computer")).eval()
    with torch.no_grad(): verifier.head.out[1].weight *= 8 # answers that differ
    settings = Settings.load(environ={}, device="cpu", compile="off", quant_backend="xnnpack")
    return verifier, E.export(dataclasses.replace(result, verifier=verifier), sets, out, "computer", settings=settings, force=True)


def test_a_second_look_goes_there_and_back(both):
    verifier, b = both
    m, again = b.manifest, E.load_verifier(b.path)
    assert m["schema_version"] == 3 and m["smooth_ms"] == 20 and m["receptive_field_ms"] == 2580
    assert {k: m["verifier"][k] for k in ("file", "samples", "every_ms", "looks", "smooth_ms")} == dict(file="verifier.onnx", samples=41_280, every_ms=100, looks=2, smooth_ms=m["config"]["smooth_ms"])
    assert {k: m["verifier"][k] for k in ("frames", "hop_samples", "n_mels", "rates")} == dict(frames=256, hop_samples=160, n_mels=40, rates=[1., .87, .75])
    low, high = m["verifier"]["sure"]
    assert high - low >= 6 and low < high
    assert m["verifier"]["parameters"] == sum(p.numel() for p in verifier.parameters())
    assert again.config == verifier.config and again.states == verifier.states == phrase_states("computer") and not again.training
    for name, value in verifier.state_dict().items(): assert torch.equal(value, again.state_dict()[name]), name
    assert not verifier.features.exporting # the caller's is left as it was


def test_a_second_look_gives_what_torch_gives(both, world, tmp_path):
    verifier, b = both
    valid, session, said = world[1][1], verifier_session(b), b.manifest["verifier"]["int8"]
    E.verifier_to_onnx(verifier, tmp_path/"float.onnx", mel=True)
    plain = ort.InferenceSession(tmp_path/"float.onnx", providers=["CPUExecutionProvider"])
    assert said["accepted"] and said["bytes"] == len(b.verifier) < .4*said["float32_bytes"] and said["mean_logit_difference"] <= said["tolerance"]
    for x in valid.background.crop(np.random.default_rng(0), verifier.samples, 4).astype(np.float32)/32768:
        with torch.no_grad(): wanted = verifier(torch.from_numpy(x[None])).numpy()
        feeds, = verifier_feeds(session, x[None], verifier.config.rates)
        exact, got = (s.run(["logit"], feeds)[0] for s in (plain, session))
        assert got.shape == exact.shape == (3,)
        exact, got = exact.mean(keepdims=True), got.mean(keepdims=True)
        np.testing.assert_allclose(exact, wanted, atol=4e-4)
        np.testing.assert_allclose(got, wanted, atol=1)
    import onnx
    for graph, integers in (((tmp_path/"float.onnx").read_bytes(), False), (b.verifier, True)):
        kinds = {n.op_type for n in onnx.load_from_string(graph).graph.node}
        assert not kinds & {"DFT", "STFT", "BatchNormalization"}, "FFT or a norm that was not folded"
        assert ("DequantizeLinear" in kinds) == integers


def test_the_proof_of_a_second_look_can_fail(both, tmp_path):
    verifier, b = both
    x, path = np.random.default_rng(0).normal(0, .1, 60_000).astype(np.float32), tmp_path/"verifier.onnx"
    E.verifier_to_onnx(verifier, path)
    other = E.load_verifier(b.path)
    with torch.no_grad(): other.head.out[1].bias += .1
    assert E.verifier_difference(verifier, path, x) < 1e-4
    E.verifier_to_onnx(verifier, tmp_path/"frames.onnx", mel=True)
    assert E.verifier_difference(verifier, tmp_path/"frames.onnx", x) < 1e-4 and E.verifier_difference(other, tmp_path/"frames.onnx", x) > .02
    assert E.verifier_difference(other, path, x) == pytest.approx(.025, abs=1e-3)
    assert E.verifier_difference(verifier, path, x[:100]) < 1e-4
    assert json.loads((b.path/"metrics.json").read_text(encoding="utf-8"))["parity"]["largest_difference"]["verifier"] < 1e-4 # before it became integers


def test_frames_that_are_handed_over_give_the_same_scores(both, tmp_path):
    "The form of before beside it: the same bundle, whose second look takes samples"
    verifier, b = both
    old = shutil.copytree(b.path, tmp_path/"old")
    m = json.loads((old/"manifest.json").read_text(encoding="utf-8"))
    E.verifier_to_onnx(verifier, old/"verifier.onnx")
    E.to_onnx(StreamingModel(E.load_model(b.path)), old/"model.onnx")
    own = E.write_verifier(verifier, tmp_path)
    m |= dict(schema_version=2, graphs={"float32": m["graphs"]["float32"]}, verifier={**own, "open_at": m["verifier"]["open_at"]})
    (old/"manifest.json").write_text(json.dumps(m | dict(files=E.file_facts(old))), encoding="utf-8")
    new = shutil.copytree(b.path, tmp_path/"new")
    E.verifier_to_onnx(verifier, new/"verifier.onnx", mel=True)
    m = json.loads((new/"manifest.json").read_text(encoding="utf-8"))
    m["verifier"].pop("sure") # every look at every rate, as before
    (new/"manifest.json").write_text(json.dumps(m | dict(files=E.file_facts(new))), encoding="utf-8")
    x = np.concatenate([np.random.default_rng(0).normal(0, .1, 40_000), np.zeros(16_000), np.random.default_rng(1).normal(0, .3, 30_000)]).astype(np.float32)
    before, after = Detector(old), Detector(new)
    for d in (before, after): d._second.open_at = 0. # always convinced
    for sizes in ([len(x)], [1280], [700, 3000]):
        cuts = np.cumsum(np.resize(sizes, 200))
        for d in (before, after): d.reset()
        scores = [np.concatenate([d.score(c) for c in np.split(x, cuts[cuts < len(x)])]) for d in (before, after)]
        assert before.n_looks == after.n_looks > 40 and np.ptp(scores[0]) > .01
        np.testing.assert_allclose(*scores, atol=2e-4)


def test_a_graph_that_is_made_again_hands_its_frames_over(both, tmp_path):
    from wakekit.ship.refit import reexport
    _, b = both
    thin = reexport(b.path, tmp_path/"thin", ["int8", "pt"])
    assert not (thin/"model.onnx").exists()
    back, x = reexport(thin, tmp_path/"back", ["onnx", "int8", "pt", "ts"]), np.random.default_rng(0).normal(0, .1, 60_000).astype(np.float32)
    np.testing.assert_allclose(Detector(back, "float32").score(x), Detector(b, "float32").score(x), atol=1e-4)


def test_a_second_look_that_eight_bits_would_change_stays_in_float(both, tmp_path):
    from wakekit.ship.quantize import quantize_verifier, verifier_windows
    verifier, _ = both
    E.verifier_to_onnx(verifier, tmp_path/"verifier.onnx")
    before = (tmp_path/"verifier.onnx").read_bytes()
    windows = verifier_windows([np.random.default_rng(0).normal(0, .1, 50_000).astype(np.float32)], verifier.samples)
    said = quantize_verifier(tmp_path/"verifier.onnx", windows, tolerance=1e-9)
    assert not said["accepted"] and (tmp_path/"verifier.onnx").read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["verifier.onnx"]


FORMS = {"default": {}, "one tap": dict(kernel=1, dilations=[1, 1]), "stride 3": dict(stride=3, channels=16), "bcresnet": dict(arch="bcresnet", channels=8, dilations=[1, 2]),
         "no context": dict(features=dict(n_fft=480, hop_length=480), stride=1), "other front end": dict(features=dict(n_fft=512, hop_length=128, f_min=0, f_max=8000, log_floor=1e-3))}

@pytest.mark.parametrize("form", FORMS)
def test_a_rewritten_graph_streams_as_torch_does(form, tmp_path):
    import onnx
    from wakekit.learn.config import ModelConfig
    from wakekit.learn.models import StreamingModel
    from wakekit.ship.compact import compacted
    torch.manual_seed(0)
    given = dict(FORMS[form])
    stream = StreamingModel(WakeModel(ModelConfig.from_dict({**given, "features": {**ModelConfig().features.to_dict(), **given.pop("features", {})}})).eval())
    E.to_onnx(stream, tmp_path/"model.onnx")
    again = compacted(onnx.load(tmp_path/"model.onnx"), stream.model.config.features) # what is compact stays as it is
    onnx.checker.check_model(again, full_check=True)
    rng, step = np.random.default_rng(0), stream.model.step_samples
    for content in ((tmp_path/"model.onnx").read_bytes(), again.SerializeToString()):
        session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
        for batch in (1, 3):
            state = np.zeros((batch, stream.state_size), np.float32)
            for steps in (1, 4, 3):
                pcm = rng.normal(0, .05, (batch, steps*step)).astype(np.float32)
                with torch.no_grad(): wanted = [t.numpy() for t in stream(torch.from_numpy(pcm), torch.from_numpy(state))]
                got = session.run(["score", "state_out"], dict(pcm=pcm, state=state))
                assert got[0].shape == (batch, steps) and got[1].shape == state.shape
                for a, b in zip(got, wanted): np.testing.assert_allclose(a, b, atol=1e-4)
                state = got[1]


def test_both_looks_are_judged_together(both, world):
    _, b = both
    metrics = json.loads((b.path/"metrics.json").read_text(encoding="utf-8"))
    assert metrics["parity"]["ok"] and metrics["parity"]["largest_difference"]["verifier"] < 1e-4
    point, v = metrics["size"]["opening"], b.manifest["verifier"]
    assert v["open_at"] == point["threshold"] >= .001 and point["false_reject_rate"] <= T.NEVER_SEEN
    assert metrics["size"]["verifier_parameters"] == v["parameters"]
    assert "second look: " in (b.path/"README.md").read_text(encoding="utf-8")
    assert "second look, learned from" in (b.path/"LICENSES.md").read_text(encoding="utf-8")
    valid = world[1][1]
    x = valid.background.pcm[:4*16_000]
    gate, whole = Detector(b, verify=False), Detector(b)
    opened = smooth_scores(gate.score(x), gate.smooth_frames) >= v["open_at"]
    hold, scored = whole._second.hold_frames, whole.score(x) > 0
    asked = np.convolve(opened, np.ones(hold + 1))[:len(opened)] > 0  # while it is convinced, and for two more looks
    assert scored.any() and not (scored & ~asked).any()


def test_a_gate_opens_for_the_calls_before_it_spares_looks(both, world, monkeypatch):
    _, b = both
    valid = world[1][1]
    few, many = (T.opening(b, valid, per_hour) for per_hour in (.001, 1e9))
    assert few.threshold >= many.threshold and many.threshold == .001 # never below
    assert few.false_reject_rate <= T.NEVER_SEEN
    monkeypatch.setattr(T, "NEVER_SEEN", .3)
    assert T.opening(b, valid, .001).threshold >= few.threshold


def test_without_a_second_look_nothing_is_new(world, tmp_path):
    result, sets = world
    b = E.export(result, sets, tmp_path/"b", "computer", settings=Settings.load(environ={}, device="cpu", compile="off", quant_backend="xnnpack"), force=True)
    assert b.manifest["schema_version"] == 1 and "verifier" not in b.manifest and b.verifier is None and E.load_verifier(b.path) is None
    assert not list(b.path.glob("verifier*")) and "second look" not in (b.path/"README.md").read_text(encoding="utf-8")
    assert b.manifest["smooth_ms"] == result.config.smooth_ms


@pytest.mark.parametrize("opened, some", [(0, False), (7, False), (8, True), (40, True)])
def test_a_tail_is_of_what_opened_the_gate(opened, some):
    peaks = np.zeros(3600)
    peaks[:opened] = np.linspace(.05, .4, opened)
    at = T.tail_threshold(peaks, 1., .5)
    assert (at > .3) if some else at == 0


@pytest.mark.parametrize("n", [0, 1])
def test_no_tail_no_threshold(n): assert T.tail_threshold(np.full(n, .4), .01, .5) == 0


def fill(folder, text):
    for name in ("manifest.json", "a", "b"): (folder/name).write_text(text, encoding="utf-8")


def test_what_killed_writers_left_is_swept_but_not_a_neighbour(tmp_path):
    out = tmp_path/"k[1].wake" # as a pattern it would match k1.wake
    for place in (out, tmp_path/".k[1].wake.12345678.part", tmp_path/".k[1].wake.12345678.old", tmp_path/".k1.wake.12345678.part"):
        place.mkdir()
        fill(place, "old")
    with E.replacing(out) as folder: fill(folder, "new")
    assert (out/"a").read_text(encoding="utf-8") == "new"
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix != ".lock") == [".k1.wake.12345678.part", "k[1].wake"]


def test_writers_take_turns(tmp_path):
    out, code = tmp_path/"k.wake", textwrap.dedent("""
        import sys, time
        from wakekit.ship.export import replacing
        for k in range(5):
            with replacing(sys.argv[1]) as folder:
                for name in ("manifest.json", "a", "b"):
                    (folder/name).write_text(sys.argv[2], encoding="utf-8")
                    time.sleep(.01)
    """)
    writers = [subprocess.Popen([sys.executable, "-c", code, str(out), who], env={**os.environ, "OMP_NUM_THREADS": "1"}) for who in "xy"]
    assert [w.wait(120) for w in writers] == [0, 0]
    assert len({(out/n).read_text(encoding="utf-8") for n in ("manifest.json", "a", "b")}) == 1
    assert [p.name for p in tmp_path.iterdir() if p.suffix != ".lock"] == ["k.wake"]


def test_a_writer_holds_the_lock(tmp_path, monkeypatch):
    real = swap.file_lock
    monkeypatch.setattr(swap, "file_lock", lambda path, timeout_s: real(path, timeout_s=0))
    with E.replacing(tmp_path/"k.wake") as folder:
        fill(folder, "first")
        with pytest.raises(LockError):
            with E.replacing(tmp_path/"k.wake"): pass
    assert (tmp_path/"k.wake"/"a").read_text(encoding="utf-8") == "first"
