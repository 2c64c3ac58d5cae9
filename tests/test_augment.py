"Augmentation at its edges: nothing, a single sample, silence, extreme draws, and never a NaN."
import dataclasses
import numpy as np, pytest, torch
from wakekit.core import AudioError
from wakekit.data.augment import (AugmentConfig, add_rooms, augment_mel, augment_waveform, change_speed, coloured_noise, draw, outside_band, prepare_room, speech_level,
                                  synthetic_room)

SR = 16_000
EVERYTHING = AugmentConfig(p_speed=1., p_room=1., p_noise=1., p_warp=1., p_mask=1.)
rooms = torch.from_numpy(np.stack([synthetic_room(np.random.default_rng(i)) for i in range(3)]))
rng = np.random.default_rng(0)


def tensor(x): return torch.from_numpy(np.asarray(x, dtype=np.float32))
def speech(n=4, time=SR): return tensor(rng.normal(size=(n, time))*np.abs(np.sin(np.arange(time)/2000))*.1)
def apply(x, noise, seed=0, config=EVERYTHING, pivot=None):
    draws = draw(config, len(x), np.random.default_rng(seed), n_rooms=3)
    return augment_waveform(x, noise, rooms, draws, torch.full((len(x),), x.shape[1]//2) if pivot is None else pivot), draws


def test_no_clips():
    x = torch.zeros(0, 1000)
    out, draws = apply(x, x)
    assert out.shape == (0, 1000) and draws.eq_db.shape == (0, 40)
    assert augment_mel(torch.zeros(0, 40, 10), draws).shape == (0, 40, 10)


@pytest.mark.parametrize("time", [1, 2, 100, 319, 320, 321])
def test_very_short_clips(time):
    out, _ = apply(speech(time=time), speech(time=time))
    assert out.shape == (4, time) and torch.isfinite(out).all()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("x", ["zeros", "one bit", "clipped", "an impulse", "constant"])
@pytest.mark.parametrize("noise", ["zeros", "speech"])
def test_never_a_nan_and_never_too_loud(x, noise, seed):
    x = dict(zeros=torch.zeros(4, SR), clipped=torch.ones(4, SR).copysign(speech()), constant=torch.full((4, SR), .3))[x] if x not in ("one bit", "an impulse") else torch.zeros(4, SR).index_fill(1, torch.tensor([8000]), 1/32768 if x=="one bit" else 1)
    out, draws = apply(x, torch.zeros(4, SR) if noise=="zeros" else speech(), seed)
    assert torch.isfinite(out).all() and out.abs().max() <= 1
    assert (out.std(1) > 0).all()  # digital silence does not survive: there is always a floor
    mel = augment_mel(torch.rand(4, 40, 50)*10.**torch.arange(-12, -8)[:, None, None], draws)
    assert torch.isfinite(torch.log(mel + 1e-6)).all() and (mel >= 0).all()


def test_what_is_put_in_is_left_alone():
    x, noise, power = speech(), speech(), torch.rand(4, 40, 50)
    copies = [t.clone() for t in (x, noise, power)]
    _, draws = apply(x, noise)
    augment_mel(power, draws)
    assert all(torch.equal(a, b) for a, b in zip((x, noise, power), copies))


@pytest.mark.parametrize("seed", range(3))
def test_batched_is_one_by_one(seed):
    x, noise = speech(6), speech(6)
    draws = draw(AugmentConfig(), 6, np.random.default_rng(seed), n_rooms=3)
    draws.floor_db[:] = -np.inf
    pivot, power = torch.arange(6)*2000 + 1000, torch.rand(6, 40, 50)
    whole, mel = augment_waveform(x, noise, rooms, draws, pivot), augment_mel(power, draws)
    for i in range(6):
        part = slice(i, i + 1)
        assert torch.allclose(augment_waveform(x[part], noise[part], rooms, draws.rows(part), pivot[part])[0], whole[i], atol=1e-5)
        assert torch.allclose(augment_mel(power[part], draws.rows(part))[0], mel[i])


def test_parts_of_a_batch_do_not_share_their_floor():
    draws = draw(AugmentConfig(), 8, np.random.default_rng(0))
    silence, at = torch.zeros(4, 1000), torch.zeros(4)
    a, b = (augment_waveform(silence, silence, None, dataclasses.replace(draws.rows(s), floor_db=np.full(4, -40.)), at) for s in (slice(0, 4), slice(4, 8)))
    assert abs(np.corrcoef(a.flatten(), b.flatten())[0, 1]) < .1


def test_drawing_does_not_depend_on_who_drew_before():
    np.random.seed(0)
    torch.manual_seed(0)
    a = draw(EVERYTHING, 5, np.random.default_rng(3), 3)
    np.random.rand(), torch.rand(1)
    b = draw(EVERYTHING, 5, np.random.default_rng(3), 3)
    assert all(np.array_equal(u, v) for u, v in zip(vars(a).values(), vars(b).values()))
    x = speech()
    first, again = apply(x, x, 3)[0], apply(x, x, 3)[0]
    assert torch.equal(first, again)


def test_the_end_of_the_speech_stays_where_it_is():
    x = torch.zeros(2, SR)
    x[:, 12_000] = 1
    out = change_speed(x, torch.tensor([.9, 1.12]), torch.full((2,), 12_000.))
    assert out.argmax(1).tolist() == [12_000, 12_000]


def test_a_room_keeps_length_and_onset():
    x = torch.zeros(3, 5000)
    x[:, 1000] = 1
    out = add_rooms(x, rooms)
    assert out.shape == x.shape and out[:, :1000].abs().max() < 1e-6
    assert torch.allclose(out[:, 1000:], rooms[:, :4000], atol=1e-6)


@pytest.mark.parametrize("x", [np.zeros(100), np.zeros(0)])
def test_a_silent_room_is_refused(x):
    with pytest.raises(AudioError, match="silent"): prepare_room(x)


@pytest.mark.parametrize("n", [1, 100, 12_800, 20_000])
def test_a_measured_room_of_any_length(n):
    room = prepare_room(rng.normal(size=n)*np.exp(-np.arange(n)/500))
    assert room.shape == (12_800,) and np.isclose((room**2).sum(), 1, atol=1e-5) and np.isfinite(room).all()


@pytest.mark.parametrize("n", [2, 101, SR])
def test_coloured_noise_has_its_level(n):
    for slope in (0, -3, -8): assert np.isclose(np.sqrt((coloured_noise(rng, n, slope)**2).mean()), .1, rtol=1e-3)


def test_levels_do_not_count_pauses():
    x = speech(2)
    assert torch.allclose(speech_level(torch.cat([x, torch.zeros(2, 5*SR)], 1)), speech_level(x), rtol=.02)
    assert speech_level(torch.zeros(2, 100)).tolist() == [0, 0]


def test_made_up_rooms_reach_across_the_room():
    rooms = np.stack([synthetic_room(np.random.default_rng(k)) for k in range(120)])
    direct = 10*np.log10((rooms[:, :40]**2).sum(1)/(rooms[:, 40:]**2).sum(1))
    assert direct.min() < -8 and direct.max() > 8 and -4 < np.median(direct) < 4
    assert (np.abs(rooms).argmax(1) == 0).all() and np.allclose((rooms**2).sum(1), 1, atol=1e-5)


@pytest.mark.parametrize("low, high", [(300, 3400), (60, 6500), (0, 8000)])
def test_a_narrow_band_keeps_what_is_inside(low, high):
    out = outside_band(low, high)
    assert out.shape == (40,) and 0 <= out.min() and out.max() <= 1 and (out == 0).sum() > 10
    bands = draw(AugmentConfig(p_band=1., eq_db=0., band_low=(low, low), band_high=(high, high), band_db=(30., 30.)), 3, np.random.default_rng(0)).eq_db
    assert np.allclose(bands, -30*out)
