"""How fast recordings come into a dataset, and out of a packed cache.

    python bench/import.py                           (10,000 clips of 1–2 s: WAV, FLAC, MP3 and Ogg at several rates)
    python bench/import.py cache --clips 1000000     (a packed cache of that many clips of 20 ms, then clips read at random)

All is made in a temporary folder (--work chooses where), so what is measured includes its disk. The recordings are noise under an envelope; reading them back after having written them finds them in the memory of the system.
One JSON document on stdout (and in --out FILE).
"""
import argparse, json, os, resource, shutil, sys, tempfile, time
from pathlib import Path
import numpy as np, soundfile as sf
from wakekit.core import read_json, write_json
from wakekit.data.cache import PcmCache
from wakekit.data.interchange import Dataset
from wakekit.ship.speed import machine

KINDS = (("wav", "WAV", 16_000), ("wav", "WAV", 44_100), ("flac", "FLAC", 16_000), ("flac", "FLAC", 48_000), ("mp3", "MP3", 16_000), ("mp3", "MP3", 44_100), ("wav", "WAV", 8_000), ("ogg", "OGG", 48_000))


def peak_mb(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/(1 << 10 if sys.platform.startswith("linux") else 1 << 20)

def figures(part, v):
    "What the page of figures shows"
    if part == "import": return dict(import_clips_per_s=dict(value=v["clips_per_s"], unit="clips/s", what=f"import of {v['clips']:,} recordings (WAV, FLAC, MP3 and Ogg at several rates)", command="python bench/import.py"),
                                     import_again_clips_per_s=dict(value=v["again_clips_per_s"], unit="clips/s", what="the same folder again: all of it is known", command="python bench/import.py"))
    return dict(cache_built_mb=dict(value=v["peak_built_mb"], unit="MB", what=f"memory while a packed cache of {v['clips']:,} clips is built", command=f"python bench/import.py cache --clips {v['clips']}"),
                cache_crops_per_s=dict(value=v["crops_per_s"], unit="clips/s", what="drawn from it at random", command=f"python bench/import.py cache --clips {v['clips']}"))

def mark(a, **values):
    "Print what was found, and keep it beside the other part"
    print(json.dumps(values, indent=1))
    if not a.out: return
    whole = {**(read_json(a.out) if a.out.exists() else {}), a.what: values}
    write_json(a.out, {**whole, "command": "python bench/import.py [cache]", "machine": machine(), "figures": {k: f for part in ("import", "cache") if part in whole for k, f in figures(part, whole[part]).items()},
                       "cannot_show": "The recordings are noise under an envelope, one to two seconds each, on the disk of one machine that others work on, too; the clips of the cache are 20 ms long."})

def make(folder, n, seed):
    "`n` different recordings in positive/, negative/ and noise/"
    rng = np.random.default_rng(seed)
    base = {sr: rng.standard_normal(3*sr).astype(np.float32)*.1 for _, _, sr in KINDS}
    for label in ("positive", "negative", "noise"): (folder/label).mkdir(parents=True)
    for i in range(n):
        suffix, form, sr = KINDS[i % len(KINDS)]
        size, at = int(sr*rng.uniform(1, 2)), int(rng.integers(0, sr))
        x = base[sr][at:at + size]*np.linspace(rng.uniform(.2, 1), rng.uniform(.2, 1), size, dtype=np.float32)
        sf.write(folder/("positive", "negative", "noise")[i % 3]/f"{i:06d}.{suffix}", x, sr, format=form)

def imports(a, work):
    t = time.time()
    make(work/"usb", a.clips, a.seed)
    made_s, ds = time.time() - t, Dataset.create(work/"ds", "hey jarvis")
    before, cpu, t = peak_mb(), time.process_time(), time.time()
    report = ds.import_folder(work/"usb")
    took, cpu = time.time() - t, time.process_time() - cpu
    t = time.time()
    again = Dataset.open(work/"ds").import_folder(work/"usb")
    again_s, t = time.time() - t, time.time()
    n = len(Dataset.open(work/"ds"))
    mark(a, command="python " + " ".join(sys.argv), clips=a.clips, made_s=round(made_s, 1), added=len(report.added), skipped=len(report.skipped), in_dataset=n, seconds=round(took, 2), cpu_s=round(cpu, 2),
         clips_per_s=round(a.clips/took, 1), again_clips_per_s=round(a.clips/again_s, 1), again_added=len(again.added), open_s=round(time.time() - t, 2), peak_mb=round(peak_mb()), before_mb=round(before), cores=os.cpu_count())
    return 0 if len(report.added) == len(again.already) == n == a.clips else 1

def cache(a, work):
    rng, samples = np.random.default_rng(a.seed), 320
    x = (rng.standard_normal(1 << 20)*3000).astype(np.int16)
    items = ((x[(i*7919) % (len(x) - samples):][:samples], "negative" if i % 3 else "positive", f"speaker {i % 1000}", f"{i:012x}") for i in range(a.clips))
    t = time.time()
    packed = PcmCache.build(work/"cache", items, key="bench")
    built_s, built_mb, t = time.time() - t, peak_mb(), time.time()
    packed = PcmCache.open(work/"cache")
    open_s, open_mb, picks = time.time() - t, peak_mb(), rng.integers(0, len(packed), a.reads)
    t = time.time()
    for i in picks: packed.read(i)
    read_s, t = time.time() - t, time.time()
    for _ in range(a.reads//256): packed.crop(rng, samples, 256)
    crop_s = time.time() - t
    mark(a, command="python " + " ".join(sys.argv), clips=len(packed), built_s=round(built_s, 1), built_clips_per_s=round(a.clips/built_s), open_s=round(open_s, 2), index_mb=round(sum(p.stat().st_size for p in (work/"cache").iterdir() if p.suffix != ".i16")/1e6, 1),
         read_clips_per_s=round(a.reads/read_s), crops_per_s=round(a.reads//256*256/crop_s), peak_built_mb=round(built_mb), peak_opened_mb=round(open_mb), peak_read_mb_with_mapped_samples=round(peak_mb()))
    return 0

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", nargs="?", default="import", choices=("import", "cache"))
    p.add_argument("--clips", type=int, default=10_000)
    p.add_argument("--reads", type=int, default=20_000, help="clips read at random from the cache")
    p.add_argument("--work", type=Path, help="where to make it; a folder of its own in there is removed at the end")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", type=Path, metavar="FILE", help="keep the figures there, beside those of the other part")
    a = p.parse_args()
    work = Path(tempfile.mkdtemp(dir=a.work))
    try: return (imports if a.what == "import" else cache)(a, work)
    finally: shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__": sys.exit(main())
