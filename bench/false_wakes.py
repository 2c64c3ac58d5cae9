"""What false wakes are worth that people have decided on: trained without them, with them as ordinary background, and with them as hard negatives.

    python bench/false_wakes.py ../shared/audio --work DIR [--out bench/false_wakes.json]

A first model is trained on a part of the recorded calls. It listens to a radio that says words like its own, read by synthetic voices that no training has heard; what wakes it, or nearly does, is cut out by the keeper of a stream, and taken for negatives. Two more models learn the same and these clips: as background, and as what they are. All three are then heard on what none has learned from: the same radio with other voices, another radio with other words like it, hours of people who say something else, and calls. The difference of each to the first is compared by a sign test: of calls (files), of words on the radio, of recordings.
"""
import argparse, json, tempfile
from pathlib import Path
import numpy as np

PHRASE = "computer"
SAME = ("the commuter train is late", "many commuters were on the road", "the competitor has won", "she will compute it later", "a new competition begins", "the company of commuters", "computing costs money", "he compared the two", "they commute together", "a complete answer")
OTHER = ("the permuted list was longer", "a mute command from the tutor", "the composer is a Tudor", "confuse her with the computation", "accumulate a few terms", "the commander and the scooter", "imputed numbers", "compete with her today", "a compact router", "the disputer came home")


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


def wakes(bundle, pcm, spans):
    "Which of the sentences woke it, 0 or 1 each; what the keeper cut out"
    from wakekit.core import SAMPLE_RATE
    from wakekit.ship.keep import Keeper, KeepConfig, Listening
    from wakekit.ship.stream import Detector
    kept, hit = [], np.zeros(len(spans), int)
    events = list(Listening(Detector(bundle), Keeper(kept.append, KeepConfig(every_s=2.), "radio", PHRASE)).listen(pcm[a:a + 1280] for a in range(0, len(pcm), 1280)))
    for e in events: hit[min(np.searchsorted(spans[:, 1], round(e.time_s*SAMPLE_RATE)), len(spans) - 1)] = 1
    return hit, kept


def judged(bundle, calls, talk, streams):
    "Everything that is compared: 0 or 1 of each trial"
    from wakekit.ship.evaluate import evaluate
    r = evaluate(bundle, calls, talk, progress=False)
    t, woke = r.at_bundle_threshold.threshold, np.zeros(len(r.heard.items), int)
    for m in r.false_accepts: woke[m["index"]] = 1
    return dict(threshold=t, hours=round(r.heard.hours, 2), calls={c.item.name: int(c.peak < t) for c in r.calls}, talk=dict(zip((i.name for i in r.heard.items), woke.tolist())),
                **{name: wakes(bundle, *s)[0].tolist() for name, s in streams.items()})


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("audio", help="folder of recordings, with wake/computer, speech/libri and speech/pvcmd")
    p.add_argument("--work", required=True, metavar="DIR", help="caches and bundles; the same call again goes on")
    p.add_argument("--out", metavar="FILE", help="write the figures as JSON")
    p.add_argument("--small", action="store_true", help="a quarter of the synthesis and of the steps")
    a = p.parse_args()
    from wakekit.core import write_json
    from wakekit.data.audio import find_audio
    from wakekit.data.dataset import Dataset
    import wakekit.data.interchange
    from wakekit.data.recordings import FROM_INBOX
    from wakekit.data.spoken import DataConfig, voice_sides
    from wakekit.data.synth import split_voices
    from wakekit.env import Settings
    from wakekit.learn.config import preset
    from wakekit.serve.compare import flips
    from wakekit.ship.quickstart import train_dataset
    from wakekit.ship.stream import Bundle
    audio, work = Path(a.audio), Path(a.work)
    files = find_audio(audio/"wake"/PHRASE)
    libri, pvcmd = find_audio(audio/"speech"/"libri"), find_audio(audio/"speech"/"pvcmd")
    settings = Settings.load(environ={}, device="auto")
    data = DataConfig(phrase=PHRASE, **(dict(synthetic=500, near_misses=350, filler=325) if a.small else {}))
    config = preset("fast", ["epochs=6", "steps_per_epoch=80", "verifier.steps=120"] if a.small else [])
    aside = voice_sides(data)["test"]
    near, far = split_voices(aside, .5, 1)
    streams = dict(captured=radio(SAME, near, 12, 1), same_words=radio(SAME, far, 12, 2), other_words=radio(OTHER, far, 12, 3))
    def trained(name, more=()):
        out = work/f"{name}.wake"
        if not (out/"manifest.json").is_file():
            ds = Dataset.open_or_create(work/name, PHRASE)
            for f in files[:100]: ds.add(f, "positive", source="calls")
            for f in libri[::6]: ds.add(f, "negative", source="libri")
            for m, source in more: ds.add(m.pcm, "negative", source=source)
            train_dataset(ds, out, config=config, settings=settings, data=data, force=True)
        return Bundle.load(out)
    first = trained("without")
    hit, kept = wakes(first, *streams["captured"])
    print(f"captured: {sum(m.kind == 'trigger' for m in kept)} triggers, {sum(m.kind == 'near' for m in kept)} close misses, of {len(hit)} sentences")
    models = dict(without=first, background=trained("background", [(m, "radio") for m in kept]), hard=trained("hard", [(m, FROM_INBOX + "radio") for m in kept]))
    del streams["captured"]
    found = {name: judged(b, files[100:], [*libri[3::6], *pvcmd], streams) for name, b in models.items()}
    trials = lambda name, what: np.array(list(v.values()) if isinstance(v := found[name][what], dict) else v)
    rows = [dict(what=what, model=name, trials=len(trials(name, what)), count=int(trials(name, what).sum()), **({} if name == "without" else dict(p=round(flips(trials(name, what), trials("without", what)), 4), p_to_background=round(flips(trials(name, what), trials("background", what)), 4))))
            for what in ("same_words", "other_words", "talk", "calls") for name in found]
    result = dict(captured=len(kept), triggers=sum(m.kind == "trigger" for m in kept), small=a.small, hours=found["hard"]["hours"], thresholds={n: f["threshold"] for n, f in found.items()}, rows=rows,
                  after=json.loads((models["hard"].path/"metrics.json").read_text(encoding="utf-8"))["false_wakes"]["fire"],
                  cannot_show="The radio is synthetic voices, other ones than those that were captured and in no training; its sentences are. What people's false wakes are worth is to be seen at home. One training of each: another seed moves all of it.")
    for r in rows: print(r)
    if a.out: write_json(a.out, result)


if __name__ == "__main__": main()
