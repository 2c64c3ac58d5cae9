"The benchmark of speed: what is measured is kept, whatever stops it; whoever is missing is named. No test looks at a time."
import importlib.util, json, os, signal, subprocess, sys, time
from pathlib import Path
import numpy as np, pytest
from wakekit.cli import main
from wakekit.core import ConfigError
from wakekit.ship import engines
from wakekit.ship.engines import ENGINES, SpeedError, elsewhere, hear_here, hearing_rounds, in_turns, kinds, package_mb, rotated
from wakekit.ship.speed import MEASURES, PARTS, SpeedConfig, SpeedReport, bench_speed, ratio, sound_for
from wakekit.ship.stream import Bundle, Detector
from wakekit.ship.toy import chime, toy_bundle

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def toy(tmp_path_factory): return toy_bundle(tmp_path_factory.mktemp("toy")/"ding_dong.wake", verify=True)

@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    x = .001*np.random.default_rng(0).standard_normal(8*16_000)
    x[6*16_000:][:5120] += chime()
    (x*32767).astype("<i2").tofile(path := tmp_path_factory.mktemp("sound")/"sound.i16")
    return path


# --- a turn

def test_turns_are_fair_and_the_collector_is_back(tmp_path):
    assert [rotated("abc", r)[0] for r in range(4)] == list("abca") and rotated([], 3) == []
    def fails(): raise RuntimeError
    calls = []
    turns = in_turns({"a": lambda: calls.append(1) or len(calls) > 1 and fails()}, 3)
    with pytest.raises(RuntimeError): list(turns)
    import gc
    assert gc.isenabled() and len(calls) == 2 # the first is not counted


def test_a_process_tells_line_by_line_and_its_fault_is_the_last_line():
    found = elsewhere("wakekit.ship.engines:rotated", dict(names=[{"n": 1}, {"n": 2}], r=0))
    assert next(found) == {"n": 1}
    found.close() # somebody has enough
    with pytest.raises(SpeedError, match="No module named 'wakekit.nowhere'"): list(elsewhere("wakekit.nowhere:f", {}))


