"Exporting where it is awkward: an int8 twin that is worse, several writers, what killed ones left, no background to speak of."
import os, subprocess, sys, textwrap
import numpy as np
import pytest
torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
from wakekit.core import LockError
from wakekit.data.batches import prepare
from wakekit.data.spoken import DataConfig
from wakekit.env import Settings
from wakekit.learn.models import WakeModel
from wakekit.learn.train import TrainResult, preset
from wakekit.ship import export as E
from wakekit.ship.evaluate import Gate, Gates

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


@pytest.mark.parametrize("n", [0, 1])
def test_no_tail_no_threshold(n): assert E.tail_threshold(np.full(n, .4), .01, .5) == 0


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
    real = E.file_lock
    monkeypatch.setattr(E, "file_lock", lambda path, timeout_s: real(path, timeout_s=0))
    with E.replacing(tmp_path/"k.wake") as folder:
        fill(folder, "first")
        with pytest.raises(LockError):
            with E.replacing(tmp_path/"k.wake"): pass
    assert (tmp_path/"k.wake"/"a").read_text(encoding="utf-8") == "first"
