"Bad bundles, bad samples and odd chunks: what the streaming page does not show."
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from wakekit.core import AudioError, BundleError
from wakekit.learn.metrics import smooth_scores
from wakekit.ship.look import SecondLook
from wakekit.ship.stream import Bundle, Detector, graph_session, to_pcm, verifier_session
from wakekit.ship.toy import chime, chime_scores, toy_bundle


@pytest.fixture(scope="module")
def folder(tmp_path_factory): return toy_bundle(tmp_path_factory.mktemp("toy")/"chime.wake")


@pytest.fixture(scope="module")
def x():
    out = (.001*np.random.default_rng(0).standard_normal(16_000*12 + 77)).astype(np.float32)
    for at in 1.013, 4, 4.5, 7.7, 11.69: out[int(at*16_000):][:5120] += chime()[:max(0, len(out) - int(at*16_000))]
    return out


def rewrite(folder, **changes):
    file = folder/"manifest.json"
    m = json.loads(file.read_text(encoding="utf-8"))
    m.update(changes)
    file.write_text(json.dumps({k: v for k, v in m.items() if v is not ...}), encoding="utf-8")


@pytest.mark.parametrize("seed", range(4))
def test_any_chunking_gives_the_same_scores_and_events(folder, x, seed):
    rng = np.random.default_rng(seed)
    whole = Detector(folder)
    events = whole.detect(x)
    assert len(events) == 4 and len(whole.score(x)) == len(x)//320
    d, scores, e = Detector(whole.bundle), [], Detector(whole.bundle)
    live, at = [], 0
    while at < len(x):
        n = int(rng.choice([0, 1, 2, 159, 160, 319, 320, 321, 1280, 4001, 30_000]))
        scores.append(d.score(x[at:at+n]))
        live += e.process(x[at:at+n])
        at += n
    np.testing.assert_allclose(np.concatenate(scores), chime_scores(x), atol=1e-4)
    assert [v.time_s for v in live] == [v.time_s for v in events]


@pytest.mark.parametrize("seed", range(3))
def test_resting_does_not_depend_on_chunks(folder, seed):
    rng = np.random.default_rng(seed)
    x = (1e-4*rng.standard_normal(16_000*20)).astype(np.float32)
    for at in 1.3, 9.02, 15.5: x[int(at*16_000):][:5120] += .3*chime()
    whole, never = Detector(folder, silence_db=-60), Detector(folder)
    scores = whole.score(x)
    assert whole._gate.rested_steps > 300 and (scores == 0).sum() >= whole._gate.rested_steps
    for pieces in ([320]*1000, [1280]*250, rng.integers(0, 4000, 400).tolist()):
        d, at, got = Detector(folder, silence_db=-60), 0, []
        for n in [*pieces, len(x)]:
            got.append(d.score(x[at:at + n]))
            at += n
        assert np.abs(np.concatenate(got) - scores[:sum(map(len, got))]).max() < 1e-5
    heard = lambda d: [round(e.start_s, 3) for e in d.detect(x)]
    assert heard(whole) == heard(never) and len(heard(never)) == 3
    whole.reset()
    assert np.array_equal(whole.score(x), scores)


def test_what_a_lost_server_did_not_score_is_scored_later_also_after_a_rest(folder):
    x = np.zeros(16_000*6, np.float32)
    x[16_000*4:][:5120] = chime()
    wanted = Detector(folder, silence_db=-60).score(x)
    d, real, down, got = Detector(folder, silence_db=-60), None, iter([False]*12 + [True]*3 + [False]*99), []
    real = d._session
    class Away:
        def run(self, *a):
            if next(down): raise OSError("away")
            return real.run(*a)
    d._session = Away()
    for at in range(0, len(x), 1280*3):
        try: got.append(d.score(x[at:at + 1280*3]))
        except OSError: pass
    got = np.concatenate(got)
    assert len(got) == len(wanted) and np.abs(got - wanted).max() < 1e-5


