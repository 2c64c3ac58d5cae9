"""What the report of a dataset finds, and what it costs, on recordings that you name.

    python bench/quality.py --audio DIR planted     faults and copies put into recordings: how many are found, how many found wrongly
    python bench/quality.py --audio DIR suspects    swapped labels: how many are among the first hundred suspects
    python bench/quality.py large                   a report over 100,000 clips: time, processor, memory (5 GB in a temporary folder)

DIR has a manifest.csv with the columns path, role, label and flags. Figures go to bench/quality.json beside this file.
"""
import argparse, csv, hashlib, io, json, os, shutil, subprocess, sys, tempfile, threading, time
from pathlib import Path
import numpy as np
import soundfile
from wakekit.core import jsonable, progress, read_json, write_json
from wakekit.data.audio import load_audio, resample, to_int16
from wakekit.ship.speed import machine

OUT = Path(__file__).with_suffix(".json")


def manifest(audio):
    "Rows of recordings"
    with open(audio/"manifest.csv", encoding="utf-8", newline="") as f: return list(csv.DictReader(f))

def load(audio, rows):
    "Waveforms of at most six seconds"
    return [load_audio(audio/r["path"], duration_s=6.) for r in progress(rows, desc="reading")]

CANNOT_SHOW = "Faults and swaps were planted by a program; those of people are more varied. Whether a label was right before is not known: a recording that was doubted without being swapped may be wrong, too. The large report is of synthetic speech in noise, one to two seconds a clip, and goes without suspects: hearing 100,000 clips for them takes longer than the rest, once."

def figures(whole):
    "What the page of figures shows"
    out, say = {}, lambda value, unit, what, part: dict(value=value, unit=unit, what=what, command=f"python bench/quality.py {'' if part == 'large' else '--audio DIR '}{part}")
    if p := whole.get("planted"):
        for kind, words in dict(clipped="clipping", narrow="sound of a telephone (8 kHz)").items():
            out |= {f"{kind}_found": say(round(100*p[kind]["found"], 1), "%", f"planted {words} found, of {p[kind]['planted']}", "planted"), f"{kind}_false": say(round(100*p[kind]["false_alarms"], 1), "%", f"untouched recordings said to have {words}, of {p[kind]['untouched']}", "planted")}
        c = p["copies"]
        out |= dict(copies_found=say(round(100*c["found"], 1), "%", f"planted copies found (fainter, through MP3, Opus or a telephone, noisier, later, trimmed), of {c['planted']}", "planted"), copies_false=say(round(100*c["originals_found_alike"]/c["originals"], 1), "%", f"of {c['originals']} recordings said to be a copy of another; the pairs are in the file to be heard", "planted"))
    if q := whole.get("suspects"):
        out |= dict(suspects=say(round(100*q["mean_share"], 1), "%", f"of 50 swapped labels among the first 100 suspects, mean of {len(q['protocols'])} datasets", "suspects"), suspects_least=say(round(100*q["least_share"], 1), "%", "the same, in the worst of them", "suspects"))
    if (l := whole.get("large")) and "first" in l:
        out |= dict(large_s=say(l["first"]["wall_s"], "s", f"the first report over {l['clips']:,} clips, {l['processes']} processes", "large"), large_mb=say(l["first"]["peak_mb"], "MB", "at its peak", "large"), large_again_s=say(l["again"]["wall_s"], "s", "the next report over the same clips", "large"))
    return out

def keep(part, found):
    "Into quality.json, beside what is there"
    whole = {**(read_json(OUT) if OUT.exists() else {}), part: jsonable(found)}
    write_json(OUT, {**whole, "command": "python bench/quality.py --audio DIR planted|suspects|large", "machine": machine(), "figures": figures(whole), "cannot_show": CANNOT_SHOW})
    print(json.dumps(jsonable(found), indent=1))


# --- planted -------------------------------------------------------------------------------------------------------
def coded(x, kind):
    "There and back through a coder"
    f = io.BytesIO()
    soundfile.write(f, x, 16_000, format="MP3" if kind == "mp3" else "OGG", subtype="MPEG_LAYER_III" if kind == "mp3" else "OPUS")
    f.seek(0)
    return soundfile.read(f, dtype="float32")[0][:len(x)]

