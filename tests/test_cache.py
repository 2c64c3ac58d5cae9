"What happens to a cache when things go wrong around it."
import errno, os, pickle, subprocess, sys, time
import numpy as np, pytest
from wakekit.core import AudioError, DatasetError
from wakekit.data import packing as module
from wakekit.data.audio import load_audio, save_audio, to_int16
from wakekit.data.cache import PcmCache

SR = 16_000


def noise(seconds, seed=0): return (np.random.default_rng(seed).standard_normal(int(seconds*SR))*.05).astype(np.float32)
def items(n=6, seconds=1.): return [(noise(seconds + i/10, i), "positive" if i % 2 else "noise", f"g{i % 3}", f"clip-{i}") for i in range(n)]
def names(folder): return sorted(p.name for p in folder.iterdir() if not p.name.endswith(".lock"))


def test_what_is_read_is_what_was_given(tmp_path):
    save_audio(tmp_path/"a.wav", noise(3.3))
    c = PcmCache.build(tmp_path/"c", [*items(), (tmp_path/"a.wav", "negative", "x", "a"), (to_int16(noise(1)), "noise", "y", "ints")])
    for i, (x, label, group, name) in enumerate(items()):
        assert (c.read(i) == to_int16(x)).all() and (c.labels[i], c.groups[i], c.names[i]) == (label, group, name)
    assert (c.read(6) == to_int16(load_audio(tmp_path/"a.wav"))).all() and (c.read(7) == to_int16(noise(1))).all()
    assert (c.read(6, 100, 50) == c.read(6)[100:150]).all() and len(c.read(6, 3*SR, SR)) == len(c.read(6)) - 3*SR and len(c.read(6, 10**9)) == 0
    d = pickle.loads(pickle.dumps(c))
    assert (d.read(3) == c.read(3)).all() and len(pickle.dumps(c)) < 10_000


def test_bad_items_are_listed_and_leave_no_samples(tmp_path):
    (tmp_path/"jpeg.wav").write_bytes(b"\xff\xd8\xff" + bytes(100))
    (tmp_path/"empty.wav").touch()
    nan = noise(1); nan[5] = np.nan
    late = np.concatenate([noise(70)]).astype(np.float64); late[-5] = np.nan  # refused after two chunks were written
    import soundfile as sf
    sf.write(tmp_path/"late.wav", late, SR, subtype="FLOAT")
    bad = [(tmp_path/"jpeg.wav", "noise", "", "jpeg"), (tmp_path/"empty.wav", "noise", "", "empty"), (tmp_path/"gone.wav", "noise", "", "gone"),
           (nan, "noise", "", "nan"), (tmp_path/"late.wav", "noise", "", "late"), (np.zeros((2, 5)), "noise", "", "stereo"), (np.zeros(0), "noise", "", "nothing")]
    good = items()
    c = PcmCache.build(tmp_path/"c", [x for pair in zip(bad, [*good, good[0]]) for x in pair], key="k")
    assert [n for n, why in c.skipped] == [b[3] for b in bad] and all(why for _, why in c.skipped)
    assert len(c) == 7 and all((c.read(i) == to_int16(x)).all() for i, (x, *_) in enumerate(good))
    assert PcmCache.open(tmp_path/"c").skipped == c.skipped
    with pytest.raises(AudioError, match="nothing to cache: all 7"): PcmCache.build(tmp_path/"d", bad)
    with pytest.raises(AudioError, match="there were no items"): PcmCache.build(tmp_path/"d", [])
    assert "d" not in names(tmp_path)


def test_a_damaged_recording_is_kept_in_part_and_said_so(tmp_path):
    import soundfile as sf
    sf.write(tmp_path/"a.flac", noise(5), SR)
    data = (tmp_path/"a.flac").read_bytes()
    (tmp_path/"a.flac").write_bytes(data[:-4000])
    c = PcmCache.build(tmp_path/"c", [(tmp_path/"a.flac", "noise", "", "a")])
    assert SR < c.lengths[0] < 5*SR and c.damaged[0][0] == "a" and "kept the" in c.damaged[0][1]