@pytest.mark.parametrize("level", [5, -200, float("nan"), float("inf")])
def test_levels_that_are_none(folder, level):
    with pytest.raises(ValueError, match="dBFS"): Detector(folder, silence_db=level)


def test_arrays_that_stay_are_not_shared_with_anybody(folder, x):
    one, other, plain = Detector(folder), Detector(folder), Detector(folder, compact=True)
    kept, wanted = [], []
    for at in range(0, 16_000*5, 1280):
        kept.append(one.score(x[at:at + 1280]))
        other.score(np.zeros(1280, np.float32))
        wanted.append(plain.score(x[at:at + 1280]))
    assert one._bound and other._bound and plain._bound is None
    assert np.array_equal(np.concatenate(kept), np.concatenate(wanted)) and np.array_equal(one._state, plain._state)
    state = one._state
    one.reset()
    assert not one._state.any() and state.any() # a reset does not write into what somebody may hold
    assert np.array_equal(one.score(x[:1280]), wanted[0])


def test_alarm_at_the_last_step_of_a_chunk_still_deafens(folder):
    always = dict(threshold=0, smooth_ms=0, refractory_ms=200)
    d = Detector(folder, **always)
    times = [e.time_s for _ in range(100) for e in d.process(np.zeros(320))]
    assert times == [e.time_s for e in Detector(folder, **always).detect(np.zeros(32_000))]
    assert np.allclose(np.diff(times), .2) and len(times) == 10


def test_detectors_of_one_bundle_share_the_session_and_not_the_stream(folder, x):
    b = Bundle.load(folder)
    one, two = Detector(b), Detector(b)
    assert one._session is two._session
    a = [one.score(x[:40_000]), two.score(x[100_000:101_000]), one.score(x[40_000:])]
    np.testing.assert_allclose(np.concatenate([a[0], a[2]]), chime_scores(x), atol=1e-4)


def test_reset_is_time_zero(folder, x):
    d = Detector(folder)
    first = d.process(x)
    d.reset()
    assert d.process(x) == first


def test_reset_forgets_scores_samples_and_deafness(folder):
    d = Detector(folder, threshold=.2, smooth_ms=200, refractory_ms=5000)
    assert d.process(np.concatenate([chime(), np.zeros(170)]))
    d.reset()
    assert d.process(np.zeros(6400)) == [], "old scores leak into the average"
    d.reset()
    fresh = Detector(folder, threshold=.2, smooth_ms=200, refractory_ms=5000)
    again = np.concatenate([np.zeros(800), chime(), np.zeros(3200)])
    assert [e.time_s for e in d.process(again)] == [e.time_s for e in fresh.process(again)] != []


def test_short_and_empty_input(folder):
    d = Detector(folder)
    for chunk in ([], np.zeros(0, np.int16), np.zeros((0, 1)), np.zeros((1, 0))): assert len(d.score(chunk)) == 0 and d.process(chunk) == []
    for _ in range(319): assert len(d.score(np.zeros(1, np.float32))) == 0
    assert len(d.score([0.])) == 1
    assert d.detect(np.zeros(0)) == [] and d.detect(np.zeros(100)) == []


def test_digital_silence_and_full_scale_give_numbers(folder):
    d = Detector(folder)
    for x in (np.zeros(16_000), np.ones(16_000), -np.ones(16_000, np.float64), np.full(16_000, -32768, np.int16)):
        assert np.isfinite(d.score(x)).all()


def test_garbage_samples_are_counted_and_do_not_last(folder):
    d = Detector(folder)
    x = np.full(3200, np.nan, np.float32)
    assert np.isfinite(d.score(x)).all() and d.n_bad == 3200
    with pytest.warns(UserWarning, match="divide int16"): s = d.score(np.full(3200, 1e30))
    assert np.isfinite(s).all()
    d.score(np.zeros(16_000))
    assert d.score(chime()).max() > .9
    d.reset()
    assert d.n_bad == 3200