def too_loud(x, rng):
    "0.5 to 5 % of the samples cut off, then turned down"
    top = np.sort(np.abs(x))[int(len(x)*(1 - rng.uniform(.005, .05))) - 1]
    return np.clip(x/max(top, 1e-4), -1, 1)*rng.uniform(.1, 1)*.9999

def telephone(x, rng):
    "Through 8 kHz, half of it by scipy's filter instead of soxr's"
    from scipy.signal import resample_poly
    return (resample_poly(resample_poly(x, 1, 2), 2, 1) if rng.random() < .5 else resample(resample(x, 16_000, 8000), 8000)).astype(np.float32)

def dull(x, rng):
    "A slope from 1.5 kHz on, no cliff"
    from scipy.signal import butter, sosfilt
    return sosfilt(butter(1, 1500, fs=16_000, output="sos"), x).astype(np.float32)

COPIES = dict(fainter=lambda x, rng: x*rng.uniform(.1, .8), mp3=lambda x, rng: coded(x*.8, "mp3"), opus=lambda x, rng: coded(x*.8, "opus"), later=lambda x, rng: np.pad(x, (int(rng.integers(500, 8000)), int(rng.integers(500, 4000)))),
    trimmed=lambda x, rng: x[int(rng.integers(100, 800)):-int(rng.integers(100, 800))], telephone=telephone, noisier=lambda x, rng: x + rng.normal(0, .05*np.sqrt(np.mean(x**2)), len(x)))

def planted(audio, n):
    "Clipping, 8 kHz and copies"
    from wakekit.data.dataset import Dataset
    from wakekit.data.quality import figures_of, hits, look
    from wakekit.data.twins import twins
    rng = np.random.default_rng(0)
    rows = [r for r in manifest(audio) if r["path"].startswith(("wake/", "words/", "speech/")) and not r["flags"]]
    rows = [rows[k] for k in rng.permutation(len(rows))[:3*n]]
    x, found = load(audio, rows), {}
    kinds = lambda waves: hits(np.array([look(to_int16(y.astype(np.float32)))[0] for y in progress(waves, desc="looking")]), ["negative"]*len(waves))
    whole, cut, narrow, slope = (kinds(w) for w in (x[:2*n], [too_loud(y, rng) for y in x[2*n:]], [telephone(y, rng) for y in x[2*n:]], [dull(y, rng) for y in x[2*n:]]))
    found["clipped"] = dict(planted=n, found=float(cut["clipped"].mean()), untouched=2*n, false_alarms=float(whole["clipped"].mean()))
    found["narrow"] = dict(planted=n, found=float(narrow["narrow"].mean()), untouched=2*n, false_alarms=float(whole["narrow"].mean()), false_alarms_where_dull=float(slope["narrow"].mean()))
    found["other_findings_of_untouched"] = {k: float(v.mean()) for k, v in whole.items() if v.any()}
    with tempfile.TemporaryDirectory() as tmp:
        ds, copies, taken = Dataset.create(Path(tmp)/"copies", "any"), {}, {}
        for r, y in zip(rows, x): taken.setdefault(ds.add(y, "negative", original_name=r["path"]).id, r["path"])
        originals = [c for c in ds.clips()]
        for k, c in enumerate(originals[:n]):
            name = list(COPIES)[k % len(COPIES)]
            copies[ds.add(COPIES[name](ds.load(c), rng).astype(np.float32), "negative", original_name=f"{name} of {c.id}").id] = c.id, name
        clips = ds.clips()
        kept, _ = figures_of(ds, clips)
        same = twins(ds, clips, kept.of("pattern", [c.sha256 for c in clips]))
        of = {i: k for k, t in enumerate(same) for i in t.ids}
        hit = {name: [of.get(i, -1) == of.get(o, -2) for i, (o, kind) in copies.items() if kind == name] for name in COPIES}
        alone = [[taken[i] for i in t.ids if i in taken] for t in same]
        others = [names for names in alone if len(names) > 1]
        found["copies"] = dict(planted=len(copies), found=float(np.mean([h for hs in hit.values() for h in hs])), found_by_kind={k: float(np.mean(v)) for k, v in hit.items()}, originals=len(originals),
            originals_found_alike=sum(map(len, others)), least_similarity_of_those=min([t.similarity for t, names in zip(same, alone) if len(names) > 1], default=None), examples=others[:5])
    keep("planted", found)