def test_what_others_print_is_no_finding(tmp_path, monkeypatch):
    (tmp_path/"noisy.py").write_text("def f():\n    print('loading…')\n    yield {'a': 1}\n", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    assert list(elsewhere("noisy:f", {})) == [{"a": 1}]


# --- listening

def test_every_engine_hears_the_same_and_wakekit_hears_what_it_hears_elsewhere(toy, sound):
    d, x = Detector(toy), np.fromfile(sound, "<i2")
    for i in range(0, 4*16_000, 1280): d.process(x[i:i + 1280])
    warm = d._second.n_looks
    for i in range(0, len(x), 1280): d.process(x[i:i + 1280])
    found, = elsewhere("wakekit.ship.engines:hear_here", dict(engine="wakekit", pcm=str(sound), bundle=str(toy)))
    assert found["looks"] == d._second.n_looks - warm > 0
    first, = elsewhere("wakekit.ship.engines:hear_here", dict(engine="wakekit", pcm=str(sound), bundle=str(toy), options=dict(verify=False)))
    assert first["looks"] == 0


def test_memory_is_that_of_the_process_and_not_of_whoever_started_it(sound):
    hold = np.ones(40_000_000) # 320 MB, in use
    found, = elsewhere("wakekit.ship.engines:hear_here", dict(engine="numpy alone", pcm=str(sound)))
    if Path("/proc/self/status").exists(): assert 5 < found["peak_mb"] < 200 < engines.peak_mb()
    assert hold.all()


def test_who_is_missing_is_named_and_who_fails_says_why(toy, sound, monkeypatch):
    monkeypatch.setitem(ENGINES, "nobody", (None, "nobody_there", "nobody-there"))
    real = engines.elsewhere
    def without(function, spec, threads=1):
        if spec["engine"] in ("wakekit", "numpy alone"): yield from real(function, spec, threads)
        else: raise SpeedError("ModuleNotFoundError: No module named 'x'" if spec["engine"] == "nobody" else "OSError: libc is too old")
    monkeypatch.setattr(engines, "elsewhere", without)
    told = list(hearing_rounds(Bundle.load(toy), sound, rounds=2))
    skipped = [t for t in told if "skipped" in t]
    assert {t["name"] for t in skipped} == set(ENGINES) - {"wakekit", "numpy alone"} and len(skipped) == len(ENGINES) - 2 # once each
    assert {t["skipped"] for t in skipped if t["name"] == "nobody"} == {"not installed: pip install nobody-there"}
    assert {t["skipped"] for t in skipped if t["name"] != "nobody"} == {"OSError: libc is too old"}
    assert {t["name"] for t in told if "p50_ms" in t} == {"wakekit", "wakekit, first look alone", "numpy alone"}


def test_a_detector_that_fails_is_no_peer_that_is_missing(tmp_path, sound):
    bundle = Bundle.load(toy_bundle(tmp_path/"b.wake"))
    (tmp_path/"b.wake"/"model.onnx").write_bytes(b"\0")
    with pytest.raises(SpeedError, match="damaged"): list(hearing_rounds(bundle, sound, 1))


def test_modules_that_measure_engines_are_light():
    code = "import sys, wakekit.ship.engines; print([m for m in ('numpy', 'torch', 'onnxruntime', 'soundfile') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


# --- learning

def test_features_are_compared_before_they_are_timed():
    told = list(elsewhere("wakekit.ship.throughput:feature_rounds", dict(rounds=1, clips=4)))
    agree = {t["name"]: t["agrees"] for t in told if "agrees" in t}
    same = {"wakekit", "torchaudio", "torch.stft", "scipy", "librosa", "kaldi-native-fbank"} - {t["name"] for t in told if "skipped" in t}
    assert same <= agree.keys() and all(agree[n] > .99 for n in same)
    assert {t["name"] for t in told if "clips_per_s" in t} == agree.keys() | ({"pymicro-features"} if importlib.util.find_spec("pymicro_features") else set())


def test_the_plain_loop_learns_from_the_same_clips_with_workers(tmp_path, one_thread):
    from wakekit.data.spoken import DataConfig
    from wakekit.learn.config import preset
    from wakekit.ship.throughput import own_sets, training_rounds
    sets = own_sets(tmp_path, DataConfig(phrase="computer", synthetic=30, near_misses=8, filler=12, synthetic_rooms=4, valid_voices=.3))
    told = list(training_rounds(sets, preset("tiny", ["batch.batch_size=16"]), tmp_path, rounds=2, steps=2, workers=1))
    assert sorted(t["name"] for t in told) == ["torchaudio + DataLoader"]*2 + ["wakekit"]*2 and all(t["clips_per_s"] > 0 for t in told)


# --- the report

def check_schema(d):
    assert d["schema_version"] == 1 and isinstance(d["machine"], str) and d["command"] and d["cannot_show"] and {"python", "wakekit", "numpy"} <= d["versions"].keys()
    assert SpeedConfig.from_dict(d["config"]).to_dict() == d["config"] and isinstance(d["complete"], bool) and isinstance(d["skipped"], dict)
    for r in d["rows"]:
        assert r.keys() == {"part", "name", "measure", "unit", "median", "values", "ratio"} and r["part"] in PARTS and r["measure"] in MEASURES
        assert min(r["values"]) <= r["median"] <= max(r["values"]) and all(np.isfinite(r["values"])) and (r["ratio"] is None or r["ratio"] > 0)
    for f in d["figures"].values(): assert f.keys() == {"value", "unit", "what", "command"} and f["command"] == d["command"]
    assert SpeedReport.from_dict(d).to_dict() == d


def test_ratios_are_those_of_a_round():
    assert ratio([2, 20, 3], [1, 10, 1]) == 2 and ratio([4], [1, 2, 3]) == 2 and ratio([1], []) is None and ratio([1], [0]) is None


def test_the_committed_run_fits():
    check_schema(json.loads((ROOT/"bench"/"speed.json").read_text(encoding="utf-8")))


def test_a_small_run_from_the_command_line(toy, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(f"bench speed --bundle {toy} --only streaming,features,startup,size --rounds 1 --seconds 5 --out out --json".split()) == 0
    found = json.loads(capsys.readouterr().out)
    written = json.loads(Path("out/speed.json").read_text(encoding="utf-8"))
    assert found == written and Path("out/speed.png").read_bytes()[:4] == b"\x89PNG"
    check_schema(found)
    assert {r["part"] for r in found["rows"]} == {"streaming", "features", "startup", "size"} and found["complete"]
    missing = {e for e in ENGINES if not importlib.util.find_spec(ENGINES[e][1].split(".")[0])}
    assert missing <= found["skipped"].get("streaming", {}).keys()


def test_ctrl_c_keeps_what_was_measured(toy, tmp_path):
    code = "import sys; from wakekit.cli import main; sys.exit(main())"
    p = subprocess.Popen([sys.executable, "-c", code, *f"bench speed --bundle {toy} --only size,streaming --rounds 500 --seconds 5 --out out".split()], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                         text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=os.name != "nt")
    if os.name == "nt": p.kill(), pytest.skip("needs signals")
    for _ in range(600):
        if (tmp_path/"out"/"work"/"sound.i16").exists(): break
        time.sleep(.1)
    time.sleep(4)
    os.killpg(p.pid, signal.SIGINT)
    out, err = p.communicate(timeout=60)
    assert p.returncode == 130 and "speed.json" in err and "Traceback" not in err and not out
    found = json.loads((tmp_path/"out"/"speed.json").read_text(encoding="utf-8"))
    check_schema(found)
    assert not found["complete"] and {"size"} <= {r["part"] for r in found["rows"]} <= {"size", "streaming"}


def test_a_part_that_fails_does_not_stop_the_others(toy, tmp_path, monkeypatch):
    from wakekit.ship import speed
    def broken(*_): raise SpeedError("no sound card")
    monkeypatch.setattr(speed, "hearing_rounds", lambda *a: (broken() for _ in range(1)))
    report = bench_speed(tmp_path, SpeedConfig(parts=("streaming", "size"), rounds=1, seconds=5), toy, quiet=True)
    assert report.skipped["streaming"] == {"all of it": "no sound card"} and {r["part"] for r in report.rows()} == {"size"} and "no sound card" in report._repr_markdown_()


@pytest.mark.parametrize("line, says", [("--only streaming,fly", "there is no part fly: choose some of streaming"), ("--only ,", "there is no part"), ("--rounds 0", "rounds must be at least 1"),
                                        ("--seconds 2", "seconds must be at least 5"), ("--rounds many", "invalid int"), ("--seconds nan", "no number")])
def test_bad_arguments_are_told_before_anything_runs(line, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "speed", *line.split()]) == 2
    assert says in capsys.readouterr().err and not any(tmp_path.iterdir())


@pytest.mark.parametrize("line, says", [("--bundle nowhere.wake", "does not exist"), ("--audio nowhere.wav --bundle TOY", "does not exist")])
def test_what_is_not_there_is_said_in_one_line(line, says, toy, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "speed", "--out", "out", *line.replace("TOY", str(toy)).split()]) == 1
    err = capsys.readouterr().err
    assert says in err and len(err.splitlines()) == 1 and not (tmp_path/"out"/"speed.json").exists()


def test_own_recordings_are_heard(toy, tmp_path):
    from wakekit.data.audio import save_audio
    for k in range(2): save_audio(tmp_path/"talk"/f"{k}.wav", np.full(16_000, (k + 1)/8, np.float32))
    x = np.fromfile(sound_for(tmp_path/"w", 5, "", tmp_path/"talk"), "<i2")
    assert len(x) == 5*16_000 and [round(float(x[i*16_000 + 9])/32767*8) for i in range(5)] == [1, 2, 1, 2, 1]


def test_sizes_count_each_package_once():
    seen = set()
    assert package_mb("numpy", seen) > 1 and package_mb("NumPy", seen) == 0 and package_mb("no-such-package") == 0