@pytest.mark.parametrize("bad", [np.zeros((160, 2)), np.zeros((2, 2, 2)), np.zeros(9, np.int32), np.zeros(9, np.uint8), np.zeros(9, complex), ["a"]])
def test_what_is_not_a_chunk_is_refused(folder, bad):
    d = Detector(folder)
    with pytest.raises(AudioError): d.score(bad)
    assert len(d.score(np.zeros(320))) == 1


def test_int16_is_float_over_32768():
    i = np.arange(-32768, 32768, 7).astype(np.int16)
    x, n_bad = to_pcm(i)
    assert n_bad == 0 and x.min() == -1 and np.array_equal((x*32768).astype(np.int16), i)


@pytest.mark.parametrize("changes, says", [
    (dict(schema_version=4), "newer wakekit"), (dict(schema_version="1"), "no wakekit manifest"), (dict(schema_version=...), "no wakekit manifest"),
    (dict(graphs=...), "graphs"), (dict(graphs={}), "default_graph"), (dict(default_graph="int8"), "default_graph"), (dict(step_samples=0), "step_samples"),
    (dict(sample_rate=8000), "sample_rate"), (dict(smooth_ms="40"), "smooth_ms"), (dict(files={}), "graphs"), (dict(phrase=None), "phrase"),
    (dict(graphs={"float32": {"file": "manifest.json", "threshold": .5}}), "graphs"),
    (dict(files={"model.onnx": {}}), "damaged"), (dict(files={"model.onnx": None}), "damaged"), (dict(state_size=7), "does not fit")])
def test_wrong_manifests(folder, tmp_path, changes, says):
    bad = shutil.copytree(folder, tmp_path/"b")
    rewrite(bad, **changes)
    with pytest.raises(BundleError, match=says): Detector(bad)


@pytest.mark.parametrize("name", ["../model.onnx", "/etc/hosts", "a/../../x", "C:\\x", "..\\x", "c:x"])
def test_a_manifest_cannot_reach_outside(folder, tmp_path, name):
    bad = shutil.copytree(folder, tmp_path/"b")
    m = json.loads((bad/"manifest.json").read_text(encoding="utf-8"))
    rewrite(bad, files=m["files"] | {name: {"sha256": "0"}})
    with pytest.raises(BundleError, match="outside"): Bundle.load(bad)


@pytest.mark.parametrize("content", ["", "[]", "null", '{"schema_version": true}', "\x00\x01"])
def test_manifests_that_are_none(tmp_path, content):
    (tmp_path/"manifest.json").write_text(content, encoding="utf-8")
    with pytest.raises(BundleError, match="export it again"): Bundle.load(tmp_path)


def test_binary_manifest_missing_folder_and_file(tmp_path):
    (tmp_path/"manifest.json").write_bytes(b"\xff\xfe\xff\xd8")
    with pytest.raises(BundleError, match="damaged"): Bundle.load(tmp_path)
    with pytest.raises(BundleError, match="does not exist"): Bundle.load(tmp_path/"nowhere")
    with pytest.raises(BundleError, match="not a bundle"): Bundle.load((tmp_path/"empty").mkdir() or tmp_path/"empty")


@pytest.mark.parametrize("where", [0, 300, -1])
def test_every_flipped_byte_is_noticed(folder, tmp_path, where):
    bad = shutil.copytree(folder, tmp_path/"b")
    data = bytearray((bad/"model.onnx").read_bytes())
    data[where] ^= 0x10
    (bad/"model.onnx").write_bytes(data)
    with pytest.raises(BundleError, match="SHA-256"): Bundle.load(bad)


def test_a_file_cut_short_is_noticed(folder, tmp_path):
    bad = shutil.copytree(folder, tmp_path/"b")
    (bad/"model.onnx").write_bytes((bad/"model.onnx").read_bytes()[:-100])
    with pytest.raises(BundleError, match="SHA-256"): Bundle.load(bad)


