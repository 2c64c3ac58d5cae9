"openWakeWord's heads and front end: parity with the real package where it is installed (pip install --no-deps openwakeword), and what is refused."
import subprocess, sys, wave
import numpy as np
import onnx, pytest
from onnx import TensorProto, helper, numpy_helper
from wakekit.core import TrainError
from wakekit.ship.compat import CHUNK, DIM, FILES, CompatError, OwwDetector, OwwFeatures, OwwFrontEnd, OwwHead, place_call, toy_front_end, train_head

RATE = 16_000


def graph(path, nodes, inputs, outputs, **consts):
    port = lambda name, *shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
    g = helper.make_graph(nodes, "g", [port(*p) for p in inputs], [port(*p) for p in outputs], [numpy_helper.from_array(np.asarray(v), k) for k, v in consts.items()])
    onnx.save(helper.make_model(g, opset_imports=[helper.make_opsetid("", 13)], ir_version=7), str(path))
    return path


def head(path, n=16, outputs=1, dim=DIM, seed=1, gain=1., batch=1):
    "One layer of random weights with a sigmoid"
    w = (gain*np.random.default_rng(seed).normal(size=(outputs, n*dim))/np.sqrt(n*dim)).astype(np.float32)
    nodes = [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("Gemm", ["f", "w"], ["z"], transB=1), helper.make_node("Sigmoid", ["z"], ["y"])]
    return graph(path, nodes, [("x", batch, n, dim)], [("y", batch, outputs)], w=w)


def random_embedding(path, seed=0):
    "An embedding that mixes every frame and band: whatever is shifted, transposed or out of scale shows"
    rng = np.random.default_rng(seed)
    draw = lambda *shape: (rng.normal(size=shape)/np.sqrt(np.prod(shape[1:]))).astype(np.float32)
    node = helper.make_node
    nodes = [node("Transpose", ["input_1"], ["t"], perm=[0, 3, 1, 2]), node("Conv", ["t", "k"], ["c"], strides=[4, 2]), node("Tanh", ["c"], ["r"]), node("Flatten", ["r"], ["f"]), node("Gemm", ["f", "w"], ["e"], transB=1), node("Reshape", ["e", "shape"], ["conv2d_19"])]
    return graph(path, nodes, [("input_1", "n", 76, 32, 1)], [("conv2d_19", "n", 1, 1, DIM)], k=draw(16, 1, 8, 6), w=3*draw(DIM, 16*18*14), shape=np.array([-1, 1, 1, DIM]))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    "A front end whose spectrogram looks at the loudest moment of each call, as openWakeWord's does, and whose embedding is random"
    folder = toy_front_end(tmp_path_factory.mktemp("front"), top_db=60.)
    random_embedding(folder/FILES[1])
    return folder

@pytest.fixture(scope="module")
def front(files): return OwwFrontEnd.load(files)

@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    "The same with a spectrogram of independent frames"
    folder = toy_front_end(tmp_path_factory.mktemp("plain"))
    random_embedding(folder/FILES[1])
    return folder


