"What comes from strangers: archives, Label Studio, ten thousand files with bad ones among them; and what is frozen stays so."
import errno, io, json, os, shutil, stat, subprocess, sys, tarfile, threading, time, warnings, zipfile
from pathlib import Path
import numpy as np, pytest, soundfile as sf
from test_audio import refused
from test_dataset import consistent, small_disk, tree, voice
from wakekit.core import AudioError, DatasetError
from wakekit.data import archives, imports
from wakekit.data.archives import pack, safe_parts, unpacked
from wakekit.data.audio import load_audio, save_audio
from wakekit.data.interchange import Dataset, guess_format
from wakekit.data.inbox import KINDS

SR = 16_000
HARD = ["a name with spaces.wav", "🎙️ hey 日本.wav", "x"*240 + ".wav", "..wav", "...wav", "a..b.wav", "-rf.wav", "'; DROP TABLE items; --.wav", "new\nline.wav", "tab\t.wav"]


@pytest.fixture
def ds(tmp_path): return Dataset.create(tmp_path/"ds", "hey jarvis")

def files(path): return sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())
def wav(x): return (f := io.BytesIO(), sf.write(f, x, SR, format="WAV"), f.getvalue())[2]


def test_the_dataset_that_users_import_has_all_its_methods():
    "In a process of its own: other tests import what adds them"
    code = "from wakekit import Dataset; print(all(hasattr(Dataset, n) for n in 'add update trash split freeze diff relabel trash_all undo redo changes inbox import_any import_label_studio export_zip'.split()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100).stdout == "True\n"


# ---- many at once

def test_every_bad_file_in_a_batch_of_good_ones(ds, tmp_path):
    place = tmp_path/"usb/positive"
    place.mkdir(parents=True)
    good = {}
    for i, name in enumerate(refused):
        (place/name).write_bytes(refused[name][0])
        for k, (suffix, sr) in enumerate((("wav", SR), ("flac", 48_000), ("mp3", 44_100))):
            good[f"{name}.{k}.{suffix}"] = 3*i + k
            sf.write(place/f"{name}.{k}.{suffix}", voice(.3, seed=3*i + k), sr)
    report = ds.import_folder(tmp_path/"usb")
    assert {c.original_name for c in report.added} == set(good) and not report.damaged
    told = {Path(p).name: why for p, why in report.skipped}
    assert set(told) == set(refused) and len(report.skipped) == len(refused)
    for name, why in told.items(): assert refused[name][1] in why or "ffmpeg" in why, (name, why)
    assert len(consistent(ds.path)) == len(good) and files(ds.path/"clips") == sorted(f"{c.id}.{s}" for c in report.added for s in ("wav", "json"))

def test_reports_keep_the_order_and_know_which_file_was_damaged(ds, tmp_path):
    items = []
    for i in range(150):
        save_audio(p := tmp_path/f"{i:03}.wav", voice(.5, seed=i))
        if i % 7 == 3: p.write_bytes(p.read_bytes()[:9000])
        if i % 11 == 5: p.write_bytes(b"")
        items.append(dict(src=p, label="positive"))
    names = lambda keep: [f"{i:03}.wav" for i in range(150) if keep(i)]
    report = ds.import_items(items + items[:20])
    assert [c.original_name for c in report.added] == names(lambda i: i % 11 != 5)
    assert [p.name for p, _ in report.damaged] == names(lambda i: i % 7 == 3 and i % 11 != 5)
    assert [p.name for p, _ in report.skipped] == names(lambda i: i % 11 == 5) + ["005.wav", "016.wav"] and len(report.already) == 18
    consistent(ds.path)

def test_warnings_of_others_are_not_swallowed(ds, tmp_path):
    (tmp_path/"cut.wav").write_bytes(wav(voice(1))[:20_000])
    def items():
        warnings.warn("from the one who imports", UserWarning)
        yield dict(src=tmp_path/"cut.wav", label="noise")
    with pytest.warns(UserWarning, match="who imports") as heard: report = ds.import_items(items())
    assert [w.category for w in heard] == [UserWarning] and len(report.damaged) == 1

def test_two_imports_in_one_process(ds, tmp_path):
    other, reports, before = Dataset.create(tmp_path/"other", "hey jarvis"), {}, warnings.showwarning
    (tmp_path/"cut.wav").write_bytes(wav(voice(1))[:20_000])
    def fill(name, d): reports[name] = d.import_items([x for i in range(40) for x in (dict(src=voice(.1, seed=i), label="noise"), dict(src=tmp_path/"cut.wav", label="noise"))])
    threads = [threading.Thread(target=fill, args=a) for a in (("a", ds), ("b", ds), ("c", other))]
    for t in threads: t.start()
    for t in threads: t.join()
    assert len(consistent(ds.path)) == len(consistent(other.path)) == 41
    assert len(reports["a"].added) + len(reports["b"].added) == 41 and [len(r.damaged) for r in reports.values()].count(1) == 2
    assert warnings.showwarning is before and not imports._open

def test_ctrl_c_keeps_what_was_committed(ds, monkeypatch):
    monkeypatch.setattr(imports, "BATCH", 8)
    made = [dict(src=voice(.1, seed=i), label="noise") for i in range(200)]
    def items():
        for i, x in enumerate(made):
            if i == 120: raise KeyboardInterrupt
            yield x
    with pytest.raises(KeyboardInterrupt): ds.import_items(items())
    n = len(consistent(ds.path))
    assert 50 <= n <= 120 and n % 8 == 0 and len(files(ds.path/"clips")) == 2*n
    report = ds.import_items(made)
    assert (len(report.already), len(report.added), len(consistent(ds.path))) == (n, 200 - n, 200)

def test_an_unknown_word_about_a_recording_is_an_error(ds):
    with pytest.raises(TypeError): ds.import_items([dict(src=voice(), label="noise", colour="red")])
    assert files(ds.path/"clips") == []

@pytest.mark.parametrize("where", ["stage", "commit"])
def test_a_full_disk_says_what_stays(ds, monkeypatch, where):
    real, calls, items = getattr(Dataset, where), [], [dict(src=voice(.1, seed=i), label="noise") for i in range(100)]
    monkeypatch.setattr(imports, "BATCH", 10)
    def full(self, *args, **kwargs):
        calls.append(1)
        if len(calls) > (35 if where == "stage" else 3): raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, *args, **kwargs)
    monkeypatch.setattr(Dataset, where, full)
    with pytest.raises(OSError, match="recordings were added before that and stay") as e: ds.import_items(items)
    assert e.value.errno == errno.ENOSPC
    monkeypatch.undo()
    n = len(consistent(ds.path))
    assert 0 < n < 100 and f" {n} recordings" in str(e.value) and len(files(ds.path/"clips")) == 2*n
    assert len(ds.import_items(items).added) == 100 - n and len(consistent(ds.path)) == 100