def test_a_graph_that_onnxruntime_cannot_run_names_the_remedy(folder):
    b = Bundle.load(folder)
    broken = Bundle(b.path, b.manifest, {"float32": b"not onnx"}, {})
    with pytest.raises(BundleError, match="pip install -U onnxruntime"): graph_session(broken)


def test_the_checked_bytes_are_what_runs(folder, tmp_path, x):
    copy = shutil.copytree(folder, tmp_path/"b")
    b = Bundle.load(copy)
    (copy/"model.onnx").write_bytes(b"swapped after the check")
    assert len(Detector(b).detect(x)) == 4


@pytest.mark.parametrize("wrong", [dict(threshold=-1), dict(threshold=float("nan")), dict(smooth_ms=-5), dict(refractory_ms="2000")])
def test_settings_out_of_range(folder, wrong):
    with pytest.raises(ValueError, match="must be a number"): Detector(folder, **wrong)


def test_one_session_thread(folder):
    o = Detector(folder)._session.get_session_options()
    assert (o.intra_op_num_threads, o.inter_op_num_threads) == (1, 1)


def test_detect_reports_unreadable_files(folder, tmp_path):
    (tmp_path/"a.wav").write_bytes(b"\xff\xd8\xff\xe0JFIF")
    d = Detector(folder)
    with pytest.raises(AudioError): d.detect(tmp_path/"a.wav")
    assert d.n_steps == 0


def test_importing_the_detector_imports_nothing_heavy():
    code = ("import sys; from wakekit import Detector; "
            "print([m for m in ('torch', 'soundfile', 'soxr', 'onnx', 'matplotlib', 'librosa', 'scipy', 'tqdm') if m in sys.modules])")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


# The second look

@pytest.fixture(scope="module")
def careful(tmp_path_factory): return toy_bundle(tmp_path_factory.mktemp("careful")/"chime.wake", verify=True)


@pytest.fixture(scope="module")
def tune():
    "A chime out of the quiet, then tones one after the other, with the chime among them"
    out = (.001*np.random.default_rng(1).standard_normal(16_000*6 + 77)).astype(np.float32)
    for k, tones in {0: (880, 660), 8: (990, 770), 9: (880, 660), 10: (600, 900), 11: (880, 660), 16: (880, 660)}.items():
        out[1003 + k*5120:][:5120] += chime(*tones)
    return out


class Counting:
    "Stands in for the verifier's session: answers with the number of the look"
    def __init__(self): self.windows = []
    def run(self, names, feeds):
        assert names == ["logit"] and feeds["pcm"].shape == (1, 16_000) and feeds["pcm"].dtype == np.float32
        self.windows.append(feeds["pcm"][0].copy())
        return [np.array([float(len(self.windows))], np.float32)]


def counted(folder, **kw):
    b = Bundle.load(folder)
    b.sessions["verifier"] = session = Counting()
    return Detector(b, **kw), session


def slowly(first, x, v, step=320):
    "The same by the book, step after step: final scores and the windows that are looked at"
    out, windows, row, due, held, every, looks = [], [], 0, 0, 0., round(v["every_ms"]/20), v.get("looks", 1)
    before = np.concatenate([np.zeros(v["samples"], np.float32), x])
    for k in range(len(first)):
        if not any(first[max(0, k - (looks*every if looks > 1 else 0)):k + 1] >= v["open_at"]):
            out.append(0.)
            continue
        if k >= due:
            windows.append(before[(k + 1)*step:][:v["samples"]])
            row = row + 1 if k==due else 1
            held, due = 1/(1 + np.exp((looks - 1)/2 - len(windows))) if row >= looks else 0., k + every  # the n-th look answers n
        out.append(held)
    return np.array(out), windows


