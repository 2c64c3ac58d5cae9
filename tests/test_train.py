"Training in corners that are not worth a page: several processes, several ways to start workers, losses that are not numbers"
import copy, os, subprocess, sys, textwrap
import pytest
torch = pytest.importorskip("torch")
from wakekit.core import TrainError
from wakekit.data.batches import prepare
from wakekit.data.spoken import DataConfig
from wakekit.env import Settings
from wakekit.learn.config import preset
from wakekit.learn.train import Trainer, own_device, train

DATA = DataConfig(phrase="computer", synthetic=30, near_misses=16, filler=12, synthetic_rooms=2, valid_voices=.3)
TINY = ["epochs=2", "steps_per_epoch=3", "warmup_steps=2", "mine_from=1", "mine_every=1", "hard_windows=20", "batch.batch_size=32", "verifier.steps=2", "verifier.batch_size=8"]
SETTINGS = dict(environ={}, device="cpu", compile="off")


@pytest.fixture(scope="module")
def sets(tmp_path_factory): return prepare(tmp_path_factory.mktemp("data"), DATA)


@pytest.mark.skipif(not torch.distributed.is_available() or not torch.distributed.is_gloo_available(), reason="this torch has no gloo")
def test_two_processes_share_the_gradient(tmp_path, sets):
    "Two processes under torchrun: the same weights in both, one checkpoint, and close to one process alone"
    script = tmp_path/"job.py"
    script.write_text(textwrap.dedent(f"""
        import os, torch
        from wakekit.data.batches import prepare
        from wakekit.data.spoken import DataConfig
        from wakekit.env import Settings
        from wakekit.learn.config import preset
        from wakekit.learn.train import Trainer
        torch.set_num_threads(1)
        sets = prepare({str(sets[0].clips.folder.parent.parent)!r}, {DATA!r})
        settings = Settings.load(environ={{}}, device="cpu", compile="off", dist_backend="gloo")
        trainer = Trainer(*sets, preset("tiny", {TINY!r}), {str(tmp_path/"run")!r}, settings, quiet=True)
        result = trainer.run()
        assert trainer.world == 2, trainer.world
        found = dict(net=[p.detach() for p in trainer.model.parameters()], ema=list(trainer.ema.state_dict().values()), end=list(result.model.state_dict().values()),
                     hard=[torch.from_numpy(trainer.hard)], told=(result.best_epoch, result.threshold, str(result.history)))
        torch.save(found, {str(tmp_path)!r} + f"/rank{{trainer.rank}}.pt")
    """), encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_addr=127.0.0.1", "--master_port=0", "--rdzv_backend=c10d", "--rdzv_endpoint=127.0.0.1:0", str(script)]
    r = subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert r.returncode == 0, r.stderr[-3000:]
    one, other = (torch.load(tmp_path/f"rank{k}.pt", weights_only=True) for k in (0, 1))
    for part in ("net", "ema", "end", "hard"): assert len(one[part]) == len(other[part]) and all(torch.equal(a, b) for a, b in zip(one[part], other[part])), part
    assert one["told"] == other["told"]
    alone = Trainer(*sets, preset("tiny", TINY), tmp_path/"alone", Settings.load(**SETTINGS), quiet=True)
    start = [p.detach().clone() for p in alone.model.parameters()]
    alone.run()
    moved = sum(float((p - s).abs().sum().detach()) for p, s in zip(alone.model.parameters(), start))
    apart = sum(float((p - o).abs().sum().detach()) for p, o in zip(alone.model.parameters(), one["net"]))
    assert 0 < apart < moved # not bit-equal (each process normalizes its own rows), but the same journey
    assert (tmp_path/"run"/"events.jsonl").read_text(encoding="utf-8").count('"kind": "done"') == 1


@pytest.mark.parametrize("start", ["fork", "spawn", "forkserver"])
def test_workers_change_nothing(tmp_path, sets, start):
    "Batches drawn by worker processes give the same weights to the last bit"
    import multiprocessing
    if start not in multiprocessing.get_all_start_methods(): pytest.skip(f"no {start} here")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        config = preset("tiny", [*TINY, "epochs=1"])
        weights = [train(sets, config, tmp_path/f"w{n}", Settings.load(**SETTINGS, num_workers=n, mp_start=start), quiet=True).model.state_dict() for n in (0, 1, 2)]
    finally: torch.set_num_threads(threads)
    assert all(torch.equal(weights[0][k], other[k]) for other in weights[1:] for k in other)


def test_a_thread_that_prepares_changes_nothing(tmp_path, sets):
    "The helper of two threads, each of one core, draws and computes what one thread does"
    config, threads, weights = preset("tiny", [*TINY, "epochs=1"]), torch.get_num_threads(), []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            weights.append(train(sets, config, tmp_path/f"t{n}", Settings.load(**SETTINGS), quiet=True).model.state_dict())
            assert torch.get_num_threads()==n
    finally: torch.set_num_threads(threads)
    for k, v in weights[0].items(): torch.testing.assert_close(v, weights[1][k], rtol=1e-4, atol=1e-5) # validation has two threads, learning has one


def test_a_training_that_fails_gives_its_threads_back(tmp_path, sets, monkeypatch):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        trainer = Trainer(*sets, preset("tiny", TINY), tmp_path/"run", Settings.load(**SETTINGS), quiet=True)
        def broken(*a): raise ValueError("this batch cannot be read")
        for part in ("step", "features"):
            monkeypatch.setattr(Trainer, part, broken)
            with pytest.raises(ValueError, match="cannot be read") as kept: trainer.run()
            assert torch.get_num_threads()==2 and kept
    finally: torch.set_num_threads(threads)


def test_a_loss_that_is_no_number_stops_with_a_remedy(tmp_path, sets):
    with pytest.raises(TrainError, match="lower lr"): train(sets, preset("tiny", TINY).override(["lr=1e30", "grad_clip=1e30", "warmup_steps=1", "steps_per_epoch=8"]), tmp_path/"run", Settings.load(**SETTINGS), quiet=True)


def test_a_damaged_checkpoint_is_refused_with_a_remedy(tmp_path, sets):
    run = tmp_path/"run"
    run.mkdir()
    (run/"checkpoint.pt").write_bytes(b"half a file")
    with pytest.raises(TrainError, match="delete"): train(sets, preset("tiny", TINY), run, Settings.load(**SETTINGS), quiet=True)


def test_each_process_takes_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert [own_device(d) for d in ("cuda", "cuda:0", "cpu")] == ["cuda:1", "cuda:0", "cpu"]
    monkeypatch.delenv("WORLD_SIZE")
    assert own_device("cuda") == "cuda"


class NoWayBack(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x): return x.clone()
    @staticmethod
    def backward(ctx, grad): raise RuntimeError("no compiler for the way back")


@pytest.mark.parametrize("fails", ["", "forwards", "backwards"])
def test_trying_out_the_compiler_changes_no_weights(tmp_path, sets, monkeypatch, caplog, fails):
    "It works, or its first call fails, or its first gradient: then the log says so and the training runs as it is"
    ran = []
    def compiler(net):
        def fast(x):
            ran.append(net(x)) # counts into batch norm, as a compiled network does
            if fails=="forwards": raise RuntimeError("no compiler")
            return NoWayBack.apply(ran[-1]) if fails else ran[-1]
        return fast
    monkeypatch.setattr(torch, "compile", compiler)
    monkeypatch.setattr(Settings, "resolve", lambda self, name, resolve=Settings.resolve: "on" if name == "compile" else resolve(self, name))
    trainer = Trainer(*sets, preset("tiny", TINY), tmp_path/"run", Settings.load(**{**SETTINGS, "compile": "auto"}), quiet=True)
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    trainer.model.train()
    assert (trainer.compiled() is trainer.model.net) == bool(fails) and ran
    assert bool(fails) == ("not compiled: no compiler" in caplog.text)
    assert all(torch.equal(v, before[k]) for k, v in trainer.model.state_dict().items()) and all(p.grad is None for p in trainer.model.parameters())
    if fails=="backwards": assert trainer.run().model and len(ran)==2 # tried once more, then not used
    by_hand = Trainer(*sets, preset("tiny", TINY), tmp_path/"by hand", Settings.load(**{**SETTINGS, "compile": "on"}), quiet=True)
    if fails:
        with pytest.raises(TrainError, match="WAKEKIT_COMPILE=on"): by_hand.compiled()


def test_other_rooms_are_another_run(tmp_path, sets):
    run, settings = tmp_path/"run", Settings.load(**SETTINGS)
    run.mkdir()
    Trainer(*sets, preset("tiny", TINY), run, settings, quiet=True).save()
    again = Trainer(*sets, preset("tiny", TINY), run, settings, quiet=True)
    assert again.resume()
    other = copy.copy(sets[0])
    other.rooms = sets[0].rooms*.5
    with pytest.raises(TrainError, match="other data"): Trainer(other, sets[1], preset("tiny", TINY), run, settings, quiet=True).resume()


def test_bf16_learns_and_keeps_its_weights_in_float32(tmp_path, sets):
    "Half the bits in products only: the loss falls about as it does in float32, nothing that is kept has fewer bits, and a run that was stopped goes on to the same end"
    config, found = preset("tiny", [*TINY, "epochs=3", "steps_per_epoch=8", "verifier.steps=0"]), {}
    settings = {p: Settings.load(**SETTINGS, precision=p) for p in ("float32", "bf16")}
    for p, s in settings.items():
        trainer = Trainer(*sets, config, tmp_path/p, s, quiet=True)
        found[p] = trainer.run()
        kept = [*trainer.model.state_dict().values(), *trainer.ema.state_dict().values(), *(v for state in trainer.opt.state.values() for v in state.values())]
        assert {v.dtype for v in kept if v.is_floating_point()} == {torch.float32}
    loss = {p: [h["loss"] for h in r.history] for p, r in found.items()}
    assert loss["bf16"][-1] < loss["bf16"][0] and loss["bf16"] != loss["float32"]
    assert all(abs(a - b) < .1*b for a, b in zip(loss["bf16"], loss["float32"]))
    def stop(event):
        if event["kind"] == "epoch" and event["epoch"] == 1: raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): train(sets, config, tmp_path/"stopped", settings["bf16"], stop, quiet=True)
    again = train(sets, config, tmp_path/"stopped", settings["bf16"], quiet=True)
    assert all(torch.equal(v, again.model.state_dict()[k]) for k, v in found["bf16"].model.state_dict().items())