def test_full_disk_is_an_error_and_keeps_the_old_cache(tmp_path, monkeypatch):
    old = PcmCache.build(tmp_path/"c", items(3), key="old")
    class Full:
        def __init__(self, f): self.f, self.left = f, 3
        def write(self, b):
            self.left -= 1
            if not self.left: raise OSError(errno.ENOSPC, "No space left on device")
            return self.f.write(b)
        def __getattr__(self, name): return getattr(self.f, name)
    real = module._append
    full = {}
    monkeypatch.setattr(module, "_append", lambda f, src, name: real(full.setdefault("f", Full(f)), src, name))
    with pytest.raises(OSError, match="No space"): PcmCache.build(tmp_path/"c", items(6), key="new")
    assert names(tmp_path) == ["c"] and (PcmCache.open(tmp_path/"c").read(2) == old.read(2)).all() and PcmCache.open(tmp_path/"c").key == "old"


builder = """
import sys, time, numpy as np
from wakekit.data.cache import PcmCache
def items():
    for i in range(int(sys.argv[3])):
        x = (np.random.default_rng(i).standard_normal(16_000)*.05).astype(np.float32)
        print(i, flush=True)
        time.sleep(float(sys.argv[4]))
        yield x, "noise", "g", str(i)
print(len(PcmCache.build(sys.argv[1], items(), key=sys.argv[2])), flush=True)
"""
def start(folder, key, n, wait_s): return subprocess.Popen([sys.executable, "-c", builder, str(folder), key, str(n), str(wait_s)], stdout=subprocess.PIPE, text=True)


def test_killed_while_building(tmp_path):
    PcmCache.build(tmp_path/"c", items(3), key="old")
    p = start(tmp_path/"c", "new", 1000, .01)
    while p.stdout.readline().strip() != "20": pass
    p.kill()
    p.wait()
    p.stdout.close()
    assert PcmCache.open(tmp_path/"c").key == "old" and sorted(n[-5:] for n in names(tmp_path)) == [".part", "c"]
    new = items(4)
    c = PcmCache.build(tmp_path/"c", new, key="new")  # other items than those of the dead build
    assert len(c) == 4 and all((c.read(i) == to_int16(x)).all() for i, (x, *_) in enumerate(new)) and names(tmp_path) == ["c"]
    for kind, days in ((".scrap", .1), (".part", 8)):
        (old := tmp_path/f".c.0123456789ab{kind}").mkdir()
        (old/"pcm.i16").touch()
        for f in (*old.iterdir(), old): os.utime(f, (time.time() - days*86_400,)*2)
    PcmCache.build(tmp_path/"c", items(5), key="newer")
    assert names(tmp_path) == ["c"]  # what dead builds left was swept up