@pytest.mark.parametrize("sizes", [[1], [320], [1280], [0, 1, 37, 321, 5000], [7, 40_000], [200_000]])
def test_the_second_look_by_the_book_for_any_chunking(careful, tune, sizes):
    x = tune[:20_000] if sizes == [1] else tune
    gate = Detector(careful, verify=False)
    v, first = gate.bundle.manifest["verifier"], smooth_scores(gate.score(x), gate.smooth_frames)
    wanted, windows = slowly(first, x, v)
    d, session = counted(careful)
    rng, at, out = np.random.default_rng(0), 0, []
    while at < len(x):
        n = int(rng.choice(sizes))
        out.append(d.score(x[at:at+n]))
        at += n
    np.testing.assert_allclose(np.concatenate(out), wanted, atol=1e-6)
    assert len(session.windows) == len(windows) > 1
    for a, b in zip(session.windows, windows): np.testing.assert_array_equal(a, b)
    assert d.gate_score == pytest.approx(first[-1], abs=1e-5)


@pytest.mark.parametrize("looks", [1, 2, 3])
@pytest.mark.parametrize("open_at, every_ms, seed", [(.3, 100, 0), (.3, 20, 1), (.5, 60, 2), (.1, 1000, 3), (.75, 60, 4)])
def test_a_wavering_first_look(careful, tmp_path, open_at, every_ms, seed, looks):
    bad = shutil.copytree(careful, tmp_path/"b")
    m = json.loads((bad/"manifest.json").read_text(encoding="utf-8"))
    rewrite(bad, verifier=m["verifier"] | dict(open_at=open_at, every_ms=every_ms, smooth_ms=60, looks=looks))
    rng = np.random.default_rng(seed)
    raw, x = rng.random(500).astype(np.float32)**2, rng.normal(0, .1, 500*320).astype(np.float32)
    b = Bundle.load(bad)
    v = b.manifest["verifier"]
    wanted, windows = slowly(smooth_scores(raw, 3), x, v)
    for most in (1, 7, 400):
        b.sessions["verifier"] = session = Counting()
        look, out, at = SecondLook(v, verifier_session(b), 320), [], 0
        while at < len(raw):
            n = int(rng.integers(0, most + 1))
            out.append(look.process(raw[at:at+n], x[at*320:(at + n)*320]))
            at += n
        np.testing.assert_allclose(np.concatenate(out), wanted, atol=1e-6)
        assert len(session.windows) == len(windows) and all(np.array_equal(a, b) for a, b in zip(session.windows, windows))


@pytest.mark.parametrize("sizes", [[1280], [0, 1, 37, 321, 5000], [200_000]])
def test_events_with_a_second_look_do_not_depend_on_chunks(careful, tune, sizes):
    for x in (tune, (tune*32768).round().astype(np.int16)):
        d, rng, at, live = Detector(careful), np.random.default_rng(0), 0, []
        while at < len(x):
            n = int(rng.choice(sizes))
            live += d.process(x[at:at+n])
            at += n
        assert [e.time_s for e in live] == [e.time_s for e in Detector(careful).detect(x)]
        np.testing.assert_allclose([e.time_s for e in live], [.383, 5.503], atol=.06)


@pytest.fixture
def twice(careful, tmp_path):
    folder = shutil.copytree(careful, tmp_path/"twice")
    m = json.loads((folder/"manifest.json").read_text(encoding="utf-8"))
    rewrite(folder, verifier=m["verifier"] | dict(looks=2))
    return folder


@pytest.mark.parametrize("sizes", [[320], [1280], [0, 1, 37, 321, 5000], [200_000]])
def test_two_looks_in_a_row_for_any_chunking(twice, tune, sizes):
    whole, d, rng, at, out = Detector(twice).score(tune), Detector(twice), np.random.default_rng(0), 0, []
    while at < len(tune):
        n = int(rng.choice(sizes))
        out.append(d.score(tune[at:at+n]))
        at += n
    np.testing.assert_allclose(np.concatenate(out), whole, atol=1e-6)
    assert whole.max() > .5 and not np.array_equal(whole, Detector(twice.parent/"twice", verify=False).score(tune))


