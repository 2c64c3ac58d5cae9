"Whatever happens to the process, the disk or the files: nothing already there is lost."
import errno, json, os, pickle, shutil, sqlite3, subprocess, sys, threading, time
from pathlib import Path
import numpy as np, pytest, soundfile as sf
from wakekit.core import AudioError, DatasetError
from wakekit.data import dataset as module
from wakekit.data.audio import load_audio, save_audio
from wakekit.data.interchange import Dataset

SR = 16_000


def voice(seconds=.5, seed=0): return (np.random.default_rng(seed).standard_normal(int(seconds*SR))*.1).astype(np.float32)
def tree(path): return {p.relative_to(path).as_posix(): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file() and p.name not in (".lock", "index.sqlite")}
def consistent(path):
    "Every clip has its recording and its sidecar in the same place, and can be heard"
    ds = Dataset.open(path)
    for trashed in (False, True):
        for c in ds.clips(trashed=trashed):
            assert c.path.exists() and c.path.with_suffix(".json").exists() and len(ds.load(c)) == round(c.duration_s*SR)
    assert ds.problems == [] and not ds.refresh()
    return ds

@pytest.fixture
def ds(tmp_path):
    ds = Dataset.create(tmp_path/"ds", "hey jarvis")
    for i in range(6): ds.add(voice(seed=i), "positive" if i < 3 else "negative", speaker=f"s{i % 3}")
    return ds


# ---- versions and damage

def test_a_newer_dataset_is_refused_and_untouched(ds):
    about = ds.path/"dataset.json"
    about.write_text(json.dumps({**json.loads(about.read_text(encoding="utf-8")), "schema_version": 2}), encoding="utf-8")
    (ds.path/"index.sqlite").unlink()
    before = tree(ds.path)
    for again in (lambda: Dataset.open(ds.path), lambda: Dataset.open_or_create(ds.path, "hey jarvis")):
        with pytest.raises(DatasetError, match="newer wakekit"): again()
    assert tree(ds.path) == before and not (ds.path/"index.sqlite").exists()

def test_a_damaged_dataset_json_says_what_to_do(ds):
    (ds.path/"dataset.json").write_text("{", encoding="utf-8")
    with pytest.raises(DatasetError, match="write the file again"): Dataset.open(ds.path)

@pytest.mark.parametrize("damage", ["gone", "rubbish", "other version", "empty", "stale"])
def test_the_index_may_be_lost(ds, damage):
    index, before = ds.path/"index.sqlite", [c for c in ds.clips()]
    if damage == "gone": index.unlink()
    if damage == "rubbish": index.write_bytes(os.urandom(8000))
    if damage == "empty": index.write_bytes(b"")
    if damage == "other version":
        with sqlite3.connect(index) as db: db.execute("PRAGMA user_version=99")
        db.close()
    if damage == "stale":
        with sqlite3.connect(index) as db: db.execute("DELETE FROM items WHERE label='positive'")
        db.close()
    assert consistent(ds.path).clips() == before

def test_edited_and_missing_sidecars(ds):
    a, b, c = (x.id for x in ds.clips()[:3])
    edit = ds.path/f"clips/{a}.json"
    edit.write_text(edit.read_text(encoding="utf-8").replace("positive", "noise"), encoding="utf-8")
    (ds.path/f"clips/{b}.json").unlink()
    (ds.path/f"clips/{c}.json").write_text("{", encoding="utf-8")
    again = Dataset.open(ds.path)
    assert again[a].label == "noise" and len(again) == 4
    assert sorted(p.stem for p, why in again.problems) == sorted([b, c]) and all((ds.path/f"clips/{x}.wav").exists() for x in (b, c))
    for p, why in again.problems: assert again.add(p, "negative").path == p  # the remedy
    assert len(consistent(ds.path)) == 6

def test_a_recording_without_sidecar_survives_a_failed_remedy(ds, monkeypatch):
    id = ds.clips()[0].id
    (ds.path/f"clips/{id}.json").unlink()
    again = Dataset.open(ds.path)
    def fail(*args, **kwargs): raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(type(ds.index), "put", fail)
    with pytest.raises(OSError, match="No space"): again.add(ds.path/f"clips/{id}.wav", "positive")
    assert (ds.path/f"clips/{id}.wav").exists()

