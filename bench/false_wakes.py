"""What false wakes are worth that people have decided on: trained without them, with them as ordinary background, and with them as hard negatives.

    python bench/false_wakes.py ../shared/audio --work DIR [--out bench/false_wakes.json]

A first model is trained on a part of the recorded calls. It listens to a radio that says words like its own, read by synthetic voices that no training has heard; what wakes it, or nearly does, is cut out by the keeper of a stream, and taken for negatives. Two more models learn the same and these clips: as background, and as what they are. All three are then heard on what none has learned from: the same radio with other voices, another radio with other words like it, hours of people who say something else, and calls. Each is judged at the threshold at which it misses 5, 10 and 20 % of the calls, and the difference is compared by a sign test. Near misses are not synthesized here, as those would foresee the words of this radio, and not those of yours.
"""
import argparse, json
from pathlib import Path
import numpy as np

PHRASE = "computer"
SAME = ("the commuter train is late", "many commuters were on the road", "the competitor has won", "she will compute it later", "a new competition begins", "the company of commuters", "computing costs money", "he compared the two", "they commute together", "a complete answer")
OTHER = ("the permuted list was longer", "a mute command from the tutor", "the composer is a Tudor", "confuse her with the computation", "accumulate a few terms", "the commander and the scooter", "imputed numbers", "compete with her today", "a compact router", "the disputer came home")

HEARD = dict(same_words="sentences of the words it was woken by, other voices", other_words="sentences of other words like the phrase", talk="recordings of people who say something else")
TRAINED = dict(without="without the false wakes", background="with them as background", hard="with them as hard negatives")
CANNOT_SHOW = "The radio is synthetic voices, other ones than those that were captured and in no training; the sentences of same_words are the same. The trainings know no near misses, which usually foresee such words. A few seeds: another one moves all of it."


def radio(texts, voices, each, seed):
    "int16 samples of voices that read sentences, half a second apart, each at its own level; and where each sentence begins and ends"
    from wakekit.core import SAMPLE_RATE
    from wakekit.data.audio import to_int16
    from wakekit.data.synth import draw_utterances, synthesize
    from wakekit.data.voices import all_synthesizers
    rng, parts, spans, at = np.random.default_rng(seed), [], [], 0
    for u, x in synthesize(draw_utterances(list(texts), each*len(texts), seed, voices=voices, foreign=0.), all_synthesizers(), progress=False):
        x = x/(np.abs(x).max() + 1e-9)*10**rng.uniform(-1.2, -.3)
        gap = np.zeros(round(.5*SAMPLE_RATE), np.float32)
        parts += [x, gap]
        spans.append((at, at + len(x) + len(gap)))
        at += len(x) + len(gap)
    y = np.concatenate(parts) + rng.normal(0, 10**(-60/20), at)
    return to_int16(y.astype(np.float32)), np.array(spans)


def listened(bundle, pcm, near):
    "What the keeper cut out"
    from wakekit.ship.keep import Keeper, KeepConfig, Listening
    from wakekit.ship.stream import Detector
    kept = []
    for _ in Listening(Detector(bundle), Keeper(kept.append, KeepConfig(every_s=2., near=near), "radio", PHRASE)).listen(pcm[a:a + 1280] for a in range(0, len(pcm), 1280)): pass
    return kept