def test_reset_in_the_middle_of_a_row(twice, tune):
    d = Detector(twice)
    first = d.score(tune)
    for stop in (8000, 12_000, 30_000):
        d.reset()
        d.score(tune[:stop])
        d.reset()
        np.testing.assert_allclose(d.score(tune), first, atol=1e-6)


@pytest.mark.parametrize("tail", [0, 800, 3200, 16_000])
def test_a_recording_that_ends_with_the_call(twice, careful, tail):
    x = np.concatenate([np.zeros(16_000, np.float32), chime(), np.zeros(tail, np.float32)])
    assert len(Detector(careful).detect(x)) == len(Detector(twice).detect(x)) == 1


def test_nobody_is_asked_while_the_first_look_is_unconvinced(careful):
    d, session = counted(careful)
    quiet = d.score(.001*np.random.default_rng(0).standard_normal(100_000).astype(np.float32))
    assert len(quiet) == 312 and not quiet.any() and not session.windows and d.gate_score < .3


def test_reset_forgets_what_the_second_look_heard(careful):
    d, session = counted(careful)
    d.score(np.concatenate([chime(990, 770), chime()]))
    d.reset()
    assert d.gate_score == 0
    n = len(session.windows)
    d.score(chime())
    assert n and len(session.windows) > n and not session.windows[n][:16_000 - 5120].any()


def test_the_first_look_alone(careful, folder, tune):
    alone, plain, d = Detector(careful, verify=False), Detector(folder), Detector(careful)
    assert np.array_equal(alone.score(tune), plain.score(tune))
    assert (alone.smooth_ms, alone.threshold, alone.gate_score) == (40, .3, None) and (d.smooth_ms, d.smooth_frames, d.threshold) == (20, 1, .5)
    assert (Detector(careful, verify=False, smooth_ms=60, threshold=.7).smooth_ms, Detector(careful, smooth_ms=60).smooth_ms) == (60, 60)
    assert plain.gate_score is None


def test_detectors_share_the_verifier_and_not_what_they_heard(careful, tune):
    b = Bundle.load(careful)
    one, two, whole = Detector(b), Detector(b), Detector(b).score(tune)
    assert b.sessions.keys() == {"float32", "verifier"}
    a = [one.score(tune[:6700]), two.score(tune[50_000:60_000]), one.score(tune[6700:])]
    np.testing.assert_allclose(np.concatenate([a[0], a[2]]), whole, atol=1e-6)


def test_a_looks_answer_survives_any_logit(careful):
    d, session = counted(careful)
    for logit, score in ((-1e30, 0), (1e30, 1)):
        session.run = lambda names, feeds: [np.array([logit], np.float32)]
        d.reset()
        assert d.score(chime()).max() == pytest.approx(score)


@pytest.mark.parametrize("changes", [dict(file="other.onnx"), dict(file=...), dict(file=7), dict(samples=0), dict(samples=16_000.), dict(samples=True), dict(every_ms=-1),
                                     dict(smooth_ms="40"), dict(looks=0), dict(looks=1.5), dict(looks=True), dict(looks=None), dict(looks=10**30), dict(every_ms=1e30), dict(open_at=float("nan")), dict(open_at=True), dict(open_at=...)])
def test_wrong_words_about_the_second_look(careful, tmp_path, changes):
    bad = shutil.copytree(careful, tmp_path/"b")
    v = json.loads((bad/"manifest.json").read_text(encoding="utf-8"))["verifier"] | changes
    rewrite(bad, verifier={k: x for k, x in v.items() if x is not ...})
    with pytest.raises(BundleError, match="wrong in verifier"): Bundle.load(bad)


@pytest.mark.parametrize("changes", [dict(verifier=None), dict(verifier=[]), dict(schema_version=1)])
def test_a_second_look_needs_its_schema(careful, tmp_path, changes):
    bad = shutil.copytree(careful, tmp_path/"b")
    rewrite(bad, **changes)
    with pytest.raises(BundleError, match="wrong in verifier"): Bundle.load(bad)


