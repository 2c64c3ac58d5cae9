"Corners of the metrics that would only clutter the notebook."
import math
import subprocess
import sys

import numpy as np
import pytest

from wakekit.learn.metrics import (Smoother, alarms, count_false_accepts, det_curve, false_reject_rate, measure, operating_point,
                                   poisson_interval, rate_bound, smooth_scores, wilson_interval)


@pytest.mark.parametrize("n", [1, 2, 5, 40])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_smoothing_does_not_depend_on_chunks(n, dtype):
    rng = np.random.default_rng(n)
    x = rng.random(3000).astype(dtype)
    whole = smooth_scores(x, n)
    for _ in range(5):
        s = Smoother(n)
        parts = np.concatenate([s.process(c) for c in np.split(x, np.sort(rng.integers(0, 3001, 200)))])
        assert np.array_equal(parts, whole)
    slow = [x[max(0, i-n+1):i+1].astype(float).mean() for i in range(len(x))]
    np.testing.assert_allclose(whole, slow, atol=1e-12)


def test_smoother_reset_forgets():
    s = Smoother(4)
    first = s.process([.1, .9, .3])
    s.reset()
    assert np.array_equal(s.process([.1, .9, .3]), first)


@pytest.mark.parametrize("refractory", [0, 1, 2, 7, 100, 10_000])
@pytest.mark.parametrize("n", [0, 1, 99, 100, 101, 5003])
def test_counting_equals_walking(refractory, n):
    scores = np.random.default_rng(n).random(n).round(2)
    thresholds = np.array([.5, 0., .99, 1., 1.1, .5, .03])      # unsorted, with a double
    def walk(t):
        k, deaf = 0, 0
        for i, s in enumerate(scores):
            if i >= deaf and s >= t: k, deaf = k + 1, i + max(refractory, 1)
        return k
    expected = [walk(t) for t in thresholds]
    assert count_false_accepts(scores, thresholds, refractory).tolist() == expected
    assert [len(alarms(scores, t, refractory)) for t in thresholds] == expected


def test_always_on_score_fires_once_per_refractory_time():
    assert alarms(np.ones(1000), .5, 100).tolist() == list(range(0, 1000, 100))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("decimals", [1, 3, 16])
def test_operating_point_is_the_smallest_threshold_within_budget(seed, decimals):
    rng = np.random.default_rng(seed)
    bg, pos = rng.random(4000).round(decimals), rng.random(50)
    for target in (0, .1, 1, 5, 37, 1e6):
        p = operating_point(pos, bg, .7, target, 13)
        assert p.false_accepts_per_hour <= target + 1e-9
        lower = bg[bg < p.threshold]
        if len(lower): assert len(alarms(bg, lower.max(), 13)) > target*.7 or p.threshold == 0
        assert p == measure(p.threshold, pos, bg, .7, 13, target)


def test_silent_background_gives_a_threshold_that_finds_everyone():
    p = operating_point([.3, .9], np.zeros(1000), 1, .5, 10)
    assert (p.false_accepts, p.false_rejects) == (0, 0) and 0 < p.threshold < .3
    assert operating_point([.3], np.zeros(0), 1, .5, 10).threshold == 0


def test_float32_scores_are_kept_out_too():
    bg = np.full(100, np.float32(.1))
    p = operating_point([.5], bg, 1, 0, 1)
    assert p.false_accepts == 0 and not (bg >= p.threshold).any()


@pytest.mark.parametrize("k", [0, 1, 3, 50, 2000])
def test_poisson_interval_has_its_tails(k):
    low, high = poisson_interval(k, 1.)
    def cdf(k, m): return sum(math.exp(i*math.log(m) - m - math.lgamma(i + 1)) for i in range(k + 1))
    assert cdf(k, high) == pytest.approx(.025, abs=1e-6)
    if k: assert 1 - cdf(k - 1, low) == pytest.approx(.025, abs=1e-6)
    assert low <= k <= high and rate_bound(k, 1.) < high


@pytest.mark.parametrize("n", [1, 7, 411])
def test_wilson_stays_in_bounds_and_mirrors(n):
    for k in range(n + 1):
        low, high = wilson_interval(k, n)
        assert 0 <= low <= k/n <= high <= 1
        other = wilson_interval(n - k, n)
        assert low == pytest.approx(1 - other[1]) and high == pytest.approx(1 - other[0])


def test_det_rows_are_measures_even_when_scores_saturate():
    rng = np.random.default_rng(3)
    bg, pos = 1 - rng.random(5000)**8*.01, 1 - rng.random(80)**20*.01
    det = det_curve(pos, bg, .5, 25)
    assert len(np.unique(det.false_reject_rate)) > 10, "a saturated network still gives a curve"
    for t, fa, frr in det.rows()[::17]:
        p = measure(t, pos, bg, .5, 25)
        assert (p.false_accepts_per_hour, p.false_reject_rate) == pytest.approx((fa, frr))


@pytest.mark.parametrize("call", [lambda: false_reject_rate([], .5), lambda: measure(.5, [], [.1], 1, 1), lambda: measure(.5, [.1], [.1], 0, 1),
                                  lambda: wilson_interval(3, 2), lambda: poisson_interval(-1, 1)])
def test_nothing_measured_is_an_error(call):
    with pytest.raises(ValueError): call()


def test_needs_numpy_only():
    code = "import sys, wakekit.learn.metrics; print([m for m in ('torch', 'scipy', 'matplotlib', 'onnxruntime', 'soundfile') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
