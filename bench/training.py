"""Where the time of a training goes, on a CPU. All variants take turns in one run, and the fastest turn of each counts: what a machine does besides only adds. Writes training.json beside this file.

    python bench/training.py steps        the parts of a step on one core, and steps with one change undone at a time, on all threads
    python bench/training.py head         batches of the second look, with as many helpers as it has and with fewer
    python bench/training.py speaking     a few hundred clips in one process, products of matrices on one core and on all
    python bench/training.py quickstart   the steps of `wakekit quickstart` with its defaults, minutes; `--as before` under another name

Beside other libraries and a plain loop: `wakekit bench speed --only features,training`.
"""
import argparse, contextlib, copy, functools, json, os, tempfile, time, warnings
from pathlib import Path
import numpy as np
import torch
from wakekit.data.batches import prepare
from wakekit.data.spoken import DataConfig
from wakekit.env import Settings
from wakekit.data import augment, batches as caches
from wakekit.learn import objective, train, verify
from wakekit.learn.config import preset
from wakekit.learn.models import CausalConv
from wakekit.learn.verifier import Verifier

HERE = Path(__file__).parent
DATA = DataConfig(phrase="hey jarvis", synthetic=120, near_misses=60, filler=60)


def turns(ways, rounds):
    "Seconds of each way, of all cores together and by the clock: the least of rounds in which all of them take turns"
    for f in ways.values(): f()
    cores, clock = {k: [] for k in ways}, {k: [] for k in ways}
    for _ in range(rounds):
        for k, f in ways.items():
            start = time.process_time(), time.time()
            f()
            cores[k].append(time.process_time() - start[0])
            clock[k].append(time.time() - start[1])
    return {k: min(v) for k, v in cores.items()}, {k: min(v) for k, v in clock.items()}


class Bar:
    "A progress bar that shows nothing"
    def update(self): pass
    def set_postfix(self, **_): pass


def trainer_of(sets, folder, steps):
    "A training with the preset `fast`, from the encoder"
    return train.Trainer(*sets, preset("fast", [f"steps_per_epoch={steps}", "synthetic_steps=1"]), folder, Settings.load(environ={}, device="cpu", compile="off"), quiet=True)


def in_turn(items, prepare, device="cpu", least=1):
    for item in items: yield item, prepare(item)


class Afresh:
    "A microphone floor whose every sample is drawn"
    def __init__(self, n, device): self.n = n
    def __getitem__(self, at): return torch.randn(len(at), self.n, generator=torch.Generator().manual_seed(int(at[0])))

@contextlib.contextmanager
def undone(trainer, *changes):
    "The trainer as it was before these changes"
    layers, front, usual = [m for m in trainer.model.modules() if isinstance(m, CausalConv)], trainer.model.features, train.ahead
    kept, parts, net, white = [m.depthwise for m in layers], front.parts, trainer.model.net, augment._white
    if "gradients" in changes or "layout" in changes: net.channels_last = False
    if "gradients" in changes:
        for m in layers: m.depthwise = False
    if "floor" in changes: augment._white = Afresh
    if "float32" in changes: trainer.precision = "bf16"
    if "bands" in changes: front.parts = [(slice(0, 40), slice(0, len(front.mel_pairs)))]
    if "thread" in changes: train.ahead = in_turn
    try: yield
    finally:
        train.ahead, front.parts, net.channels_last, augment._white, trainer.precision = usual, parts, True, white, "float32"
        for m, was in zip(layers, kept): m.depthwise = was


def parts_of(trainer, batches, *changes):
    "ms of one core for each part of a step"
    model, c = trainer.model, trainer.config
    batch = batches[0]
    mel = trainer.features(batch)
    ends = (torch.from_numpy(batch.end[:batch.n_positive]) - model.receptive_field)//model.step_samples
    loss = lambda: objective.detection_loss(model.net(mel), ends, c)
    def update():
        trainer.opt.step()
        objective.average_into(trainer.ema, model, .99)
    with undone(trainer, *changes):
        model.train()
        took = turns(dict(draw=lambda: batches[0], features=lambda: trainer.features(batch), forward=loss, both=lambda: loss().backward(), update=update), 7)[0]
    return {k: round(1000*v, 1) for k, v in dict(draw=took["draw"], features=took["features"], forward=took["forward"], backward=took["both"] - took["forward"], update=took["update"]).items()}


CHANGES = {"gradients": "depthwise gradients as sums of products, and with them the layout", "layout": "channels side by side while the network learns", "thread": "the next batch in a thread of its own",
           "floor": "the microphone's floor cut out of a minute of noise", "bands": "mel bands in four blocks"}