def test_a_second_look_that_does_not_fit_or_is_damaged(careful, tmp_path):
    bad = shutil.copytree(careful, tmp_path/"b")
    v = json.loads((bad/"manifest.json").read_text(encoding="utf-8"))["verifier"]
    rewrite(bad, verifier=v | dict(samples=15_999))
    with pytest.raises(BundleError, match="verifier does not fit"): Detector(bad)
    Detector(bad, verify=False)
    b = Bundle.load(careful)
    with pytest.raises(BundleError, match="pip install -U onnxruntime"): Detector(Bundle(b.path, b.manifest, b.graphs, {}, b"not onnx"))
    with pytest.raises(BundleError, match="verifier does not fit"): Detector(Bundle(b.path, b.manifest, b.graphs, {}, b.graphs["float32"]))
    (bad/"verifier.onnx").write_bytes((bad/"verifier.onnx").read_bytes()[:-1] + b"!")
    with pytest.raises(BundleError, match="SHA-256"): Bundle.load(bad)


@pytest.fixture(scope="module")
def handed(tmp_path_factory):
    "The careful one, whose second look takes the frames of the first"
    return toy_bundle(tmp_path_factory.mktemp("handed")/"b", verify=True, mel=True)


@pytest.mark.parametrize("sizes", [[1], [320], [1280], [0, 1, 37, 321, 5000], [7, 40_000], [200_000]])
def test_frames_that_are_handed_over_say_what_samples_say(careful, handed, tune, sizes):
    x, rng = tune[:20_000] if sizes == [1] else tune, np.random.default_rng(0)
    samples, frames = Detector(careful), Detector(handed)
    assert frames._second.pictures and not samples._second.pictures and frames.bundle.manifest["schema_version"] == 3
    at = 0
    while at < len(x):
        n = int(rng.choice(sizes))
        a, b = samples.score(x[at:at+n]), frames.score(x[at:at+n])
        np.testing.assert_allclose(a, b, atol=1e-4)
        at += n
    assert samples.n_looks == frames.n_looks > 0 and samples.gate_score == frames.gate_score
    assert [e.time_s for e in samples.detect(x)] == [e.time_s for e in frames.detect(x)]
    assert np.array_equal(Detector(handed, verify=False).score(x), Detector(careful, verify=False).score(x))
    both = Detector(handed, compact=True)
    np.testing.assert_array_equal(both.score(x), Detector(handed).score(x))


def looking(handed, tmp_path, answer, **changes):
    "A detector whose verifier answers `answer(number of the window, its rate)`, and what it was asked"
    folder = shutil.copytree(handed, tmp_path/f"b{len(list(tmp_path.iterdir()))}")
    m = json.loads((folder/"manifest.json").read_text(encoding="utf-8"))
    rewrite(folder, verifier=m["verifier"] | dict(rates=[1., .8, .6], open_at=.3) | changes)
    b, asked = Bundle.load(folder), []
    class Session:
        def run(self, names, feeds):
            assert names == ["logit"] and feeds["mel"].shape[1:] == (1, 100) and feeds["mel"].dtype == np.float32
            asked.append(len(feeds["mel"]))
            return [np.array([answer(len(asked))]*len(feeds["mel"]), np.float32)]
    b.sessions["verifier"] = Session()
    return Detector(b), asked


def test_a_look_ends_as_soon_as_it_is_sure(handed, tmp_path, tune):
    x = np.concatenate([np.zeros(16_000, np.float32), chime()])
    for sure, logit, wanted in (([-3., 3.], 0, [1, 2]), ([-3., 3.], 3.5, [1]), ([-3., 3.], -3.5, [1]), ([-9., 9.], 3.5, [1, 2]), (None, 3.5, [1, 2])):
        d, asked = looking(handed, tmp_path, lambda k: logit, **(dict(sure=sure) if sure else {}))
        d.score(x)
        assert asked == wanted*d.n_looks and d._second.n_windows == sum(asked) and d.n_looks > 0
    one, asked = looking(handed, tmp_path, lambda k: 0, rates=[1.])
    one.score(x)
    assert set(asked) == {1}


