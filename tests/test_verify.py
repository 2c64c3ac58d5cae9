"The second look: its network, how it is trained, and what must not go wrong on the way"
import numpy as np, pytest
torch = pytest.importorskip("torch")
from wakekit.core import TrainError
from wakekit.data.batches import prepare
from wakekit.data.recordings import Item
from wakekit.data.spoken import DataConfig
from wakekit.env import Settings
from wakekit.learn import verify
from wakekit.learn.models import WakeModel
from wakekit.learn.config import preset, TrainConfig, VerifierConfig
from wakekit.learn.train import train
from wakekit.data.sounds import PHONES
from wakekit.data.voices import phrase_states
from wakekit.learn.verifier import InTurn, Verifier, at_rate, best_path, level_out, pretrained_encoder
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
    long = phrase_states("wake up all of the lights in the living room and the kitchen")
    assert len(long) > 32 and sum(p.numel() for p in Verifier(states=long).parameters()) <= 350_000
    assert Verifier().samples == 41_280
    with torch.no_grad(): assert torch.isfinite(Verifier(states=long).eval()(torch.randn(1, 41_280))).all()


def test_with_recordings_most_voices_are_still_made(tmp_path):
    "What a few people said does not crowd out the voices of the bank, and halves are cut from these"
    rng = np.random.default_rng(0)
    said = [Item((np.hanning(8000)*rng.normal(0, .1, 8000)).astype(np.float32), f"speaker {k}", f"{k}") for k in range(4)]
    train, _ = prepare(tmp_path, DATA.replace(synthetic=12, valid_share=0.), said)
    batches, asked = (verifier_batches(train, CONFIG.replace(batch=CONFIG.batch.replace(synthetic=s)), Verifier(states=train.states), np.zeros(0, int)) for s in (None, .25))
    assert len(batches.real)==4 and batches.synthetic_share==pytest.approx(33/37) and asked.synthetic_share==.25
    heard, read = set(), train.clips.read
    train.clips.read = lambda i, *a: heard.add(int(i)) or read(i, *a)
    for k in range(20): asked._joined(np.random.default_rng(k), k%2==0), asked._positive(np.random.default_rng(k), cut=True)
    assert not heard & set(batches.real.tolist()) and heard & set(batches.said.tolist())
    for k in range(20): asked._positive(np.random.default_rng(k))
    assert heard & set(batches.real.tolist())


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


def slow_best_path(scores, least, first):
    "Every way through the states, one after the other"
    states, steps = scores.shape
    best = (-np.inf, None)
    def go(state, begin, value, means):
        nonlocal best
        for end in range(begin + least, steps + 1):
            own, kept = scores[state, begin:end], np.clip(scores[state, begin:end], -4, 3)
            v, m = value + kept.sum(), means + own.mean()
            if state < states - 1: go(state + 1, end, v, m)
            elif end > first: best = max(best, (v, m))
    for begin in range(steps): go(0, begin, 0., 0.)
    return best[1]


@pytest.mark.parametrize("states, steps, least, first", [(1, 9, 2, 4), (2, 10, 2, 0), (3, 11, 2, 7), (3, 9, 1, 3), (4, 8, 2, 2)])
def test_the_best_path_is_the_best_of_all(states, steps, least, first):
    scores = np.random.default_rng(states*steps).normal(0, 2, (5, states, steps))
    wanted = [slow_best_path(x, least, first) for x in scores]
    np.testing.assert_allclose(best_path(torch.from_numpy(scores), least, first), wanted, rtol=1e-6)


def test_a_slow_speaker_is_as_good_as_a_quick_one():
    said = torch.full((1, 3, 80), -3.)
    for k, (a, b) in enumerate(((40, 43), (43, 46), (46, 49))): said[0, k, a:b] = 1.
    slow = torch.full((1, 3, 80), -3.)
    for k, (a, b) in enumerate(((30, 42), (42, 45), (45, 60))): slow[0, k, a:b] = 1.
    assert torch.allclose(best_path(said), best_path(slow))


def test_every_sound_must_be_there_and_in_turn():
    states = phrase_states("computer")
    def heard(sounds):
        named = torch.full((1, len(PHONES), 128), -4.)
        named[:, 0] = 4.
        for k, p in enumerate(sounds): named[0, :, 60 + 4*k:64 + 4*k], named[0, p, 60 + 4*k:64 + 4*k] = -4., 4.
        return InTurn(states, 8)(torch.zeros(1, 8, 128), named).item()
    own = [s[0] for s in states]
    assert heard(own) > heard(own[:-3]) + .5 and heard(own) > heard(own[::-1]) + .5 and heard(own) > heard([p for k, p in enumerate(own) if k != 4]) + .1
    assert abs(heard(own) - heard([s[-1] for s in states])) < .2  # said in another accent


def test_a_head_belongs_to_the_sounds_of_its_phrase(tmp_path, sets, first):
    own, known = sets[0].states, train_verifier(first, sets[0], CONFIG, tmp_path, quiet=True)
    assert known.states == own == phrase_states("computer")
    try:
        sets[0].states = ()
        free = train_verifier(first, sets[0], CONFIG, tmp_path, quiet=True) # not what lies there: that was of other states
        sets[0].states = own[:-1] + ((5,),)
        other = train_verifier(first, sets[0], CONFIG, tmp_path, quiet=True)
    finally: sets[0].states = own
    assert len(free.states) == 8 and free.head.in_turn.also.weight.abs().sum() > 0
    assert len(other.states) == len(own) and not torch.equal(other.head.in_turn.may, known.head.in_turn.may)


def test_same_seed_same_head_and_another_seed_another(tmp_path, sets, first):
    for name in "abc": (tmp_path/name).mkdir()
    one, again = (train_verifier(first, sets[0], CONFIG, tmp_path/name, quiet=True) for name in "ab")
    assert same(one, again)
    assert not same(one, train_verifier(first, sets[0], CONFIG.replace(seed=1), tmp_path/"c", quiet=True))


def test_the_encoder_is_left_alone_and_the_head_is_not(tmp_path, sets, first):
    trained = train_verifier(first, sets[0], CONFIG, tmp_path, quiet=True)
    assert same(trained.encoder, pretrained_encoder()) and not trained.training
    torch.manual_seed(CONFIG.seed)
    assert not same(trained.head, Verifier(CONFIG.verifier, states=sets[0].states).head)


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
    assert batch.pcm.shape == (40, 41_280) and batch.n_positive == 9
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