def noise(seconds, seed=0):
    "Bursts of every loudness, digital silence, full scale; int16"
    rng, n = np.random.default_rng(seed), int(seconds*RATE)
    x = rng.normal(size=n)*10**(rng.uniform(0, 4.6, n//4000 + 1).repeat(4000)[:n])
    x[n//3:n//3 + 9000] = 0
    return np.clip(np.rint(x), -32768, 32767).astype(np.int16)


def pieces(x, sizes, seed):
    "`x` in chunks: all of one size, or of random sizes up to so many samples"
    if isinstance(sizes, int): cuts = np.arange(sizes, len(x), sizes)
    else: cuts = np.cumsum(np.random.default_rng(seed).integers(*sizes, size=len(x)//max(1, sizes[0]) + 1))
    return np.split(x, cuts[cuts < len(x)])


def theirs(folder, path, seed=0):
    "openWakeWord's own model, with the noise that wakekit starts from"
    Model = pytest.importorskip("openwakeword.model", reason="pip install --no-deps openwakeword").Model
    np.random.seed(seed)
    return Model(wakeword_models=[str(path)], inference_framework="onnx", melspec_model_path=str(folder/FILES[0]), embedding_model_path=str(folder/FILES[1]))


@pytest.mark.parametrize("n", [16, 1, 22, 41])
def test_scores_are_openwakewords_bit_for_bit(files, front, tmp_path, n):
    path, x = head(tmp_path/"hey_random.onnx", n, gain=4.), noise(9)
    oww, mine = theirs(files, path), OwwDetector(path, front)
    want = [oww.predict(c)["hey_random"] for c in pieces(x[:len(x)//CHUNK*CHUNK], CHUNK, 0)]
    got = mine.score(x)
    assert want[:5] == [0]*5 and len(got) == len(want) and np.ptp(want[5:]) > .2
    assert np.array_equal(got, np.array(want, np.float32))
    np.random.seed(0)
    oww.reset(); mine.reset()
    assert np.array_equal(mine.score(x[:40*CHUNK]), np.array([oww.predict(c)["hey_random"] for c in pieces(x[:40*CHUNK], CHUNK, 0)], np.float32))


@pytest.mark.parametrize("sizes", [160, 320, 441, 512, 1024, 1279, 1280, (1, 1280), (1, 300)])
def test_openwakeword_agrees_for_chunks_of_any_size_that_completes_one_step(files, front, tmp_path, sizes):
    "Its scores between two steps repeat the one before; its first five *calls* are zero, so the first five steps are left out"
    path, x = head(tmp_path/"hey_random.onnx", gain=4.), noise(5, seed=1)
    oww, mine = theirs(files, path), OwwDetector(path, front)
    for k, c in enumerate(pieces(x, sizes, 3)):
        steps = mine.n_steps
        want, got = oww.predict(c)["hey_random"], mine.score(c)
        assert len(got) == mine.n_steps - steps <= 1
        if k >= 5 and steps >= 5 and len(got): assert got[0] == np.float32(want)
        assert np.array_equal(mine.features.latest[-1], oww.preprocessor.feature_buffer[-1])
    assert mine.n_steps == len(x)//CHUNK > 50


@pytest.mark.parametrize("sizes", [1281, 2560, 3840, 16_000, (1281, 9000)])
def test_longer_chunks_give_the_highest_of_their_steps(plain, tmp_path, sizes):
    "openWakeWord takes the spectrogram of all that came at once: the same when its frames are independent, to the last bits of a float"
    path, x = head(tmp_path/"hey_random.onnx", gain=4.), noise(9, seed=2)
    oww, mine = theirs(plain, path), OwwDetector(path, plain)
    for k, c in enumerate(pieces(x, sizes, 4)):
        want, got = oww.predict(c)["hey_random"], mine.score(c)
        if k >= 5 and len(got): assert abs(got.max() - want) < 1e-5


def test_embedding_a_recording_is_openwakewords(files, front):
    oww = pytest.importorskip("openwakeword.utils", reason="pip install --no-deps openwakeword").AudioFeatures(str(files/FILES[0]), str(files/FILES[1]))
    for seconds in (.8, 2, 3.3, 10):
        x = noise(seconds, seed=int(10*seconds))
        assert np.array_equal(front(x), oww._get_embeddings(x).reshape(-1, DIM))
    assert np.abs(oww.embed_clips(noise(2)[None])[0] - front(noise(2))).max() < 1e-4


def test_a_trained_head_runs_in_openwakeword(files, front, tmp_path):
    rng = np.random.default_rng(0)
    tone = lambda hz: np.concatenate([np.sin(2*np.pi*hz*np.arange(4000)/RATE), np.sin(2*np.pi*1.5*hz*np.arange(4000)/RATE)]).astype(np.float32)*.3
    calls = [np.concatenate([np.zeros(3000, np.float32), tone(rng.uniform(600, 700)), np.zeros(3000, np.float32)]) for _ in range(20)]
    other = [(rng.normal(size=RATE)*10**rng.uniform(-3, -1)).astype(np.float32) for _ in range(60)] + [tone(rng.uniform(900, 1800))[:4000] for _ in range(60)]
    rng.shuffle(other)
    h = train_head(front, calls, other, groups=np.arange(20)//2, repeats=4, steps=300)
    assert h.held_out["calls"] == 4 and h.held_out["hours"] > 0 and h.held_out["heard"] >= 3
    path = h.save(tmp_path/"two_tones.onnx")
    x = np.concatenate([.02*rng.normal(size=2*RATE), tone(650), np.zeros(RATE)]).astype(np.float32)
    mine = OwwDetector(path, front).score(x)
    assert mine[5:24].max() < .5 < mine.max()
    oww = theirs(files, path)
    i16 = np.rint(np.clip(x*32768., -32768, 32767)).astype(np.int16)
    assert np.array_equal(mine, np.array([oww.predict(c)["two_tones"] for c in pieces(i16[:len(x)//CHUNK*CHUNK], CHUNK, 0)], np.float32))
    again = train_head(front, calls, other, groups=np.arange(20)//2, repeats=4, steps=300)
    assert again.held_out == h.held_out and all(np.array_equal(a, b) for a, b in zip(again.weights, h.weights))


@pytest.mark.parametrize("sizes", [1, 7, 1280, 5000, (1, 4000)])
def test_any_chunking_gives_the_same_scores(files, tmp_path, sizes):
    d, x = OwwDetector(head(tmp_path/"h.onnx", gain=4.), files), noise(2 if sizes == 1 else 6, seed=5)
    whole = d.score(x); d.reset()
    assert np.array_equal(np.concatenate([d.score(c) for c in pieces(x, sizes, 1)]), whole)
    d.reset()
    assert np.array_equal(d.score(x.astype(np.float32)/32768), whole)
    d.reset()
    assert len(d.score(x[:0])) == len(d.score(x[:CHUNK - 1])) == 0 and len(d.score(x[CHUNK - 1:CHUNK])) == 1


def test_the_face_of_a_detector(files, front, tmp_path):
    path, x = head(tmp_path/"hey_random.onnx", gain=4.), noise(12, seed=6)
    scores = OwwDetector(path, front).score(x)
    at = float(np.quantile(scores, .9))
    d = OwwDetector(path, front, threshold=at, refractory_ms=400)
    events = d.detect(x)
    assert events and all(e.phrase == "hey random" and e.score >= at == e.threshold and e.start_s < e.time_s <= e.peak_s <= e.end_s for e in events)
    assert [e.time_s for e in d.listen(pieces(x, 700, 0))] == [e.time_s for e in events]
    assert all(b.start_s - a.start_s >= .4 - 1e-9 for a, b in zip(events, events[1:]))
    with wave.open(str(tmp_path/"x.wav"), "wb") as f:
        f.setnchannels(1); f.setsampwidth(2); f.setframerate(RATE)
        f.writeframes(x.tobytes())
    assert d.detect(tmp_path/"x.wav") == events and d.n_steps == 0
    d.score(np.array([np.nan, 1e-3, np.inf], np.float32))
    assert d.n_bad == 2 and d.gate_score is None


def test_two_streams_share_a_front_end_and_nothing_else(front, tmp_path):
    path, x, y = head(tmp_path/"h.onnx", gain=4.), noise(4, 7), noise(4, 8)
    a, b = OwwDetector(path, front), OwwDetector(path, front)
    alone = a.score(x); a.reset()
    together = [(a.score(p), b.score(q)) for p, q in zip(pieces(x, 999, 0), pieces(y, 999, 0))]
    assert np.array_equal(np.concatenate([p for p, _ in together]), alone)


@pytest.mark.parametrize("damage, says", [
    (lambda f: (f/FILES[0]).unlink(), "lacks melspectrogram.onnx"), (lambda f: (f/FILES[1]).unlink(), "lacks embedding_model.onnx"),
    (lambda f: (f/FILES[0]).write_bytes(b"version https://git-lfs"), "cannot be run"), (lambda f: (f/FILES[1]).write_bytes(b""), "cannot be run"),
    (lambda f: (f/FILES[0]).write_bytes((f/FILES[1]).read_bytes()), "does not take float32 [1, 1760]"),
    (lambda f: (f/FILES[1]).write_bytes((f/FILES[0]).read_bytes()), "does not take float32 [1, 76, 32, 1]"),
    (lambda f: graph(f/FILES[0], [helper.make_node("Add", ["a", "b"], ["c"])], [("a", 1, "n"), ("b", 1, "n")], [("c", 1, "n")]), "one input; it has 2"),
    (lambda f: graph(f/FILES[0], [helper.make_node("Identity", ["a"], ["c"])], [("a", 1, "n")], [("c", 1, "n")]), "where [8, 32] is wanted"),
    (lambda f: graph(f/FILES[1], [helper.make_node("Identity", ["a"], ["c"])], [("a", "n", 76, 32, 1)], [("c", "n", 76, 32, 1)]), "where [96] is wanted")])
def test_a_front_end_that_is_none(tmp_path, damage, says):
    folder = toy_front_end(tmp_path/"f")
    damage(folder)
    with pytest.raises(CompatError) as e: OwwFrontEnd.load(folder)
    assert says in str(e.value)


def test_no_front_end_at_all(monkeypatch, tmp_path):
    with pytest.raises(CompatError, match="lacks melspectrogram.onnx and embedding_model.onnx"): OwwFrontEnd.load(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CompatError, match="Give the folder"): OwwFrontEnd.load()


@pytest.mark.parametrize("make, says", [
    (lambda p: head(p, outputs=7), "7 numbers"), (lambda p: head(p, dim=40), "should take float32 [1, 16, 96]"), (lambda p: head(p, n=42), "looks at 42 embeddings"),
    (lambda p: p.write_bytes(b"<html>"), "cannot be run"), (lambda p: None, "is not there"),
    (lambda p: graph(p, [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("ReduceMax", ["f"], ["m"], axes=[1]), helper.make_node("Add", ["m", "lift"], ["y"])], [("x", 1, 16, DIM)], [("y", 1, 1)], lift=np.float32(100)), "end it with a sigmoid"),
    (lambda p: graph(p, [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("ReduceMean", ["f"], ["m"], axes=[1]), helper.make_node("Sigmoid", ["m"], ["y"]), helper.make_node("Identity", ["y"], ["z"])], [("x", 1, 16, DIM)], [("y", 1, 1), ("z", 1, 1)]), "it gives y [1, 1], z [1, 1]"),
    (lambda p: graph(p, [helper.make_node("Add", ["x", "b"], ["y"])], [("x", 1, 16, DIM), ("b", 1, 16, DIM)], [("y", 1, 16, DIM)]), "it takes x [1, 16, 96], b [1, 16, 96]")])
def test_a_head_that_is_none(front, tmp_path, make, says):
    make(tmp_path/"h.onnx")
    with pytest.raises(CompatError) as e: OwwDetector(tmp_path/"h.onnx", front)
    assert says in str(e.value)


def test_heads_of_any_batch(front, tmp_path):
    "Exporters write the first axis as 1, as a name or not at all"
    x = noise(3, 9)
    assert np.array_equal(OwwDetector(head(tmp_path/"a.onnx"), front).score(x), OwwDetector(head(tmp_path/"b.onnx", batch="batch_size"), front).score(x))


def test_too_little_to_train_on(front):
    hum, call = [np.full(70*RATE, .01, np.float32)], np.full(RATE//2, .1, np.float32)
    with pytest.raises(TrainError, match="0 calls of 0 people"): train_head(front, [], hum)
    with pytest.raises(TrainError, match="9 calls of 1 people"): train_head(front, [call]*9, hum, groups=["ann"]*9)
    with pytest.raises(TrainError, match="0 s without the phrase"): train_head(front, [call]*9, [])
    with pytest.raises(TrainError, match="9 calls and 8 groups"): train_head(front, [call]*9, hum, groups=["ann"]*8)


def test_placed_calls(tmp_path):
    rng, hum = np.random.default_rng(0), np.random.default_rng(1).normal(size=5*RATE).astype(np.float32)*.01
    for length in (100, RATE, 5*RATE):
        for _ in range(20):
            x = place_call(rng.normal(size=length).astype(np.float32)*.1, hum, rng)
            assert x.shape == (2*RATE,) and x.dtype == np.float32 and np.isfinite(x).all() and np.abs(x).max() <= 1
    assert np.isfinite(place_call(np.zeros(RATE, np.float32), np.zeros(3*RATE, np.float32), rng)).all()


def test_running_a_head_needs_no_torch_and_no_onnx(files, tmp_path):
    path = head(tmp_path/"h.onnx")
    code = f"import sys\nfor m in ('torch', 'onnx', 'librosa'): sys.modules[m] = None\nimport numpy as np\nfrom wakekit.ship.compat import OwwDetector\nprint(len(OwwDetector({str(path)!r}, {str(files)!r}).score(np.zeros(16000, np.int16))))"
    p = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert p.stdout.strip() == "12", p.stderr


def test_what_was_heard_before_the_start_is_always_the_same(files):
    a, b = OwwFrontEnd.load(files), OwwFrontEnd.load(files)
    assert np.array_equal(a.idle, b.idle) and np.array_equal(OwwFeatures(a, 16).latest, a.idle[-16:])


def test_saving_says_what_is_wrong(tmp_path):
    h = OwwHead(tuple(np.zeros(s, np.float32) for s in ((16*DIM, 4), (4,), (4, 1), (1,))), {})
    with pytest.raises(CompatError, match="should end in .onnx"): h.save(tmp_path/"x.tflite")
    assert onnx.load(str(h.save(tmp_path/"deep"/"x.onnx"))).graph.name == "x"
