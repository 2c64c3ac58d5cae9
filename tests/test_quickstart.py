"Quickstart: what was given and not used, who is on which side, and under which terms."
import json
import numpy as np, pytest
from wakekit.core import TrainError
from wakekit.data import batches
from wakekit.data.audio import save_audio
from wakekit.data.spoken import DataConfig
from wakekit.data.interchange import Dataset
from wakekit.env import Settings
from wakekit.learn.config import preset
from wakekit.ship import quickstart as module

FEW = DataConfig(synthetic=40, near_misses=10, filler=24, synthetic_rooms=2, valid_voices=.3, test_voices=.3)


def settings(**more): return Settings.load(environ={}, device="cpu", compile="off", **more)
def steps(): return preset("tiny", ["epochs=1", "steps_per_epoch=2", "warmup_steps=1", "batch.batch_size=32", "verifier.steps=2", "verifier.batch_size=8"])
def noise(seed, seconds=.8): return (np.random.default_rng(seed).normal(size=int(seconds*16_000))*.1*np.hanning(int(seconds*16_000))).astype(np.float32)


def test_what_was_skipped_is_in_the_report(tmp_path):
    for k in range(6): save_audio(tmp_path/"family"/f"speaker {'abcdef'[k]}_1.wav", noise(k))
    save_audio(tmp_path/"family"/"mute_1.wav", np.zeros(16_000, np.float32))
    save_audio(tmp_path/"family"/"hour_1.wav", noise(9, 31))
    q = module.quickstart("hey jarvis", tmp_path/"family", out=tmp_path/"q", config=steps(), settings=settings(), data=FEW)
    found = {s["file"].split("/")[-1].split("\\")[-1]: s["reason"] for s in json.loads((tmp_path/"q"/"report.json").read_text(encoding="utf-8"))["skipped"]}
    assert found.keys() == {"mute_1.wav", "hour_1.wav"} and "silence" in found["mute_1.wav"] and "at most 30 s" in found["hour_1.wav"] and len(q.skipped) == 2
    licences = (q.bundle.path/"LICENSES.md").read_text(encoding="utf-8")
    assert "- recordings from family: terms not stated by the user" in licences and "espeak-ng" in licences


class Stop(Exception): "Far enough"

def test_voices_of_a_dataset_are_near_misses_and_keep_their_side(tmp_path, monkeypatch):
    ds, config = Dataset.create(tmp_path/"d", "hey jarvis"), DataConfig(synthetic=0, near_misses=0, filler=0, valid_voices=.3, test_voices=.3, valid_share=.4, synthetic_rooms=2)
    voices = batches.voice_sides(config)
    for n, (side, own) in enumerate(voices.items()):
        for k, v in enumerate(own[:3]):
            for m, label in enumerate(("positive", "negative")): ds.add(noise(100*n + 10*k + m), label, voice=str(v), speaker=v.family)
    for k in range(6): ds.add(noise(1000 + k, 3), "negative", speaker=f"person {k}")
    def caught(sets, *a, **k): raise Stop(sets)
    monkeypatch.setattr(module, "train", caught)
    with pytest.raises(Stop) as e: module.train_dataset(ds, tmp_path/"out", config=steps(), settings=settings(), data=config)
    for side, name in zip(e.value.args[0], ("train", "valid")):
        assert len(side.where("synthetic")) == len(side.where("near_miss")) == 3
        assert set(side.clips.groups) == {str(v) for v in voices[name][:3]} and {str(g)[:6] for g in side.background.groups} == {"person"}


def test_a_seed_that_was_given_counts_and_else_that_of_the_settings(tmp_path, monkeypatch):
    ds = Dataset.create(tmp_path/"d", "hey jarvis")
    def caught(folder, data, *a, **k): raise Stop(data.seed)
    monkeypatch.setattr(module, "prepare", caught)
    for config, data, of_settings, seed in ((0, 0, 0, 0), (0, 0, 5, 5), (3, 0, 5, 3), (3, 4, 5, 4)):
        with pytest.raises(Stop) as e: module.train_dataset(ds, tmp_path/"out", config=steps().replace(seed=config), settings=settings(seed=of_settings), data=FEW.replace(seed=data))
        assert e.value.args[0] == seed
    def learn(out, data, config, *a): raise Stop((data.seed, config.seed))
    monkeypatch.setattr(module, "_learn", learn)
    with pytest.raises(Stop) as e: module.quickstart("hey jarvis", out=tmp_path/"q", config=steps().replace(seed=3), settings=settings(seed=5), data=FEW)
    assert e.value.args[0] == (3, 3)


def test_espeak_is_named_only_where_it_spoke(tmp_path):
    from wakekit.data.batches import prepare
    from wakekit.data.recordings import Item
    from wakekit.ship import card
    people, talk = ([Item(noise(k + n, s), f"{n} {k}") for k in range(5)] for n, s in ((0, .8), (100, 3)))
    silent = FEW.replace(synthetic=0, near_misses=0, filler=0, valid_share=.4)
    assert card.spoken(prepare(tmp_path/"a", silent, people, talk)) == []
    assert card.spoken(prepare(tmp_path/"b", silent.replace(filler=12), people, talk)) == [card.ESPEAK, card.PEOPLE]


def test_nothing_of_what_was_given_can_be_used(tmp_path):
    for name in "abc": save_audio(tmp_path/"family"/f"{name}.wav", np.zeros(16_000, np.float32))
    with pytest.raises(TrainError, match="silence"): module.quickstart("hey jarvis", tmp_path/"family", out=tmp_path/"q", config=steps(), settings=settings(), data=FEW.replace(seed=1))