def test_a_disk_that_really_fills_up_in_the_middle(small_disk):
    ds, items = Dataset.create(small_disk/"ds", "hey jarvis"), [dict(src=voice(.5, seed=i), label="positive") for i in range(200)]
    with pytest.raises(OSError, match="No space left on device.*stay. Make room"): ds.import_items(items)
    n = len(consistent(small_disk/"ds"))
    assert 0 < n < 200 and len(files(small_disk/"ds/clips")) == 2*n
    subprocess.run(["mount", "-o", "remount,size=20m", small_disk], check=True)
    report = ds.import_items(items)
    assert (len(report.already), len(report.added), len(consistent(small_disk/"ds"))) == (n, 200 - n, 200)

@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits of a process are of POSIX")
def test_a_file_that_may_not_grow(ds):
    code = """
import resource, signal, sys, numpy as np
from wakekit.data.interchange import Dataset
ds = Dataset.open(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
report = ds.import_items([dict(src=np.random.default_rng(i).standard_normal(n).astype("f4")*.1, label="noise", original_name=str(i)) for i, n in enumerate([9_000, 40_000, 8_000])])
print(len(report.added), report.skipped)
"""
    p = subprocess.run([sys.executable, "-c", code, str(ds.path)], capture_output=True, text=True, timeout=120)
    assert p.stdout.startswith("2 [('1', ") and "too large" in p.stdout, (p.stdout, p.stderr)
    assert len(consistent(ds.path)) == 2 and len(files(ds.path/"clips")) == 4


# ---- names

def test_hard_names_in_folders_and_archives(ds, tmp_path):
    place = tmp_path/"usb/positive"
    place.mkdir(parents=True)
    names = []
    for i, name in enumerate(HARD):
        try: save_audio(place/name, voice(.2, seed=i))
        except OSError: continue  # this system takes no such name
        names.append(name)
    report = ds.import_folder(tmp_path/"usb")
    hidden = [n for n in names if n.startswith(".")]
    assert sorted(c.original_name for c in report.added) == sorted(set(names) - set(hidden)) and not report.skipped
    with zipfile.ZipFile(tmp_path/"hard.zip", "w") as z:
        for i, name in enumerate([*HARD, "y"*300 + ".wav", "y"*300 + "z.wav"]): z.writestr(f"positive/{name}", wav(voice(.2, seed=100 + i)))
    again = Dataset.create(tmp_path/"again", "hey jarvis")
    report = again.import_zip(tmp_path/"hard.zip")
    assert len(report.added) == len(HARD) and not report.skipped  # two are hidden, two are longer than any disk allows
    assert all(c.path.name == f"{c.id}.wav" for c in consistent(again.path).clips())


# ---- archives

def evil(tmp_path, kind):
    "An archive that shall be refused, and words of the refusal"
    path = tmp_path/f"evil.{'tar' if kind.startswith('tar') else 'zip'}"
    inside = lambda m, data=b"": (setattr(m, "size", len(data)), m)[1]
    if kind.startswith("tar"):
        m = tarfile.TarInfo({"tar up": "../../out.wav", "tar absolute": f"{tmp_path}/out.wav"}.get(kind, "positive/a.wav"))
        m.type = {"tar symlink": tarfile.SYMTYPE, "tar hardlink": tarfile.LNKTYPE, "tar device": tarfile.CHRTYPE, "tar fifo": tarfile.FIFOTYPE}.get(kind, tarfile.REGTYPE)
        m.linkname = "/etc/passwd"
        data = b"" if m.type != tarfile.REGTYPE else wav(voice(.1))
        with tarfile.open(path, "w") as t: t.addfile(inside(m, data), io.BytesIO(data))
        return path, {"tar up": "leads out", "tar absolute": "absolute path"}.get(kind, "link or a device")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        if kind == "bomb": z.writestr("positive/a.wav", bytes(200 << 20))
        if kind == "many": [z.writestr(f"positive/{i}.wav", bytes(20 << 20)) for i in range(8)]
        if kind == "up": z.writestr("positive/../../out.wav", wav(voice(.1)))
        if kind == "backslash": z.writestr("positive\\..\\..\\out.wav", wav(voice(.1)))
        if kind == "absolute": z.writestr(f"{tmp_path}/out.wav", wav(voice(.1)))
        if kind == "drive": z.writestr("C:/out.wav", wav(voice(.1)))
        if kind == "twice":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for i in range(2): z.writestr("positive/a.wav", wav(voice(.1, seed=i)))
        if kind == "symlink":
            m = zipfile.ZipInfo("positive/a.wav")
            m.external_attr = (stat.S_IFLNK | 0o777) << 16
            z.writestr(m, "/etc/passwd")
        if kind in ("encrypted", "damaged", "cut", "lies"): z.writestr("positive/a.wav", wav(voice(1)))
    data = bytearray(path.read_bytes())
    if kind == "encrypted":
        at = data.rindex(b"PK\1\2")
        data[at + 8] |= 1
    if kind == "damaged": data[200:1200] = os.urandom(1000)
    if kind == "cut": data = data[:-1000]
    if kind == "lies":  # says in its directory that little comes out
        at = data.rindex(b"PK\1\2")
        data[at + 24:at + 28] = (1000).to_bytes(4, "little")
    path.write_bytes(data)
    return path, {"bomb": "zip bomb", "many": "zip bomb", "up": "leads out", "backslash": "leads out", "absolute": "absolute path", "drive": "absolute path", "twice": "twice", "symlink": "link or a device",
                  "encrypted": "encrypted", "damaged": "damaged", "cut": "cut off", "lies": "damaged"}[kind]

@pytest.mark.parametrize("kind", ["bomb", "many", "up", "backslash", "absolute", "drive", "twice", "symlink", "encrypted", "damaged", "cut", "lies",
                                  "tar up", "tar absolute", "tar symlink", "tar hardlink", "tar device", "tar fifo"])
def test_refused_archives_write_nothing(ds, tmp_path, kind):
    path, says = evil(tmp_path, kind)
    ds.add(voice(seed=1), "noise")
    before = files(tmp_path)
    with pytest.raises(DatasetError, match=says) as e: ds.import_zip(path)
    assert str(path) in str(e.value) and files(tmp_path) == before and len(consistent(ds.path)) == 1
    assert sorted(p.name for p in ds.path.iterdir()) == [".lock", "clips", "dataset.json", "index.sqlite", "trash"]

