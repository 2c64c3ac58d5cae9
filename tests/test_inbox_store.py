"A sound of the inbox is there or not, a decision is made or not: whenever the process dies, nothing is lost and no clip is there twice."
import contextlib, json, os, subprocess, sys, threading, time
import numpy as np, pytest
from test_dataset import consistent, every_step, voice
from wakekit.core import AudioError, DatasetError
from wakekit.data.inbox import KINDS, LONGEST_CALL_S, Dataset, Inbox, from_inbox


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

def before(ds, id):
    "The sidecar as it was written before clips were noted in it"
    sidecar = ds.inbox.path/f"{id}.json"
    d = json.loads(sidecar.read_text(encoding="utf-8"))
    del d["made"]
    sidecar.write_text(json.dumps(d), encoding="utf-8")

@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("how", ["reject", "undo", "accept"])
def test_a_clip_of_the_same_name_that_somebody_added_is_left_alone(ds, tmp_path, how, old):
    f, _ = ds.inbox.put(voice(seed=1), "trigger", origin="kitchen")
    copy = tmp_path/f"{f.id}.wav" # as Label Studio's audio folder holds it
    copy.write_bytes(f.path.read_bytes())
    mine = ds.add(copy, "negative", start_s=.1, duration_s=.2)
    if old: before(ds, f.id)
    made = ds.inbox.accept(f.id, "positive")
    if old: before(ds, f.id)
    if how == "accept": ds.inbox.accept(f.id, "positive", start_s=.2)
    else: getattr(ds.inbox, how)(f.id)
    assert not ds[mine.id].trashed and ds[made.id].trashed

def test_two_parts_of_one_sound(ds):
    f, _ = ds.inbox.put(voice(seed=1), "trigger", origin="evening.wav")
    call = ds.inbox.accept(f.id, "positive", start_s=0., end_s=.2)
    talk = ds.add(f.path, "negative", start_s=.25, duration_s=.2, original_name=f"{f.id}.wav", source="inbox: evening.wav") # the other part, as Label Studio's answers bring it
    again = ds.inbox.accept(f.id, "positive", start_s=.05, end_s=.22)
    assert [ds[c.id].trashed for c in (call, talk, again)] == [True, False, False]
    before(ds, f.id) # known by its decision
    ds.inbox.accept(f.id, "positive", start_s=.06, end_s=.22)
    assert [ds[c.id].trashed for c in (call, talk, again)] == [True, False, True]
    ds.inbox.undo(f.id)
    assert not [c for c in ds.clips() if c.original_name == f"{f.id}.wav"] # all that came of it
    assert ds.inbox.accept(f.id, "negative", start_s=.25, end_s=.45).id == talk.id and not ds[talk.id].trashed

def test_sidecars_of_before_know_their_clips(ds):
    f, _ = ds.inbox.put(voice(seed=1), "trigger", origin="kitchen")
    whole = ds.inbox.accept(f.id, "negative", source="the radio") # not told by its source
    before(ds, f.id)
    assert ds.inbox[f.id].made is None
    part = ds.inbox.accept(f.id, "negative", start_s=.2)
    before(ds, f.id)
    assert ds.inbox.undo(f.id).made is not None and ds[whole.id].trashed and ds[part.id].trashed
    assert ds.inbox.accept(f.id, "positive", start_s=.2).id == part.id

def test_a_clip_that_comes_from_elsewhere_at_the_same_moment(ds, monkeypatch):
    f, _ = ds.inbox.put(voice(seed=1), "trigger")
    commit = Dataset.commit
    def late(self, staged, *args):
        monkeypatch.setattr(Dataset, "commit", commit)
        ds.add(voice(seed=1), "negative")
        return self.commit(staged, *args)
    monkeypatch.setattr(Dataset, "commit", late)
    clip = ds.inbox.accept(f.id, "negative")
    ds.inbox.undo(f.id)
    assert clip.id == f.id and not ds[clip.id].trashed

def test_nobody_decides_in_the_middle_of_a_rejection(ds, monkeypatch):
    id = ds.inbox.put(voice(seed=1), "trigger")[0].id
    ds.inbox.accept(id, "negative")
    lock, others = Inbox._lock, [lambda: box(ds).accept(id, "positive")]
    @contextlib.contextmanager
    def shared(self, *args):
        with lock(self, *args): yield
        if others: others.pop()() # somebody else has waited for it
    monkeypatch.setattr(Inbox, "_lock", shared)
    ds.inbox.reject(id)
    ds.refresh()
    assert (ds.inbox[id].outcome, [c.id for c in ds.clips("positive") if c.id == id]) in (("rejected", []), ("positive", [id]))

def test_a_call_is_not_half_a_minute_long(ds):
    id = ds.inbox.put(voice(31., seed=1), "proposal")[0].id
    with pytest.raises(DatasetError, match="cut the call out with start_s and end_s"): ds.inbox.accept(id, "positive")
    with pytest.raises(DatasetError, match="cut the call out"): ds.inbox.accept(id, "positive", start_s=.5)
    assert ds.inbox[id].outcome == "open" and len(consistent(ds.path)) == 1
    ds.inbox.accept(id, "positive", start_s=29.)
    ds.inbox.accept(id, "noise")

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

