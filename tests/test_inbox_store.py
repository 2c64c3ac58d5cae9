"A sound of the inbox is there or not, a decision is made or not: whenever the process dies, nothing is lost and no clip is there twice."
import os, subprocess, sys, threading, time
import numpy as np, pytest
from test_dataset import consistent, every_step, voice
from wakekit.core import AudioError, DatasetError
from wakekit.data.inbox import Dataset, Inbox, from_inbox


@pytest.fixture
def ds(tmp_path):
    ds = Dataset.create(tmp_path/"ds", "hey jarvis")
    ds.add(voice(seed=99), "positive", speaker="s")
    return ds

def box(ds): return Inbox(Dataset.open(ds.path))

def test_dying_while_a_sound_comes_in(ds, monkeypatch):
    for _ in every_step(monkeypatch, lambda: box(ds).put(voice(seed=1), "trigger", score=.5), ds.path):
        there = box(ds).found()
        assert len(there) in (0, 1) and all(len(box(ds).load(f.id)) for f in there) and not box(ds).problems
    assert len(box(ds)) == 1 and box(ds).put(voice(seed=1), "near")[1] is False

@pytest.mark.parametrize("part", [{}, dict(start_s=.1, end_s=.4)])
def test_dying_while_a_person_decides(ds, monkeypatch, part):
    id = ds.inbox.put(voice(seed=1), "trigger", origin="kitchen")[0].id
    for _ in every_step(monkeypatch, lambda: box(ds).accept(id, "negative", **part), ds.path):
        assert len(consistent(ds.path)) in (1, 2)
        assert box(ds)[id].outcome in ("open", "negative")
        clip = box(ds).accept(id, "negative", **part) # again: finds what there is
        assert len(consistent(ds.path)) == 2 and from_inbox(clip)
        assert box(ds).undo(id).outcome == "open" and len(consistent(ds.path)) == 1
        Dataset.open(ds.path).purge()
    box(ds).accept(id, "positive", **part)
    for _ in every_step(monkeypatch, lambda: box(ds).undo(id), ds.path): assert len(consistent(ds.path)) in (1, 2)
    assert len(consistent(ds.path)) == 1 and box(ds)[id].decision is None

def test_another_decision_takes_the_place_of_the_first(ds, monkeypatch):
    id = ds.inbox.put(voice(seed=1), "trigger")[0].id
    whole = ds.inbox.accept(id, "negative", by="Ada")
    for _ in every_step(monkeypatch, lambda: box(ds).accept(id, "positive", start_s=.2, end_s=.4), ds.path):
        box(ds).accept(id, "positive", start_s=.2, end_s=.4)
        now = consistent(ds.path)
        assert [c.label for c in now.clips() if c.original_name == f"{id}.wav"] == ["positive"] and now[whole.id].trashed
        box(ds).accept(id, "negative")
    ds.refresh()
    ds.inbox.reject(id, by="Ben")
    assert len(ds) == 1 and ds.inbox[id].decision["by"] == "Ben"

def test_dying_before_the_decision_is_written_leaves_nothing_behind(ds, monkeypatch):
    id = ds.inbox.put(voice(seed=1), "trigger")[0].id
    for _ in every_step(monkeypatch, lambda: box(ds).accept(id, "positive"), ds.path):
        box(ds).reject(id) # whatever was there of it
        assert len(consistent(ds.path)) == 1
        box(ds).undo(id)

def test_a_clip_that_was_there_before_is_not_trashed(ds):
    known = ds.clips()[0]
    id = ds.inbox.put(known.path, "missed")[0].id
    with pytest.raises(DatasetError, match="already here as positive"): ds.inbox.accept(id, "negative")
    assert ds.inbox.accept(id, "positive").id == known.id
    ds.inbox.undo(id)
    assert not ds[known.id].trashed

def test_bad_input(ds, tmp_path):
    (tmp_path/"note.wav").write_bytes(b"no sound")
    with pytest.raises(AudioError): ds.inbox.put(tmp_path/"note.wav", "trigger")
    with pytest.raises(DatasetError, match="not nan"): ds.inbox.put(voice(seed=1), "trigger", score=float("nan"))
    for id in ("", "../../x", "0"*16, "a"*17, None, "é"*16):
        with pytest.raises(DatasetError, match="there is no sound"): ds.inbox[id]
    assert not ds.inbox.found() and not list((ds.path/"inbox").glob("*.*[!k]"))

def test_another_process_sees_what_was_decided(ds):
    id = ds.inbox.put(voice(seed=1), "trigger")[0].id
    assert ds.inbox[id].outcome == "open"
    box(ds).reject(id)
    assert ds.inbox[id].outcome == "rejected" and ds.inbox.found() == []

def test_many_at_once(ds):
    sounds = [voice(.1, seed=k) for k in range(8)]
    def work(): [box(ds).put(x, "trigger", predictions=[dict(by="m", score=.5)]) for x in sounds]
    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert len(ds.inbox) == 8 and all(len(f.predictions) == 1 for f in ds.inbox.found())

worker = """
import sys
import numpy as np
from wakekit.data.inbox import Dataset
ds, rng = Dataset.open(sys.argv[1]), np.random.default_rng(int(sys.argv[2]))
print("ready", flush=True)
while True:
    f, _ = ds.inbox.put(rng.normal(0, .1, 4000).astype(np.float32), "trigger")
    ds.inbox.accept(f.id, "negative")
    ds.inbox.undo(f.id)
    ds.inbox.accept(f.id, "noise", start_s=.05, end_s=.2)
"""

def test_killed_again_and_again(ds):
    wait = np.random.default_rng(0)
    for k in range(12):
        p = subprocess.Popen([sys.executable, "-c", worker, str(ds.path), str(k)], stdout=subprocess.PIPE, text=True)
        assert p.stdout.readline().strip() == "ready"
        time.sleep(wait.uniform(0, .3))
        p.kill()
        p.communicate()
        again = consistent(ds.path)
        assert not again.inbox.problems
        for f in again.inbox.found(open=None): # one clip each, or none yet
            mine = [c for c in again.clips() if c.original_name == f"{f.id}.wav"]
            assert len(mine) == 1 or f.decision is None and not mine

def test_old_sounds_go(ds, monkeypatch):
    ids = [ds.inbox.put(voice(.2, seed=k), "trigger")[0].id for k in range(5)]
    clip = ds.inbox.accept(ids[0], "negative")
    now = time.time()
    monkeypatch.setattr("wakekit.data.inbox.time.time", lambda: now + 31*86_400)
    assert sorted(ds.inbox.sweep(max_days=30)) == sorted(ids[1:])
    assert [f.id for f in ds.inbox.found(open=None)] == ids[:1] and not ds[clip.id].trashed
    assert sorted(p.suffix for p in ds.inbox.path.iterdir() if p.name != ".lock") == [".json", ".wav"]
