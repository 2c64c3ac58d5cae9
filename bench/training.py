"""Where the time of a training goes, on a CPU. All variants take turns in one run, and the fastest turn of each counts: what a machine does besides only adds. Writes training.json beside this file.

    python bench/training.py features     log-mel of two-second clips on one core, wakekit and whoever else is installed
    python bench/training.py steps        the parts of a step on one core, and steps with one change undone at a time, on all threads
    python bench/training.py plain        against a loop of torchaudio and a DataLoader that does the same to each clip by itself
    python bench/training.py quickstart   the steps of `wakekit quickstart` with its defaults, minutes; `--as before` under another name
"""
import argparse, contextlib, functools, importlib.util, json, os, tempfile, time, warnings
from pathlib import Path
import numpy as np, soundfile, torch
from wakekit.data.audio import to_float32
from wakekit.data.batches import prepare
from wakekit.data.mel import mel_filters
from wakekit.data.spoken import DataConfig
from wakekit.env import Settings, torchaudio
from wakekit.learn import objective, train
from wakekit.learn.config import preset
from wakekit.learn.features import LogMel
from wakekit.learn.models import CausalConv, WakeModel

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


def has(name): return importlib.util.find_spec(name) is not None


def peers(x):
    "Other ways to 40 log-mel bands of 30 ms every 10 ms"
    import scipy.fft, scipy.signal
    waves, window, filters = x.numpy(), np.hanning(480).astype(np.float32), mel_filters().astype(np.float32)
    dense, hann, log = torch.from_numpy(filters), torch.hann_window(480), lambda power: np.log(np.maximum(power, 1e-6))
    frames = np.lib.stride_tricks.sliding_window_view(waves, 480, axis=1)[:, ::160]
    power = lambda s: s.real**2 + s.imag**2
    out = {"torch.stft": lambda: (dense @ torch.stft(x, 480, 160, window=hann, center=False, return_complex=True).abs().square()).clamp(1e-6).log(),
           "scipy.fft": lambda: log(power(scipy.fft.rfft(frames*window)) @ filters.T),
           "scipy.signal.stft": lambda: log(filters @ power(scipy.signal.stft(waves, nperseg=480, noverlap=320, window=window, boundary=None, padded=False)[2]))}
    if has("torchaudio"):
        front = torchaudio().transforms.MelSpectrogram(16_000, n_fft=480, hop_length=160, n_mels=40, center=False)
        out["torchaudio"] = lambda: front(x).clamp(1e-6).log()
    if has("librosa"):
        import librosa
        out["librosa"] = lambda: [log(librosa.feature.melspectrogram(y=y, sr=16_000, n_fft=480, hop_length=160, n_mels=40, center=False)) for y in waves]
    if has("kaldi_native_fbank"):
        import kaldi_native_fbank as knf
        options = knf.FbankOptions()
        options.frame_opts.dither, options.frame_opts.frame_length_ms, options.mel_opts.num_bins = 0, 30, 40
        def kaldi():
            for y in waves:
                f = knf.OnlineFbank(options)
                f.accept_waveform(16_000, y)
                f.input_finished()
                [f.get_frame(k) for k in range(f.num_frames_ready)]
        out["kaldi-native-fbank"] = kaldi
    if has("pymicro_features"):
        from pymicro_features import MicroFrontend
        def micro():
            for pcm in (waves*32767).clip(-32768, 32767).astype("<i2"):
                f, raw = MicroFrontend(), pcm.tobytes()
                for k in range(0, len(raw) - 319, 320): f.process_samples(raw[k:k + 320])
        out["pymicro-features"] = micro
    return out


def features():
    "Seconds of audio per second of one core"
    torch.set_num_threads(1)
    x, front = torch.randn(8, 32_000, generator=torch.Generator().manual_seed(0))*.1, LogMel() # as many as suit a core's cache, whoever computes
    with torch.no_grad(): took = turns({"wakekit": lambda: front(x), **peers(x)}, 41)[0]
    rates = {k: round(16/t) for k, t in took.items()}
    return dict(seconds_per_cpu_second=rates, times_the_best_other=round(rates["wakekit"]/max(v for k, v in rates.items() if k!="wakekit"), 2))


class Bar:
    "A progress bar that shows nothing"
    def update(self): pass
    def set_postfix(self, **_): pass


def trainer_of(sets, folder, steps):
    "A training with the preset `fast`, from the encoder"
    return train.Trainer(*sets, preset("fast", [f"steps_per_epoch={steps}", "synthetic_steps=1"]), folder, Settings.load(environ={}, device="cpu", compile="off"), quiet=True)


def in_turn(items, prepare, device="cpu"):
    for item in items: yield item, prepare(item)

@contextlib.contextmanager
def undone(trainer, *changes):
    "The trainer as it was before these changes"
    layers, front, usual = [m for m in trainer.model.modules() if isinstance(m, CausalConv)], trainer.model.features, train.ahead
    kept, parts = [m.depthwise for m in layers], front.parts
    if "gradients" in changes:
        for m in layers: m.depthwise = False
    if "bands" in changes: front.parts = [(slice(0, 40), slice(0, len(front.mel_pairs)))]
    if "thread" in changes: train.ahead = in_turn
    try: yield
    finally:
        train.ahead, front.parts = usual, parts
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


CHANGES = {"gradients": "depthwise gradients as sums of products", "thread": "the next batch in a thread of its own", "bands": "mel bands in four blocks"}

