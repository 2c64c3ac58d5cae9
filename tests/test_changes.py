"A change of many clips is whole, or can be made whole or taken back: no clip is lost or doubled, whenever the process dies."
import os, random, subprocess, sys, threading, time
import numpy as np, pytest
from test_dataset import Died, consistent, every_step, voice
from wakekit.core import DatasetError
from wakekit.data.changes import BATCH, Dataset


@pytest.fixture
def ds(tmp_path):
    ds = Dataset.create(tmp_path/"ds", "hey jarvis")
    for i in range(12): ds.add(voice(.1, seed=i), "positive" if i < 6 else "negative", speaker=f"s{i % 3}")
    return ds

def said(ds): return {c.id: (c.label, c.speaker, c.notes, c.trashed) for t in (False, True) for c in ds.clips(trashed=t)}

@pytest.mark.parametrize("what", ["relabel", "trash"])
def test_dying_between_any_two_steps(ds, monkeypatch, what):
    before, ids = said(ds), [c.id for c in ds.clips()][:3]
    act = (lambda: Dataset.open(ds.path).relabel(ids, label="noise", notes="x")) if what == "relabel" else (lambda: Dataset.open(ds.path).trash_all(ids))
    steps = 0
    for _ in every_step(monkeypatch, act, ds.path):
        again, steps = consistent(ds.path), steps + 1
        change = again.changes(1)
        if not change: assert said(again) == before  # it died before it was written down
        else:
            again.redo() if change[0].state == "doing" else None
            assert all(said(again)[id][0 if what == "relabel" else 3] == ("noise" if what == "relabel" else True) for id in ids)
            assert again.undo().left == {} and said(consistent(ds.path)) == before
    assert steps > 5

def test_dying_between_any_two_steps_of_an_undo(ds, monkeypatch):
    before, ids = said(ds), [c.id for c in ds.clips()][:3]
    ds.relabel(ids, label="noise")
    n = ds.trash_all(ids).id
    def act():
        Dataset.open(ds.path).undo(n)
    for _ in every_step(monkeypatch, act, ds.path): assert len(said(consistent(ds.path))) == len(before)
    assert not ds.undo(n).left and ds.undo().id == 1 and said(consistent(ds.path)) == before

worker = """
import sys
from wakekit.data.changes import Dataset
ds = Dataset.open(sys.argv[1])
print("ready", flush=True)
while True:
    ds.relabel(ds.clips(), label="noise", notes="busy")
    ds.undo()
    ds.trash_all(ds.clips()[:6])
    ds.redo() if ds.changes(1)[0].state != "done" else ds.undo()
"""

def test_killed_again_and_again(ds):
    before, random_s = said(ds), random.Random(0)
    for _ in range(20):
        p = subprocess.Popen([sys.executable, "-c", worker, str(ds.path)], stdout=subprocess.PIPE, text=True)
        assert p.stdout.readline().strip() == "ready"
        time.sleep(random_s.uniform(0, .2))
        p.kill()
        p.communicate()
        again = consistent(ds.path)
        assert set(said(again)) == set(before)
        while any(c.state != "undone" for c in again.changes(1000)): assert again.undo().left == {}
        assert said(again) == before
    assert len(ds.changes(1000)) >= 20

def test_a_newer_word_stays(ds):
    ids = [c.id for c in ds.clips()]
    ds.relabel(ids, label="noise", speaker="nobody")
    ds.update(ids[0], speaker="Ada")
    ds.trash(ids[1])  # is no field of the change: does not matter to it
    change = ds.undo()
    assert list(change.left) == [ids[0]] and "'Ada'" in change.left[ids[0]] and "changed since" in change._repr_markdown_()
    assert (ds[ids[0]].label, ds[ids[0]].speaker, ds[ids[1]].trashed, ds[ids[1]].label) == ("noise", "Ada", True, "positive")
    assert ds.redo().left == change.left  # and again, the other way

