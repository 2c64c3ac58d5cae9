"""What resting in silence costs: calls missed and processor time, with the energy gate at several levels and without it, on the same audio.

    python bench/gate.py BUNDLE --calls DIR [--calls DIR …] --background DIR [--out bench/gate.json]

Each call stands in a room of -70 dBFS, six seconds after it fell silent, as recorded and more softly. Calls that the bundle was trained on may be among them: it is the difference to no gate that counts.
"""
import argparse, itertools, platform, sys, time
from pathlib import Path

import numpy as np

LEVELS, SOFTER, ROOM_DB, CHUNK = [None, -65., -60., -55., -50., -45., -40.], [0, -12, -24], -70., 1280


def figures(found):
    "What the docs' page of figures shows, and what all of it cannot show"
    of, worst = f"python bench/gate.py BUNDLE --calls {found['phrase']}", min(r["softer_db"] for r in found["missed"])
    missed = {f"missed, gate {r['gate']}": dict(value=round(100*r["false_reject_rate"], 1), unit="%", what=f"of {found['calls']} calls, {-r['softer_db']} dB softer than they were recorded", command=of) for r in found["missed"] if r["softer_db"]==worst}
    rested = {f"rest, gate {r['gate']}, {r['sound']}": dict(value=round(100*r["rested"]), unit="%", what=f"of {r['minutes']:.0f} minutes of {r['sound']} at rest", command=of) for r in found["background"]}
    return dict(figures=missed | rested, cannot_show="A call that was recorded softly and one that was turned down are not the same: the noise of the room was turned down with it. Nor how loud a voice arrives at another microphone.")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("bundle")
    p.add_argument("--calls", action="append", required=True, metavar="DIR", help="recordings, each with one call; may be repeated")
    p.add_argument("--background", action="append", default=[], metavar="DIR", help="recordings without it; may be repeated")
    p.add_argument("--most", type=int, default=200, metavar="N", help="calls at most (200)")
    p.add_argument("--minutes", type=float, default=10, metavar="M", help="of each background (10)")
    p.add_argument("--graph", help="float32 or int8 (the bundle's default)")
    p.add_argument("--out", metavar="FILE", help="write the figures as JSON")
    a = p.parse_args()
    from wakekit.core import SAMPLE_RATE, progress, write_json
    from wakekit.data.audio import find_audio, load_audio, rms_db
    from wakekit.learn.metrics import wilson_interval
    from wakekit.ship.stream import Bundle, Detector
    bundle, rng = Bundle.load(a.bundle), np.random.default_rng(0)
    room = lambda s: (10**(ROOM_DB/20)*rng.standard_normal(int(s*SAMPLE_RATE))).astype(np.float32)
    of = lambda gate: Detector(bundle, graph=a.graph, silence_db=gate)
    paths = [x for folder in a.calls for x in find_audio(folder)]
    paths = [paths[k] for k in sorted(rng.permutation(len(paths))[:a.most])]
    if not paths: sys.exit(f"no recordings below {', '.join(a.calls)}")
    calls = [load_audio(x) for x in paths]
    missed, rested = {}, {}
    for (gate, softer) in progress(list(itertools.product(LEVELS, SOFTER)), desc="calls"):
        d, heard = of(gate), 0
        for x in calls:
            x = np.concatenate([z := room(6), x*10**(softer/20) + room(len(x)/SAMPLE_RATE)[:len(x)], room(2)])
            heard += any(e.time_s > len(z)/SAMPLE_RATE for e in d.detect(x))
        missed[gate, softer] = len(calls) - heard
    sounds = {Path(f).name: np.concatenate([load_audio(x) for x in itertools.islice(find_audio(f), 400)])[:int(a.minutes*60*SAMPLE_RATE)] for f in a.background} | {"a quiet room": room(120)}
    for (name, x), gate in progress(list(itertools.product(sounds.items(), LEVELS)), desc="background"):
        d, start = of(gate), time.process_time()
        events = sum(len(d.process(x[at:at + CHUNK])) for at in range(0, len(x), CHUNK))
        rested[name, gate] = dict(events=events, cpu_s_per_s=(time.process_time() - start)/len(x)*SAMPLE_RATE, rested=d._gate.rested_steps*d.step_s*SAMPLE_RATE/len(x) if d._gate else 0.)
    loud = sorted(rms_db(x) for x in calls)
    name = lambda gate: "off" if gate is None else f"{gate:g} dBFS"
    found = dict(command=f"python bench/gate.py BUNDLE --calls {' --calls '.join(Path(c).name for c in a.calls)}" + "".join(f" --background {Path(b).name}" for b in a.background),
                 phrase=bundle.phrase, machine=f"{platform.machine()}, {platform.system()}", calls=len(calls), call_level_db=dict(zip(("p5", "p50", "p95"), np.percentile(loud, [5, 50, 95]).round(1).tolist())), room_db=ROOM_DB,
                 missed=[dict(gate=name(g), softer_db=s, missed=n, false_reject_rate=n/len(calls), interval=wilson_interval(n, len(calls))) for (g, s), n in missed.items()],
                 background=[dict(sound=s, minutes=len(sounds[s])/SAMPLE_RATE/60, gate=name(g), **r, cpu_ratio=r["cpu_s_per_s"]/rested[s, None]["cpu_s_per_s"]) for (s, g), r in rested.items()])
    found |= figures(found)
    if a.out: write_json(a.out, found)
    print(f"\nmissed of {len(calls)} calls (as recorded: {found['call_level_db']} dBFS)\n" + "gate".ljust(12) + "".join(f"{s:+d} dB".rjust(10) for s in SOFTER))
    for g in LEVELS: print(name(g).ljust(12) + "".join(f"{missed[g, s]/len(calls):.1%}".rjust(10) for s in SOFTER))
    print("\nshare of time at rest (processor time, without gate = 1)\n" + "gate".ljust(12) + "".join(s[:16].rjust(18) for s in sounds))
    for g in LEVELS: print(name(g).ljust(12) + "".join(f"{rested[s, g]['rested']:.0%} ({rested[s, g]['cpu_s_per_s']/rested[s, None]['cpu_s_per_s']:.2f})".rjust(18) for s in sounds))


if __name__ == "__main__": main()
