"What happens to a cache when things go wrong around it."
import errno, pickle, subprocess, sys, time
import numpy as np, pytest
from wakekit.core import AudioError, DatasetError
from wakekit.data import cache as module
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
    assert PcmCache.open(tmp_path/"c").key == "old" and any(".scrap" in n for n in names(tmp_path))
    assert len(PcmCache.build(tmp_path/"c", items(4), key="new")) == 4
    import os
    for scrap in tmp_path.glob(".c.*.scrap"):
        for f in (*scrap.iterdir(), scrap): os.utime(f, (time.time() - 7200,)*2)
    PcmCache.build(tmp_path/"c", items(5), key="newer")
    assert names(tmp_path) == ["c"]  # the scrap of the dead build was swept up


def test_two_processes_build_the_same(tmp_path):
    both = [start(tmp_path/"c", "k", 40, .005) for _ in range(2)]
    assert [p.communicate()[0].split()[-1] for p in both] == ["40", "40"] and [p.returncode for p in both] == [0, 0]
    assert len(PcmCache.open(tmp_path/"c")) == 40 and names(tmp_path) == ["c"]


def test_damaged_or_newer_caches(tmp_path):
    PcmCache.build(tmp_path/"c", items(), key="k")
    index = (tmp_path/"c/index.json").read_text(encoding="utf-8")
    (tmp_path/"c/index.json").write_text(index.replace('"schema_version": 1', '"schema_version": 99'), encoding="utf-8")
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
