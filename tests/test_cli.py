"The command line as other programs meet it: exit codes, lines, JSON, signals, kills, consoles."
import json
import os
import signal
import subprocess
import sys
import time
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest

from wakekit.cli import main
from wakekit.data.interchange import guess_format
from wakekit.data.audio import save_audio
from wakekit.data.interchange import Dataset
from wakekit.ship.stream import Bundle
from wakekit.ship.toy import chime, toy_bundle

TYPED = [sys.executable, "-c", "import sys; from wakekit.cli import main; sys.exit(main())"]
SMALL = ("--preset tiny --set steps_per_epoch=6 --set batch.batch_size=32 --set warmup_steps=2 --set mine_from=1 --set mine_every=1 --set hard_windows=50 --set verifier.steps=2 --set verifier.batch_size=8 "
         "--set data.synthetic=50 --set data.near_misses=20 --set data.filler=24 --set data.synthetic_rooms=3 --device cpu").split()


def child_env(**more):
    "The environment of a child: this one without wakekit's own settings"
    return {k: v for k, v in os.environ.items() if not k.startswith("WAKE")} | {"OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"} | more


def wakekit(*args, cwd, input=None, blocked=(), **env):
    "Run `wakekit …` in a process of its own"
    code = f"import sys\nfor m in {tuple(blocked)!r}: sys.modules[m] = None\nfrom wakekit.cli import main\nsys.exit(main())"
    return subprocess.run([sys.executable, "-c", code, *map(str, args)], cwd=cwd, input=input, capture_output=True, env=child_env(**env), timeout=300)


@pytest.fixture(autouse=True)
def at_home(tmp_path, monkeypatch):
    for k in [k for k in os.environ if k.startswith("WAKE")]: monkeypatch.delenv(k)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def bundle(tmp_path): return toy_bundle(tmp_path/"chime.wake")


@pytest.fixture
def evening(tmp_path):
    x = (.002*np.random.default_rng(0).standard_normal(6*16_000)).astype(np.float32)
    x[40_000:][:len(chime())] += chime()
    save_audio(tmp_path/"evening.wav", x)
    return tmp_path/"evening.wav"


@pytest.fixture
def kitchen(tmp_path):
    ds = Dataset.create(tmp_path/"data"/"datasets"/"kitchen", "hey jarvis")
    for k in range(3): ds.add((.1*np.random.default_rng(k).standard_normal(8000)).astype(np.float32), "positive", speaker=f"p{k}", original_name=f"{k}.wav")
    return ds


def one_error_line(capsys):
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and "Traceback" not in err
    return err


# --- exit codes and lines

@pytest.mark.parametrize("line", ["", "data", "nonsense", "data nonsense", "detect", "train", "evaluate x", "synth", "detect b f.wav --threshold -1", "detect b f.wav --threshold nan",
                                  "detect b", "detect b --mic f.wav", "detect b - f.wav", "synth hello --dataset d --count 0", "synth hello --dataset d --count -3", "data create a*b hello",
                                  "data list --trash", "export --out o", "export b --run r --out o", "export b --out o --formats pt,ts", "export b --out o --formats tflite",
                                  "evaluate b --positives p --background q --gate nope=1", "evaluate b --positives p --background q --gate min_hours", "doctor --det",
                                  "bench accuracy --audio . --protocol Z,Q", "bench accuracy --audio . --plan few=some", "bench accuracy --audio . --plan fewer=[1]"])
def test_bad_usage_is_2(line, capsys):
    assert main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == "" and err and "Traceback" not in err


@pytest.mark.parametrize("line, says", [("detect nowhere.wake a.wav", "does not exist"), ("data list cellar", "data create cellar"), ("train cellar", "no dataset"), ("data import cellar .", "no dataset"),
                                        ("evaluate nowhere.wake --positives . --background .", "does not exist"), ("quantize nowhere.wake", "does not exist"), ("export --run . --out o", "no training"),
                                        ("doctor --env-file nowhere.env", "no settings file"), ("synth ヘイ --dataset d --count 1", "language"), ("bench accuracy --audio .", "manifest.csv")])