# --- suspects ------------------------------------------------------------------------------------------------------
def suspects_of(audio, seeds):
    "Fifty swapped labels, 25 of each kind"
    from wakekit.data.suspects import suspects
    from wakekit.learn.embed import embed
    rows = [r for r in manifest(audio) if r["path"].startswith(("wake/", "words/", "speech/"))]
    rng = np.random.default_rng(0)
    talk = [k for k, r in enumerate(rows) if r["path"].startswith("speech/")]
    drop = set(rng.permutation(talk)[2000:].tolist())
    rows = [r for k, r in enumerate(rows) if k not in drop]
    x = np.concatenate([embed([load_audio(audio/r["path"], duration_s=6.) for r in rows[k:k + 320]]) for k in progress(range(0, len(rows), 320), desc="listening")])
    at = lambda *places: [k for k, r in enumerate(rows) if r["path"].startswith(places)]
    protocols = {f"{w} among talk and words": (at(f"wake/{w}"), at("speech/", "words/")) for w in ("computer", "jarvis", "view_glass")}
    protocols |= {"computer among jarvis": (at("wake/computer"), at("wake/jarvis")), "view_glass among computer and jarvis": (at("wake/view_glass"), at("wake/computer", "wake/jarvis"))}
    words = sorted({r["label"] for r in rows if r["path"].startswith("words/dsp")})
    protocols |= {f"{w} among the words of dsp": ([k for k in at("words/dsp") if rows[k]["label"] == w], [k for k in at("words/dsp") if rows[k]["label"] != w]) for w in words}
    found = {}
    for name, (yes, no) in progress(protocols.items(), desc="suspecting"):
        got = []
        for seed in range(seeds):
            rng = np.random.default_rng(seed)
            swapped = set(rng.choice(yes, 25, replace=False).tolist()) | set(rng.choice(no, 25, replace=False).tolist())
            ids = [*yes, *no]
            labels = ["positive" if (k < len(yes)) != (i in swapped) else "negative" for k, i in enumerate(ids)]
            got.append(len(swapped & {s.id for s in suspects(x[ids], labels, ids, most=100, least=0)}))
        found[name] = dict(clips=len(yes) + len(no), calls=len(yes), among_the_first_100_of_50=float(np.mean(got)), least=min(got))
    values = [f["among_the_first_100_of_50"] for f in found.values()]
    keep("suspects", dict(seeds=seeds, mean_share=float(np.mean(values))/50, least_share=min(f["least"] for f in found.values())/50, protocols=found))


# --- large ---------------------------------------------------------------------------------------------------------
def make_clips(folder, n):
    "Clips of 1 to 2 s: stretched pieces of made speech in noise, straight into the folder of a dataset"
    from wakekit.data.dataset import Dataset
    from wakekit.data.phrases import sentences
    from wakekit.data.synth import Utterance
    from wakekit.data.voices import PeopleSynthesizer
    bank, rng = PeopleSynthesizer(), np.random.default_rng(0)
    voices = bank.voices()
    talk = np.concatenate([bank.synthesize(Utterance(t, voices[k % len(voices)], seed=k)) for k, t in enumerate(progress(sentences(400), desc="speaking"))])
    noise, ds = rng.normal(0, 1, 400_000).astype(np.float32), Dataset.create(folder, "hey jarvis")
    for k in progress(range(n), desc="making clips"):
        length, rate = int(rng.integers(16_000, 32_000)), rng.uniform(.8, 1.25)
        start, at = rng.integers(0, len(talk) - 45_000), rng.integers(0, len(noise) - 32_000)
        y = np.interp(np.arange(length)*rate, np.arange(int(length*rate) + 2), talk[start:start + int(length*rate) + 2])
        pcm = to_int16((y*rng.uniform(.1, .8) + noise[at:at + length]*10**rng.uniform(-4, -2)).clip(-1, 1))
        data = pcm.astype("<i2").tobytes()
        sha, label = hashlib.sha256(data).hexdigest(), ("positive", "negative", "noise")[min(2, int(rng.exponential(.7)))]
        head = b"RIFF" + (36 + len(data)).to_bytes(4, "little") + b"WAVEfmt \x10\0\0\0\1\0\1\0\x80\x3e\0\0\0\x7d\0\0\2\0\x10\0data" + len(data).to_bytes(4, "little")
        (folder/"clips"/f"{sha[:16]}.wav").write_bytes(head + data)
        (folder/"clips"/f"{sha[:16]}.json").write_text(json.dumps(dict(id=sha[:16], label=label, sha256=sha, duration_s=length/16_000, created="2026-01-01T00:00:00Z", speaker=f"speaker {k % 700}", source=f"source {k % 40}")), encoding="utf-8")