def test_a_gzip_bomb_is_stopped_early(ds, tmp_path):
    with tarfile.open(tmp_path/"b.tar.gz", "w:gz") as t:
        m = tarfile.TarInfo("positive/a.wav")
        m.size = 300 << 20
        class Zeros:
            def read(self, n=-1): return bytes(n)
        t.addfile(m, Zeros())
    with pytest.raises(DatasetError, match="zip bomb"): ds.import_zip(tmp_path/"b.tar.gz")

def test_limits_of_archives(ds, tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path/"a.zip", "w") as z:
        for i in range(5): z.writestr(f"positive/{i}.wav", wav(voice(1, seed=i)))
    with pytest.raises(DatasetError, match="larger max_gb"): ds.import_zip(tmp_path/"a.zip", max_gb=1e-4)
    monkeypatch.setattr(archives, "MAX_FILES", 3)
    with pytest.raises(DatasetError, match="more than 3 files"): ds.import_zip(tmp_path/"a.zip")
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda p: type("U", (), dict(free=256 << 20))())
    with pytest.raises(DatasetError, match="make room"): ds.import_zip(tmp_path/"a.zip")
    monkeypatch.undo()
    assert len(ds) == 0 and len(ds.import_zip(tmp_path/"a.zip").added) == 5
    for bad in ("nope.zip", "."):
        with pytest.raises(DatasetError, match="does not exist|is a folder"): ds.import_zip(tmp_path/bad)
    (tmp_path/"text.zip").write_text("hello", encoding="utf-8")
    with pytest.raises(DatasetError, match="no zip or tar"): ds.import_zip(tmp_path/"text.zip")

def test_a_manifest_in_an_archive_reads_no_other_files(ds, tmp_path):
    save_audio(tmp_path/"private.wav", voice(seed=5))
    for where in (str(tmp_path/"private.wav"), "../private.wav", "..\\private.wav"):
        with zipfile.ZipFile(tmp_path/"m.zip", "w") as z:
            z.writestr("set/manifest.jsonl", json.dumps(dict(audio_filepath=where, label="noise")) + "\n" + json.dumps(dict(audio_filepath="audio/a.wav", label="noise")) + "\n")
            z.writestr("set/audio/a.wav", wav(voice(seed=6)))
        report = ds.import_zip(tmp_path/"m.zip")
        assert len(ds) == 1 and len(report.skipped) == 1 and "outside" in report.skipped[0][1] + "outside"*("does not exist" in report.skipped[0][1])
    with zipfile.ZipFile(tmp_path/"hf.zip", "w") as z: z.writestr("train/metadata.jsonl", json.dumps(dict(file_name=str(tmp_path/"private.wav"), label="noise")) + "\n")
    assert "outside of the archive" in ds.import_zip(tmp_path/"hf.zip").skipped[0][1] and len(ds) == 1

def test_formats_inside_of_archives(tmp_path):
    src = Dataset.create(tmp_path/"src", "hey jarvis")
    for i in range(12): src.add(voice(.2, seed=i), ("positive", "negative", "noise")[i % 3], speaker=f"s{i % 4}", notes=f"n {i} “é”", licence="CC0")
    src.freeze("one")
    src.export_jsonl(tmp_path/"nemo")
    src.export_audiofolder(tmp_path/"hf")
    for p in (tmp_path/"nemo", tmp_path/"hf", tmp_path/"src"):
        for kind in ("zip", "gztar"):
            into = Dataset.create(tmp_path/f"from {p.name} {kind}", "hey jarvis")
            import shutil
            report = into.import_zip(shutil.make_archive(str(tmp_path/f"{p.name}-a"), kind, tmp_path, p.name))
            assert not report.skipped and into.fingerprint() == src.fingerprint() and {c.notes for c in into.clips()} == {c.notes for c in src.clips()}
    assert guess_format(tmp_path/"src") == "dataset" and guess_format(tmp_path/"nemo-a.zip") == "zip"

def test_an_exported_zip_is_the_dataset(ds, tmp_path):
    for i in range(9): ds.add(voice(.2, seed=i), ("positive", "negative", "noise")[i % 3], speaker=f"s{i % 4}", notes="wie geht’s 🎙")
    ds.trash(ds.clips()[0].id)
    ds.freeze("v1")
    data = ds.export_zip(tmp_path/"one/set.zip").read_bytes()
    Dataset.open(ds.path).rebuild_index()
    assert ds.export_zip(tmp_path/"two/set.zip").read_bytes() == data
    with zipfile.ZipFile(tmp_path/"one/set.zip") as z: z.extractall(tmp_path/"out")
    back = consistent(tmp_path/"out/set")
    assert back.fingerprint() == ds.fingerprint() and [c.id for c in back.clips()] == [c.id for c in ds.clips()] and back.versions() == ds.versions() and not back.clips(trashed=True)
    assert len(Dataset.open(tmp_path/"out/set")) == 8 and ds.export_zip(tmp_path/"p.zip", ds.clips("positive")).stat().st_size < len(data)

def test_a_failed_export_keeps_the_old_zip(ds, tmp_path):
    for i in range(3): ds.add(voice(.2, seed=i), "noise")
    old = ds.export_zip(tmp_path/"set.zip").read_bytes()
    clips = ds.clips()
    clips[1].path.unlink()
    with pytest.raises(DatasetError, match="export again"): ds.export_zip(tmp_path/"set.zip", clips)
    assert (tmp_path/"set.zip").read_bytes() == old and [p.name for p in tmp_path.iterdir() if p.name.endswith(".tmp")] == []

def test_a_dataset_of_another_phrase(ds, tmp_path):
    other = Dataset.create(tmp_path/"other", "computer")
    for i in range(3): other.add(voice(.2, seed=i), "positive")
    other.export_zip(tmp_path/"o.zip")
    with pytest.raises(DatasetError, match="for the phrase 'computer'"): ds.import_zip(tmp_path/"o.zip")
    assert [c.label for c in ds.import_zip(tmp_path/"o.zip", label="negative").added] == ["negative"]*3

@pytest.mark.parametrize("side", ['{"label": "boss"}', "[]", "{", '{"label": ["positive"]}', ""])
def test_sidecars_of_strangers(ds, tmp_path, side):
    with zipfile.ZipFile(tmp_path/"s.zip", "w") as z:
        z.writestr("set/dataset.json", '{"phrase": "hey jarvis", "schema_version": 99, "name": {"a": 1}}')
        z.writestr("set/clips/abc.wav", wav(voice(.2)))
        if side: z.writestr("set/clips/abc.json", side)
        z.writestr("set/clips/def.wav", wav(voice(.2, seed=2)))
        z.writestr("set/clips/def.json", json.dumps(dict(label="noise", speaker={"x": [1]}, id="../../evil", path="/etc", sha256="0", trashed=True)))
    report = ds.import_zip(tmp_path/"s.zip")
    assert [c.label for c in report.added] == ["noise"] and "names no label" in report.skipped[0][1] and len(consistent(ds.path)) == 1