def test_failures_are_1_and_one_line(line, says, capsys):
    assert main(line.split()) == 1
    assert says in one_error_line(capsys) and not list(Path().rglob("dataset.json"))


@pytest.mark.parametrize("line", ["train kitchen --set epoch=2", "train kitchen --set epochs=many", "train kitchen --set epochs", "train kitchen --preset huge", "train kitchen --set data.fillers=3",
                                  "train kitchen --no-synth --synthetic 3", "train kitchen --device toaster", "quickstart --set lr=fast"])
def test_mistyped_hyperparameters_are_found_before_anything_is_computed(kitchen, line, capsys):
    assert main(line.split()) == 2
    one_error_line(capsys)
    assert not (kitchen.path/".wakekit").exists() and not Path("quickstart").exists()


def test_help_and_version_are_0(capsys):
    for line in ("--help", "--version", "data --help", "data import --help", "train --help", "bench accuracy --help"): assert main(line.split()) == 0
    assert "usage: wakekit" in capsys.readouterr().out


def test_every_command_teaches_with_an_example_and_speaks_json(capsys):
    from wakekit.cli_data import commands
    for name in commands.all:
        assert main([*name.split(), "--help"]) == 0
        text = capsys.readouterr().out
        assert "example:\n  " in text and "wakekit " + name in text.split("example:")[1] and "--json" in text and "--env-file" in text


def test_debug_shows_the_traceback(monkeypatch, capsys):
    monkeypatch.setenv("WAKEKIT_DEBUG", "1")
    assert main(["data", "list", "cellar"]) == 1
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.delenv("WAKEKIT_DEBUG")
    Path("debug.env").write_text("WAKEKIT_DEBUG=1\n", encoding="utf-8")
    main(["data", "list", "cellar", "--env-file", "debug.env"])
    assert "Traceback" in capsys.readouterr().err


def test_a_fault_of_ours_is_one_line_too(monkeypatch, capsys):
    monkeypatch.setattr("wakekit.doctor.doctor", lambda s: 1/0)
    assert main(["doctor"]) == 1
    assert "ZeroDivisionError" in one_error_line(capsys)


def test_a_full_disk_is_one_line(bundle, evening, monkeypatch, capsys):
    def full(*_): raise OSError(28, "No space left on device", "x.wav")
    monkeypatch.setattr(Dataset, "create", classmethod(full))
    assert main(["data", "create", "kitchen", "hey jarvis"]) == 1
    assert "No space left on device: x.wav" in one_error_line(capsys)


def test_a_missing_package_is_named_with_its_extra(kitchen, tmp_path):
    p = wakekit("train", "kitchen", cwd=tmp_path, blocked=["torch"])
    assert p.returncode == 1 and b"pip install 'wakekit[train]'" in p.stderr and len(p.stderr.splitlines()) == 1


def test_main_leaves_warnings_and_logs_as_they_were(capsys):
    import logging
    import warnings
    before = logging.getLogger("wakekit").handlers[:], logging.getLogger("wakekit").level, warnings.showwarning
    main(["data", "list"])
    assert (logging.getLogger("wakekit").handlers, logging.getLogger("wakekit").level, warnings.showwarning) == before


# --- start-up, consoles, pipes

def test_help_loads_nothing_heavy(tmp_path):
    p = subprocess.run([sys.executable, "-X", "importtime", "-c", "from wakekit.cli import main; main(['--help'])"], capture_output=True, text=True, encoding="utf-8", cwd=tmp_path, env=child_env())
    assert p.returncode == 0 and not [l for l in p.stderr.splitlines() if l.split("|")[-1].strip().split(".")[0] in ("torch", "numpy", "onnxruntime", "soundfile", "librosa")]


def test_a_console_that_lacks_letters(tmp_path):
    env = dict(PYTHONUTF8="0", PYTHONIOENCODING="cp1252")
    assert wakekit("data", "create", "k", "ヘイ ジャービス", cwd=tmp_path, **env).returncode == 0
    p = wakekit("data", "list", cwd=tmp_path, **env)
    assert p.returncode == 0 and b"?" in p.stdout and p.stderr == b""
    p = wakekit("data", "list", "--json", cwd=tmp_path, **env)
    assert json.loads(p.stdout.decode("cp1252"))[0]["phrase"] == "ヘイ ジャービス"
    p = wakekit("data", "list", "ヘイ", cwd=tmp_path, **env)
    assert p.returncode == 1 and b"Traceback" not in p.stderr