def test_copies_travel(ds, tmp_path):
    shutil.make_archive(str(tmp_path/"zip"), "zip", ds.path)
    shutil.unpack_archive(str(tmp_path/"zip.zip"), tmp_path/"else where")
    assert consistent(tmp_path/"else where").fingerprint() == ds.fingerprint()


# ---- bad recordings

def test_bad_files_are_listed_and_the_rest_goes_in(ds, tmp_path):
    d = tmp_path/"usb/positive"
    d.mkdir(parents=True)
    good = {"u8.wav": dict(subtype="PCM_U8"), "96k.wav": dict(samplerate=96_000), "24.wav": dict(subtype="PCM_24"), "a.mp3": {}, "a.flac": {}}
    for i, (n, kw) in enumerate(good.items()): sf.write(d/n, voice(1, seed=20 + i), **{"samplerate": SR, **kw})
    sf.write(d/"stereo.wav", np.stack([voice(1, 30), voice(1, 31)], 1), 44_100)
    sf.write(d/"tail.flac", voice(4, seed=32), SR)
    data = (d/"tail.flac").read_bytes()
    (d/"tail.flac").write_bytes(data[:-3000] + os.urandom(3000))
    (d/"cut.wav").write_bytes((d/"24.wav").read_bytes()[:20_000])
    (d/"empty.wav").touch()
    (d/"jpeg.wav").write_bytes(b"\xff\xd8\xff" + bytes(500))
    sf.write(d/"zero.wav", np.zeros(0), SR)
    sf.write(d/"silence.wav", np.zeros(SR), SR)
    sf.write(d/"nan.wav", np.full(SR, np.nan), SR, subtype="FLOAT")
    before = tree(ds.path)
    report = ds.import_folder(tmp_path/"usb")
    assert sorted(c.original_name for c in report.added) == sorted([*good, "stereo.wav", "tail.flac", "cut.wav"])
    assert sorted(Path(p).name for p, why in report.skipped) == ["empty.wav", "jpeg.wav", "nan.wav", "silence.wav", "zero.wav"] and all(why for _, why in report.skipped)
    assert [Path(p).name for p, _ in report.damaged] == ["cut.wav", "tail.flac"]
    assert before.items() <= tree(ds.path).items()
    assert all(sf.info(c.path).samplerate == SR and sf.info(c.path).subtype == "PCM_16" and sf.info(c.path).channels == 1 for c in consistent(ds.path).clips())
    assert not list((ds.path/"clips").glob(".*"))

def test_digital_silence_is_noise_or_nothing(ds, tmp_path):
    save_audio(tmp_path/"s.wav", np.zeros(SR, np.float32))
    for label in ("positive", "negative"):
        with pytest.raises(AudioError, match="digital silence"): ds.add(tmp_path/"s.wav", label)
    assert ds.add(tmp_path/"s.wav", "noise").label == "noise"

def test_folders_without_audio(ds, tmp_path):
    (tmp_path/"e/positive").mkdir(parents=True)
    with pytest.raises(AudioError, match="no recordings"): ds.import_folder(tmp_path/"e")
    (tmp_path/"e/positive/notes.txt").write_text("x", encoding="utf-8")
    with pytest.raises(AudioError, match="1 × .txt"): ds.import_folder(tmp_path/"e")
    with pytest.raises(AudioError, match="no recordings"): ds.import_tree(tmp_path/"e")
    with pytest.raises(DatasetError, match="does not exist"): ds.import_folder(tmp_path/"nope")
    for manifest in ("nope.jsonl",):
        with pytest.raises(DatasetError, match="does not exist"): ds.import_jsonl(tmp_path/manifest)

