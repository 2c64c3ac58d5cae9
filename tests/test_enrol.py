"""Enrolment: what must not get through, what must come back, and that the alignment is the cheapest one."""
import json
import numpy as np, pytest
from wakekit.core import AudioError, BundleError, SAMPLE_RATE
from wakekit.data.synth import Utterance
from wakekit.data.voices import PeopleSynthesizer
from wakekit.learn.enrol import Enrolled, distance, enrol, features, pitch, step_costs, tone, warp, way, windows
from wakekit.learn.verifier import Encoder

PEOPLE = PeopleSynthesizer()

def says(text, seed, who=5, **kw): return PEOPLE.synthesize(Utterance(text, PEOPLE.voices()[who], rate=155 + 8*(seed%4), seed=seed, **kw))

@pytest.fixture(scope="module")
def takes(): return [says("marmalade", k) for k in range(3)]

@pytest.fixture(scope="module")
def word(takes): return enrol(takes)

def cheapest(costs):
    "Every way through a small table"
    n, m = costs.shape
    def go(i, j):
        if (i, j)==(n - 1, m - 1): return 0.
        steps = [(i + 1, j + 1, 2), (i + 1, j, 1), (i, j + 1, 1)]
        return min(w*costs[a, b] + go(a, b) for a, b, w in steps if a<n and b<m)
    return 2*costs[0, 0] + go(0, 0)

@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (4, 4), (3, 6), (6, 4)])
def test_warp_is_the_cheapest_of_all_ways(shape):
    costs = np.random.default_rng(sum(shape)).random(shape)
    np.testing.assert_allclose(warp(costs)[-1, -1], cheapest(costs))
    path = way(costs)
    assert tuple(path[0])==(0, 0) and tuple(path[-1])==(shape[0] - 1, shape[1] - 1)
    np.testing.assert_allclose((costs[tuple(path.T)]*np.diff(path, axis=0, prepend=-1).sum(1)).sum(), cheapest(costs))

def test_a_slower_take_is_as_near_as_itself_and_order_matters():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(20, 30)); a /= np.linalg.norm(a, axis=1, keepdims=True)
    assert distance(a, np.repeat(a, 2, 0)) < 1e-5
    assert distance(a, a[::-1]) > .5

@pytest.mark.parametrize("seconds", [.2, 1., 2.4, 2.58, 2.6, 4., 9.])
def test_windows_hold_every_step_once(seconds):
    x = np.random.default_rng(0).normal(0, .1, int(seconds*SAMPLE_RATE)).astype(np.float32)
    views, kept = windows(x)
    assert len(views)==len(kept) and all(0<=s.start<s.stop<=128 for s in kept)
    assert abs(sum(s.stop - s.start for s in kept)*.02 - seconds) < .05

def test_same_word_scores_above_others(word):
    same, other = [word.score(says("marmalade", k)) for k in (4, 8, 11, 13)], [word.score(says(t, 4)) for t in ("calendar", "good morning", "telephone", "water")]
    assert np.median(same) > word.threshold > max(other)

def test_a_waveform_says_the_same_louder_or_with_silence_around(word):
    x = says("marmalade", 4)
    room = np.random.default_rng(0).normal(0, 1e-5, 12_000).astype(np.float32)
    for y in (x*.1, np.concatenate([room, x, room])): assert abs(word.score(y) - word.score(x)) < .15

def test_the_word_is_found_in_a_long_clip(word):
    x = says("marmalade", 1)  # one of the takes
    clip = np.concatenate([says("a glass of water please", 3), np.zeros(4800, np.float32), x, np.zeros(4800, np.float32), says("good morning everybody", 2)])
    assert word.score(clip) > word.threshold > word.score(clip[:-len(x) - 40_000])

def test_a_phrase_of_three_words_of_another_language():
    phrase = enrol([says("buenos días amigo", k, 9) for k in range(3)])
    assert phrase.score(says("buenos días amigo", 4, 9)) > max(phrase.score(says(t, 4, 9)) for t in ("hasta la vista", "una cerveza por favor"))

def test_what_is_saved_scores_the_same(word, tmp_path):
    assert word.save(tmp_path/"new"/"folder")==tmp_path/"new"/"folder"
    same = Enrolled.load(tmp_path/"new"/"folder")
    for text in ("marmalade", "calendar"): assert abs(same.score(says(text, 6)) - word.score(says(text, 6))) < .02
    assert same.limit==word.limit

def test_enrol_saves_where_it_is_told(takes, tmp_path):
    enrol(takes, tmp_path/"here", None)
    assert Enrolled.load(tmp_path/"here").threshold==.5