# ---- versions

@pytest.fixture
def grown(ds):
    for i in range(40): ds.add(voice(.05, seed=i), "positive" if i < 15 else "negative", speaker=f"s{i % 10}")
    return ds

def test_a_version_is_the_split_of_that_day(grown):
    first, split = grown.freeze("v1", "said"), grown.split()
    assert {p: [r[0] for r in rows] for p, rows in first.parts.items()} == {p: [c.id for c in cs] for p, cs in split.items()}
    assert first.fingerprint == grown.fingerprint() and len(first) == 40 and first.note == "said"
    for i in range(40, 60): grown.add(voice(.05, seed=i), "negative", speaker=f"s{i % 13}")
    assert grown.version("v1") == first and grown.fingerprint() != first.fingerprint
    kept = grown.split_of("v1")
    assert {p: [c.id for c in cs] for p, cs in kept.items()} == {p: [c.id for c in cs] for p, cs in split.items()} and kept.missing == []
    assert [v.name for v in grown.versions()] == ["v1"]

def test_a_diff_names_every_kind_of_change(grown, tmp_path):
    grown.freeze("v1", fractions={"a": .5, "b": .5}, seed=3)
    cs = grown.clips()
    grown.trash(cs[0].id)
    grown.trash(cs[1].id)
    grown.purge()
    grown.trash(cs[2].id)
    grown.update(cs[3].id, label="noise")
    grown.update(cs[4].id, speaker="new name")
    grown.update(cs[5].id, notes="nothing that a version holds")
    new = grown.add(voice(seed=99), "noise")
    d = grown.diff("v1")
    assert d.added == [new.id] and dict(d.removed) == {cs[0].id: "gone", cs[1].id: "gone", cs[2].id: "in the trash"}
    assert d.relabelled == [(cs[3].id, cs[3].label, "noise")] and d.regrouped == [(cs[4].id, cs[4].speaker, "new name")]
    changed = {i for i, *_ in d.relabelled + d.regrouped + d.moved}
    assert d.same == 37 - len(changed) and {p for _, a, b in d.moved for p in (a, b)} <= {"a", "b"} and json.dumps(d.to_dict()) and "relabelled | 1" in d._repr_markdown_()
    grown.freeze("v2")
    back = grown.diff("v2", "v1")
    assert dict(back.removed).keys() == {new.id} and len(back.added) == 3
    missing = grown.split_of("v1").missing
    assert sorted(i for i, *_ in missing) == sorted(dict(d.removed)) and sum("restore" in why for *_, why in missing) == 1
    frozen = {c.id: c for cs in grown.split_of("v1").values() for c in cs}
    assert frozen[cs[3].id].label == cs[3].label and frozen[cs[4].id].group == cs[4].group

@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", "con", "x"*101, " ", "a\n", "a."])
def test_names_of_versions(grown, name):
    with pytest.raises(DatasetError, match="no name for a version"): grown.freeze(name)
    with pytest.raises(DatasetError, match="there is no version"): grown.version(name)

@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"schema_version": 2}', '{"schema_version": 1, "parts": []}', '{"schema_version": 1, "parts": {"a": [["x"]]}, "fractions": {}, "seed": 0, "name": "", "fingerprint": "", "created": "", "phrase": "", "note": ""}'])
def test_damaged_versions_do_not_stop_a_dataset(grown, text):
    grown.freeze("good")
    (grown.path/"versions/bad.json").write_text(text, encoding="utf-8")
    again = Dataset.open(grown.path)
    assert [v.name for v in again.versions()] == ["good"] and [p.name for p, _ in again.problems] == ["bad.json"] and len(again.versions()) == 1 and len(again.problems) == 1
    with pytest.raises(DatasetError, match="copy of the dataset|update wakekit"): again.diff("bad")

def test_an_empty_dataset_has_no_version(ds):
    with pytest.raises(DatasetError, match="is empty"): ds.freeze("v1")