def steps(sets, folder, n, rounds):
    "Parts of a step before and after, and seconds per step without each change"
    threads, trainer = torch.get_num_threads(), trainer_of(sets, folder, n)
    torch.set_num_threads(1)
    batches = trainer.loader().dataset
    parts = {"before": parts_of(trainer, batches, *CHANGES), "after": parts_of(trainer, batches)}
    torch.set_num_threads(threads)
    def epoch(*without):
        with undone(trainer, *without): trainer.run_epoch(trainer.model.net, Bar())
    ways = {"after": (), "in bf16": ("float32",), **{f"without {k}": (k,) for k in CHANGES}, "before": tuple(CHANGES)}
    cores, clock = turns({k: functools.partial(epoch, *w) for k, w in ways.items()}, rounds)
    return dict(threads=threads, batch=trainer.config.batch.batch_size, ms_of_one_core=parts, ms_per_step={k: round(1000*v/n) for k, v in clock.items()},
                core_ms_per_step={k: round(1000*v/n) for k, v in cores.items()}, changes=CHANGES)


def head(sets, n, rounds):
    "ms for a batch of the second look: by the clock, and of all cores together"
    config, threads, usual, hard = preset("fast", [f"verifier.steps={n}"]), torch.get_num_threads(), verify.ahead, np.arange(50)*16_000 + 100_000
    verifier = Verifier(config.verifier, states=sets[0].states).eval()
    def learn(ahead, precision="float32"):
        verify.ahead = ahead
        try: verify._learn(copy.deepcopy(verifier), sets[0], config, hard, "cpu", True, precision)
        finally: verify.ahead = usual
    ways = {"two helpers": (usual,), "one helper": (lambda items, prepare, device, least: usual(items, prepare, device, 1),), "nobody helps": (in_turn,), "two helpers, in bf16": (usual, "bf16")}
    cores, clock = turns({k: functools.partial(learn, *w) for k, w in ways.items()}, rounds)
    return dict(threads=threads, batch=config.verifier.batch_size, ms_per_batch={k: round(1000*v/n) for k, v in clock.items()}, core_ms_per_batch={k: round(1000*v/n) for k, v in cores.items()})


def speaking(folder, rounds):
    "Seconds to speak and cache a few hundred clips in one process"
    usual, count = caches.one_core, [0]
    def speak(one_core):
        caches.one_core, count[0] = one_core, count[0] + 1
        try: prepare(folder/str(count[0]), DATA)
        finally: caches.one_core = usual
    cores, clock = turns({"products on one core": functools.partial(speak, usual), "products on all cores": functools.partial(speak, contextlib.nullcontext)}, rounds)
    return dict(clips=DATA.synthetic + DATA.near_misses + DATA.filler, seconds={k: round(v, 1) for k, v in clock.items()}, cpu_seconds={k: round(v, 1) for k, v in cores.items()})


def quickstart(folder):
    "Seconds of each step of a quickstart, by the clock and of all cores together"
    from wakekit.ship import quickstart as q
    took = {}
    def timed(module, name, step):
        run = getattr(module, name)
        def f(*args, **kw):
            clock, cpu = time.time(), sum(os.times()[:4])
            try: return run(*args, **kw)
            finally: took[step] = dict(seconds=round(time.time() - clock, 1), cpu_seconds=round(sum(os.times()[:4]) - cpu, 1))
        setattr(module, name, f)
    for row in ((q, "prepare", "speaking and caching"), (train.Trainer, "run", "first look"), (train, "train_verifier", "second look"), (q, "export", "export, int8, thresholds"), (q, "_judge_and_show", "judging and demo")): timed(*row)
    timed(q, "quickstart", "all")
    point = q.quickstart("hey jarvis", out=folder/"out", settings=Settings.load(environ={}, device="cpu")).report.at_bundle_threshold
    return dict(threads=torch.get_num_threads(), took=took, missed=point.false_rejects, calls=point.clips, false_accepts=point.false_accepts, hours=round(point.hours, 3))


if __name__=="__main__":
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", nargs="*", metavar="steps|head|speaking|quickstart", help="steps where nothing is named")
    p.add_argument("--steps", type=int, default=10, help="batches in a turn (10)")
    p.add_argument("--rounds", type=int, default=5, help="turns (5)")
    p.add_argument("--as", dest="name", help="another name for what is measured, for instance of an older version")
    p.add_argument("--out", default=HERE/"training.json", help="where the figures go")
    a = p.parse_args()
    a.what = a.what or ["steps"]
    warnings.filterwarnings("ignore")
    out = Path(a.out)
    found = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as tmp:
        sets = prepare(Path(tmp)/"data", DATA) if {"steps", "head"} & set(a.what) else None
        for what in a.what:
            torch.set_num_threads(threads)
            (Path(tmp)/what).mkdir()
            name = f"{what} {a.name}" if a.name else what
            made = dict(quickstart=quickstart, head=lambda at: head(sets, a.steps, a.rounds), speaking=lambda at: speaking(at, a.rounds), steps=lambda at: steps(sets, at, a.steps, a.rounds))
            found[name] = made[what](Path(tmp)/what)
            print(json.dumps({name: found[name]}, indent=1), flush=True)
    found["figures"] = {f"steps, {k}": dict(value=v, unit="ms", what="a step of 128 windows", command="python bench/training.py steps") for k, v in found.get("steps", {}).get("ms_per_step", {}).items()}
    found.update(cannot_show="Other CPUs, a GPU, and what else this machine did meanwhile.", machine=f"{os.cpu_count()} cores, torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}", command="python bench/training.py")
    out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