def test_another_threshold_moves_what_is_in_doubt(handed, tmp_path):
    x = np.concatenate([np.zeros(16_000, np.float32), chime()])
    for threshold, wanted in ((.5, [1]), (.993, [1, 2]), (.0001, [1])): # logits 0, 5 and -9
        d, asked = looking(handed, tmp_path, lambda k: 3.5, sure=[-3., 3.])
        d = Detector(d.bundle, threshold=threshold)
        d.score(x)
        assert asked == wanted*d.n_looks and d.n_looks


def test_a_rest_and_the_frames_before_it(handed, tune):
    "A gate that rests: the chime after it is heard in the half second that is computed again, and what stands for the rest is the quiet before it"
    x = np.concatenate([.001*np.random.default_rng(0).standard_normal(80_000), chime(), .001*np.random.default_rng(1).standard_normal(20_000)]).astype(np.float32)
    for sizes in ([1280], [320], [317, 5000], [len(x)]):
        d, at, found = Detector(handed, silence_db=-50), 0, []
        for n in np.resize(sizes, 400):
            found += d.process(x[at:at+n])
            at += n
        assert [round(e.time_s, 1) for e in found] == [round(e.time_s, 1) for e in Detector(handed).process(x)] and len(found) == 1
        assert d._gate.rested_steps > 100


@pytest.mark.parametrize("changes", [dict(frames=0), dict(frames=100.), dict(n_mels=None), dict(hop_samples=7), dict(hop_samples=...), dict(floor="0"), dict(floor=float("nan")), dict(rates=[]), dict(rates=[1.5]), dict(rates=.8),
                                     dict(sure=[1]), dict(sure=[3., -3.]), dict(sure="all"), dict(sure=None), dict(rates=[1.]*17), dict(n_mels=1 << 20)])
def test_wrong_words_about_frames(handed, tmp_path, changes):
    bad = shutil.copytree(handed, tmp_path/"b")
    v = json.loads((bad/"manifest.json").read_text(encoding="utf-8"))["verifier"] | changes
    rewrite(bad, verifier={k: x for k, x in v.items() if x is not ...})
    with pytest.raises(BundleError, match="wrong in verifier"): Bundle.load(bad)


def test_frames_need_their_schema_and_graphs_that_fit(handed, careful, tmp_path):
    bad = shutil.copytree(handed, tmp_path/"b")
    v = json.loads((bad/"manifest.json").read_text(encoding="utf-8"))["verifier"]
    rewrite(bad, verifier=v | dict(frames=99))
    with pytest.raises(BundleError, match="verifier does not fit"): Detector(bad)
    rewrite(bad, verifier=v, schema_version=2)
    with pytest.raises(BundleError, match="wrong in verifier"): Bundle.load(bad)
    rewrite(bad, verifier=v | dict(hop_samples=80), schema_version=3)
    with pytest.raises(BundleError, match="another hop_samples"): Detector(bad).score(np.zeros(16_000, np.float32))
    b, plain = Bundle.load(handed), Bundle.load(careful)
    with pytest.raises(BundleError, match="does not fit"): Detector(Bundle(b.path, b.manifest, plain.graphs, {}, b.verifier)) # hands nothing over
    with pytest.raises(BundleError, match="verifier does not fit"): Detector(Bundle(b.path, b.manifest, b.graphs, {}, plain.verifier))


def test_schema_2_without_a_second_look(folder, tmp_path):
    b = shutil.copytree(folder, tmp_path/"b")
    rewrite(b, schema_version=2)
    assert Bundle.load(b).verifier is None