def test_a_killed_build_is_resumed(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CHECKPOINT_S", 0.)
    decoded, made = [], items(30)
    real = module._append
    monkeypatch.setattr(module, "_append", lambda f, src, name: (decoded.append(name), real(f, src, name))[1])
    whole = PcmCache.build(tmp_path/"whole", made, key="k")
    for stop in (0, 1, 7, 7, 20, 29):
        def some():
            for i, item in enumerate(made):
                if i == stop: raise KeyboardInterrupt
                yield item
        with pytest.raises(KeyboardInterrupt): PcmCache.build(tmp_path/"c", some(), key="k")
    decoded.clear()
    c = PcmCache.build(tmp_path/"c", made, key="k")
    assert len(decoded) == 1 and sorted(names(tmp_path)) == ["c", "whole"]
    for f in ("pcm.i16", "items.i64", "names.utf8"): assert (tmp_path/"c"/f).read_bytes() == (tmp_path/"whole"/f).read_bytes()
    assert (c.labels == whole.labels).all() and list(c.names) == list(whole.names)


@pytest.mark.parametrize("damage", ["state", "short pcm", "short items", "short names", "longer", "rubbish", "other names", "other labels"])
def test_whatever_an_interrupted_build_left(tmp_path, damage):
    made = items(12)
    with module.Packer(tmp_path/"p") as p:
        for item in made[:8]: p.put(*item)
        p.checkpoint()
    change = lambda name, f: (tmp_path/"p"/name).write_bytes(f((tmp_path/"p"/name).read_bytes()))
    if damage == "state": change("state.json", lambda b: b[:30])
    if damage == "rubbish": change("state.json", lambda b: b'{"sizes": [1, 2], "words": 3, "skipped": 4, "damaged": {}}')
    for name, f in (("pcm", "pcm.i16"), ("items", "items.i64"), ("names", "names.utf8")):
        if damage == f"short {name}": change(f, lambda b: b[:-3])
        if damage == "longer": change(f, lambda b: b + b"xyz"*50)
    if damage == "other names": made = [(x, l, g, n + "'" if i > 4 else n) for i, (x, l, g, n) in enumerate(made)]
    if damage == "other labels": made = [(x, "noise" if i > 2 else l, g, n) for i, (x, l, g, n) in enumerate(made)]
    with module.Packer(tmp_path/"p") as p:
        for item in made: p.put(*item)
        p.finish("k")
    c = PcmCache.open(tmp_path/"p")
    assert len(c) == 12 and all((c.read(i) == to_int16(x)).all() and (c.labels[i], c.groups[i], c.names[i]) == (l, g, n) for i, (x, l, g, n) in enumerate(made))


def test_a_cache_larger_than_32_bits(tmp_path):
    "Two items of 2.5 thousand million samples each in a file with holes, which takes no room"
    n, folder, last = 2_500_000_000, tmp_path/"c", to_int16(noise(1))
    with module.Packer(folder) as p: [p.put(noise(1), "noise", "g", f"é{i}") for i in range(3)], p.finish("k")
    rows = np.fromfile(folder/"items.i64", "<i8").reshape(-1, 4)
    rows[:2, 0] = n
    rows.tofile(folder/"items.i64")
    try:
        with open(folder/"pcm.i16", "r+b") as f:
            f.truncate(2*(2*n + SR))
            f.seek(4*n)
            f.write(last.tobytes())
    except OSError: pytest.skip("this disk takes no file of 10 GB with holes")
    c = PcmCache.open(folder)
    assert (c.read(2) == last).all() and c.starts[2] == 2*n and not c.read(1, n - 100).any() and c.names[2] == "é2"
    assert (c.select([2]).crop(np.random.default_rng(0), SR, 1)[0] != 0).any() and c.crop(np.random.default_rng(0), 1000, 4).shape == (4, 1000)


def test_a_cache_of_the_first_version_is_read(tmp_path):
    c = PcmCache.build(tmp_path/"c", items(4), key="k")
    (tmp_path/"old").mkdir()
    (tmp_path/"old/pcm.i16").write_bytes((tmp_path/"c/pcm.i16").read_bytes())
    code = lambda words: dict(words=sorted(set(words)), codes=[sorted(set(words)).index(w) for w in words])
    import json
    (tmp_path/"old/index.json").write_text(json.dumps(dict(schema_version=1, key="k", sample_rate=SR, lengths=c.lengths.tolist(), labels=code(list(c.labels)), groups=code(list(c.groups)), names=list(c.names), skipped=[], damaged=[])), encoding="utf-8")
    old = PcmCache.open(tmp_path/"old")
    assert (old.labels == c.labels).all() and list(old.names) == list(c.names) and (old.read(3) == c.read(3)).all()


def test_two_processes_build_the_same(tmp_path):
    both = [start(tmp_path/"c", "k", 40, .005) for _ in range(2)]
    assert [p.communicate()[0].split()[-1] for p in both] == ["40", "40"] and [p.returncode for p in both] == [0, 0]
    assert len(PcmCache.open(tmp_path/"c")) == 40 and names(tmp_path) == ["c"]


def test_damaged_or_newer_caches(tmp_path):
    PcmCache.build(tmp_path/"c", items(), key="k")
    index = (tmp_path/"c/index.json").read_text(encoding="utf-8")
    (tmp_path/"c/index.json").write_text(index.replace('"schema_version": 2', '"schema_version": 99'), encoding="utf-8")
    with pytest.raises(DatasetError, match="newer wakekit"): PcmCache.open(tmp_path/"c")
    (tmp_path/"c/index.json").write_text(index[:100], encoding="utf-8")
    with pytest.raises(DatasetError, match="delete the folder"): PcmCache.open(tmp_path/"c")
    assert len(PcmCache.build(tmp_path/"c", items(2), key="k")) == 2  # built again, not trusted


long_item = """
import sys, tracemalloc, numpy as np, soundfile as sf
from wakekit.data.cache import PcmCache
piece = (np.random.default_rng(0).standard_normal(16_000*60)*3000).astype(np.int16)
with sf.SoundFile(sys.argv[1] + "/long.wav", "w", 16_000, 1, "PCM_16") as f:
    for _ in range(180): f.write(piece)
del piece
tracemalloc.start()
c = PcmCache.build(sys.argv[1] + "/c", [(sys.argv[1] + "/long.wav", "noise", "g", "long")], key="k")
c.crop(np.random.default_rng(0), 32_000, 64)
print(c.total_s, tracemalloc.get_traced_memory()[1]/2**20)
"""
def test_three_hours_in_constant_memory(tmp_path):
    done = subprocess.run([sys.executable, "-c", long_item, str(tmp_path)], capture_output=True, text=True, check=True)
    seconds, peak_mib = map(float, done.stdout.split())
    assert seconds == 3*3600 and peak_mib < 40
    for f in [*(tmp_path/"c").iterdir(), tmp_path/"long.wav"]: f.unlink()


def test_crops_are_uniform_over_time_and_never_leave_their_label(tmp_path):
    steps = [np.full(n, v, np.int16) for v, n in ((1, 1000), (2, 10_000), (3, 500), (4, 30_000))]
    c = PcmCache.build(tmp_path/"c", [(x, "a" if v in (0, 2) else "b", "g", str(v)) for v, x in enumerate(steps)])
    crops = c.crop(np.random.default_rng(0), 1, 20_000)[:, 0]
    assert np.bincount(crops)[1:]/20_000 == pytest.approx([1000/41_500, 10_000/41_500, 500/41_500, 30_000/41_500], abs=.01)
    long = c.crop(np.random.default_rng(0), 4000, 300)
    kinds = {frozenset(np.unique(row)) for row in long}
    assert kinds <= {frozenset(s) for s in ({1, 3}, {1}, {3}, {2}, {4}, {2, 4})}  # a: 1 and 3; b: 2 and 4
    assert set(np.unique(c.crop(np.random.default_rng(0), 3000, 50, where=[2]))) == {3}  # one short item goes round
    whole = c.crop(np.random.default_rng(0), 10_000, 5, where=[1])
    assert (whole == 2).all()
    with pytest.raises(DatasetError, match="no items"): c.crop(np.random.default_rng(0), 10, 5, where=[])


def test_a_selection_crops_from_the_right_place(tmp_path):
    c = PcmCache.build(tmp_path/"c", items())
    s = c.select(c.groups == "g1")
    assert list(s.names) == ["clip-1", "clip-4"] and (s.read(1) == c.read(4)).all()
    row = s.crop(np.random.default_rng(3), 4000, 1, where=[1])[0]
    assert any((c.read(4)[k:k + 4000] == row).all() for k in range(len(c.read(4)) - 3999))