def test_the_same_sound_is_the_same_clip(ds, tmp_path):
    x = ds.clips()[0]
    sf.write(tmp_path/"a.flac", sf.read(x.path, dtype="int16")[0], SR)
    assert ds.add(tmp_path/"a.flac", "positive", speaker="other") == x and len(ds) == 6
    with pytest.raises(DatasetError, match="already here as positive"): ds.add(tmp_path/"a.flac", "noise")
    with pytest.raises(DatasetError, match="there is no label 'wake'"): ds.add(tmp_path/"a.flac", "wake")
    ds.trash(x.id)
    with pytest.raises(DatasetError, match="in the trash"): ds.add(tmp_path/"a.flac", "positive")
    report = ds.import_items([dict(src=tmp_path/"a.flac", label="positive")])
    assert "in the trash" in report.skipped[0][1] and ds[x.id].trashed

def test_names_of_files_are_never_paths(ds):
    clip = ds.add(voice(seed=77), "noise", original_name="../../evil.wav")
    assert clip.path.parent == ds.path/"clips" and clip.original_name == "../../evil.wav"
    for bad in ("../x", "", "' OR 1=1 --"):
        for act in (ds.trash, ds.restore, ds.__getitem__):
            with pytest.raises(DatasetError, match="there is no clip"): act(bad)

three_hours = """
import sys, tracemalloc, numpy as np, soundfile as sf
from wakekit.data.dataset import Dataset
rng = np.random.default_rng(0)
with sf.SoundFile(sys.argv[1] + "/long.wav", "w", 16_000, 1, "PCM_16") as f:
    for _ in range(180): f.write((rng.standard_normal(16_000*60)*1000).astype(np.int16))
tracemalloc.start()
ds = Dataset.create(sys.argv[1] + "/ds", "hey jarvis")
c = ds.add(sys.argv[1] + "/long.wav", "noise")
part = ds.load(c, start_s=9000, duration_s=2)
print(c.duration_s, len(part), tracemalloc.get_traced_memory()[1]/2**20)
"""
def test_three_hours_in_constant_memory(tmp_path):
    done = subprocess.run([sys.executable, "-c", three_hours, str(tmp_path)], capture_output=True, text=True, check=True)
    seconds, part, peak_mib = map(float, done.stdout.split())
    assert seconds == 3*3600 and part == 2*SR and peak_mib < 40
    shutil.rmtree(tmp_path/"ds")
    (tmp_path/"long.wav").unlink()


# ---- full disks and read-only disks

@pytest.mark.parametrize("where", ["audio", "sidecar", "index"])
def test_full_disk(ds, monkeypatch, where):
    before, full = tree(ds.path), OSError(errno.ENOSPC, "No space left on device")
    def fail(*args, **kwargs): raise full
    if where == "audio": monkeypatch.setattr(module, "write_wav", fail)
    if where == "sidecar": monkeypatch.setattr(module, "write_json", fail)
    if where == "index": monkeypatch.setattr(type(ds.index), "put", fail)
    with pytest.raises(OSError, match="No space"): ds.add(voice(seed=9), "positive")
    with pytest.raises(OSError, match="No space"): ds.import_items([dict(src=voice(seed=9), label="positive")])
    monkeypatch.undo()
    assert tree(ds.path) == before and len(consistent(ds.path)) == 6
    assert ds.add(voice(seed=9), "positive").path.exists()

@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path/"disk"
    disk.mkdir()
    if not sys.platform.startswith("linux") or os.geteuid() != 0: pytest.skip("needs root on Linux to mount a small disk")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True).returncode: pytest.skip("this machine does not let us mount a small disk")
    yield disk
    subprocess.run(["umount", disk], check=True)

def test_a_really_full_disk(small_disk):
    ds = Dataset.create(small_disk/"ds", "hey jarvis")
    added = 0
    with pytest.raises(OSError) as e:
        for i in range(200):
            ds.add(voice(.5, seed=i), "positive")
            added += 1
    assert e.value.errno == errno.ENOSPC and 10 < added < 200
    assert len(consistent(small_disk/"ds")) == added and not list((small_disk/"ds/clips").glob(".*"))
    ds.trash(ds.clips()[0].id)
    assert ds.purge() == 1 and ds.add(voice(.2, seed=500), "positive").path.exists()