REPORT = """import sys, time, json
from wakekit.data.dataset import Dataset
from wakekit.data.report import report
if __name__ == "__main__":
    t = time.time(); ds = Dataset.open(sys.argv[1]); opened = time.time() - t
    r = report(ds, processes=int(sys.argv[2])); done = time.time() - t
    r.save_page(sys.argv[1] + "/report.html", ds)
    print(json.dumps(dict(open_s=opened, report_s=done - opened, page_s=time.time() - t - done, clips=r.d["clips"], twins=len(r.d["duplicates"]))))
"""

def watched(command):
    "Run it; wall and processor time, and the most memory that it and its children had at once"
    import psutil
    t, top, cpu = time.time(), 0, {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as p:
        said = []
        reader = threading.Thread(target=lambda: said.append(p.stdout.read()))
        reader.start()
        while p.poll() is None:
            now = 0
            try:
                for q in [psutil.Process(p.pid), *psutil.Process(p.pid).children(recursive=True)]:
                    try:
                        now += q.memory_info().rss
                        cpu[q.pid] = sum(q.cpu_times()[:2])
                    except psutil.Error: pass
            except psutil.Error: pass
            top = max(top, now)
            time.sleep(.2)
        reader.join()
    if p.returncode: sys.exit(f"{' '.join(command)} ended with {p.returncode}")
    return dict(wall_s=round(time.time() - t, 1), cpu_s=round(sum(cpu.values()), 1), peak_mb=round(top/2**20), **json.loads(said[0]))

def large(n, processes):
    "A report over many clips, and a second one"
    from wakekit.data.suspects import suspects
    place = Path(tempfile.mkdtemp())
    try:
        if shutil.disk_usage(place).free < n*60_000: sys.exit(f"{place} has not enough room for {n} clips")
        make_clips(place/"large", n)
        (place/"run.py").write_text(REPORT, encoding="utf-8")
        command = [sys.executable, str(place/"run.py"), str(place/"large"), str(processes)]
        found = dict(clips=n, processes=processes, cpus=os.cpu_count(), first=watched(command), again=watched(command))
    finally: shutil.rmtree(place)
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(n, 252)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    t = time.time()
    suspects(rows, rng.choice(["positive", "negative"], n).tolist(), list(range(n)))
    keep("large", {**found, "suspects_of_ready_rows_s": round(time.time() - t, 1)})


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=("planted", "suspects", "large"))
    p.add_argument("--audio", type=Path, help="folder of recordings with a manifest.csv")
    p.add_argument("--n", type=int, help="planted: clips with each fault (400); large: clips (100000)")
    p.add_argument("--seeds", type=int, default=3, help="suspects: how often labels are swapped (3)")
    p.add_argument("--processes", type=int, default=2, help="large: that look at clips (2)")
    a = p.parse_args()
    if a.what != "large" and not (a.audio and (a.audio/"manifest.csv").is_file()): p.error(f"--audio is a folder with a manifest.csv, not {a.audio}")
    if a.what == "planted": planted(a.audio, a.n or 400)
    elif a.what == "suspects": suspects_of(a.audio, a.seeds)
    else: large(a.n or 100_000, a.processes)