def steps(sets, folder, n, rounds):
    "Parts of a step before and after, and seconds per step without each change"
    threads, trainer = torch.get_num_threads(), trainer_of(sets, folder, n)
    torch.set_num_threads(1)
    batches = trainer.loader().dataset
    parts = {"before": parts_of(trainer, batches, *CHANGES), "after": parts_of(trainer, batches)}
    torch.set_num_threads(threads)
    def epoch(*without):
        with undone(trainer, *without): trainer.run_epoch(trainer.model.net, Bar())
    ways = {"after": (), **{f"without {k}": (k,) for k in CHANGES}, "before": tuple(CHANGES)}
    cores, clock = turns({k: functools.partial(epoch, *w) for k, w in ways.items()}, rounds)
    return dict(threads=threads, batch=trainer.config.batch.batch_size, ms_of_one_core=parts, ms_per_step={k: round(1000*v/n) for k, v in clock.items()},
                core_ms_per_step={k: round(1000*v/n) for k, v in cores.items()}, changes=CHANGES)


class Clips(torch.utils.data.Dataset):
    "What a first script does: a file, some noise, a room, another speed, a shift, a picture; clip by clip"
    def __init__(self, folder, n, config, rooms): self.paths, self.n, self.config, self.rooms = sorted(Path(folder).glob("*.wav")), n, config, rooms
    def __len__(self): return self.n
    def __getitem__(self, i):
        ta, c, rng = torchaudio(), self.config, np.random.default_rng(i)
        read = lambda k: torch.from_numpy(soundfile.read(self.paths[k%len(self.paths)], dtype="float32")[0])[None]
        x, noise = read(i), read(int(rng.integers(1 << 20)))
        if rng.random() < c.p_speed:
            x = ta.functional.resample(x, 16_000, int(16_000/rng.uniform(*c.speed))//100*100)
            x = torch.nn.functional.pad(x, (0, max(0, 32_000 - x.shape[1])))[:, :32_000]
        if rng.random() < c.p_room: x = ta.functional.fftconvolve(x, torch.from_numpy(self.rooms[int(rng.integers(len(self.rooms)))])[None])[:, :32_000]
        if rng.random() < c.p_noise: x = ta.functional.add_noise(x, noise, torch.tensor([rng.uniform(*c.snr_db)]))
        x = torch.roll(x*10**(rng.uniform(-20, 6)/20), int(rng.integers(-1600, 1600)), -1) + torch.randn(x.shape)*10**(rng.uniform(*c.floor_db)/20)
        mel = ta.transforms.MelSpectrogram(16_000, n_fft=480, hop_length=160, n_mels=40, center=False)(x).clamp(1e-6).log()
        if rng.random() < c.p_mask: mel = ta.transforms.TimeMasking(c.mask_frames)(ta.transforms.FrequencyMasking(c.mask_mels)(mel))
        return mel[0], float(i%128 < 40)


def plain(sets, folder, n, rounds):
    "Seconds per step of both loops: the same network, batch size and loss, two workers there, as many threads as there are here"
    trainer, config, files = trainer_of(sets, folder/"run", n), preset("fast"), folder/"files"
    files.mkdir()
    for k in range(512): soundfile.write(files/f"{k:04d}.wav", to_float32(sets[0].background.crop(np.random.default_rng(k), 32_000, 1)[0]), 16_000)
    model = WakeModel(config.model).train()
    opt, data = torch.optim.Adam(model.parameters(), 1e-3), Clips(files, 128*n, config.augment, sets[0].rooms)
    def loop():
        for mel, label in torch.utils.data.DataLoader(data, batch_size=128, num_workers=2, multiprocessing_context="fork"):
            loss = objective.detection_loss(model.net(mel), torch.full((40,), 12), config)
            opt.zero_grad()
            loss.backward()
            opt.step()
    took = turns({"wakekit": lambda: trainer.run_epoch(trainer.model.net, Bar()), "plain loop": loop}, rounds)[1]
    return dict(threads=torch.get_num_threads(), batch=128, ms_per_step={k: round(1000*v/n) for k, v in took.items()}, times_the_plain_loop=round(took["plain loop"]/took["wakekit"], 2))


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
    p.add_argument("what", nargs="*", metavar="features|steps|plain|quickstart", help="the first three where nothing is named")
    p.add_argument("--steps", type=int, default=10, help="batches in a turn (10)")
    p.add_argument("--rounds", type=int, default=5, help="turns (5)")
    p.add_argument("--as", dest="name", help="another name for what is measured, for instance of an older version")
    p.add_argument("--out", default=HERE/"training.json", help="where the figures go")
    a = p.parse_args()
    a.what = a.what or ["features", "steps", "plain"]
    warnings.filterwarnings("ignore")
    out = Path(a.out)
    found = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as tmp:
        sets = prepare(Path(tmp)/"data", DATA) if set(a.what) & {"steps", "plain"} else None
        for what in a.what:
            torch.set_num_threads(threads)
            (Path(tmp)/what).mkdir()
            name = f"{what} {a.name}" if a.name else what
            found[name] = features() if what=="features" else quickstart(Path(tmp)/what) if what=="quickstart" else dict(steps=steps, plain=plain)[what](sets, Path(tmp)/what, a.steps, a.rounds)
            print(json.dumps({name: found[name]}, indent=1), flush=True)
    label = lambda what, ways: {f"{what}, {k}": dict(value=v, unit="ms", what="a step of 128 windows", command=f"python bench/training.py {what}") for k, v in ways.items()}
    found["figures"] = {k: v for what in ("steps", "plain") if what in found for k, v in label(what, found[what]["ms_per_step"]).items()}
    found.update(cannot_show="Other CPUs, a GPU, and what else this machine did meanwhile.", machine=f"{os.cpu_count()} cores, torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}", command="python bench/training.py")
    out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