def test_a_disk_that_can_only_be_read(small_disk):
    ds = Dataset.create(small_disk/"ds", "hey jarvis")
    for i in range(3): ds.add(voice(.2, seed=i), "positive")
    known = ds.fingerprint()
    for lost in (False, True):
        if lost: (small_disk/"ds/index.sqlite").unlink()
        subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
        again = Dataset.open(small_disk/"ds")
        assert len(again) == 3 and len(again.load(again.clips()[0])) == SR//5 and again.fingerprint() == known
        with pytest.raises(OSError): again.add(voice(seed=5), "positive")
        subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)


# ---- kill -9

worker = """
import sys, os, numpy as np
from wakekit.data.interchange import Dataset
path, what, first = sys.argv[1], sys.argv[2], int(sys.argv[3])
ds = Dataset.open_or_create(path, "hey jarvis")
print("ready", flush=True)
for i in range(first, first + int(sys.argv[4])):
    if what == "add":
        x = (np.random.default_rng(i).standard_normal(8_000)*.1).astype(np.float32)
        print(ds.add(x, "positive", speaker=f"s{i % 7}").id, flush=True)
    else:
        id = ds.clips(trashed=bool(i % 2))[0].id if ds.clips(trashed=bool(i % 2)) else None
        if id: (ds.restore if i % 2 else ds.trash)(id)
        print(id, flush=True)
"""
def start(path, what, first=0, n=100_000): return subprocess.Popen([sys.executable, "-c", worker, str(path), what, str(first), str(n)], stdout=subprocess.PIPE, text=True)

@pytest.mark.parametrize("wait_s", [.0, .003, .007, .012, .02, .031])
def test_killed_while_adding(ds, wait_s):
    p = start(ds.path, "add", first=1000)
    said = [p.stdout.readline().strip() for _ in range(4)][1:]
    time.sleep(wait_s)
    p.kill()
    said += p.communicate()[0].split()
    again = consistent(ds.path)
    ids = {c.id for c in again.clips()}
    assert {c.id for c in ds.clips()} <= ids and set(said) <= ids and len(ids) - 6 - len(said) in (0, 1)  # the last one may just have made it

@pytest.mark.parametrize("wait_s", [.0, .002, .004, .006, .009, .013])
def test_killed_while_trashing_and_restoring(ds, wait_s):
    everything = {c.id for c in ds.clips()}
    p = start(ds.path, "move")
    for _ in range(4): p.stdout.readline()
    time.sleep(wait_s)
    p.kill()
    p.communicate()
    again = consistent(ds.path)
    assert {c.id for c in again.clips()} | {c.id for c in again.clips(trashed=True)} == everything
    assert len(again) + len(again.clips(trashed=True)) == 6

class Died(BaseException): "As if the process had been killed here"

def every_step(monkeypatch, act, path, names=("replace", "unlink")):
    "Run `act` again and again, each time dying at a later file operation, before it happens"
    for stop in range(50):
        left = [stop]
        for name in names:
            real = getattr(os, name)
            def dying(*args, _real=real, **kwargs):
                if left[0] == 0: raise Died
                left[0] -= 1
                return _real(*args, **kwargs)
            monkeypatch.setattr(os, name, dying)
        try: act()
        except Died: died = True
        else: died = False
        monkeypatch.undo()
        yield stop
        if not died: return
    raise AssertionError("it never finished")

def test_dying_between_any_two_steps_of_a_move(ds, monkeypatch):
    id = ds.clips()[0].id
    for _ in every_step(monkeypatch, lambda: Dataset.open(ds.path).trash(id), ds.path):
        assert len(consistent(ds.path)) + len(Dataset.open(ds.path).clips(trashed=True)) == 6
    assert Dataset.open(ds.path)[id].trashed
    for _ in every_step(monkeypatch, lambda: Dataset.open(ds.path).restore(id), ds.path):
        assert len(consistent(ds.path)) + len(Dataset.open(ds.path).clips(trashed=True)) == 6
    assert not Dataset.open(ds.path)[id].trashed

