"Benchmarks: nothing that judges was learned from, and what was run is not run again."
import csv
import pytest
from wakekit.core import AudioError, write_json
from wakekit.data.spoken import DataConfig
from wakekit.env import Settings
from wakekit.learn.config import preset
from wakekit.ship import bench as module
from wakekit.ship.bench import Bench, accuracy_table, audio_pack, few_split, half_split, once, row_name, speaker, summary, toy_pack, train_row, under, unseen

FEW = DataConfig(synthetic=40, near_misses=10, filler=24, synthetic_rooms=2, valid_voices=.3, test_voices=.3)


STEPS = preset("tiny", ["epochs=1", "steps_per_epoch=2", "warmup_steps=1", "batch.batch_size=32", "verifier.steps=2", "verifier.batch_size=8"])


def a_bench(pack, out, **more): return Bench(pack, out, **{"config": STEPS, "settings": Settings.load(environ={}, device="cpu", compile="off"), "data": FEW, "quiet": True, **more})

@pytest.fixture(scope="module")
def pack(tmp_path_factory): return toy_pack(tmp_path_factory.mktemp("toy")/"pack", calls=24, talk=40)

class Stop(Exception): "Far enough"


def test_who_is_kept_is_written_in_stone():
    "Weights that ship were learned by this split: another answer for one of these makes every figure a lie"
    found = {who: unseen(dict(path=f"speech/{folder}/a.opus", speaker=who)) for folder, who in (("libri", "ls7113"), ("libri", "ls4813"), ("libri", "ls1088"), ("so762", "so9645"), ("so762", "so2129"), ("so762", "so0001"))}
    assert found == {"ls7113": False, "ls4813": False, "ls1088": True, "so9645": False, "so2129": True, "so0001": True}
    assert all(unseen(dict(path=p, speaker=s)) for p, s in (("speech/pvcmd/0001.opus", ""), ("wake/jarvis/0001.opus", ""), ("words/dsp/close/1.opus", "dsp001"), ("words/arabic/one/1.opus", "arabic001")))
    names = [f"{k:04d}" for k in range(4000)]
    assert abs(sum(unseen(dict(path="speech/x.wav", speaker=n)) for n in names)/4000 - .25) < .03
    for kind in ("noise", "music", "rooms"): assert abs(sum(unseen(dict(path=f"{kind}/{n}.wav", speaker="")) for n in names)/4000 - .3) < .03


def test_the_file_of_a_speaker_does_not_matter():
    assert len({unseen(dict(path=f"speech/libri/{k}.opus", speaker="ls7113")) for k in range(50)}) == 1


@pytest.mark.parametrize("size, draw", [(0, 0), (5, 0), (5, 1), (20, 0)])
def test_few_splits_are_disjoint_and_judge_on_the_unseen(pack, size, draw):
    rows = audio_pack(pack)
    s = few_split(rows, "computer", size, draw)
    path = lambda rs: {r["path"] for r in rs}
    assert len(s.train_calls) == size and path(s.train_calls) | path(s.test_calls) == path(under(rows, "wake/computer")) and not path(s.train_calls) & path(s.test_calls)
    assert not {speaker(r) for r in s.train_background} & {speaker(r) for r in s.test_background}
    assert path(under(rows, "wake/view_glass")) < path(s.test_background) and not path(under(rows, "wake/computer")) & path(s.test_background)
    assert not any(map(unseen, s.train_background + s.train_noise + s.train_rooms)) and all(map(unseen, s.test_background)) and s.train_noise and s.train_rooms
    assert s == few_split(rows, "computer", size, draw) and (not size or s != few_split(rows, "computer", size, draw, seed=1))


def test_another_word_s_name_is_no_prefix(pack):
    rows = audio_pack(pack) + [dict(path="wake/computers/1.wav", speaker="", label="")]
    assert len(few_split(rows, "computer").test_calls) == 24 and "wake/computers/1.wav" in {r["path"] for r in few_split(rows, "computer").test_background}


def test_what_training_is_given(pack, tmp_path, monkeypatch):
    def caught(folder, data, *given): raise Stop(data, given)
    monkeypatch.setattr(module, "prepare", caught)
    bench, got = a_bench(pack, tmp_path, seed=3), {}
    for what in (("Z", "computer"), ("Z0", "view_glass"), ("F", "computer", 5), ("half", "computer")):
        with pytest.raises(Stop) as e: train_row(bench, *what)
        got[what[0]] = e.value.args
    known = {str(bench.path(r)): r for r in bench.rows}
    rows = lambda items: [known[str(getattr(i, "src", i))] for i in items]
    for name, calls in (("Z", 0), ("F", 5)):
        positives, background, noise, rooms = map(rows, got[name][1])
        assert len(positives) == calls and background and noise and rooms and not any(map(unseen, background + noise + rooms))
    assert not any(got["Z0"][1]) and got["Z0"][0].phrase == "view glass" and got["Z0"][0].seed == 3
    assert len(got["half"][1][0]) == 12 and {r["path"] for r in rows(got["half"][1][0])} == {r["path"] for r in half_split(bench.rows, "computer", 3).train_calls}
    assert not list(tmp_path.rglob("row.json"))