def test_redo_is_only_of_what_was_undone_last(ds):
    ids = [c.id for c in ds.clips()]
    ds.relabel(ids[:2], notes="a")
    ds.relabel(ids[2:4], notes="b")
    ds.undo(), ds.undo()
    assert ds.redo().id == 1
    ds.relabel(ids[4:6], notes="c")
    with pytest.raises(DatasetError, match="nothing to redo"): ds.redo()
    assert ds.redo(2).state == "done" and ds[ids[2]].notes == "b"
    with pytest.raises(DatasetError, match="there is no change 9"): ds.undo(9)

def test_two_at_once(ds):
    "Two people change the same clips: every clip has one of the two words, and both changes can be taken back"
    before, ids, others = said(ds), [c.id for c in ds.clips()], []
    for who in ("Ada", "Bob"):
        def work(who=who): others.append(Dataset.open(ds.path).relabel(ids, notes=who, by=who))
        threading.Thread(target=work).start()
    while len(others) < 2: time.sleep(.01)
    assert {n for _, _, n, _ in said(ds).values()} <= {"Ada", "Bob"} and {c.by for c in ds.changes()} == {"Ada", "Bob"}
    ds.undo(), ds.undo()
    assert said(consistent(ds.path)) == before

def test_many(tmp_path):
    "More than the lock is held for at a time; somebody else can store recordings meanwhile"
    ds = Dataset.create(tmp_path/"many", "hey jarvis")
    ds.commit([ds.stage(voice(.02, seed=i), "negative") for i in range(2*BATCH + 5)])
    assert len(ds.relabel(ds.clips(), label="noise").clips) == 2*BATCH + 5 and ds.summary()["noise"]["clips"] == 2*BATCH + 5
    assert ds.undo().left == {} and ds.summary()["negative"]["clips"] == 2*BATCH + 5 and not ds.refresh()

def test_the_oldest_are_let_go_of(ds, monkeypatch):
    from wakekit.data import changes as module
    monkeypatch.setattr(module, "KEPT", 5)
    ids = [c.id for c in ds.clips()]
    def fail(*_, **__): raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr(module.Dataset, "_go", fail) # interrupted before its first clip
        with pytest.raises(KeyboardInterrupt): ds.relabel(ids[:1], notes="never finished")
    for k in range(9): ds.relabel(ids[:2], notes=f"word {k}")
    assert [c.id for c in ds.changes()] == [10, 9, 8, 7, 1]
    for gone in (2, 6):
        with pytest.raises(module.Missing, match=f"change {gone} of ds is too long ago: the newest 5 are kept"): ds.undo(gone)
        with pytest.raises(module.Missing, match="too long ago"): ds.redo(gone)
    for never in (0, -1, 11):
        with pytest.raises(module.Missing, match=f"there is no change {never} "): ds.undo(never)
    assert [ds.undo().id for _ in range(4)] == [10, 9, 8, 7] and ds[ids[0]].notes == "word 4" # as far as it is known
    assert ds.undo().id == 1 and ds.relabel(ids[:1], notes="new").id == 11

def test_large_ones_are_let_go_of_earlier(ds, monkeypatch):
    from wakekit.data import changes as module
    ids = [c.id for c in ds.clips()]
    for word in "xy": one = ds.relabel(ids, notes=word*100)
    size = (ds.path/"changes"/f"{one.id:06d}.json").stat().st_size
    monkeypatch.setattr(module, "KEPT_MB", 2.5*size/1e6)
    for k in range(4): ds.relabel(ids, notes=f"{k}"*100)
    assert [c.id for c in ds.changes()] == [6, 5]
    monkeypatch.setattr(module, "KEPT_MB", 0.)
    assert ds.relabel(ids, notes="the last").id == 7 and [c.id for c in ds.changes()] == [7] # the newest stays, however large
    assert ds.undo().id == 7 and {c.notes for c in consistent(ds.path).clips()} == {"3"*100}
    with pytest.raises(DatasetError, match="nothing to undo"): ds.undo()

def test_what_somebody_else_put_there(ds):
    (ds.path/"changes").mkdir()
    (ds.path/"changes/000001.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DatasetError, match="move it away"): ds.changes()
