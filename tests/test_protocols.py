"Protocols: noise that is where it is said to be, near misses that are none of the phrase, thresholds that keep their promise, rows that are run once."
import hashlib
from types import SimpleNamespace
import numpy as np, pytest
from wakekit.core import AudioError, ConfigError, WakekitError, read_json
from wakekit.data.audio import load_audio, save_audio
from wakekit.data.spoken import DataConfig, voice_sides
from wakekit.env import Settings
from wakekit.learn.config import preset
from wakekit.ship import bench as training, protocols as module
from wakekit.ship.bench import Bench, ProtocolConfig, audio_pack, toy_pack, under, unseen
from wakekit.ship.evaluate import Recording, evaluate, hear_call
from wakekit.ship.pooled import pooled, protocol_table
from wakekit.ship.protocols import (Placed, Scene, active_level, bench_accuracy, enrol_pairs, enrol_row, holds, judge_in, miss_kinds, near_row, noise_stream, peak_in, real_misses, robust_rows,
                                    run_protocol, which_protocols)
from wakekit.ship.stream import Detector
from wakekit.ship.toy import chime, toy_bundle

FEW = DataConfig(synthetic=40, near_misses=10, filler=24, synthetic_rooms=2, valid_voices=.3, test_voices=.3)
PLAN = ProtocolConfig(few=(3, 5), draws=(2, 1), near_misses=10, near_voices=1, snrs_db=(10,), room_snrs_db=(None,), enrol=(("words/toy", 2),))


def a_bench(pack, out, **more):
    config = preset("tiny", ["epochs=1", "steps_per_epoch=2", "warmup_steps=1", "batch.batch_size=32", "verifier.steps=2", "verifier.batch_size=8"])
    return Bench(pack, out, **{"config": config, "settings": Settings.load(environ={}, device="cpu", compile="off"), "data": FEW, "plan": PLAN, "quiet": True, **more})

def rng_noise(seed, seconds): return np.random.default_rng(seed).standard_normal(int(seconds*16_000)).astype(np.float32)*.1
def rms(x): return float(np.sqrt(np.mean(np.asarray(x, float)**2)))

@pytest.fixture(scope="module")
def pack(tmp_path_factory): return toy_pack(tmp_path_factory.mktemp("toy")/"pack", calls=16, talk=40)

@pytest.fixture(scope="module")
def bell(tmp_path_factory): return Detector(toy_bundle(tmp_path_factory.mktemp("bell")/"chime.wake"))

def of_row(word="computer", threshold=.6, **more): # What N and R read of a row of Z
    report = dict(operating_points=[dict(target_false_accepts_per_hour=.5, threshold=threshold, false_rejects=1, clips=4, hours=1., false_reject_rate=.25)], background=dict(hours=1.))
    return dict(protocol="Z", word=word, phrase=word.replace("_", " "), key="k", graphs=dict(float32=report), **more)


# --- noise and rooms

@pytest.mark.parametrize("snr_db", [20, 10, 0, -5])
def test_the_ratio_is_that_of_active_speech(snr_db):
    speech, noise = np.pad(chime(), (30_000, 20_000)), rng_noise(0, 30)
    added = Scene(noise, snr_db)(speech*.1, "a") - speech*.1
    assert abs(20*np.log10(active_level(speech*.1)/rms(added)) - snr_db) < .1
    assert rms(added[:8000]) == pytest.approx(rms(added), rel=.1)      # as loud before the word as under it


def test_the_moment_of_noise_is_the_recording_s_own():
    x, noise = np.zeros(16_000, np.float32), rng_noise(0, 30)
    a, b = (Scene(noise, db)(x, "a", .01) for db in (20, 0))
    assert np.allclose(b, 10*a, atol=1e-6) and np.array_equal(a, Scene(noise, 20)(x, "a", .01))
    other, seeded = Scene(noise, 20)(x, "b", .01), Scene(noise, 20, seed=1)(x, "a", .01)
    assert abs(np.corrcoef(a, other)[0, 1]) < .1 and abs(np.corrcoef(a, seeded)[0, 1]) < .1


def test_a_loud_mixture_is_not_clipped():
    x = Scene(rng_noise(0, 5), -10)(chime(gain_db=-3), "a")
    assert np.abs(x).max() <= 1 and np.mean(np.abs(x) > .99) < .001