def scored(bundle, calls, talk, streams):
    "The highest score of each trial, whatever the threshold"
    from wakekit.learn.metrics import smooth_scores
    from wakekit.ship.evaluate import evaluate
    from wakekit.ship.stream import Detector
    r, d = evaluate(bundle, calls, talk, progress=False), Detector(bundle)
    ends = np.append(r.heard.starts[1:]//320, len(r.heard.scores))
    out = dict(calls={c.item.name: c.peak for c in r.calls}, talk=[r.heard.scores[a:max(a + 1, b)].max() for a, b in zip(r.heard.starts//320, ends)])
    for name, (pcm, spans) in streams.items():
        d.reset()
        s = smooth_scores(d.score(pcm), d.smooth_frames)
        out[name] = [s[a//320:b//320].max() for a, b in spans]
    names = sorted(out["calls"])
    return {k: np.array([v[n] for n in names] if k == "calls" else v) for k, v in out.items()} | dict(threshold=r.at_bundle_threshold.threshold, hours=round(r.heard.hours, 2))


def at_equal_misses(found, missed):
    "How many trials wake each model at the threshold at which it misses this share of the calls; chance beside the first and beside the second"
    from wakekit.serve.compare import flips
    over = {n: {k: (f[k] >= np.nextafter(np.sort(f["calls"])[max(0, round(missed*len(f["calls"])) - 1)], 2)).astype(int) for k in HEARD} for n, f in found.items()}
    first, second = list(found)[:2]
    return [dict(missed=missed, what=k, trials=len(o[k]), model=n, woken=int(o[k].sum()), p_to_first=round(flips(o[k], over[first][k]), 4), p_to_second=round(flips(o[k], over[second][k]), 4)) for k in HEARD for n, o in over.items()]


def figures(runs, command):
    "What the page of figures shows: trials that wake a model where it misses a twentieth or a tenth of the calls, mean of the seeds"
    out = {}
    for r in runs[0]["at_equal_misses"]:
        if r["missed"] == .2: continue
        woken = [q["woken"] for run in runs for q in run["at_equal_misses"] if all(q[k] == r[k] for k in ("missed", "what", "model"))]
        out[f"{r['what']}_{r['model']}_{round(100*r['missed'])}"] = dict(value=round(sum(woken)/len(woken), 1), unit=f"of {r['trials']}", what=f"{HEARD[r['what']]}, that wake the model trained {TRAINED[r['model']]} where it misses {100*r['missed']:.0f} % of the calls; by seed {', '.join(map(str, woken))}", command=command)
    return out


def trained(home, name, a, seed, files, libri, more=()):
    "The bundle of one training; it is not made twice"
    from wakekit.data.dataset import Dataset
    from wakekit.env import Settings
    from wakekit.learn.config import preset
    from wakekit.ship.quickstart import train_dataset
    from wakekit.ship.stream import Bundle
    out = home/f"{name}.wake"
    if not (out/"manifest.json").is_file():
        ds = Dataset.open_or_create(home/name, PHRASE)
        for f in files[:a.recorded]: ds.add(f, "positive", source="calls")
        for f in libri[::6]: ds.add(f, "negative", source="libri")
        for m, source in more: ds.add(m.pcm, "negative", source=source)
        config = preset("fast", [f"seed={seed}", *(["epochs=6", "steps_per_epoch=80", "verifier.steps=120"] if a.small else []), *a.set])
        train_dataset(ds, out, config=config, settings=Settings.load(environ={}, device="auto"), data=spoken(a, seed), force=True)
    return Bundle.load(out)


def spoken(a, seed):
    "What is synthesized for a training"
    from wakekit.data.spoken import DataConfig
    return DataConfig(phrase=PHRASE, near_misses=0, seed=seed, **(dict(synthetic=500, filler=325) if a.small else {}))


def whole(a, seed, files, libri, pvcmd):
    "Three trainings of one seed, and what they are woken by: voices that none of them knows"
    from wakekit.data.inbox import FROM_INBOX
    from wakekit.data.spoken import voice_sides
    from wakekit.data.synth import split_voices
    near, far = split_voices(voice_sides(spoken(a, seed))["test"], .5, 1)
    streams = dict(captured=radio(SAME, near, 12, 1), same_words=radio(SAME, far, 12, 2), other_words=radio(OTHER, far, 12, 3))
    home = Path(a.work)/str(seed)
    home.mkdir(parents=True, exist_ok=True)
    first = trained(home, "without", a, seed, files, libri)
    kept = listened(first, streams["captured"][0], a.near)
    triggers = sum(m.kind == "trigger" for m in kept)
    print(f"seed {seed}: captured {triggers} triggers, {len(kept) - triggers} close misses, of {len(streams['captured'][1])} sentences", flush=True)
    models = dict(without=first, background=trained(home, "background", a, seed, files, libri, [(m, f"radio {k}") for k, m in enumerate(kept)]), hard=trained(home, "hard", a, seed, files, libri, [(m, FROM_INBOX + "radio") for m in kept]))
    found = {name: scored(b, files[a.recorded:], [*libri[3::6], *pvcmd], {k: streams[k] for k in ("same_words", "other_words")}) for name, b in models.items()}
    return dict(seed=seed, captured=len(kept), triggers=triggers, hours=found["hard"]["hours"], at_equal_misses=[r for missed in (.05, .1, .2) for r in at_equal_misses(found, missed)],
                at_own_threshold=[dict(model=n, threshold=f["threshold"], missed=int((f["calls"] < f["threshold"]).sum()), calls=len(f["calls"]), **{k: int((f[k] >= f["threshold"]).sum()) for k in HEARD}) for n, f in found.items()],
                still=json.loads((models["hard"].path/"metrics.json").read_text(encoding="utf-8"))["false_wakes"]["fire"])


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("audio", help="folder of recordings, with wake/computer, speech/libri and speech/pvcmd")
    p.add_argument("--work", required=True, metavar="DIR", help="caches and bundles; the same call again goes on")
    p.add_argument("--out", metavar="FILE", help="write the figures as JSON")
    p.add_argument("--seeds", type=lambda s: [int(x) for x in s.split(",")], default=[0], metavar="N,N", help="three trainings of each (0)")
    p.add_argument("--recorded", type=int, default=0, metavar="N", help="recorded calls to learn from beside the synthetic ones (0)")
    p.add_argument("--near", type=float, default=.5, metavar="S", help="share of the threshold from which on a score is a close miss (0.5)")
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the trainings; another one needs another --work")
    p.add_argument("--small", action="store_true", help="a quarter of the synthesis and of the steps")
    a = p.parse_args()
    from wakekit.core import write_json
    from wakekit.data.audio import find_audio
    from wakekit.ship.speed import machine
    audio = Path(a.audio)
    files, libri, pvcmd = (find_audio(audio/k) for k in (f"wake/{PHRASE}", "speech/libri", "speech/pvcmd"))
    runs = []
    for seed in a.seeds:
        runs.append(whole(a, seed, files, libri, pvcmd))
        for r in [*runs[-1]["at_equal_misses"], *runs[-1]["at_own_threshold"]]: print(r, flush=True)
    command = " ".join(["python bench/false_wakes.py DIR --work DIR", f"--seeds {','.join(map(str, a.seeds))}", *(["--small"] if a.small else []), *([f"--recorded {a.recorded}"] if a.recorded else []), *(f"--set {s}" for s in a.set)])
    if a.out: write_json(a.out, dict(command=command, machine=machine(), figures=figures(runs, command), runs=runs, cannot_show=CANNOT_SHOW))


if __name__ == "__main__": main()