def test_dying_between_any_two_steps_of_an_update(ds, monkeypatch):
    id = ds.clips()[0].id
    for _ in every_step(monkeypatch, lambda: ds.update(id, label="noise"), ds.path): assert consistent(ds.path)[id].label in ("positive", "noise")
    assert ds[id].label == "noise"


# ---- more than one at a time

def test_two_processes_write_one_dataset(tmp_path):
    both = [start(tmp_path/"ds", "add", first, 40) for first in (0, 5000)]
    said = [p.communicate()[0].split()[1:] for p in both]
    assert [p.returncode for p in both] == [0, 0] and [len(s) for s in said] == [40, 40]
    assert {c.id for c in consistent(tmp_path/"ds").clips()} == {*said[0], *said[1]}

def test_two_processes_add_the_same_clips(tmp_path):
    both = [start(tmp_path/"ds", "add", 0, 25) for _ in range(2)]
    said = [p.communicate()[0].split()[1:] for p in both]
    assert said[0] == said[1] and len(consistent(tmp_path/"ds")) == 25

def test_threads_share_a_dataset(ds):
    errors = []
    def fill(first):
        try:
            for i in range(first, first + 10): ds.add(voice(.1, seed=i), "noise")
        except Exception as e: errors.append(e)
    threads = [threading.Thread(target=fill, args=(k*100 + 100,)) for k in range(4)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert not errors and len(consistent(ds.path)) == 46

def test_one_sound_cannot_get_two_labels_at_once(ds):
    for i in range(15):
        outcome, gate = [], threading.Barrier(2)
        def add(label):
            gate.wait()
            try: outcome.append(ds.add(voice(.05, seed=300 + i), label).label)
            except DatasetError as e: outcome.append("already here" in str(e))
        threads = [threading.Thread(target=add, args=(label,)) for label in ("positive", "noise")]
        for t in threads: t.start()
        for t in threads: t.join()
        assert outcome.count(True) == 1
    consistent(ds.path)

def test_somebody_else_changes_it_while_it_is_open(ds):
    other = Dataset.open(ds.path)
    new = other.add(voice(seed=50), "noise")
    other.trash(ds.clips()[0].id)
    assert new.id in {c.id for c in ds.clips()} and len(ds.clips(trashed=True)) == 1

@pytest.mark.parametrize("mode", ["DELETE", "TRUNCATE", "WAL"])
def test_journal_modes(tmp_path, mode):
    ds = Dataset.create(tmp_path/"ds", "x y", journal_mode=mode)
    ds.add(voice(), "noise")
    with sqlite3.connect(tmp_path/"ds/index.sqlite") as db: assert db.execute("PRAGMA journal_mode").fetchone()[0] == ("wal" if mode == "WAL" else "delete")
    db.close()
    assert len(Dataset.open(tmp_path/"ds")) == 1  # whoever opens it with the default gets the safe journal
    with sqlite3.connect(tmp_path/"ds/index.sqlite") as db: assert db.execute("PRAGMA journal_mode").fetchone()[0] == "delete"
    db.close()
    with pytest.raises(DatasetError, match="journal_mode"): Dataset.open(tmp_path/"ds", journal_mode="OFF")

def test_workers_get_a_dataset_by_pickle(ds):
    assert pickle.loads(pickle.dumps(ds)).clips() == ds.clips()


# ---- splits

def test_splits_keep_people_together_and_do_not_depend_on_order(tmp_path):
    made = []
    for order in (range(60), reversed(range(60))):
        ds = Dataset.create(tmp_path/f"d{len(made)}", "hey jarvis")
        for i in order: ds.add(voice(.05, seed=i), ("positive", "negative", "noise")[i % 3], speaker=f"s{i % 20}" if i % 3 < 2 else "", source=f"r{i % 10}" if i % 3 == 2 else "")
        made.append(ds)
    a, b = (d.split(seed=5) for d in made)
    assert {k: {c.id for c in v} for k, v in a.items()} == {k: {c.id for c in v} for k, v in b.items()} and made[0].fingerprint(seed=5) == made[1].fingerprint(seed=5)
    groups = [{c.group for c in cs} for cs in a.values()]
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]
    assert all({c.label for c in cs} == {"positive", "negative", "noise"} for cs in a.values()) and len(a["train"]) > 36
    assert sum(map(len, a.values())) == 60
    for bad in ({"train": 1.2}, {"train": .5, "test": .4}, {"train": 1, "test": 0}):
        with pytest.raises(DatasetError, match="add up to 1"): made[0].split(bad)