def test_the_second_look_hears_in_bf16_about_what_it_hears_in_float32(sets):
    from wakekit.learn.config import VerifierConfig
    from wakekit.learn.verifier import Verifier
    from wakekit.learn.verify import encoded
    mel = torch.randn(4, 40, 256, generator=torch.Generator().manual_seed(0))*2 - 6
    verifier = Verifier(VerifierConfig(), states=sets[0].states).eval()
    with torch.no_grad(): exact, rough = (encoded(verifier, mel, 1, p) for p in ("float32", "bf16"))
    for a, b in zip(exact, rough): assert b.dtype == torch.float32 and 0 < (a - b).norm() < .05*a.norm()


def test_background_and_noise_that_lie_on_the_device_give_the_same_training(sets, tmp_path, monkeypatch):
    "A CPU stands for the GPU: it is told that it has memory to hold them"
    from wakekit.learn import objective, train as T
    config = preset("tiny", ["epochs=2", "steps_per_epoch=3", "warmup_steps=2", "mine_from=1", "mine_every=1", "hard_windows=20", "batch.batch_size=24", "verifier.steps=3", "verifier.batch_size=8"])
    found = {}
    for free in (0, 10**6, 10**12): # nothing to hold them, too little, enough
        monkeypatch.setattr(objective, "free_bytes", lambda device: free)
        result = T.train(sets, config, tmp_path/str(free), Settings.load(environ={}, device="cpu", compile="off", num_workers=0), quiet=True)
        found[free] = torch.cat([p.flatten() for p in (*result.model.parameters(), *result.verifier.head.parameters())])
    trainer = T.Trainer(*sets, config, tmp_path/"held", Settings.load(environ={}, device="cpu"), quiet=True)
    assert trainer.held.keys() == {"background", "noise"} and trainer.held["noise"].dtype == torch.int16
    assert torch.equal(found[0], found[10**6]) and torch.equal(found[0], found[10**12])
