"Corner cases of the front end: nothing, a single sample, extreme values, other settings."
import numpy as np, pytest, torch
from wakekit.core import ConfigError
from wakekit.data.mel import FeatureConfig, StreamingLogMel, hann, log_mel, mel_filters
from wakekit.learn.features import LogMel, folded_dft

rng = np.random.default_rng(0)


def both(x, config=FeatureConfig()):
    "Log-mel by FFT and by folds, checked against the reference"
    front, out = LogMel(config), []
    for front.exporting in (False, True):
        with torch.no_grad(): out.append(front(torch.from_numpy(x)[None])[0].numpy())
        np.testing.assert_allclose(out[-1], log_mel(x, config), atol=2e-3)
    return out[0]


@pytest.mark.parametrize("n", [0, 1, 159, 160, 319, 320, 479])
def test_less_than_a_frame_is_no_frame(n):
    assert both(rng.normal(size=n).astype(np.float32)).shape == (40, 0)
    stream = StreamingLogMel()
    assert sum(stream(np.zeros(1, np.float32)).shape[1] for _ in range(n)) == 0


@pytest.mark.parametrize("x", [np.zeros(1000), np.ones(1000), np.tile([1, -1], 500), rng.normal(size=1000)*1e-12, rng.normal(size=1000)*100, np.eye(1, 1000, 500)[0]])
def test_no_input_gives_anything_but_numbers(x):
    feats = both(x.astype(np.float32))
    assert np.isfinite(feats).all() and (feats >= np.log(1e-6) - 1e-3).all()


@pytest.mark.parametrize("config", [FeatureConfig(n_mels=20), FeatureConfig(n_fft=640), FeatureConfig(n_fft=320, n_mels=24), FeatureConfig(n_fft=512, hop_length=128),
                                    FeatureConfig(sample_rate=8000, n_fft=240, hop_length=80, f_max=3800, n_mels=24)])
def test_other_settings_fold_as_well(config):
    x = rng.normal(size=5000).astype(np.float32)*.1
    assert both(x, config).shape == (config.n_mels, config.n_frames(5000))
    window, mats, even, odd = folded_dft(config)
    assert len(window) == config.n_fft and {len(m) for m in mats} == {config.n_fft//4 + 1}
    used = mel_filters(config).any(0).sum()
    assert even.shape[1] + odd.shape[1] == used and sum(m.size for m in mats) < 2*config.n_fft*used/3.8


def test_settings_that_cannot_fold_are_refused():
    with pytest.raises(ConfigError, match="multiple of 4"): folded_dft(FeatureConfig(n_fft=482))
    with pytest.raises(ConfigError, match="multiple of hop_length"): LogMel(FeatureConfig(n_fft=400))


def test_rows_of_a_batch_do_not_know_each_other():
    x = torch.from_numpy(rng.normal(size=(19, 3000)).astype(np.float32))  # more than one part of eight
    front = LogMel()
    for front.exporting in (False, True):
        whole = front(x)
        for i in (0, 7, 8, 18): assert torch.allclose(front(x[i:i + 1])[0], whole[i], atol=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_streaming_is_whole_for_any_chunks(seed):
    r = np.random.default_rng(seed)
    x, stream = r.normal(size=7000).astype(np.float32)*.1, StreamingLogMel()
    cuts = np.sort(r.integers(0, 7001, 60))  # some chunks are empty
    assert np.array_equal(np.concatenate([stream(c) for c in np.split(x, cuts)], 1), log_mel(x))
    stream.reset()
    assert np.array_equal(stream(x[:480]), log_mel(x[:480]))


def test_gradients_flow_through_both_forms():
    for form in (False, True):
        front, x = LogMel(), torch.randn(2, 1600, requires_grad=True)
        front.exporting = form
        front(x).sum().backward()
        assert torch.isfinite(x.grad).all() and x.grad[:, 240:1360].abs().min() > 0


def test_a_window_ends_where_the_next_begins(): assert hann(480)[0] == 0 and hann(480)[240] == 1 and len(hann(1)) == 1