def test_only_what_nobody_asked_for_is_swept(ds):
    ids = {kind: [ds.inbox.put(voice(.5, seed=10*k + n), kind)[0].id for n in range(3)] for k, kind in enumerate(KINDS)}
    for kind in KINDS: ds.inbox.reject(ids[kind][0])
    for kind in KINDS: ds.inbox.accept(ids[kind][1], "noise")
    there = lambda: {f.id for f in ds.inbox.found(open=None)}
    whole = there()
    assert ds.inbox.sweep() == ds.inbox.sweep(0, 0, 0) == [] and there() == whole # 0: no limit
    four = [i for kind in ("trigger", "near") for i in ids[kind][::2]]
    assert ds.inbox.size() == sum((ds.inbox.path/f"{i}{s}").stat().st_size for i in four for s in (".wav", ".json"))
    assert ds.inbox.sweep(max_mb=ds.inbox.size()/1e6) == []
    assert sorted(ds.inbox.sweep(max_mb=(ds.inbox.size() - 1)/1e6)) == [ids["trigger"][0]] # the oldest of the rejected
    assert sorted(ds.inbox.sweep(max_mb=1e-6)) == sorted(set(four) - {ids["trigger"][0]}) and there() == whole - set(four)
    assert ds.inbox.size() == 0 and ds.inbox.sweep(max_days=1e-9, kinds=["missed"]) == ids["missed"][::2]
    for bad in (dict(max_days=-1), dict(max_mb=float("nan")), dict(max_items=-1)):
        with pytest.raises(DatasetError, match="above 0, or 0 for none"): ds.inbox.sweep(**bad)

def test_what_is_too_old_goes_first_and_then_no_more_than_must(ds, monkeypatch):
    old = ds.inbox.put(voice(.2, seed=1), "trigger")[0].id
    now = time.time()
    monkeypatch.setattr("wakekit.data.inbox._now", lambda: "2100-01-01T00:00:00.000Z")
    young = ds.inbox.put(voice(.2, seed=2), "trigger")[0].id
    ds.inbox.reject(young)
    monkeypatch.setattr("wakekit.data.inbox.time.time", lambda: now + 31*86_400)
    assert ds.inbox.sweep(max_days=30, max_items=1) == [old] # the young one is rejected, and fits

def test_gone_is_gone(ds, monkeypatch):
    files = lambda id: sorted(p.name for p in ds.path.rglob(f"{id}*"))
    ids = [ds.inbox.put(voice(.5, seed=k), kind)[0].id for k, kind in enumerate(("proposal", "trigger", "near", "missed"))]
    clips = [ds.inbox.accept(i, "negative", start_s=.1) for i in ids[:3]]
    ds.inbox.reject(ids[3])
    ds.inbox.delete(ids[2])
    assert files(ids[2]) == [] and not ds[clips[2].id].trashed # the clip is another thing
    ds.inbox.delete(ids[3])
    assert files(ids[3]) == []
    with pytest.raises(DatasetError, match="there is no sound"): ds.inbox.delete(ids[3])
    for id in ("", "../dataset", "x"*16, None):
        with pytest.raises(DatasetError, match="there is no sound"): ds.inbox.delete(id)
    for c in clips[:2]: ds.trash(c.id)
    assert ds.inbox.sweep(1, 1, 1) == [] and files(ids[0]) # a clip in the trash can come back
    ds._orig_purge() # by somebody who does not know the inbox
    assert files(clips[0].id) == [] and files(ids[0])
    assert sorted(ds.inbox.sweep()) == sorted(ids[:2]) and files(ids[0]) == files(ids[1]) == []

def test_a_folder_that_is_away_deletes_nothing(ds):
    id = ds.inbox.put(voice(seed=1), "trigger")[0].id
    ds.inbox.accept(id, "negative")
    (ds.path/"clips").rename(ds.path/"away")
    assert box(ds).sweep(1, 1, 1) == [] and box(ds)[id].outcome == "negative"
    (ds.path/"away").rename(ds.path/"clips")

def test_dying_while_a_sound_is_deleted_or_the_trash_emptied(ds, monkeypatch):
    def ready():
        id = ds.inbox.put(voice(seed=1), "trigger")[0].id
        ds.refresh()
        return id, ds.inbox.accept(id, "negative", start_s=.1)
    id, _ = ready()
    for _ in every_step(monkeypatch, lambda: box(ds).delete(id) if any(f.id == id for f in box(ds).found(open=None)) else None, ds.path):
        assert not box(ds).problems and len(consistent(ds.path)) == 2
    assert not (ds.inbox.path/f"{id}.wav").exists()
    Dataset.open(ds.path).purge()
    id, clip = ready()
    ds.trash(clip.id)
    for _ in every_step(monkeypatch, lambda: Dataset.open(ds.path).purge(), ds.path): assert not box(ds).problems and len(consistent(ds.path)) == 1
    assert not (ds.inbox.path/f"{id}.wav").exists() and not list(ds.path.rglob(f"{clip.id}.*"))
    now = time.time()
    monkeypatch.setattr("wakekit.data.inbox.time.time", lambda: now + 2*86_400)
    ds.inbox.sweep() # also the note beside it that a death has left
    assert not list(ds.path.rglob(f"{id}.*"))
    ds.inbox.put(voice(seed=1), "trigger") # it may come again
    assert len(ds.inbox) == 1

def test_purging_leaves_a_dataset_without_an_inbox_as_it_is(ds):
    ds.trash(ds.clips()[0].id)
    assert ds.purge() == 1 and not ds.inbox.path.exists()