def test_rooms_reverberate_and_keep_the_level():
    late = np.zeros(6400, np.float32)
    late[0], late[6000] = .8, .6
    x = np.pad(chime(), (0, 12_000))
    y = Scene(rooms=(late,))(x, "a")
    assert len(y) == len(x) and active_level(y) == pytest.approx(active_level(x), rel=1e-3) and rms(y[6000:6000 + len(chime())]) > 5*rms(x[6000:6000 + len(chime())])
    rooms = tuple(np.eye(1, 100, k, dtype=np.float32)[0] for k in (0, 50))
    assert len({int(Scene(rooms=rooms)(np.eye(1, 400, 10)[0].astype(np.float32), str(k)).argmax()) for k in range(20)}) == 2


def test_a_gated_clip_gets_noise_in_its_silence_too(bell):
    heard = []
    listening = SimpleNamespace(step_s=bell.step_s, bundle=bell.bundle, smooth_frames=1, reset=lambda: None, score=lambda x: heard.append(x) or np.zeros(len(x)//320))
    gated = np.pad(chime(), 16_000)                                     # digital silence around it
    peak_in(listening, Recording("gated", None, gated), Scene(rng_noise(0, 30), 10))
    x = heard[0]
    levels = [rms(x[k:k + 1600]) for k in range(0, len(x) - 1600, 1600)]
    assert len(x) > len(gated) + 16_000 and min(levels) > .02 and levels[0] == pytest.approx(levels[-1], rel=.2)


def test_noise_never_pauses_and_no_file_rules(tmp_path):
    files = dict(loud=rng_noise(0, 2)*5, soft=rng_noise(1, 2)*.01, barks=np.concatenate([rng_noise(2, .5), np.zeros(40_000, np.float32), rng_noise(3, .5)]), long=rng_noise(4, 20), mute=np.zeros(20_000, np.float32))
    for name, x in files.items(): save_audio(tmp_path/f"{name}.wav", x)
    x = noise_stream(sorted(tmp_path.glob("*.wav")), longest_s=5)
    assert 9*16_000 < len(x) < 11*16_000
    levels = [rms(x[k:k + 1600]) for k in range(0, len(x) - 1600, 1600)]
    assert min(levels) > .05 and max(levels) < .15
    assert not np.array_equal(x, noise_stream(sorted(tmp_path.glob("*.wav")), 1, 5))
    with pytest.raises(AudioError, match="unseen"): noise_stream([tmp_path/"mute.wav"])


def test_background_is_placed_as_it_streams(tmp_path):
    x = np.concatenate([np.pad(chime(), (0, 8000))]*100)               # more than one chunk
    save_audio(tmp_path/"talk.wav", x)
    placed, plain = (b"".join(np.concatenate(list(Placed("talk", tmp_path/"talk.wav", scene=s).chunks())).tobytes() for _ in "1") for s in (Scene(rng_noise(0, 30), 10), Scene()))
    a, b = (np.frombuffer(v, np.float32) for v in (placed, plain))
    assert len(a) == len(b) == len(x) and np.allclose(b, x, atol=1e-4) and abs(20*np.log10(active_level(b)/rms(a - b)) - 10) < .3


# --- R

@pytest.fixture
def scene_of_chimes():
    rng = np.random.default_rng(0)
    calls = [(f"call {k}", np.pad(chime(gain_db=-12 - k), 6000) + rng.normal(0, 1e-3, 17_120).astype(np.float32)) for k in range(10)]
    talk = [(f"talk {k}", np.concatenate([rng_noise(k, 5)*.2, chime(880, 700 + 20*k)])) for k in range(6)]
    return calls, talk


def test_the_quiet_scene_is_the_plain_evaluation(bell, scene_of_chimes):
    calls, talk = scene_of_chimes
    report, found = evaluate(bell.bundle, calls, talk, progress=False), judge_in(bell, *([Recording(n, None, x) for n, x in xs] for xs in scene_of_chimes), Scene(), bell.threshold)
    assert found["unchanged"] == report.at_bundle_threshold.to_dict()
    assert found["point"] == next(p for p in report.points if p.target_false_accepts_per_hour==.5).to_dict()
    c = Recording(*[calls[0][0], None, calls[0][1]])
    assert peak_in(bell, c, Scene()) == pytest.approx(hear_call(bell, c).peak, abs=1e-6)


def test_noise_costs_calls_and_the_point_keeps_to_its_target(bell, scene_of_chimes):
    calls, talk = ([Recording(n, None, x) for n, x in xs] for xs in scene_of_chimes)
    found = {db: judge_in(bell, calls, talk, Scene(rng_noise(9, 30), db), .6) for db in (30, -6)}
    assert found[30]["unchanged"]["false_rejects"] == 0 < found[-6]["unchanged"]["false_rejects"]
    for f in found.values(): assert f["point"]["false_accepts_per_hour"] <= .5 and f["unchanged"]["threshold"] == .6
    assert found[-6]["point"]["threshold"] != found[30]["point"]["threshold"]      # chosen anew on the noisy background


def test_a_broken_call_is_listed_and_not_counted(bell, scene_of_chimes):
    calls, talk = ([Recording(n, None, x) for n, x in xs] for xs in scene_of_chimes)
    found = judge_in(bell, [*calls, Recording("mute", None, np.zeros(16_000, np.float32))], talk, Scene(), .6)
    assert found["unchanged"]["clips"] == 10 and [s["file"] for s in found["skipped"]] == ["mute"]


def test_robust_rows_use_what_nobody_learned_from(pack, tmp_path, monkeypatch):
    toy_bundle(tmp_path/"Z"/"computer"/"bundle")
    bench, asked = a_bench(pack, tmp_path), []
    def judged(detector, calls, background, scene, threshold, target):
        asked.append((len(calls), {b.name for b in background}, scene, threshold, target))
        return dict(point=dict(hours=1.), unchanged={}, skipped=[])
    monkeypatch.setattr(module, "judge_in", judged)
    rows = list(robust_rows(bench, of_row(), tmp_path/"Z"/"computer"))
    assert [(r["snr_db"], r["rooms"]) for r in rows] == [(10, False), (None, True)] and "No music" in rows[0]["cannot_show"] and "speakers of wake/* are unnamed" in rows[0]["cannot_show"]
    by, (first, second) = {r["path"]: r for r in bench.rows}, asked
    assert first[0] == 16 and all(unseen(by[n]) for n in first[1]) and len(under(bench.rows, "wake/view_glass")) < len(first[1]) and first[3:] == (.6, .5)
    assert first[2].noise is not None and not first[2].rooms and second[2].noise is None and len(second[2].rooms) == rows[0]["files"]["rooms"] == sum(map(unseen, under(bench.rows, "rooms")))
    assert list(robust_rows(bench, of_row(), tmp_path/"Z"/"computer")) == rows and len(asked) == 2
    assert len(list(robust_rows(bench, {**of_row(), "key": "another"}, tmp_path/"Z"/"computer"))) == 2 and len(asked) == 4


# --- N

def test_what_holds_the_phrase_is_no_near_miss():
    for text in ("view glass", "View Glass!", "the view glass", "view glass view glass", "re-view glass"): assert holds(text, "view glass"), text
    for text in ("view", "glass view", "view view", "few glass", "viewing glass"): assert not holds(text, "view glass"), text
    for phrase in ("computer", "jarvis", "view glass"):
        kinds = miss_kinds(DataConfig(phrase=phrase), 80)
        assert len(kinds) > 60 and not any(holds(t, phrase) for t in kinds) and len({k for k, _ in kinds.values()}) >= 4
        assert {l for _, l in kinds.values()} == {True, False}


def test_a_list_that_holds_the_phrase_is_cleaned(monkeypatch):
    monkeypatch.setattr(module, "near_misses", lambda *a: [SimpleNamespace(text=t, kind="repeated") for t in ("view glass view glass", "view view")])
    assert list(miss_kinds(DataConfig(phrase="view glass"))) == ["view view"]


def test_near_misses_are_spoken_by_voices_kept_aside(pack, tmp_path):
    bench = a_bench(pack, tmp_path, seed=5)
    sides = {side: {(v.synthesizer, v.name) for v in voices} for side, voices in voice_sides(bench.of("computer")).items()}
    said = [r.name.rsplit("(", 1)[1].rstrip(")") for r in module._said(bench, ["view", "glass"], 24, lambda t: dict(kind="part"), 1)]
    voices = {(v.split(":")[0], v.split("+", 1)[1]) for v in said}
    assert {v[0] for v in voices} == {v[0] for v in sides["test"]} and len(voices) > 3 and voices <= sides["test"] and not voices & (sides["train"] | sides["valid"])


def test_near_misses_are_counted_by_kind_at_both_thresholds(pack, tmp_path, monkeypatch):
    toy_bundle(tmp_path/"Z"/"computer"/"bundle")
    real = [dict(path="words/dsp/close/1.wav", label="com", speaker="a")]
    bench = a_bench(pack, tmp_path)
    bench.rows.extend(real)
    monkeypatch.setattr(module, "miss_kinds", lambda *a: {"com": ("part", True), "puter com": ("swapped", False), "commuter": ("sound_alike", False)})
    peaks = {"com": .7, "puter com": .1, "commuter": .9, "computer": .99}
    def heard(detector, items, progress):
        text = lambda i: "com" if i.path else i.name.split(": ")[1].split(" (")[0]
        return [SimpleNamespace(item=i, peak=peaks[text(i)]) for i in items], []
    monkeypatch.setattr(module, "voice_sides", lambda config: dict(test=[v for v in voice_sides(config)["test"] if v.synthesizer=="espeak"]))
    monkeypatch.setattr(module, "hear_positives", heard)
    row = near_row(bench, of_row(threshold=.8), tmp_path/"Z"/"computer")
    target, own = row["at"]["target"], row["at"]["bundle"]
    assert target["threshold"] == .8 and own["threshold"] == Detector(tmp_path/"Z"/"computer"/"bundle").threshold < .7
    assert {k: (v["fires"], v["n"]) for k, v in target["kind"].items()} == {"part": (0, 1), "swapped": (0, 1), "sound_alike": (1, 1)} and own["kind"]["part"]["fires"] == 1
    assert {k: (v["fires"], v["n"]) for k, v in target["apart"].items()} == {"less than 3 steps away": (1, 1), "6 steps away or more": (0, 2)}
    assert target["text"]["in training"]["fires"] == 0 and own["text"]["in training"]["fires"] == 1 and target["all"]["share"] == pytest.approx(1/3)
    assert target["phrase_fires"] | {"share_95": 0} == dict(n=40, fires=40, share=1., share_95=0) and own["people"]["fires"] == 1 and target["people"]["fires"] == 0
    assert [f["said"].split(" (")[0].split(": ")[1] for f in row["fired"]] == ["commuter", "com"] and "No recording" not in row["cannot_show"]


def test_a_distance_that_nobody_knows_is_none():
    from wakekit.data.phrases import steps_apart
    assert np.isnan(steps_apart("okay bugle", "okay google", "ru")) and steps_apart("commuter", "computer") == pytest.approx(1.8)
    assert not any(steps_apart("okay bugle", "okay google", "ru") < most for most, _ in module.APART)  # so the row must have a word for it


def test_real_near_misses_are_labels_of_the_list():
    rows = [dict(path=f"words/x/{k}.wav", label=l) for k, l in enumerate(("view", "view_glass", "Glass view", "close"))] + [dict(path="speech/1.wav", label="view")]
    assert [r["label"] for r in real_misses(rows, {"view": 0, "glass view": 0})] == ["view", "Glass view"]


# --- E

@pytest.fixture(scope="module")
def known(pack): # Waveform → its row
    return {hashlib.sha1(load_audio(pack/r["path"]).tobytes()).hexdigest(): r for r in under(audio_pack(pack), "words")}

def listener(known, same, people, words):
    "An enrolment that knows whom it hears"
    def enrol(takes, folder, settings):
        row = lambda x: known[hashlib.sha1(x.tobytes()).hexdigest()]
        me = row(takes[0])
        assert {(row(t)["speaker"], row(t)["label"]) for t in takes} == {(me["speaker"], me["label"])}
        score = lambda x: words if row(x)["label"] != me["label"] else same if row(x)["speaker"] == me["speaker"] else people
        return SimpleNamespace(score=score, threshold=.5)
    return enrol


def test_enrolment_is_counted_three_ways(pack, tmp_path, known):
    pair = enrol_pairs(audio_pack(pack), "words/toy", 1)[0]
    row = enrol_row(a_bench(pack, tmp_path), "words/toy", pair, listener(known, .9, .4, .1))
    strict, own = row["at"]["strict"], row["at"]["own"]
    assert strict["same"] == dict(n=1, missed=0) and strict["people"] == dict(n=12, missed=0) and strict["words"]["fires"] == 0 and .1 < strict["threshold"] < .11
    assert own["people"] == dict(n=12, missed=12) and own["same"]["missed"] == 0 and len(row["learned"]) == 3


def test_who_cannot_tell_words_apart_misses_everything(pack, tmp_path, known):
    pair = enrol_pairs(audio_pack(pack), "words/toy", 1)[0]
    row = enrol_row(a_bench(pack, tmp_path), "words/toy", pair, listener(known, .9, .9, .9))
    assert row["at"]["strict"]["same"] == dict(n=1, missed=1) and row["at"]["own"]["words"]["share"] == 1.


@pytest.mark.parametrize("allowed, fires", [(.01, 0), (.25, 2), (.5, 4)])
def test_the_strict_threshold_lets_no_more_fire_than_allowed(pack, tmp_path, allowed, fires):
    scores = iter(range(100))
    pair = enrol_pairs(audio_pack(pack), "words/toy", 1)[0]
    row = enrol_row(a_bench(pack, tmp_path, plan=PLAN.replace(other_words_fire=allowed)), "words/toy", pair, lambda *a: SimpleNamespace(score=lambda x: next(scores)/100))
    assert row["at"]["strict"]["words"]["fires"] == fires and row["at"]["strict"]["words"]["n"] == 8 and "own" not in row["at"]


def test_pairs_leave_a_take_and_prefer_new_speakers(pack):
    rows = [dict(path=f"words/s/{w}/{p}{k}.wav", label=w, speaker=p, language="ar") for w in "ab" for p in ("x", "y", "z", "") for k in range(3 if w == "a" else 1)]
    pairs = enrol_pairs(rows, "words/s", 9, 3, 0)
    assert [(len(p.learn), len(p.same)) for p in pairs] == [(2, 1)]*3 and {p.speaker for p in pairs} == {"x", "y", "z"} and all(len(p.other_words) == 1 and len(p.other_people) == 9 - 3 + 3 for p in pairs)
    many = enrol_pairs(audio_pack(pack), "words/toy", 4, 3, 0)
    assert len({p.speaker for p in many}) == 4 and many == enrol_pairs(audio_pack(pack), "words/toy", 4, 3, 0) != enrol_pairs(audio_pack(pack), "words/toy", 4, 3, 1)


def test_another_enrolment_is_another_row(pack, tmp_path, known):
    a, b = listener(known, .9, .4, .1), lambda *x: listener(known, .2, .2, .2)(*x)
    bench = a_bench(pack, tmp_path)
    first = list(run_protocol(bench, "E", enrol=a))
    assert [r["at"]["own"]["same"]["missed"] for r in first] == [0, 0] and list(run_protocol(bench, "E", enrol=a)) == first
    assert [r["at"]["own"]["same"]["missed"] for r in run_protocol(bench, "E", enrol=b)] == [1, 1]


def test_who_cannot_enrol_is_missed(pack, tmp_path):
    def refuses(takes, folder, settings): raise AudioError("take 2 is another word")
    pair = enrol_pairs(audio_pack(pack), "words/toy", 1)[0]
    row = enrol_row(a_bench(pack, tmp_path), "words/toy", pair, refuses)
    at = row["at"]["strict"]
    assert row["refused"] == "take 2 is another word" and at["same"]["missed"] == at["same"]["n"] == len(pair.same) and at["words"]["fires"] == 0
    own = row["at"]["own"]["same"]
    assert own["missed"] == own["n"] == len(pair.same)


def test_the_packages_own_enrolment(pack, tmp_path):
    rows = list(run_protocol(a_bench(pack, tmp_path, plan=PLAN.replace(enrol=(("words/toy", 1),))), "E"))
    assert [r["by"] for r in rows] == ["wakekit.learn.enrol.enrol"] and set(rows[0]["at"]) == {"strict", "own"} and rows[0]["refused"] is None


# --- all of it

@pytest.mark.parametrize("text, names", [("half", ("half",)), ("z0, f,Z", ("Z0", "F", "Z")), ("ALL", ("Z", "Z0", "N", "R", "F", "E")), ("N,N", ("N",))])
def test_protocols_are_read(text, names): assert which_protocols(text) == names

@pytest.mark.parametrize("text", ["", ",", "Q", "Z;N", "half,quarter"])
def test_unknown_protocols(text):
    with pytest.raises(ConfigError, match="Z0"): which_protocols(text)


def test_a_mistyped_word_is_found_before_anything_runs(pack, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "prepare", lambda *a: pytest.fail("something ran"))
    with pytest.raises(AudioError, match="computer, view_glass"): bench_accuracy(a_bench(pack, tmp_path), ("Z",), ["computer", "jarvis"])


def test_an_interrupted_run_goes_on_where_it_stopped(pack, tmp_path, monkeypatch):
    runs = []
    def judged(bench, word, split, folder):
        runs.append((folder.relative_to(tmp_path).as_posix(), len(split.train_calls)))
        if len(runs) == 4: raise KeyboardInterrupt
        return dict(graphs={})
    monkeypatch.setattr(training, "_train_and_judge", judged)
    bench = a_bench(pack, tmp_path)
    with pytest.raises(KeyboardInterrupt): bench_accuracy(bench, ("Z", "F"), ["computer"])
    assert runs == [("Z/computer", 0), ("F/computer/3-0", 3), ("F/computer/3-1", 3), ("F/computer/5-0", 5)] and not (tmp_path/"accuracy.json").exists()
    found = bench_accuracy(bench, ("Z", "F"), ["computer"])
    assert runs[4:] == [("F/computer/5-0", 5)] and [(r["protocol"], r.get("size"), r.get("draw")) for r in found["rows"]] == [("Z", None, None), ("F", 3, 0), ("F", 3, 1), ("F", 5, 0)]


def test_every_word_of_the_pack_but_for_half(pack, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "_train_and_judge", lambda bench, word, split, folder: dict(graphs={}))
    rows = [*run_protocol(a_bench(pack, tmp_path), "Z0"), *run_protocol(a_bench(pack, tmp_path), "half")]
    assert [(r["protocol"], r["word"], r["phrase"]) for r in rows] == [("Z0", "computer", "computer"), ("Z0", "view_glass", "view glass"), ("half", "computer", "computer"), ("half", "view_glass", "view glass")]


def test_from_the_pack_to_the_table(pack, tmp_path, known, monkeypatch):
    bench = a_bench(pack, tmp_path, plan=PLAN.replace(draws=(0, 1), robust_few=5))
    found = bench_accuracy(bench, ("Z", "N", "R", "F", "E"), ["computer"], listener(known, .9, .4, .1))
    assert [r["protocol"] for r in found["rows"]] == ["Z", "N", *["R"]*4, "F", "E", "E"] and {r["of_protocol"] for r in found["rows"] if r["protocol"]=="R"} == {"Z", "F5 #0"}
    small, full = (read_json(tmp_path/f"{n}.json") for n in ("summary", "accuracy"))
    assert full["pooled"] == small["pooled"] and "det" in full["rows"][0]["graphs"]["int8"] and "det" not in small["rows"][0]["graphs"]["int8"] and "scores" not in small["rows"][-1]
    for r in full["rows"]: assert r["cannot_show"] and r["command"] and r["config"]["epochs"] == 1 and r["seed"] == 0 and r["key"]
    assert full["cannot_show"].count("speakers of wake/* are unnamed") == 1 and "config" not in small["rows"][0] and small["shared"]["config"] == full["rows"][0]["config"]
    z, f = full["rows"][0], full["rows"][6]
    assert (z["learned_calls"], f["learned_calls"], z["graphs"]["float32"]["positives"]["clips"], f["graphs"]["float32"]["positives"]["clips"]) == (0, 5, 16, 11)
    assert {p.name for p in tmp_path.iterdir()} >= {"accuracy.md", "det.png", "snr.png"} and not list(tmp_path.rglob("work"))
    table = (tmp_path/"accuracy.md").read_text(encoding="utf-8")
    assert "F5, 10 dB" in table and "5 recordings, float32" in table and "other words that fire" in table and "nobody raises their voice" in table
    assert protocol_table(pooled(full["rows"])) in table
    monkeypatch.setattr(training, "train", lambda *a, **k: pytest.fail("trained again"))
    assert bench_accuracy(bench, ("Z", "N", "R", "F"), ["computer"])["rows"] == full["rows"][:7]
