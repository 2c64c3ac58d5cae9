"""Where the time of listening goes, and what each change gave. All variants of one bundle hear the same sound, in turns, on one core. Writes listening.json beside this file.

    python bench/listening.py computer.wake       a bundle with model.pt and verifier.pt, as wakekit train writes it

Beside other engines: `wakekit bench speed --only streaming`.
"""
import argparse, contextlib, json, os, shutil, tempfile
from collections import defaultdict
from pathlib import Path
from unittest import mock
import numpy as np
import onnxruntime as ort
from wakekit.ship import export
from wakekit.ship.engines import in_turns, pin
from wakekit.ship.export import file_facts, load_model, load_verifier, to_onnx, write_verifier
from wakekit.ship.quantize import quantize_verifier, verifier_windows
from wakekit.ship.speed import machine, sound_for
from wakekit.ship.stream import Bundle, Detector
from wakekit.learn.models import StreamingModel

HERE = Path(__file__).parent
VARIANTS = { # Name → (graph as torch exports it, second look from samples, a look ends early, arrays stay where they are)
    "first look, graph as torch exports it": (True, None, False, False),
    "first look, layers as pictures, short front end": (False, None, False, False),
    "first look, and arrays that stay": (False, None, False, True),
    "both looks, the second from samples": (False, True, False, True),
    "both looks, from frames of the first": (False, False, False, True),
    "both looks, ended as soon as sure: as it ships": (False, False, True, True),
}


def written(bundle, folder, plain, samples, early, sound):
    "A variant of a bundle"
    shutil.copytree(bundle.path, folder)
    m, verifier, stream = json.loads((folder/"manifest.json").read_text(encoding="utf-8")), load_verifier(bundle.path), StreamingModel(load_model(bundle.path))
    as_is = dict(widened=lambda model: model, compacted=lambda model, features: model) if plain else {}
    with mock.patch.multiple(export, **as_is) if plain else contextlib.nullcontext(): to_onnx(stream, folder/"model.onnx", samples is False)
    if samples is None: m.pop("verifier"); m["schema_version"] = 1
    elif samples:
        facts = write_verifier(verifier, folder)
        quantize_verifier(folder/"verifier.onnx", verifier_windows([sound], facts["samples"]), tolerance=1.)
        m |= dict(schema_version=2, verifier=facts | {k: v for k, v in m["verifier"].items() if k in ("open_at", "smooth_ms", "every_ms", "looks", "first_weight")})
    if samples is False and not early: m["verifier"].pop("sure")
    m |= dict(graphs={"float32": dict(m["graphs"]["float32"])}, default_graph="float32", files={n: f for n, f in file_facts(folder).items()})
    (folder/"manifest.json").write_text(json.dumps(m), encoding="utf-8")
    return Bundle.load(folder)


def listener(bundle, stays):
    d = Detector(bundle, "float32")
    if not stays: d._usual = -1
    return d


def operators(bundle, chunk, n=300):
    "µs that each kind of operator takes for a chunk while it is profiled, which costs by itself, and how many there are, after onnxruntime's optimization"
    with tempfile.TemporaryDirectory() as tmp:
        o = ort.SessionOptions()
        o.intra_op_num_threads, o.enable_profiling, o.profile_file_prefix, o.log_severity_level = 1, True, str(Path(tmp)/"p"), 3
        session, state = ort.InferenceSession(bundle.graphs["float32"], o, providers=["CPUExecutionProvider"]), np.zeros((1, bundle.manifest["state_size"]), np.float32)
        for _ in range(n): session.run(["score", "state_out"], {"pcm": chunk[None], "state": state})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    spent, count = defaultdict(float), defaultdict(int)
    for e in events:
        if e.get("cat") == "Node" and e["name"].endswith("kernel_time"): spent[e["args"]["op_name"]] += e["dur"]; count[e["args"]["op_name"]] += 1
    return {op: dict(us=round(t/n, 1), nodes=round(count[op]/n)) for op, t in sorted(spent.items(), key=lambda kv: -kv[1])}


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("bundle", help="a bundle's folder")
    p.add_argument("--seconds", type=float, default=60., help="of talk without a pause, with calls in it (60)")
    p.add_argument("--rounds", type=int, default=7, help="turns (7)")
    p.add_argument("--out", default=HERE/"listening.json", help="where the figures go")
    a = p.parse_args()
    about = machine()
    pin()
    bundle = Bundle.load(a.bundle)
    with tempfile.TemporaryDirectory() as tmp:
        sound = np.fromfile(sound_for(Path(tmp)/"sound", a.seconds, bundle.phrase, language=bundle.manifest["language"]), np.int16)
        chunks = [sound[i:i + 1280] for i in range(0, len(sound) - 1279, 1280)]
        bundles = {name: written(bundle, Path(tmp)/str(k), plain, samples, early, sound/np.float32(32768)) for k, (name, (plain, samples, early, _)) in enumerate(VARIANTS.items())}
        detectors = {name: listener(b, VARIANTS[name][3]) for name, b in bundles.items()}
        def hear(d):
            d.reset()
            for c in chunks: d.process(c)
        took = defaultdict(list)
        for name, s in in_turns({name: lambda d=d: hear(d) for name, d in detectors.items()}, a.rounds): took[name].append(1000*s/a.seconds)
        rows = {name: dict(ms_per_s=round(float(np.median(v)), 3), least=round(min(v), 3), looks_per_min=round(60*detectors[name].n_looks/a.seconds, 1), windows_per_min=round(60*(0 if not (d := detectors[name]._second) else d.n_windows if d.pictures else len(bundle.manifest["verifier"]["rates"])*d.n_windows)/a.seconds, 1)) for name, v in took.items()}
        ops = {name: operators(bundles[name], sound[:1280]/np.float32(32768)) for name in (list(VARIANTS)[0], list(VARIANTS)[-1])}
    command = f"python bench/listening.py {Path(a.bundle).name} --seconds {a.seconds:g} --rounds {a.rounds}"
    found = dict(command=command, machine=about, seconds=a.seconds, rounds=a.rounds, rows=rows, operators=ops, cannot_show="One machine and its neighbours: compare rows, not times. The second look from samples is quantized on the sound that is heard; how well it hears is not judged here.",
                 figures={name: dict(value=r["ms_per_s"], unit="ms", what=f"CPU time per second of talk; {r['looks_per_min']:g} second looks a minute, {r['windows_per_min']:g} windows", command=command) for name, r in rows.items()})
    Path(a.out).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for name, r in rows.items(): print(f"{r['ms_per_s']:6.2f} ms  {r['looks_per_min']:5.1f} looks  {r['windows_per_min']:5.1f} windows a minute   {name}")