def test_what_the_fingerprint_covers(ds):
    one, first = ds.clips()[0], ds.fingerprint()
    seen = {first, ds.fingerprint(seed=1), ds.fingerprint({"train": .5, "test": .5})}
    for change in (dict(label="noise"), dict(speaker="x")):
        ds.update(one.id, **change)
        seen.add(ds.fingerprint())
    ds.trash(one.id)
    seen.add(ds.fingerprint())
    assert len(seen) == 6
    ds.restore(one.id)
    ds.update(one.id, label=one.label, speaker=one.speaker, notes="words")
    assert ds.fingerprint() == first
    ds.update(one.id, speaker="")
    assert ds[one.id].speaker == ""


# ---- manifests

def test_manifests_with_mistakes(ds, tmp_path):
    save_audio(tmp_path/"a.wav", voice(2, seed=60))
    lines = ['{"audio_filepath": "a.wav", "label": "noise", "offset": 0.5, "duration": 1}', "[1, 2]", '{"label": "noise"}', '{"audio_filepath": "gone.wav", "label": "noise"}',
             '{"audio_filepath": "a.wav", "label": "hello"}', '{"audio_filepath": "a.wav", "label": "noise", "offset": "x"}', "{"]
    (tmp_path/"m.jsonl").write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    report = ds.import_jsonl(tmp_path/"m.jsonl")
    assert [c.duration_s for c in report.added] == [1.0] and len(report.skipped) == 6
    assert (load_audio(report.added[0].path) == load_audio(tmp_path/"a.wav")[SR//2:SR*3//2]).all()

def test_audiofolder_of_somebody_else(ds, tmp_path):
    for i, l in enumerate(("positive", "noise")): save_audio(tmp_path/f"hf/{l}/{i}.wav", voice(seed=90 + i))
    assert sorted(c.label for c in ds.import_audiofolder(tmp_path/"hf").added) == ["noise", "positive"]
    (tmp_path/"csv").mkdir()
    save_audio(tmp_path/"csv/é.wav", voice(seed=95))
    (tmp_path/"csv/metadata.csv").write_text("file_name,label,speaker\né.wav,negative,Zoë\n", encoding="utf-8")
    assert ds.import_audiofolder(tmp_path/"csv").added[0].speaker == "Zoë"


@pytest.mark.parametrize("text", ["[]", "7", "null", '{"schema_version": "2", "name": "a", "phrase": "b"}', '{"schema_version": true, "name": "a", "phrase": "b"}', '{"name": "a", "phrase": "b"}',
                                  '{"schema_version": 1, "name": "a"}', '{"schema_version": 1, "phrase": "b"}', '{"schema_version": 1, "name": "a", "phrase": " "}', '{"schema_version": 1, "name": 3, "phrase": "b"}'])
def test_a_description_of_the_wrong_shape_is_refused(tmp_path, text):
    Dataset.create(tmp_path/"d", "hey jarvis")
    (tmp_path/"d"/"dataset.json").write_text(text, encoding="utf-8")
    with pytest.raises(DatasetError, match="write the file again with name, phrase and schema_version"): Dataset.open(tmp_path/"d")


def test_a_split_is_the_same_in_every_process():
    code = "from wakekit.data.splits import FRACTIONS, _assign; print(sorted(_assign({f'speaker {i}': 1 + i%3 for i in range(7)}, FRACTIONS, 0).items()))"
    said = {subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": str(k)}, capture_output=True, text=True, check=True).stdout for k in range(4)}
    assert len(said) == 1