def test_two_freeze_the_same_name(grown):
    found, gate = [], threading.Barrier(2)
    def go():
        gate.wait()
        try: found.append(grown.freeze("v").name)
        except DatasetError as e: found.append("never changed" in str(e))
    threads = [threading.Thread(target=go) for _ in range(2)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert sorted(map(str, found)) == ["True", "v"]


# ---- manifests, tables and corpora as people have them

def recordings(place, *names):
    for i, n in enumerate(names): save_audio(place/n, voice(.3, seed=i))

def test_one_bad_line_costs_one_line(ds, tmp_path):
    recordings(tmp_path/"hf", "a.wav", "b.wav")
    (tmp_path/"hf/metadata.jsonl").write_text('{"file_name": "a.wav", "label": "positive", "notes": "one\u2028two"}\nno json\n[1]\n{"file_name": 3, "label": "noise"}\n{"file_name": "b.wav", "label": "negative"}\n', encoding="utf-8")
    report = ds.import_any(tmp_path/"hf")
    assert [c.label for c in report.added] == ["positive", "negative"] and [why.split(":")[0] for _, why in report.skipped] == ["line 2", "line 3", "line 4"]
    assert ds.clips("positive")[0].notes == "one\u2028two"
    again = Dataset.create(tmp_path/"again", "hey jarvis")
    assert len(again.import_jsonl(ds.export_jsonl(tmp_path/"out")).added) == 2  # what goes out comes in again

@pytest.mark.parametrize("part", [dict(offset=float("nan"), duration=.1), dict(offset=.1, duration=float("nan")), dict(offset=.1, duration=float("inf")), dict(offset=float("inf")), dict(offset=-1, duration=.1), dict(offset=.1, duration=-1)])
def test_times_that_are_none(ds, tmp_path, part):
    recordings(tmp_path, "a.wav", "b.wav")
    (tmp_path/"m.jsonl").write_text("\n".join(json.dumps(dict(audio_filepath=n, label="negative", **p)) for n, p in (("a.wav", part), ("b.wav", {}))), encoding="utf-8")
    report = ds.import_jsonl(tmp_path/"m.jsonl")
    assert len(report.added) == 1 and "start_s must be" in report.skipped[0][1]

def test_tables_of_spreadsheets(ds, tmp_path):
    recordings(tmp_path/"hf", "a.wav", "b.wav")
    for text in ("file_name;label\r\na.wav;positive\r\n", "label\tfile_name\nnegative\tb.wav\n"):
        (tmp_path/"hf/metadata.csv").write_text(text, encoding="utf-8-sig")
        assert len(ds.import_any(tmp_path/"hf").added) == len(ds.import_any(tmp_path/"hf/metadata.csv").already) == 1
    for data, says in (("file_name,label,speaker\na.wav,positive,Zo\xeb\n".encode("cp1252"), "not UTF-8"), (b"LJ001|one|one\nLJ002|two|two\n", "--format folder")):
        (tmp_path/"hf/metadata.csv").write_bytes(data)
        (_, why), = ds.import_any(tmp_path/"hf").skipped
        assert says in why

def test_a_manifest_that_is_one_list(ds, tmp_path):
    recordings(tmp_path, "a.wav")
    (tmp_path/"m.json").write_text(json.dumps([dict(audio_filepath="a.wav", label="positive"), dict(text="?"), "a.wav"], indent=1), encoding="utf-8")
    report = ds.import_any(tmp_path/"m.json")
    assert len(report.added) == 1 and [why.split(" ")[1].rstrip(":") for _, why in report.skipped] == ["2", "3"]

def test_an_archive_is_called_by_its_name(ds, tmp_path):
    recordings(tmp_path/"flat", "a.wav")
    with pytest.raises(DatasetError, match="^(?!.*unpack-).*flat.zip has no subfolder named positive"): ds.import_zip(shutil.make_archive(str(tmp_path/"flat"), "zip", tmp_path/"flat"))
    zipfile.ZipFile(tmp_path/"nothing.zip", "w").close()
    with pytest.raises(DatasetError, match="^(?!.*unpack-).*no recordings in .*nothing.zip"): ds.import_zip(tmp_path/"nothing.zip", "positive")

def test_what_was_said_for_all_counts_where_a_line_says_nothing(ds, tmp_path):
    recordings(tmp_path, "a.wav", "b.wav")
    (tmp_path/"m.jsonl").write_text('{"audio_filepath": "a.wav", "label": "positive", "speaker": "bob"}\n{"audio_filepath": "b.wav"}', encoding="utf-8")
    report = ds.import_any(tmp_path/"m.jsonl", "negative", speaker="ann", licence="CC0", speaker_from_folder=True)
    assert [(c.label, c.speaker, c.licence) for c in report.added] == [("positive", "bob", "CC0"), ("negative", "ann", "CC0")]

def test_a_label_for_all_of_speech_commands_is_taken(tmp_path):
    go = Dataset.create(tmp_path/"go", "go")
    recordings(tmp_path/"sc", "go/ab_nohash_0.wav", "no/cd_nohash_0.wav", "_background_noise_/rain.wav")
    assert sorted((c.label, c.speaker) for c in go.import_any(tmp_path/"sc", "negative").added) == [("negative", "ab"), ("negative", "cd"), ("noise", "")]

@pytest.mark.parametrize("packed", [False, True])
def test_speakers_of_librispeech_are_known_without_being_asked_for(ds, tmp_path, packed):
    for i, who in enumerate(("19", "26", "26")):
        (to := tmp_path/f"LibriSpeech/dev-clean/{who}/7").mkdir(parents=True, exist_ok=True)
        sf.write(to/f"{who}-7-000{i}.flac", voice(.3, seed=i), SR)
    place = shutil.make_archive(str(tmp_path/"l"), "gztar", tmp_path, "LibriSpeech") if packed else tmp_path/"LibriSpeech"
    assert sorted(c.speaker.split()[-1] for c in ds.import_any(place).added) == ["19", "26", "26"]


# ---- Label Studio

def results(*tasks): return [dict(id=i + 1, data=data, annotations=annotations) for i, (data, annotations) in enumerate(tasks)]
def said(by, *values, **more): return dict(completed_by=by, result=[dict(id=str(k), type="labels" if "start" in v else "choices", from_name="label", to_name="audio", value=v, original_length=9.) for k, v in enumerate(values)], **more)
def choice(label): return dict(choices=[label])

def test_answers_of_every_kind(ds, tmp_path):
    ids = [ds.add(voice(.2, seed=i), "positive").id for i in range(6)]
    data = lambda i: dict(audio=f"/data/local-files/?d=x/audio/{ids[i]}.wav", wakekit_id=ids[i])
    ds.trash(ids[5])
    (tmp_path/"r.json").write_text(json.dumps(results(
        (data(0), [said(dict(id=3, email="ann@example.org"), choice("Negative"))]),
        (data(1), [said(1, choice("negative")), said(2, choice("positive")), said(3, choice("negative"))]),
        (data(2), [said(1, choice("negative")), said(2, choice("positive"), ground_truth=True), said(3, choice("negative"))]),
        (data(3), [said(1, choice("noise"), was_cancelled=True)]),
        (data(4), [said(1, choice("noise")), said(2, choice("negative"))]),
        (data(5), [said(1, choice("negative"))]),
        (dict(audio="https://example.org/missing.wav"), [said(1, choice("negative"))]),
        (data(0), []))), encoding="utf-8")
    report = ds.import_label_studio(tmp_path/"r.json")
    assert [(i, b) for i, _, b in report.relabelled] == [(ids[0], "negative"), (ids[1], "negative")] and report.unlabelled == 2 and not report.added
    told = dict(report.skipped)
    assert "disagree" in told["task 5"] and "trash" in told["task 6"] and "download" in told["task 7"] and len(told) == 3
    assert [ds[i].label for i in ids] == ["negative", "negative", "positive", "positive", "positive", "positive"]
    assert 0 < report.agreed["share"] < 1 and "α" in report._repr_markdown_()

def test_json_min_says_the_same(ds, tmp_path):
    save_audio(tmp_path/"files/evening take.wav", voice(6, seed=3))
    rows = [dict(audio="/data/upload/7/0123abcd-evening%20take.wav", id=5, annotator=who, annotation_id=who, lead_time=3., created_at="x", updated_at="y", speaker="Zoë",
                 part=[dict(start=1. + who/50, end=2., channel=0, labels=["positive"], original_length=6.)]) for who in (1, 2)]
    save_audio(tmp_path/"files/b.wav", voice(1, seed=4))
    rows += [dict(audio="s3://bucket/some/b.wav", id=6, annotator=1, annotation_id=9, label="noise")]
    (tmp_path/"min.json").write_text(json.dumps(rows), encoding="utf-8")
    assert guess_format(tmp_path/"min.json") == "label-studio"
    report = ds.import_label_studio(tmp_path/"min.json", audio=tmp_path/"files")
    assert sorted((c.label, round(c.duration_s, 2), c.source, c.speaker) for c in report.added) == [("noise", 1., "", ""), ("positive", .97, "evening take", "Zoë")]
    cut = next(c for c in report.added if c.label == "positive")
    assert (ds.load(cut) == load_audio(tmp_path/"files/evening take.wav", start_s=1.03, duration_s=.97)).all()

@pytest.mark.parametrize("address", ["/data/local-files/?d=../../secret.wav", "/data/local-files/?d=..%2Fsecret.wav", "../secret.wav", "/data/upload/..\\secret.wav", "", "http://[", "file:///etc/passwd"])
def test_addresses_that_lead_elsewhere(ds, tmp_path, address):
    save_audio(tmp_path/"secret.wav", voice())
    (tmp_path/"in").mkdir()
    (tmp_path/"in/r.json").write_text(json.dumps(results((dict(audio=address), [said(1, choice("noise"))]))), encoding="utf-8")
    report = ds.import_label_studio(tmp_path/"in/r.json")
    assert not report.added and len(report.skipped) == 1 and len(ds) == 0

@pytest.mark.parametrize("text, says", [("{", "export as JSON"), ("[1]", "is no task"), ('[{"id": 1}]', "neither data"), ('{"data": 3}', "neither data")])
def test_files_that_are_no_results(ds, tmp_path, text, says):
    (tmp_path/"r.json").write_text(text, encoding="utf-8")
    with pytest.raises(DatasetError, match=says): ds.import_label_studio(tmp_path/"r.json")
    with pytest.raises(DatasetError, match="does not exist"): ds.import_label_studio(tmp_path/"nope.json")
    with pytest.raises(DatasetError, match="there is no label 'wake'"): ds.import_label_studio(tmp_path/"r.json", labels={"x": "wake"})

@pytest.mark.parametrize("value", [dict(start="x", end=2, labels=["noise"]), dict(choices="noise"), dict(start=5, end=2, labels=["noise"]), dict(start=-1, end=2, labels=["noise"]), None, 7, dict(start=100, end=200, labels=["noise"])])
def test_values_of_the_wrong_shape(ds, tmp_path, value):
    save_audio(tmp_path/"a.wav", voice(2))
    (tmp_path/"r.json").write_text(json.dumps([dict(id=1, data=dict(audio="a.wav", speaker=[1]), annotations=[dict(completed_by=None, result=[dict(value=value)]), dict(), 7])]), encoding="utf-8")
    report = ds.import_label_studio(tmp_path/"r.json")
    assert not report.added and len(report.skipped) + report.unlabelled >= 1 and len(consistent(ds.path)) == 0

@pytest.mark.parametrize("result", ["negative", ["negative"], 7, [dict(type="textarea", from_name="speaker")], dict(value=choice("negative"))])
def test_a_result_of_the_wrong_shape_is_no_answer(ds, tmp_path, result):
    id = ds.add(voice(.2), "positive").id
    (tmp_path/"r.json").write_text(json.dumps([dict(id=1, data=dict(audio="a.wav", wakekit_id=id), annotations=[dict(completed_by=1, result=result)])]), encoding="utf-8")
    assert ds.import_label_studio(tmp_path/"r.json").unlabelled == 1 and ds[id].label == "positive"

def test_tasks_go_out_and_come_back(ds, tmp_path):
    for i in range(4): ds.add(voice(.3, seed=i), "positive", speaker=f"s{i}")
    ids = [c.id for c in ds.clips()]
    tasks = json.loads(ds.export_label_studio(tmp_path/"out", predictions={ids[0]: [dict(by="m1", label="noise", score=np.float32(.5)), dict(by="m2", label="positive", start_s=0, end_s=.2), dict(by="asr", label="", heard="?")]}, regions=True).read_text(encoding="utf-8"))
    assert [t["data"]["wakekit_id"] for t in tasks] == ids and [p["model_version"] for p in tasks[0]["predictions"]] == ["m1", "m2"] and "predictions" not in tasks[1]
    assert tasks[0]["predictions"][1]["result"][0]["value"] == dict(start=0., end=.2, channel=0, labels=["positive"])
    for t in tasks: t["annotations"] = [said(1, choice("negative"))]
    (tmp_path/"out/back.json").write_text(json.dumps(tasks), encoding="utf-8")
    assert len(ds.import_any(tmp_path/"out/back.json").relabelled) == 4
    fresh = Dataset.create(tmp_path/"fresh", "hey jarvis")
    report = fresh.import_any(tmp_path/"out/back.json")  # elsewhere, the recordings come with their tasks
    assert [c.id for c in report.added] == ids and {c.speaker for c in report.added} == {f"s{i}" for i in range(4)}


def part(a, b, label): return dict(start=a, end=b, channel=0, labels=[label])

def inboxed(ds, n=4, s=2.):
    "Sounds that wait, the highest score first"
    return [ds.inbox.put(voice(s, seed=50 + k), "proposal", origin="evening.wav", start_s=100.*k, score=1 - k/100,
                         predictions=[dict(by="voices", label="positive", score=.5, start_s=100.*k + .5, end_s=100.*k + 1.5), dict(by="asr", label="", heard="?")])[0] for k in range(n)]

def test_sounds_of_the_inbox_go_out_and_come_back_as_decisions(ds, tmp_path):
    found = inboxed(ds, 6)
    tasks = json.loads(ds.export_label_studio(tmp_path/"out", ds.inbox.found(), regions=True).read_text(encoding="utf-8"))
    assert [t["data"]["wakekit_sound"] for t in tasks] == [f.id for f in found] and all("wakekit_id" not in t["data"] for t in tasks)
    assert tasks[3]["predictions"][0]["result"][0]["value"] == part(.5, 1.5, "positive") and len(tasks[3]["predictions"]) == 1
    assert 'value="reject"' in (tmp_path/"out/config.xml").read_text(encoding="utf-8") and files(tmp_path/"out/audio") == sorted(f"{f.id}.wav" for f in found)
    answers = [[said(dict(id=1, email="ann@example.org"), choice("negative"))], [said(1, part(.4, 1.5, "positive")), said(2, part(.6, 1.5, "positive"))], [said(1, choice("reject"))],
               [said(1, choice("positive")), said(2, choice("negative"))], [said(1, choice("noise"), was_cancelled=True)], [said(1, part(0, .7, "negative"), part(1, 1.8, "positive"))]]
    (tmp_path/"out/r.json").write_text(json.dumps(results(*((t["data"], a) for t, a in zip(tasks, answers)))), encoding="utf-8")
    report = ds.import_label_studio(tmp_path/"out/r.json")
    assert report.decided == [(found[0].id, "negative"), (found[1].id, "positive"), (found[2].id, "rejected"), (found[5].id, "positive")]
    assert [f.outcome for f in (ds.inbox[f.id] for f in found)] == ["negative", "positive", "rejected", "open", "open", "positive"]
    assert report.unlabelled == 1 and [n for n, _ in report.skipped] == ["task 4"] and "disagree" in report.skipped[0][1]
    first, second = ds.inbox[found[0].id].decision, ds.inbox[found[1].id].decision
    assert first["by"] == "Label Studio: ann@example.org" and (second["start_s"], second["end_s"]) == (.5, 1.5)
    trimmed = ds[second["clip_id"]]
    assert trimmed.duration_s == 1. and (ds.load(trimmed) == load_audio(found[1].path, start_s=.5, duration_s=1.)).all()
    assert sorted((c.label, c.source, round(c.duration_s, 2)) for c in report.added) == [("negative", "inbox: evening.wav", .7), ("negative", "inbox: evening.wav", 2.), ("positive", "inbox: evening.wav", .8), ("positive", "inbox: evening.wav", 1.)]
    again = ds.import_label_studio(tmp_path/"out/r.json")
    assert not again.added and not again.decided and len(consistent(ds.path)) == 4
    ds.inbox.undo(found[5].id)  # both parts of it go
    assert len(consistent(ds.path)) == 2 and len(ds.inbox) == 3

def test_answers_about_sounds_that_others_decided_on_or_that_are_gone(ds, tmp_path):
    found = inboxed(ds, 3)
    tasks = json.loads(ds.export_label_studio(tmp_path/"out", ds.inbox.found()).read_text(encoding="utf-8"))
    assert tasks[0]["predictions"][0]["result"][0]["value"] == choice("positive")  # without parts in the interface, no part is shown
    def answer(*labels):
        (tmp_path/"out/r.json").write_text(json.dumps(results(*((t["data"], [said(7, choice(l))]) for t, l in zip(tasks, labels)))), encoding="utf-8")
        return ds.import_label_studio(tmp_path/"out/r.json")
    ds.inbox.reject(found[0].id, by="ben")
    ds.inbox.sweep(max_items=1, kinds=KINDS)  # it goes, and the oldest that waits
    gone = [f.id for f in found if f.id not in {s.id for s in ds.inbox.found(open=None)}]
    assert len(gone) == 2
    left = next(f for f in found if f.id not in gone)
    ds.inbox.accept(left.id, "noise", by="ben")
    report = answer("negative", "negative", "negative")
    assert "decided here meanwhile (noise, by ben)" in report.skipped[0][1] and ds.inbox[left.id].outcome == "noise"
    assert {c.id for c in report.added} == set(gone) and {c.source for c in report.added} == {"inbox: evening.wav"}  # from the copies that went out
    ds.inbox.undo(left.id)
    assert answer("negative", "negative", "negative").decided == [(left.id, "negative")]
    assert answer("reject", "reject", "reject").decided == [(left.id, "rejected")]  # Label Studio may change its own mind
    report = Dataset.create(tmp_path/"other", "hey jarvis").import_label_studio(tmp_path/"out/r.json")
    assert not report.added and [w for _, w in report.skipped] == ["people reject it"]*3

@pytest.mark.parametrize("value, says", [(part(.5, .55, "positive"), "too short"), (part(1.5, .5, "positive"), "no part of a sound"), (part(5, 9, "positive"), "no part of a sound")])
def test_marks_that_make_no_clip_leave_the_sound_waiting(ds, tmp_path, value, says):
    found = inboxed(ds, 1)[0]
    (tmp_path/"r.json").write_text(json.dumps([dict(audio="x.wav", id=1, annotator=1, annotation_id=2, part=[value], wakekit_sound=found.id)]), encoding="utf-8")
    report = ds.import_label_studio(tmp_path/"r.json")
    assert says in report.skipped[0][1] and ds.inbox[found.id].outcome == "open" and len(consistent(ds.path)) == 0
    for id in ("../../../etc/passwd", 7, ["x"], "0"*16):
        (tmp_path/"r.json").write_text(json.dumps(results((dict(audio="x.wav", wakekit_sound=id), [said(1, choice("noise"))]))), encoding="utf-8")
        assert "is not in" in ds.import_label_studio(tmp_path/"r.json").skipped[0][1]


# ---- kill -9

@pytest.mark.skipif(not hasattr(os, "fork"), reason="bench/kill_data.py needs fork")
def test_a_few_kills_of_every_kind(tmp_path):
    "The whole tally is made by `python bench/kill_data.py`"
    p = subprocess.run([sys.executable, "bench/kill_data.py", "--kills", "4", "--out", str(tmp_path/"tally.json")], cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=300)
    tally = json.loads((tmp_path/"tally.json").read_text(encoding="utf-8"))
    assert p.returncode == 0 and tally["wrong"] == 0 and tally["kills"] == 28, p.stdout + p.stderr[-2000:]

SLOW = """
import sys, time
from wakekit.data import archives
from wakekit.data.interchange import Dataset
take = archives._take
def slow(*a):
    take(*a)
    print("unpacking", flush=True)
    time.sleep(600)
archives._take = slow
Dataset.open(sys.argv[1]).import_zip(sys.argv[2])
"""

@pytest.mark.skipif(os.name == "nt", reason="kill -9")
def test_what_a_killed_import_unpacked_goes_with_the_next_one_and_what_others_unpack_stays(ds, tmp_path):
    for i in range(3): save_audio(tmp_path/f"in/positive/{i}.wav", voice(.2, seed=i))
    shutil.make_archive(str(tmp_path/"in"), "zip", tmp_path, "in")
    def start():
        p = subprocess.Popen([sys.executable, "-c", SLOW, str(ds.path), str(tmp_path/"in.zip")], stdout=subprocess.PIPE, text=True)
        assert p.stdout.readline().strip() == "unpacking"
        return p, max(ds.path.glob(".unpack-*"), key=lambda f: f.stat().st_mtime_ns)
    dead, left = start()
    dead.kill()
    dead.communicate()
    alive, used = start() # it sees the folder of the dead one, which is too young to be judged
    assert left.is_dir() and used != left and list(left.rglob("*.wav"))
    try:
        for folder in (left, used): os.utime(folder/".lock", (time.time() - 120,)*2)
        old, new = ds.path/".unpack-before-locks", ds.path/".unpack-just-made"
        for folder in (old, new): folder.mkdir()
        os.utime(old, (time.time() - 90_000,)*2)
        assert len(ds.import_zip(tmp_path/"in.zip").added) == 3
        assert {f.name for f in ds.path.glob(".unpack-*")} == {used.name, new.name} and list(used.rglob("*.wav"))
    finally:
        alive.kill()
        alive.communicate()
    os.utime(used/".lock", (time.time() - 120,)*2)
    assert len(ds.import_zip(tmp_path/"in.zip").already) == 3 and [f.name for f in ds.path.glob(".unpack-*")] == [new.name]
    assert len(consistent(ds.path)) == 3

def test_purging_after_somebody_died_in_the_middle_of_a_restore(ds):
    a, b = (ds.add(voice(.1, seed=i), "positive", speaker="ann").id for i in range(2))
    ds.trash(a), ds.trash(b)
    os.replace(ds.path/f"trash/{a}.wav", ds.path/f"clips/{a}.wav")  # killed here: the sidecar did not follow, the index does not know
    assert ds.purge() == 1
    assert [(c.id, c.speaker) for c in consistent(ds.path).clips()] == [(a, "ann")] and files(ds.path/"trash") == []

def test_a_version_is_checked_out_whole_or_not_at_all(grown, tmp_path, monkeypatch):
    first = grown.freeze("v1")
    cs = grown.clips()
    grown.update(cs[0].id, label="noise", speaker="somebody")
    grown.add(voice(seed=99), "noise")
    calls = []
    def full(*a, **k):
        calls.append(1)
        if len(calls) > 5: raise OSError(errno.ENOSPC, "No space left on device")
        return real(*a, **k)
    from wakekit.data import versions as module
    real = module.write_json
    monkeypatch.setattr(module, "write_json", full)
    with pytest.raises(OSError, match="No space"): grown.checkout("v1", tmp_path/"was")
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["ds"]
    monkeypatch.setattr(os, "link", lambda *a: (_ for _ in ()).throw(OSError(errno.EPERM, "no links here")))
    was = grown.checkout("v1", tmp_path/"was")
    assert consistent(was.path).fingerprint() == first.fingerprint and was[cs[0].id].label == cs[0].label and was[cs[0].id].created == cs[0].created
    grown.trash(cs[3].id)
    with pytest.raises(DatasetError, match="are missing.*restore"): grown.checkout("v1", tmp_path/"again")


# ---- the command line

def test_commands(tmp_path, monkeypatch, capsys):
    from wakekit.cli_data import commands
    monkeypatch.setenv("WAKEKIT_DATA_DIR", str(tmp_path/"data"))
    def run(*line): return commands.run([str(w) for w in line]), *capsys.readouterr()
    def found(*line):
        code, out, err = run(*line, "--json")
        assert code == 0, err
        return json.loads(out)
    found("data", "create", "kitchen", "hey jarvis")
    bad, says = evil(tmp_path, "up")
    code, out, err = run("data", "import", "kitchen", bad)
    assert code == 1 and says in err and len(err.strip().splitlines()) == 1 and not out
    for i in range(12): save_audio(tmp_path/f"usb/{'positive' if i % 2 else 'negative'}/s{i % 5}/{i}.wav", voice(.2, seed=i))
    assert len(found("data", "import", "kitchen", tmp_path/"usb", "--speaker-from-folder")["added"]) == 12
    assert found("data", "versions", "kitchen")["versions"] == []
    first = found("data", "freeze", "kitchen", "v1", "--note", "first")
    assert first["clips"] == 12 and found("data", "versions", "kitchen")["versions"] == [first] and found("data", "freeze", "kitchen")["name"][:2] == "20"
    assert found("data", "diff", "kitchen", "v1")["same"] == 12
    assert found("data", "checkout", "kitchen", "v1", "--out", tmp_path/"was")["fingerprint"] == first["fingerprint"]
    found("data", "export", "kitchen", "--format", "zip", "--out", tmp_path/"k.zip")
    found("data", "create", "cabin", "hey jarvis")
    assert len(found("data", "import", "cabin", tmp_path/"k.zip")["added"]) == 12
    found("data", "export", "kitchen", "--format", "label-studio", "--label", "positive", "--out", tmp_path/"ls")
    tasks = json.loads((tmp_path/"ls/tasks.json").read_text(encoding="utf-8"))
    for t in tasks: t["annotations"] = [said(1, choice("Wake")), said(2, choice("other"))]
    (tmp_path/"ls/back.json").write_text(json.dumps(tasks), encoding="utf-8")
    answers = found("data", "import", "cabin", tmp_path/"ls/back.json", "--word", "wake=negative", "--word", "other=")
    assert len(answers["answers"][0]["relabelled"]) == len(tasks) == 6
    from wakekit import Dataset as Whole
    kitchen = Whole.open(next((tmp_path/"data").rglob("kitchen/dataset.json")).parent)
    sounds = inboxed(kitchen, 3)
    assert run("data", "export", "kitchen", "--inbox", "--out", tmp_path/"x")[0] == run("data", "export", "kitchen", "--kind", "near", "--out", tmp_path/"x")[0] == 2
    assert found("data", "export", "kitchen", "--format", "label-studio", "--inbox", "--kind", "proposal", "--out", tmp_path/"review")["clips"] == 3
    tasks = json.loads((tmp_path/"review/tasks.json").read_text(encoding="utf-8"))
    (tmp_path/"review/back.json").write_text(json.dumps(results(*((t["data"], [said(1, choice("rubbish"))]) for t in tasks))), encoding="utf-8")
    assert found("data", "import", "kitchen", tmp_path/"review/back.json", "--word", "rubbish=reject")["answers"][0]["decided"] == [[s.id, "rejected"] for s in sounds]
    for wrong in (["--word", "x"], ["--word", "x=boss"]): assert run("data", "import", "cabin", tmp_path/"ls/back.json", *wrong)[0] == 2
    assert run("data", "export", "kitchen", "--format", "audiofolder", "--label", "noise", "--out", tmp_path/"x")[0] == 2
    assert run("data", "diff", "kitchen", "v9")[0] == 1

def test_files_that_the_shell_found_and_places_of_which_one_is_not_there(tmp_path, monkeypatch, capsys):
    from wakekit.cli_data import commands
    monkeypatch.setenv("WAKEKIT_DATA_DIR", str(tmp_path/"data"))
    run = lambda *line: (commands.run(["data", *map(str, line)]), *capsys.readouterr())
    run("create", "kitchen", "hey jarvis")
    recordings(tmp_path, "call 1.wav", "call 2.flac", "more/call 3.wav", "call 4.wav")
    calls = sorted(tmp_path.glob("call*"))
    code, out, err = run("import", "kitchen", *calls)
    assert code == 2 and "--label says" in err and not out
    code, out, err = run("import", "kitchen", *calls, tmp_path/"gone", tmp_path/"more", "--label", "positive", "--speaker", "ann", "--json")
    found = json.loads(out)
    assert code == 1 and {c["speaker"] for c in found["added"]} == {"ann"} and len(found["added"]) == 4
    assert [s["reason"] for s in found["skipped"]] == [f"{tmp_path/'gone'} does not exist"]
    assert run("import", "kitchen", tmp_path/"gone", "--label", "positive")[0] == 1
