"The second look: its network, how it is trained, and what must not go wrong on the way"
import numpy as np, pytest
torch = pytest.importorskip("torch")
from wakekit.core import TrainError
from wakekit.data.batches import prepare
from wakekit.data.spoken import DataConfig
from wakekit.env import Settings
from wakekit.learn import verify
from wakekit.learn.models import WakeModel
from wakekit.learn.objective import TrainConfig, preset
from wakekit.learn.train import train
from wakekit.learn.verifier import Verifier, VerifierConfig, at_rate, level_out, pretrained_encoder
from wakekit.learn.verify import fooled, train_verifier, verifier_batches

pytestmark = pytest.mark.usefixtures("one_thread")
DATA = DataConfig(phrase="computer", synthetic=30, near_misses=16, filler=12, synthetic_rooms=2, valid_voices=.3)
CONFIG = TrainConfig(verifier=VerifierConfig(steps=3, batch_size=8))


@pytest.fixture(scope="module")
def sets(tmp_path_factory): return prepare(tmp_path_factory.mktemp("data"), DATA)


@pytest.fixture(scope="module")
def first():
    torch.manual_seed(0)
    return WakeModel().eval()


def same(a, b): return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))


def test_size_is_what_the_device_was_promised():
    assert sum(p.numel() for p in Verifier().parameters()) <= 350_000
    assert Verifier().samples == 41_280


def test_microphone_and_level_are_taken_away():
    rng = torch.Generator().manual_seed(0)
    mel = torch.randn(2, 40, 256, generator=rng)
    assert torch.allclose(level_out(mel), level_out(mel + .5*torch.sin(torch.arange(40.))[None, :, None] + 2.), atol=1e-4)
    quiet = mel.clone()
    quiet[..., :100] = -30.  # digital silence
    also = mel.clone()
    also[..., :100] = -20.   # a quiet room: both are more than 50 dB below
    assert torch.equal(level_out(quiet), level_out(also))


@pytest.mark.parametrize("rate", [1., .87, .75, .5])
def test_rates_keep_the_end_and_the_shape(rate):
    mel = torch.arange(256.).expand(1, 40, 256)
    short = at_rate(mel, rate)
    assert short.shape == mel.shape and abs(float(short[0, 0, -1]) - 255) <= 1/rate and float(short[0, 0, 0]) <= 1


def test_same_seed_same_head_and_another_seed_another(tmp_path, sets, first):
    for name in "abc": (tmp_path/name).mkdir()
    one, again = (train_verifier(first, sets[0], CONFIG, tmp_path/name, quiet=True) for name in "ab")
    assert same(one, again)
    assert not same(one, train_verifier(first, sets[0], CONFIG.replace(seed=1), tmp_path/"c", quiet=True))


def test_the_encoder_is_left_alone_and_the_head_is_not(tmp_path, sets, first):
    trained = train_verifier(first, sets[0], CONFIG, tmp_path, quiet=True)
    assert same(trained.encoder, pretrained_encoder()) and not trained.training
    torch.manual_seed(CONFIG.seed)
    assert not same(trained.head, Verifier(CONFIG.verifier).head)


def test_it_is_trained_again_for_another_first_look(tmp_path, sets, first, monkeypatch):
    train_verifier(first, sets[0], CONFIG, tmp_path, quiet=True)
    torch.manual_seed(1)
    other, runs = WakeModel().eval(), []
    learn = verify._learn
    monkeypatch.setattr(verify, "_learn", lambda *a: runs.append(1) or learn(*a))
    train_verifier(first, sets[0], CONFIG, tmp_path, quiet=True)
    assert not runs
    train_verifier(other, sets[0], CONFIG, tmp_path, quiet=True)
    assert len(runs) == 1


def test_a_damaged_file_is_named(tmp_path, sets, first):
    (tmp_path/"verifier.pt").write_bytes(b"PK nothing")
    with pytest.raises(TrainError, match="verifier.pt.*delete"): train_verifier(first, sets[0], CONFIG, tmp_path, quiet=True)


def test_a_loss_that_is_no_number_writes_nothing(tmp_path, sets, first):
    with pytest.raises(TrainError, match="broken clips"): train_verifier(first, sets[0], CONFIG.override(["verifier.lr=1e30", "verifier.steps=8", "grad_clip=1e30"]), tmp_path, quiet=True)
    assert not list(tmp_path.iterdir())


def test_ctrl_c_says_that_the_first_look_is_kept(tmp_path, sets, first, monkeypatch):
    def stop(*_): raise KeyboardInterrupt
    monkeypatch.setattr(verify, "_learn", stop)
    with pytest.raises(KeyboardInterrupt, match="goes on from there"): train_verifier(first, sets[0], CONFIG, tmp_path, quiet=True)
    assert not list(tmp_path.iterdir())


def test_what_a_batch_is_made_of(sets, first):
    hard = fooled(first, sets[0])
    batch = verifier_batches(sets[0], CONFIG.override(["verifier.batch_size=40"]), Verifier(CONFIG.verifier), hard)[0]
    assert batch.pcm.shape == (40, 41_280) and batch.n_positive == 12
    ends = batch.end[:batch.n_positive]
    assert ends.min() >= 41_280 - 25*320 and ends.max() <= 41_280
    assert (np.abs(batch.pcm[:batch.n_positive].astype(int)).max(1) > 0).all()


def test_training_ends_with_both_looks_or_with_one(tmp_path, sets):
    few = ["epochs=2", "steps_per_epoch=2", "warmup_steps=1", "batch.batch_size=16", "verifier.batch_size=8"]
    settings, events = Settings.load(environ={}, device="cpu", compile="off"), []
    both = train(sets, preset("tiny", [*few, "verifier.steps=2"]), tmp_path/"both", settings, on_event=events.append, quiet=True)
    assert isinstance(both.verifier, Verifier) and [e["kind"] for e in events][-2:] == ["done", "verifier"]
    assert (tmp_path/"both"/"verifier.pt").exists()
    assert train(sets, preset("tiny", [*few, "verifier.steps=0"]), tmp_path/"one", settings, quiet=True).verifier is None