def test_a_reader_that_had_enough(kitchen, tmp_path):
    p = subprocess.Popen([*TYPED, "data", "list", "kitchen"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=child_env())
    p.stdout.close()
    assert (p.stderr.read(), p.wait(60)) == (b"", 0)
    p.stderr.close()


# --- data

def test_data_commands_speak_json(kitchen, tmp_path, capsys):
    def said(*args, code=0):
        assert main([*args, "--json"]) == code
        return json.loads(capsys.readouterr().out)
    assert said("data", "create", "other", "hey you")["phrase"] == "hey you"
    assert [d["name"] for d in said("data", "list")] == ["kitchen", "other"]
    clips = said("data", "list", "kitchen", "--label", "positive")["clips"]
    assert len(clips) == 3 and {"id", "label", "duration_s", "speaker"} <= clips[0].keys()
    assert said("data", "trash", "kitchen", clips[0]["id"])[0]["trashed"]
    assert [c["id"] for c in said("data", "list", "kitchen", "--trash")["clips"]] == [clips[0]["id"]]
    assert not said("data", "restore", "kitchen", clips[0]["id"])[0]["trashed"]
    assert said("data", "export", "kitchen", "--out", "nemo")["clips"] == 3 and Path("nemo/manifest.jsonl").is_file()
    assert said("data", "export", "kitchen", "--out", "hf", "--format", "audiofolder")["path"] == "hf" and list(Path("hf").rglob("metadata.jsonl"))
    assert len(said("data", "import", "other", "nemo/manifest.jsonl")["added"]) == 3


def test_one_wrong_id_moves_nothing(kitchen, capsys):
    assert main(["data", "trash", "kitchen", kitchen.clips()[0].id, "0"*16]) == 1
    assert len(kitchen.clips()) == 3


def test_import_lists_what_it_skips_and_fails_when_nothing_came(kitchen, tmp_path, capsys):
    (tmp_path/"in").mkdir()
    (tmp_path/"in"/"photo.wav").write_bytes(b"\xff\xd8\xff\xe0")
    assert main(["data", "import", "kitchen", "in", "--label", "negative", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["added"] == [] and "JPEG" in found["skipped"][0]["reason"]
    save_audio(tmp_path/"in"/"good.wav", (.1*np.random.default_rng(9).standard_normal(8000)).astype(np.float32))
    assert main(["data", "import", "kitchen", "in", "--label", "negative", "--speaker", "ann"]) == 0
    assert "1 added" in (text := capsys.readouterr().out) and "photo.wav" in text
    assert kitchen.clips("negative")[0].speaker == "ann"


def test_formats_are_guessed(tmp_path):
    for p in ("a/positive", "b/music", "c/yes", "d/x", "e/x"): (tmp_path/p).mkdir(parents=True)
    (tmp_path/"c"/"yes"/"ann_nohash_0.wav").touch()
    (tmp_path/"d"/"x"/"metadata.csv").touch()
    (tmp_path/"m.jsonl").touch()
    assert [guess_format(tmp_path/n) for n in ("a", "b", "c", "d", "e", "m.jsonl")] == ["folder", "tree", "speech-commands", "audiofolder", "folder", "jsonl"]


def test_a_folder_without_labels_is_not_guessed_at(kitchen, tmp_path, capsys):
    save_audio(tmp_path/"in"/"a"/"x.wav", np.ones(8000, np.float32)*.1)
    assert main(["data", "import", "kitchen", "in"]) == 1
    assert "name a label" in one_error_line(capsys)


def test_a_dataset_of_a_newer_version(kitchen, capsys):
    info = json.loads((kitchen.path/"dataset.json").read_text(encoding="utf-8"))
    (kitchen.path/"dataset.json").write_text(json.dumps(info | {"schema_version": 99}), encoding="utf-8")
    assert main(["data", "list", "kitchen"]) == 1
    assert "newer wakekit" in one_error_line(capsys)


def test_synth_fills_a_dataset_and_another_phrase_is_refused(capsys):
    assert main(["synth", "hey jarvis", "--dataset", "d", "--count", "3", "--near-misses", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {c["label"] for c in found["added"]} == {"positive", "negative"} and all(c["voice"] for c in found["added"])
    assert main(["synth", "hey jarvis", "--dataset", "d", "--count", "3"]) == 0
    assert "0 added" in capsys.readouterr().out
    assert main(["synth", "computer", "--dataset", "d", "--count", "3"]) == 1
    assert main(["synth", "hey jarvis", "--dataset", "d", "--count", "1", "--piper", "nowhere.onnx"]) == 1


# --- detect

NO_TORCH = ("torch", "torchaudio", "librosa", "onnx", "matplotlib", "espeakng_loader", "scipy")


def test_detect_without_torch(bundle, evening, tmp_path):
    p = wakekit("detect", bundle, evening, "--json", cwd=tmp_path, blocked=NO_TORCH)
    assert (p.returncode, p.stderr) == (0, b"")
    found = json.loads(p.stdout)
    assert (found["phrase"], found["graph"]) == ("ding dong", "float32")
    event, = found["files"][0]["events"]
    assert event.keys() == {"phrase", "time_s", "start_s", "peak_s", "end_s", "score", "threshold"} and 2.5 < event["time_s"] < 3


def test_detect_reads_a_stream_of_any_chunks(bundle, evening, tmp_path):
    pcm = (np.clip(np.r_[np.zeros(77), chime(), np.zeros(16_000)], -1, 1)*32767).astype("<i2").tobytes()
    p = wakekit("detect", bundle, "-", "--json", cwd=tmp_path, input=pcm + b"\0", blocked=NO_TORCH)
    assert p.returncode == 0 and len(p.stdout.splitlines()) == 1
    assert json.loads(p.stdout)["phrase"] == "ding dong" and .2 < json.loads(p.stdout)["time_s"] < .5


def test_a_bad_file_does_not_stop_the_others(bundle, evening, tmp_path, capsys):
    (tmp_path/"photo.wav").write_bytes(b"\xff\xd8\xff\xe0")
    assert main(["detect", str(bundle), "photo.wav", "missing.wav", str(evening), "--json"]) == 1
    files = json.loads(capsys.readouterr().out)["files"]
    assert ["error" in f for f in files] == [True, True, False] and len(files[2]["events"]) == 1


def test_detect_options_change_the_detector(bundle, evening, capsys):
    for option, n in (["--threshold", "1.1"], 0), (["--threshold", ".5", "--smooth-ms", "0"], 1):
        assert main(["detect", str(bundle), str(evening), "--json", *option]) == 0
        assert len(json.loads(capsys.readouterr().out)["files"][0]["events"]) == n
    assert main(["detect", str(bundle), str(evening), "--graph", "int8"]) == 1
    assert "no graph 'int8'" in one_error_line(capsys)


def test_microphone(bundle, monkeypatch, capsys):
    chunks = [c.astype(np.int16) for c in np.array_split((np.r_[chime(), np.zeros(4000)]*32767), 8)]
    class Mic:
        def __init__(self, **how): assert how["samplerate"] == 16_000 and how["channels"] == 1 and how["dtype"] == "int16"
        def __enter__(self): return self
        def __exit__(self, *_): pass
        def read(self, n):
            if not chunks: raise KeyboardInterrupt
            return chunks.pop(0).tobytes(), False
    monkeypatch.setitem(sys.modules, "sounddevice", types.SimpleNamespace(RawInputStream=Mic, PortAudioError=RuntimeError))
    assert main(["detect", str(bundle), "--mic", "--json"]) == 130
    out, err = capsys.readouterr()
    assert json.loads(out)["phrase"] == "ding dong" and err.splitlines()[-1].startswith("wakekit: stopped")
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    assert main(["detect", str(bundle), "--mic"]) == 1
    assert "pip install sounddevice" in capsys.readouterr().err


# --- evaluate

@pytest.fixture
def test_audio(tmp_path):
    rng = np.random.default_rng(0)
    for k in range(10): save_audio(tmp_path/"calls"/f"{k}.wav", np.r_[np.zeros(4000), chime(gain_db=-20 - 2*k)].astype(np.float32) + (.01*rng.standard_normal(4000 + len(chime()))).astype(np.float32))
    save_audio(tmp_path/"talk"/"noise.wav", (.05*rng.standard_normal(30*16_000)).astype(np.float32))
    return ["--positives", "calls", "--background", "talk"]


POINT = {"threshold", "false_accepts", "false_accepts_per_hour", "false_accepts_per_hour_95", "false_rejects", "false_reject_rate", "false_reject_rate_95"}


def test_evaluate_writes_the_contract(bundle, test_audio, capsys):
    assert main(["evaluate", str(bundle), *test_audio, "--json", "r.json", "--html", "r.html", "--graph", "float32"]) == 0
    d = json.loads(Path("r.json").read_text(encoding="utf-8"))
    assert list(d)[:8] == ["bundle", "graph", "phrase", "positives", "background", "operating_points", "at_bundle_threshold", "det"]
    assert d["positives"] == {"clips": 10} and d["background"].keys() == {"hours", "files"}
    assert [p["target_false_accepts_per_hour"] for p in d["operating_points"]] == [.1, .5, 1, 2, 5, 10]
    assert all(POINT <= p.keys() for p in [*d["operating_points"], d["at_bundle_threshold"]]) and all(len(r) == 3 for r in d["det"])
    page = Path("r.html").read_text(encoding="utf-8")
    assert "ding dong" in page and "http-equiv" not in page and 'src="http' not in page
    assert "written: r.json" in capsys.readouterr().out


def test_evaluate_to_stdout_is_json_alone(bundle, test_audio, capsys):
    assert main(["evaluate", str(bundle), *test_audio, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["graph"] == "float32"


def test_a_failing_gate_is_1_and_a_kept_one_0(bundle, test_audio, capsys):
    assert main(["evaluate", str(bundle), *test_audio, "--gate", "min_hours=1", "--json", "r.json"]) == 1
    assert json.loads(Path("r.json").read_text(encoding="utf-8"))["gates"][0]["passed"] is False and "FAILED" in capsys.readouterr().out
    assert main(["evaluate", str(bundle), *test_audio, "--gate", "false_reject_rate=1", "--gate", "min_clips=10"]) == 0


def test_doctor_speaks_json(capsys, monkeypatch):
    monkeypatch.setenv("WAKEKIT_COMPILE", "off")
    code = main(["doctor", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert code == (0 if found["ok"] else 1) and {"name", "status", "detail"} <= found["checks"][0].keys()
    assert found["settings"]["compile"] == {"value": "off", "source": "environment", "resolved": "off", "ok": True} and "api_token" in found["settings"]


# --- training: Ctrl-C, kill -9, and the same weights in the end

def heed_ctrl_c():
    "A test run in the background is started with Ctrl-C ignored, and its children would inherit that"
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(home, epochs, out):
    "`wakekit train kitchen` in a process of its own"
    return subprocess.Popen([*TYPED, "train", "kitchen", *SMALL, "--set", f"epochs={epochs}", "--out", out, "--force", "--json"], cwd=home, env=child_env(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0), preexec_fn=None if os.name == "nt" else heed_ctrl_c)


def after_epoch(home, n, p):
    "Wait until epoch `n` is finished"
    while p.poll() is None:
        logs = list((home/"data").rglob("events.jsonl"))
        if logs and any(e.get("kind") == "epoch" and e["epoch"] >= n for e in map(json.loads, logs[0].read_text(encoding="utf-8").splitlines()[:-1] or ["{}"])): return
        if logs and f'"epoch": {n},' in logs[0].read_text(encoding="utf-8"): return
        time.sleep(.02)
    raise AssertionError(f"ended early: {p.communicate()}")


@pytest.fixture(scope="module")
def homes(tmp_path_factory):
    "One home where training is stopped by Ctrl-C and then by kill -9, one where it is left alone"
    stopped, alone = (tmp_path_factory.mktemp(n) for n in ("stopped", "alone"))
    for h in (stopped, alone): assert wakekit("data", "create", "kitchen", "hey jarvis", cwd=h).returncode == 0
    found = {"stopped": stopped, "alone": alone}
    p = start(stopped, 4, "k.wake")
    after_epoch(stopped, 1, p)
    p.send_signal(signal.CTRL_BREAK_EVENT if os.name == "nt" else signal.SIGINT)
    found["ctrl_c"] = (*p.communicate(timeout=120), p.returncode, sorted(x.name for x in stopped.iterdir()))
    p = start(stopped, 4, "k.wake")
    after_epoch(stopped, 2, p)
    p.kill()
    found["kill"] = (*p.communicate(timeout=120), p.returncode, sorted(x.name for x in stopped.iterdir()))
    for h in (stopped, alone): found["end " + h.name.rstrip("0123456789")] = (q := start(h, 4, "k.wake")).communicate(timeout=300) + (q.returncode,)
    return found


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for another process")
def test_ctrl_c_is_130_with_one_line(homes):
    out, err, code, files = homes["ctrl_c"]
    assert (code, out, files) == (130, b"", ["data"])
    assert len(err.decode().splitlines()) == 1 and "stopped after epoch" in err.decode() and "goes on from there" in err.decode()


def test_the_same_command_ends_with_the_same_weights(homes):
    import torch
    assert homes["kill"][2] != 0 and homes["kill"][3] == ["data"]
    for end in ("end stopped", "end alone"): assert homes[end][2] == 0, homes[end][1].decode()
    a, b = (torch.load(homes[h]/"k.wake"/"model.pt", weights_only=True) for h in ("stopped", "alone"))
    assert a["config"] == b["config"] and a["weights"].keys() == b["weights"].keys()
    assert all(torch.equal(a["weights"][k], b["weights"][k]) for k in a["weights"])
    log = next((homes["stopped"]/"data").rglob("events.jsonl")).read_text(encoding="utf-8")
    kinds = [json.loads(l)["kind"] for l in log.splitlines()]
    assert kinds.count("start") == 1 and kinds.count("resume") == 2 and kinds.count("done") == 1
    assert len(list((homes["stopped"]/"data").rglob("checkpoint.pt"))) == 1


def test_train_says_what_it_made(homes):
    found = json.loads(homes["end alone"][0])
    assert found["phrase"] == "hey jarvis" and found["graphs"].keys() == {"float32", "int8"} and found["gates"]["checks"] and found["held_out"].keys() == {"float32", "int8"}
    metrics = json.loads((homes["alone"]/"k.wake"/"metrics.json").read_text(encoding="utf-8"))
    assert len(metrics["training"]) == 4


def test_a_gate_keeps_a_bad_model_from_being_exported_but_the_run_can_be(homes, tmp_path, monkeypatch, capsys):
    import functools
    from wakekit.ship import refit
    from wakekit.ship.evaluate import Gates
    monkeypatch.chdir(homes["alone"])
    real, nothing = refit.export, Gates(false_reject_rate=None, false_accepts_per_hour=None, min_clips=None)
    out = tmp_path/"again.wake"
    command = ["export", "--run", "data/datasets/kitchen", "--out", str(out)]
    monkeypatch.setattr(refit, "export", functools.partial(real, gates=nothing.replace(min_clips=10**6)))
    assert main(command) == 1 and not out.exists() and "tried on" in one_error_line(capsys)
    monkeypatch.setattr(refit, "export", functools.partial(real, gates=nothing))
    assert main(command) == 0 and Bundle.load(out).manifest["gates"]["passed"]
    monkeypatch.setattr(refit, "export", functools.partial(real, gates=nothing.replace(min_clips=10**6)))
    assert main(["export", "--run", "data/datasets/kitchen", "--out", str(tmp_path/"again.wake"), "--force", "--json"]) == 0
    assert (tmp_path/"again.wake"/"model.onnx").read_bytes() == (homes["alone"]/"k.wake"/"model.onnx").read_bytes()


def test_more_data_is_a_new_run_and_synthesized_clips_are_no_people(homes, tmp_path):
    import shutil
    shutil.copytree(homes["alone"]/"data", tmp_path/"data")
    assert wakekit("synth", "hey jarvis", "--dataset", "kitchen", "--count", "30", cwd=tmp_path).returncode == 0
    p = wakekit("train", "kitchen", *SMALL, "--set", "epochs=1", "--out", "k.wake", "--force", cwd=tmp_path)
    assert p.returncode == 0, p.stderr.decode()
    assert len(list((tmp_path/"data").rglob("checkpoint.pt"))) == 2
    card = (tmp_path/"k.wake"/"README.md").read_text(encoding="utf-8")
    assert "learned from 0 recordings" in card and "Synthetic voices are not people" in card
    assert "espeak-ng" in (tmp_path/"k.wake"/"LICENSES.md").read_text(encoding="utf-8")


def test_one_changed_line_switches_the_int8_artifacts(homes, tmp_path, monkeypatch, capsys):
    import shutil
    shutil.copytree(homes["alone"]/"k.wake", tmp_path/"k.wake")
    save_audio(tmp_path/"room"/"a.wav", (.05*np.random.default_rng(0).standard_normal(20*16_000)).astype(np.float32))
    made = {}
    for backend in ("fbgemm", "qnnpack"):
        Path(".env").write_text(f"WAKEKIT_QUANT_BACKEND={backend}\n", encoding="utf-8")
        assert main(["quantize", "k.wake", "--audio", "room", "--json"]) == 0, capsys.readouterr().err
        made[backend] = json.loads(capsys.readouterr().out)
        assert made[backend]["quantization"]["resolved"] == backend and [f for f in Bundle.load("k.wake").manifest["files"] if backend in f]
    assert not [f for f in Bundle.load("k.wake").manifest["files"] if "fbgemm" in f]
    assert main(["quantize", "k.wake", "--backend", "nonsense"]) == 2
    assert main(["export", "k.wake", "--out", "pi", "--formats", "int8", "--zip"]) == 0
    assert {Path(n).name for n in zipfile.ZipFile("pi.zip").namelist()} >= {"manifest.json", "model.int8.onnx"} and not Path("pi").exists()


def test_a_bundle_without_weights_cannot_be_quantized(bundle, capsys):
    before = sorted(p.name for p in bundle.iterdir())
    assert main(["quantize", str(bundle)]) == 1
    assert "model.pt" in one_error_line(capsys) and sorted(p.name for p in bundle.iterdir()) == before


def test_quickstart_ends_with_what_to_do_next(tmp_path):
    p = wakekit("quickstart", "--phrase", "hey jarvis", *SMALL, "--set", "epochs=2", "--set", "steps_per_epoch=2", "--out", "q", cwd=tmp_path)
    gates = json.loads((tmp_path/"q"/"bundle"/"manifest.json").read_text(encoding="utf-8"))["gates"]
    assert p.returncode == (0 if gates["passed"] else 1), p.stderr.decode()
    text = p.stdout.decode()
    for part in ("SYNTHETIC", "missed", "false wakes in", "report.html", "q/bundle".replace("/", os.sep), "wakekit detect", "wakekit evaluate", "wakekit quickstart"): assert part in text, part
    assert text.count("said, ends at") == 3
    assert {"bundle", "report.html", "report.json", "demo.wav"} <= {f.name for f in (tmp_path/"q").iterdir()}
    assert [l[:3] for l in p.stderr.decode().splitlines()] == ["1/5", "2/5", "3/5", "4/5", "5/5"]


def test_recordings_that_cannot_be_used_are_named_on_stderr(tmp_path, capsys):
    for name in "abcdef": save_audio(tmp_path/"family"/f"{name}.wav", np.zeros(16_000, np.float32))
    assert main(["quickstart", "--recordings", "family", *SMALL, "--out", "q"]) == 1
    err = capsys.readouterr().err
    assert "recordings were skipped, for example" in err and "digital silence" in err and "Traceback" not in err and not Path("q/bundle").exists()


@pytest.mark.parametrize("passed", [True, False])
def test_a_quickstart_whose_gate_failed_writes_everything_and_is_1(bundle, monkeypatch, capsys, passed):
    from wakekit.learn.metrics import operating_point
    from wakekit.ship import quickstart as Q
    made = toy_bundle(bundle.parent/"made.wake", gates={"passed": passed, "checks": [{"name": "min_clips", "passed": passed, "value": 3, "limit": 5, "reason": "was tried on 3 calls; 5 are needed"}]})
    point = operating_point(np.ones(3), np.zeros(5000), 1., .5, 50)
    monkeypatch.setattr(Q, "quickstart", lambda *a, **k: types.SimpleNamespace(bundle=Bundle.load(made), report=types.SimpleNamespace(at_bundle_threshold=point), events=[], truth=[], caveat="", skipped=()))
    assert main(["quickstart", "--out", "q"]) == int(not passed)
    assert ("GATE FAILED" in capsys.readouterr().out) != passed


@pytest.mark.parametrize("line", ["detect {b} --threshold .5 {e}", "detect {b} {e} --threshold .5 {e}", "detect --threshold .5 {b} --json {e}"])
def test_options_may_stand_between_bundle_and_files(bundle, evening, line, capsys):
    assert main(line.format(b=bundle, e=evening).split()) == 0
    assert capsys.readouterr().out.count("evening.wav") == line.count("{e}")


@pytest.mark.parametrize("line", ["detect b --threshold .5 --nope e.wav", "doctor --json here", "data list a --json b"])
def test_what_no_command_takes_is_still_a_typing_error(line, capsys):
    assert main(line.split()) == 2
    assert "unrecognized arguments" in capsys.readouterr().err


@pytest.mark.parametrize("name, value, says", [("WAKEKIT_PRESET", "huge", "huge"), ("WAKEKIT_TRAIN__EPOCS", "5", "epochs"), ("WAKEKIT_TRAIN__EPOCHS", "many", "epochs"), ("WAKEKIT_TRAIN__EPOCHS", "5", None)])
def test_the_doctor_finds_hyperparameters_that_do_not_exist(monkeypatch, capsys, name, value, says):
    import wakekit.doctor as D
    monkeypatch.setattr(D, "doctor", lambda s: D.Checks())
    monkeypatch.setenv(name, value)
    assert main(["doctor", "--json"]) == int(says is not None)
    check, = json.loads(capsys.readouterr().out)["checks"]
    assert check["name"].startswith("preset=") and (says is None or says in check["detail"])


# --- bench

def test_bench_prints_figures_and_runs_no_row_twice(tmp_path, capsys, monkeypatch):
    from wakekit.ship import bench
    bench.toy_pack(tmp_path/"pack", calls=12, talk=40)
    line = ["bench", "accuracy", "--audio", "pack", "--protocol", "Z,N", "--words", "computer", "--out", "rows", "--plan", "near_misses=6", "--plan", "near_voices=1", *SMALL, "--set", "epochs=1"]
    assert main([*line, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(r["protocol"], r["word"]) for r in found["rows"]] == [("Z", "computer"), ("N", "computer")] and found["plan"]["near_misses"] == 6 and "det" not in found["rows"][0]["graphs"]["int8"]
    monkeypatch.setattr(bench, "train", lambda *a, **k: pytest.fail("trained again"))
    assert main(line) == 0
    out, err = capsys.readouterr()
    assert "missed at 0.5 FA/h" in out and "near misses that fire" in out and "rows/accuracy.json" in out.replace("\\", "/") and "bench:" not in err


def test_train_under_torchrun_leaves_the_export_to_the_first_process(tmp_path, monkeypatch, capsys):
    from wakekit.ship import quickstart
    Dataset.create(tmp_path/"kitchen", "computer")
    monkeypatch.setattr(quickstart, "train_dataset", lambda *a, **k: None)
    assert main(["train", str(tmp_path/"kitchen"), "--preset", "tiny"]) == 0 and not capsys.readouterr().out