def test_damaged_or_foreign_folders(word, tmp_path):
    with pytest.raises(BundleError, match="no enrolled word"): Enrolled.load(tmp_path/"nothing")
    word.save(tmp_path)
    with pytest.raises(BundleError, match="enrolled with encoder"): Enrolled.load(tmp_path, Encoder().eval())
    data = (tmp_path/"takes.npz").read_bytes()
    (tmp_path/"takes.npz").write_bytes(data[:len(data)//2])
    with pytest.raises(BundleError, match="enrol it again"): Enrolled.load(tmp_path)
    word.save(tmp_path)
    about = json.loads((tmp_path/"enrolled.json").read_text(encoding="utf-8"))
    (tmp_path/"enrolled.json").write_text(json.dumps({**about, "takes": 9}), encoding="utf-8")
    with pytest.raises(BundleError, match="enrol it again"): Enrolled.load(tmp_path)

@pytest.mark.parametrize("bad, says_so", [
    (np.zeros(16_000, np.float32), "take 2 has no speech"),
    (np.random.default_rng(0).normal(0, 1e-4, 16_000).astype(np.float32), "take 2 has no speech"),
    (np.zeros(100, np.float32), "take 2 has 100 samples"),
    (np.zeros((2, 16_000), np.float32), "take 2 must be a waveform of one channel"),
    (np.zeros(16_000, np.int16), "take 2 must be a waveform"),
    (np.full(16_000, np.nan, np.float32), "take 2 must be a waveform"),
])
def test_bad_takes(takes, bad, says_so):
    with pytest.raises(AudioError, match=says_so): enrol([takes[0], bad, takes[1]])

def test_takes_that_do_not_belong_together(takes):
    with pytest.raises(AudioError, match="take 2 does not sound like the others"): enrol([takes[0], says("good morning", 3), takes[1]])
    with pytest.raises(AudioError, match="2 recordings of the phrase or more, not 1"): enrol(takes[:1])
    with pytest.raises(AudioError, match="at most 6 s"): enrol([takes[0], np.concatenate([says("a glass of water", k) for k in range(8)])])

def glide(low, high, seconds=2.58):
    f = np.geomspace(low, high, int(seconds*SAMPLE_RATE))
    return sum(np.sin(2*np.pi*h*np.cumsum(f)/SAMPLE_RATE)/h for h in range(1, 9))*.05

@pytest.mark.parametrize("low, high", [(90, 90), (80, 160), (400, 200), (300, 300)])
def test_pitch_follows_a_voice_and_keeps_its_octave(low, high):
    octaves, periodic = pitch(glide(low, high)[None])
    wanted = np.log2(np.geomspace(low, high, 41_280))[320:][::320][:octaves.shape[1]]
    assert octaves.shape==periodic.shape==(1, 128) and np.abs(octaves[0, 4:-6] - wanted[4:-6]).max() < .1 and periodic[0, 4:-6].min() > .8

@pytest.mark.parametrize("n", [640, 1000, 41_280])
def test_pitch_of_silence_noise_and_short_windows_is_a_number(n):
    for x in (np.zeros((1, n)), np.random.default_rng(0).normal(0, .1, (2, n))):
        octaves, periodic = pitch(x)
        assert octaves.shape==(len(x), n//320 - 1) and np.isfinite(octaves).all() and np.isfinite(periodic).all() and periodic.max() < .6
        np.testing.assert_allclose(np.linalg.norm(tone(octaves[0], periodic[0]), axis=1), 1)

def test_windows_do_not_change_each_others_pitch():
    x = np.stack([glide(80, 160), glide(300, 200)])
    for k in range(2): np.testing.assert_array_equal(pitch(x)[0][k], pitch(x[[k]])[0][0])

def test_rising_is_not_falling():
    up, down = (tone(*(part[0] for part in pitch(glide(a, b)[None]))) for a, b in ((100, 160), (160, 100)))
    assert distance(up, down) > 3*distance(up, tone(*(part[0] for part in pitch(glide(200, 320)[None]))))  # another voice, the same tone

def test_what_an_older_wakekit_saved_is_refused(word, tmp_path):
    folder = word.save(tmp_path)
    about = json.loads((folder/"enrolled.json").read_text(encoding="utf-8"))
    (folder/"enrolled.json").write_text(json.dumps(about | dict(schema_version=1)), encoding="utf-8")
    with pytest.raises(BundleError, match="enrol it again"): Enrolled.load(tmp_path)