def test_a_row_runs_again_when_what_it_depends_on_changed(pack, tmp_path):
    runs, base = [], a_bench(pack, tmp_path)
    def make(folder): runs.append(folder); return dict(n=len(runs), nothing=float("nan"))
    assert once(base, "X/w", make, size=1) == once(base, "X/w", make, size=1) and len(runs) == 1
    for k, other in enumerate((dict(seed=1), dict(data=FEW.replace(filler=25)), dict(config=base.config.replace(lr=.1)))):
        assert once(a_bench(pack, tmp_path, **other), "X/w", make, size=1)["n"] == k + 2
    assert once(base, "X/w", make, size=2)["n"] == 5 and once(base, "X/v", make, size=2)["n"] == 6
    more = toy_pack(tmp_path/"more", calls=2, talk=2)
    assert once(a_bench(more, tmp_path), "X/v", make, size=2)["n"] == 7


def test_an_interrupted_row_leaves_no_row(pack, tmp_path):
    def broken(folder): raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): once(a_bench(pack, tmp_path), "X/w", broken)
    assert not (tmp_path/"X"/"w"/"row.json").exists()
    assert once(a_bench(pack, tmp_path), "X/w", lambda f: dict(n=1))["n"] == 1


def test_weights_that_ship_are_part_of_the_key(tmp_path, monkeypatch):
    (tmp_path/"a").mkdir()
    for name in ("__init__.py", "a/encoder.onnx", "a/code.py"): (tmp_path/name).write_text(name, encoding="utf-8")
    monkeypatch.setattr(module.wakekit, "__file__", str(tmp_path/"__init__.py"))
    def now():
        module.shipped.cache_clear()
        return module.shipped()
    first = now()
    (tmp_path/"a/code.py").write_text("changed", encoding="utf-8")
    assert now() == first
    (tmp_path/"a/encoder.onnx").write_text("changed", encoding="utf-8")
    assert now() != first
    module.shipped.cache_clear()


def test_a_pack_without_the_word_or_with_too_few(pack):
    rows = audio_pack(pack)
    with pytest.raises(AudioError, match="computer, view_glass"): few_split(rows, "jarvis")
    with pytest.raises(AudioError, match="24 recordings"): few_split(rows, "computer", 24)


def test_summaries_and_tables_take_old_and_new_rows(tmp_path):
    p = dict(target_false_accepts_per_hour=.5, false_reject_rate=.1, false_reject_rate_95=[.05, .2])
    report = dict(operating_points=[p], positives=dict(clips=7), background=dict(hours=1.), det=[[1, 2, 3]], missed=[], false_accepts=[], skipped=[])
    found = dict(rows=[dict(protocol="half", phrase="a", graphs=dict(int8=report)), dict(protocol="F", phrase="b", size=5, draw=2, graphs=dict(int8=report)), dict(protocol="N", phrase="b", fired=[1], at={})])
    lines = accuracy_table(found, (.5,)).splitlines()
    assert len(lines) == 4 and "F5 #2" in lines[3] and "10.0% (5.0%–20.0%)" in lines[2]
    small = summary(found)["rows"]
    assert small[0]["graphs"]["int8"].keys() == {"operating_points", "positives", "background"} and "fired" not in small[2] and "graphs" not in small[2]
    assert found["rows"][0]["graphs"]["int8"]["det"] and row_name(found["rows"][0]) == "half"
    write_json(tmp_path/"s.json", small)
    told = summary(dict(rows=[dict(config=1, data=2, n=k) for k in range(2)] + [dict(config=1, data=3, n=2)]))
    assert told["shared"] == dict(config=1) and told["rows"] == [dict(data=2, n=0), dict(data=2, n=1), dict(data=3, n=2)]


def test_the_toy_pack_is_a_pack(pack):
    with open(pack/"manifest.csv", encoding="utf-8", newline="") as f: rows = list(csv.DictReader(f))
    assert all((pack/r["path"]).is_file() for r in rows) and {r["path"].split("/")[0] for r in rows} == {"wake", "speech", "words", "noise", "rooms"}
    assert all(any(unseen(r)==u for r in under(rows, kind)) for kind in ("speech", "noise", "rooms") for u in (True, False))
