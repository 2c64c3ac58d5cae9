"Batches: corner cases of data, memory, crashes, and who draws them."
import pickle, sys, tracemalloc, types
import numpy as np, pytest, torch
from wakekit.core import AudioError, ConfigError, TrainError
from wakekit.data import batches as module, recordings
from wakekit.data.audio import save_audio
from wakekit.data.augment import AugmentConfig
from wakekit.data.batches import BatchConfig, Batches, TrainingSet, place, prepare
import wakekit.data.spoken as spoken
from wakekit.data.spoken import DataConfig, synthetic_items
from wakekit.data.cache import PcmCache
from wakekit.data.recordings import Item, folder_items, held_out, pieces

SR = 16_000
NOTHING_SAID = DataConfig(synthetic=0, near_misses=0, filler=0, valid_share=.4, synthetic_rooms=2)


def word(seed, seconds=.8):
    "Something with an onset and an end"
    x = np.random.default_rng(seed).normal(size=int(seconds*SR))*.1*np.hanning(int(seconds*SR))
    return np.pad(x, 3000).astype(np.float32)

def people(n=10, each=2): return [Item(word(10*i + k), f"speaker {i}", f"{i}-{k}") for i in range(n) for k in range(each)]
def talk(n=10, seconds=4): return [Item(word(500 + i, seconds), f"station {i}", f"talk {i}") for i in range(n)]


@pytest.fixture(scope="module")
def data(tmp_path_factory): return prepare(tmp_path_factory.mktemp("data"), NOTHING_SAID, people(), talk())


def make(data, config=BatchConfig(batch_size=16), **kw): return Batches(data, config, AugmentConfig(), 8000, 320, 6, **kw)
def same(a, b): return all(np.array_equal(x, y) for x, y in zip((a.pcm, a.noise, a.end, *vars(a.draws).values()), (b.pcm, b.noise, b.end, *vars(b.draws).values())))


def test_recordings_alone_are_enough(data):
    train, valid = data
    assert len(train.where("positive")) and len(valid.where("positive")) and not len(train.where("synthetic"))
    batch = make(train)[0]
    assert batch.pcm.shape == batch.noise.shape == (16, make(train).n) and batch.pcm[:batch.n_positive].any(1).all()
    assert not set(train.clips.groups) & set(valid.clips.groups) and not set(train.background.groups) & set(valid.background.groups)


def test_every_word_ends_where_the_batch_says(data):
    batches = make(data[0], BatchConfig(batch_size=40, positive=1., cut=0, near_miss=0, isolated=0, hard=0))
    batch = batches[0]
    for row, end in zip(batch.pcm, batch.end):
        loud = np.flatnonzero(np.abs(row.astype(int)) > 300)
        assert abs(loud[-1] - end) < 1600  # the flank of a Hann window is soft


@pytest.mark.parametrize("config, why", [(dict(positive=0.), "at least one must be positive"), (dict(positive=.9), "must fit"), (dict(hard=.9), "must fit"), (dict(batch_size=1), "at least one")])
def test_shares_that_make_no_batch(data, config, why):
    with pytest.raises(ConfigError, match=why): make(data[0], BatchConfig(**{"batch_size": 16, **config}))


def test_shares_that_fill_it_exactly(data):
    batch = make(data[0], BatchConfig(batch_size=10, positive=.5, cut=.5, near_miss=0, isolated=0, hard=0))[0]
    assert batch.pcm.shape[0] == 10 and batch.n_positive == 5


def tones(*hz): return np.concatenate([np.zeros(3200), *(np.sin(2*np.pi*f*np.arange(3200)/16_000)*8000 for f in hz), np.zeros(3200)]).astype(np.int16)


def heard_hz(x, *hz):
    "Which tones there are in 32 ms before and after each place"
    x, t = x.astype(float), np.arange(512)/16_000
    return {f: np.array([abs((x[i:i + 512]*np.exp(-2j*np.pi*f*t)).sum()) > 5e5 for i in range(0, len(x) - 512, 128)]) for f in hz}


def test_halves_that_something_else_makes_whole(tmp_path):
    clips = PcmCache.build(tmp_path/"clips", [(tones(500, 750, 1000, 1250), "synthetic", "a", "call"), (tones(1500, 1750, 2000, 2250), "near_miss", "b", "near")])
    talk = PcmCache.build(tmp_path/"talk", [(tones(*[3000]*20), "background", "c", "talk")])
    batches = Batches(TrainingSet(clips, talk, talk, np.zeros((1, 100), np.float32)), BatchConfig(batch_size=8, positive=.25), AugmentConfig(), 32_000, 320, 6)
    rng, others = np.random.default_rng(0), set()
    for begun in [True, False]*12:
        row, at = batches._joined(rng, begun)
        there = heard_hz(row, 500, 750, 1000, 1250, 1500, 1750, 2000, 2250, 3000)
        have = {f for f in there if there[f].sum() > 2}
        first, last = there[500].mean(), there[1250].mean()
        assert first > 4*last if begun else last > 4*first  # one end of the call, and never both
        other = have - {500, 750, 1000, 1250}
        assert other and (2250 not in other if begun else 1500 not in other)  # the wrong end of the near miss
        others |= other
        call, rest = (np.flatnonzero(np.any([there[f] for f in fs if f in have], 0)) for fs in ((500, 750, 1000, 1250), tuple(other)))
        assert (call[0] < rest[0]) == begun
        if begun: assert batches.receptive_field <= at < batches.n
        else: assert abs(128*call[-1] + 512 + 3200 - at) < 640  # the call, and its silence, ends where it is said to
    assert {3000} < others


def test_without_a_clip_of_the_phrase_there_is_nothing_to_learn(data, tmp_path):
    bare = PcmCache.build(tmp_path/"clips", [(word(0), "near_miss", "a", "a")])
    with pytest.raises(TrainError, match="no clip of the phrase"): make(TrainingSet(bare, data[0].background, data[0].noise, data[0].rooms))


def test_background_shorter_than_a_window(data, tmp_path):
    short = PcmCache.build(tmp_path/"short", [(word(1, .1)[3000:-3000], "background", "a", "a")])
    batch = make(TrainingSet(data[0].clips, short, short, data[0].rooms))[0]
    assert batch.pcm.shape == (16, make(data[0]).n)


@pytest.mark.parametrize("found", [0, 1, 10**9])
def test_a_hard_moment_at_the_edge_of_the_background(data, found):
    batch = make(data[0], BatchConfig(batch_size=16, hard=.5, positive=.2), hard=np.array([found]))[0]
    assert batch.pcm.shape == (16, make(data[0]).n)


def test_cut_words_are_negatives(data):
    config = BatchConfig(batch_size=40, positive=.5, cut=.5, near_miss=0, isolated=0, hard=0)
    batch = make(data[0], config)[0]
    energy = (np.abs(batch.pcm.astype(int)) > 300).sum(1)
    assert batch.n_positive == 20 and energy[20:].mean() < .75*energy[:20].mean()


def test_place_at_every_offset():
    x = np.arange(1, 101, dtype=np.int16)*100
    for at in range(-120, 330, 7):
        out = place(x, 0, 100, 100, at, 200, fade=5)
        assert out.shape == (200,) and out.dtype == np.int16
        inside = np.zeros(200, np.int16)
        for i in range(100):
            if 0 <= at - 100 + i < 200: inside[at - 100 + i] = x[i]
        a, b = max(0, at - 100), min(200, at)
        if b - a > 10: assert np.array_equal(out[a + 5:b - 5], inside[a + 5:b - 5]) and not out[:a].any() and not out[b:].any()
        if b <= a: assert not out.any()
    assert not place(x, 50, 50, 0, 0, 200).any() and len(place(np.zeros(0, np.int16), 0, 0, 0, 5, 10)) == 10


@pytest.mark.parametrize("how", ["spawn", "fork"])
def test_worker_processes_draw_the_same(data, how):
    if how not in torch.multiprocessing.get_all_start_methods(): pytest.skip(f"no {how} here")
    batches = make(data[0])
    loader = torch.utils.data.DataLoader(batches, batch_size=None, num_workers=2, multiprocessing_context=how)
    drawn = list(loader)
    assert len(drawn) == 6 and all(same(a, batches[i]) for i, a in enumerate(drawn))


def test_a_worker_gets_names_and_not_samples(data): assert len(pickle.dumps(make(data[0]))) < 200_000


def test_the_same_call_speaks_nothing_again(tmp_path, monkeypatch):
    config = DataConfig(synthetic=12, near_misses=8, filler=8, synthetic_rooms=2, valid_voices=.3)
    first = prepare(tmp_path, config, people(), talk())
    def fail(*a, **k): raise AssertionError("spoken again")
    for name in ("synthesize", "recite"): monkeypatch.setattr(spoken, name, fail)
    again = prepare(tmp_path, config, people(), talk())
    assert [s.key for s in first] == [s.key for s in again] and same(make(first[0])[2], make(again[0])[2])
    with pytest.raises(AssertionError, match="spoken again"): prepare(tmp_path, config.replace(seed=1), people(), talk())
    assert [s.key for s in prepare(tmp_path, config, people(), talk())] == [s.key for s in first]  # a failed build leaves what was there


def test_an_interrupted_measurement_is_done_again(tmp_path, monkeypatch):
    clips = PcmCache.build(tmp_path/"clips", [(i.src, "positive", i.group, i.name) for i in people(2)])
    real = np.save
    def killed(f, a):
        real(f, a)
        raise KeyboardInterrupt
    monkeypatch.setattr(module.np, "save", killed)
    with pytest.raises(KeyboardInterrupt): TrainingSet(clips, clips, clips, np.zeros((1, 10)))
    monkeypatch.undo()
    assert not (tmp_path/"clips"/"bounds.npy").exists()
    assert TrainingSet(clips, clips, clips, np.zeros((1, 10))).bounds.shape == (4, 2)


def test_bad_files_are_listed_and_not_fatal(tmp_path):
    import soundfile as sf
    (tmp_path/"photo.wav").write_bytes(b"\xff\xd8\xff" + bytes(100))
    (tmp_path/"empty.wav").touch()
    late = np.random.default_rng(0).normal(size=8000*320)*.1
    late[8000*200:] = np.nan  # breaks after three good minutes
    sf.write(tmp_path/"late.wav", late, 8000, subtype="FLOAT")
    save_audio(tmp_path/"good.wav", word(0))
    train, valid = prepare(tmp_path/"cache", NOTHING_SAID, people(), [*talk(), *folder_items(tmp_path)])
    listed = [name for side in (train, valid) for name, why in side.background.skipped if why]
    assert sorted(n.split("/")[-1].split("\\")[-1] for n in listed) == ["empty.wav", "late.wav", "photo.wav"]
    kept = [n for side in (train, valid) for n in side.background.names if "late.wav from" in n]
    assert 1 <= len(kept) <= 4


def test_groups_from_names(tmp_path):
    for name in ("anna_001", "anna_002", "bob-7", "carl 3", "dora.12", "eve", "007"): save_audio(tmp_path/"a"/f"{name}.wav", word(0, .2))
    for name in ("rec_1", "rec_2", "rec_3"): save_audio(tmp_path/"b"/f"{name}.wav", word(0, .2))
    assert [i.group for i in folder_items(tmp_path/"a")] == ["a/007", "a/anna", "a/anna", "a/bob", "a/carl", "a/dora", "a/eve"]
    assert [i.group for i in folder_items(tmp_path/"b")] == ["b/rec_1", "b/rec_2", "b/rec_3"]  # all of one name: each its own
    with pytest.raises(AudioError): folder_items(tmp_path/"nowhere")


def test_a_group_stays_on_its_side():
    sides = {g: held_out(g, .3) for g in map(str, range(200))}
    assert {g for g in sides if held_out(g, .1)} < {g for g in sides if sides[g]}  # a smaller share is a part of the larger


def test_no_rooms_at_all(tmp_path):
    train, _ = prepare(tmp_path, NOTHING_SAID.replace(synthetic_rooms=0), people(), talk())
    assert len(train.rooms) == 0 and (make(train)[0].draws.room == -1).all()


def test_one_side_without_anything(tmp_path):
    for positives, background in ((people(1), talk()), (people(), talk(1)), ([], talk()), (people(), [])):
        with pytest.raises(TrainError, match="nothing to (train|choose the threshold) with.*Add recordings"): prepare(tmp_path, NOTHING_SAID, positives, background)


def test_counts_of_zero_say_nothing(): assert list(synthetic_items(NOTHING_SAID, "train")) == []


def test_items_of_a_broken_or_short_file_pass_through(tmp_path):
    (tmp_path/"x.wav").write_bytes(b"no audio")
    items = [Item(tmp_path/"x.wav", "g"), Item(word(0), "h")]
    assert list(pieces(items)) == items


def test_hours_of_background_and_noise_are_never_in_memory(tmp_path):
    import soundfile as sf
    second = (np.random.default_rng(0).normal(size=8000)*3000).astype(np.int16)
    with sf.SoundFile(tmp_path/"long.wav", "w", 8000, 1) as f:
        for _ in range(90): f.write(np.tile(second, 60))  # an hour and a half: 345 MB as float32 at 16 kHz
    positives, background = people(), talk()
    tracemalloc.start()
    try:
        train, valid = prepare(tmp_path/"cache", NOTHING_SAID, positives, background, noise=[Item(tmp_path/"long.wav", "radio")])
        peak_mb = tracemalloc.get_traced_memory()[1]/1e6
    finally: tracemalloc.stop()
    assert train.background.total_s + valid.background.total_s > 5400 and train.noise.total_s > 1500
    assert peak_mb < 60, f"{peak_mb:.0f} MB for 90 minutes"


# --- what was given and not used

def gave(tmp_path, positives, background=None, config=NOTHING_SAID, **kw): return prepare(tmp_path/"cache", config, positives, talk() if background is None else background, **kw)


def test_what_is_skipped_is_said(tmp_path, caplog):
    (tmp_path/"photo.wav").write_bytes(b"\xff\xd8\xff" + bytes(100))
    save_audio(tmp_path/"mute.wav", np.zeros(SR, np.float32))
    save_audio(tmp_path/"long.wav", word(1, 31))
    save_audio(tmp_path/"room.wav", np.zeros(SR, np.float32))
    bad = [Item(tmp_path/f"{n}.wav", "speaker 1", n) for n in ("photo", "mute", "long", "gone")]
    for _ in range(2):  # the second call opens the caches and still says it
        caplog.clear()
        train, valid = gave(tmp_path, people() + bad, rooms=[tmp_path/"room.wav", tmp_path/"photo.wav"])
        why = dict(train.skipped)
        assert "JPEG" in why["photo"] and "silence" in why["mute"] and "at most 30 s" in why["long"] and "does not exist" in why["gone"] and len(why) == 6
        assert "silent" in why[str(tmp_path/"room.wav")] and len(train.rooms) == NOTHING_SAID.synthetic_rooms
        assert "6 of 36 recordings were skipped, for example photo: " in caplog.text
    assert len(train.where("positive")) + len(valid.where("positive")) == 20


def test_a_long_positive_is_never_decoded(tmp_path, monkeypatch):
    save_audio(tmp_path/"long.wav", word(1, 31))
    monkeypatch.setattr(recordings, "load_audio", lambda *a, **k: pytest.fail("decoded"))
    assert "31 s long" in recordings.refusal(Item(tmp_path/"long.wav", "a"))


def test_nothing_skipped_nothing_said(data, caplog): assert data[0].skipped == [] and "skipped" not in caplog.text


def test_not_one_positive_can_be_used(tmp_path):
    mute = [Item(np.zeros(SR, np.float32), f"p{k}", f"take {k}") for k in range(6)]
    with pytest.raises(TrainError, match="digital silence"): gave(tmp_path, mute)
    with pytest.raises(TrainError, match="None of the 6 recordings.*take .: it is digital silence"):
        gave(tmp_path, mute, config=NOTHING_SAID.replace(synthetic=12, valid_voices=.3))


# --- sides

def test_a_handful_of_speakers_fills_both_sides(tmp_path):
    for seed in range(4):
        train, valid = gave(tmp_path/str(seed), people(2), talk(2), NOTHING_SAID.replace(valid_share=.1, seed=seed))
        assert len(train.where("positive")) == len(valid.where("positive")) == 2 and len(train.background) == len(valid.background) == 1
    train, valid = gave(tmp_path/"all", people(2), talk(), NOTHING_SAID.replace(valid_share=1.))
    assert len(train.where("positive")) == 2


def test_held_out_positives_that_all_are_broken(tmp_path):
    sides = module.group_sides(people(2, 1), NOTHING_SAID, both=True)
    bad = [Item(np.zeros(SR, np.float32), i.group) if sides[i.group] == "valid" else i for i in people(2, 1)]
    with pytest.raises(TrainError, match="choose the threshold"): gave(tmp_path, bad, near_misses=people(10, 1))


def test_a_podcast_stays_on_one_side_where_there_are_others(tmp_path):
    save_audio(tmp_path/"podcast.wav", word(1, 301))
    long = Item(tmp_path/"podcast.wav", "podcast", "podcast")
    assert {i.group for i in pieces([long, *talk(3)])} == {"podcast@0", "podcast@1", *(i.group for i in talk(3))}
    assert {i.group for i in pieces([long, *talk(4)])} == {"podcast", *(i.group for i in talk(4))}


def test_a_file_that_may_not_be_read_passes_through(tmp_path, monkeypatch):
    def forbidden(*a, **k): raise PermissionError(13, "Permission denied")
    monkeypatch.setattr(recordings, "probe_audio", forbidden)
    item = Item(tmp_path/"x.wav", "g")
    assert list(pieces([item])) == [item] and "Permission" in recordings.refusal(item)
    monkeypatch.undo()
    save_audio(tmp_path/"x.wav", word(1, 301))
    monkeypatch.setattr(recordings, "iter_audio", forbidden)
    assert list(pieces([item])) == [item]


def test_one_invented_person_is_on_one_side(tmp_path):
    config = NOTHING_SAID.replace(valid_voices=.3, test_voices=.3)
    voices = module.voice_sides(config)
    said = lambda k: [Item(word(1000*k + i), str(v), str(v), synthetic=True) for i, v in enumerate(v for side in voices.values() for v in side[::40])]
    train, valid = gave(tmp_path, said(1), near_misses=said(2), config=config)
    name = lambda group: group.split("+")[1]
    for side, key in ((train, "train"), (valid, "valid")):
        assert len(side.where("synthetic")) == len(side.where("near_miss")) == len(voices[key][::40])
        assert {name(g) for g in side.clips.groups} <= {v.name for v in voices[key]}
    assert not {name(g) for s in (train, valid) for g in s.clips.groups} & {v.name for v in voices["test"]}


@pytest.mark.parametrize("language, phrase", [("ja", "コンピュータ"), ("de", "hallo computer")])
def test_other_languages_have_something_to_talk_about(language, phrase):
    config = DataConfig(phrase=phrase, language=language, synthetic=10, near_misses=10, filler=40)
    found = list(synthetic_items(config, "test"))
    assert {label for label, _ in found} == {"synthetic", "near_miss", "filler"} and all(i.src.any() for _, i in found)
    assert not any(phrase in i.name for label, i in found if label != "synthetic")


def files(folder): return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.name in ("pcm.i16", "index.json")}


@pytest.mark.parametrize("python", ["", "no such program", "true"])
def test_a_second_process_writes_the_same_files_and_may_fail(tmp_path, monkeypatch, python):
    "It helps, cannot be started, or ends having done nothing: the caches are the same"
    config, asked = DataConfig(synthetic=12, near_misses=8, filler=8, synthetic_rooms=2, valid_voices=.3), []
    alone = prepare(tmp_path/"alone", config)
    monkeypatch.setattr(module, "MUCH", 10)
    monkeypatch.setattr(module, "Probes", lambda: types.SimpleNamespace(cpus=2))
    if python: monkeypatch.setattr(sys, "executable", python)
    build = module._build
    monkeypatch.setattr(module, "_build", lambda folder, key, given, parts=module.PARTS: asked.append((folder/"valid"/"noise").exists() or (folder/"valid"/"clips").exists()) or build(folder, key, given, parts))
    helped = prepare(tmp_path/"helped", config)
    assert [a.key for a in alone] == [h.key for h in helped] and files(tmp_path/"alone") == files(tmp_path/"helped")
    assert asked == [False, not python] # the second look at the caches finds what the other process made


def test_no_second_process_where_it_is_not_wanted(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MUCH", 10)
    monkeypatch.setattr(module, "Probes", lambda: types.SimpleNamespace(cpus=2))
    def started(*a, **k): raise AssertionError("started")
    monkeypatch.setattr(module.subprocess, "Popen", started)
    config, much = DataConfig(synthetic=12, near_misses=8, filler=8, synthetic_rooms=2, valid_voices=.3), Item(np.zeros(16000, np.float32), "a")
    with pytest.raises(AssertionError, match="started"): prepare(tmp_path, config)
    for given, workers in (((config, [much], [], [], []), "2"), ((config, [], [], [], []), "0")):
        monkeypatch.setenv("WAKEKIT_NUM_WORKERS", workers)
        with module._beside(tmp_path, "key", given) as other: assert other is None


def woken(n=4, group="kitchen", seconds=3.): return [Item(np.clip(np.random.default_rng(900 + k).normal(size=round(seconds*SR))*.1, -1, 1).astype(np.float32), group, f"wake {k}") for k in range(n)]


def test_without_false_wakes_nothing_is_different(data, tmp_path):
    for hard in (None, np.array([60_000, 90_000])):
        usual = make(data[0], hard=hard)
        for share in (0., .3, .9): assert all(same(usual[i], make(data[0], BatchConfig(batch_size=16, false_wake=share), hard=hard)[i]) for i in range(6))
    assert prepare(tmp_path/"data", NOTHING_SAID, people(), talk())[0].key == data[0].key
    near = [Item(word(7), "x", "near")]
    keys = {prepare(tmp_path/f"d{k}", NOTHING_SAID, people(), talk(), (), (), n, w)[0].key for k, (n, w) in enumerate((((), ()), (near, ()), ((), near), (near, near)))}
    assert len(keys) == 4, "what is a near miss in one dataset and a false wake in another makes other caches"


def test_false_wakes_take_rows_of_the_background_as_far_as_there_is_room(data, tmp_path):
    train, valid = prepare(tmp_path/"data", NOTHING_SAID, people(), talk(), false_wakes=woken())
    assert len(train.where("false_wake")) == 4 and not len(valid.where("false_wake"))
    sound = [(np.round(i.src*32768)).astype(np.int16).tobytes() for i in woken()]
    def rows(**config):
        batch = make(train, BatchConfig(batch_size=32, positive=.25, cut=0, near_miss=0, isolated=0, hard=0, **config))[0]
        return [k for k, row in enumerate(batch.pcm) if k >= batch.n_positive and any(row[160:-160].tobytes() in s for s in sound)]
    assert rows(false_wake=.25) == list(range(8, 16)) and rows(false_wake=0.) == [] and len(rows(false_wake=.9)) == 24
    full = make(train, BatchConfig(batch_size=10, positive=.5, cut=.5, near_miss=0, isolated=0, hard=0, false_wake=.5))[0]
    assert len(full.pcm) == 10


@pytest.mark.parametrize("seconds", [.05, .3, 1., 3.])
def test_false_wakes_of_any_length_make_windows(tmp_path, seconds):
    train, _ = prepare(tmp_path/"data", NOTHING_SAID, people(), talk(), false_wakes=woken(2, seconds=seconds))
    batch = make(train, BatchConfig(batch_size=32, positive=.25, cut=0, near_miss=0, isolated=0, hard=0, false_wake=.5))[0]
    assert batch.pcm.shape == (32, make(train).n) and batch.pcm[8:24].any(1).all() and (batch.end[8:24] <= make(train).n).all()


def test_nobody_who_is_held_out_comes_in_by_a_false_wake(data, tmp_path):
    train, valid = data
    held = valid.clips.groups[valid.where("positive")][0], valid.background.groups[0]
    more, _ = prepare(tmp_path/"data", NOTHING_SAID, people(), talk(), false_wakes=[*woken(2, held[0]), *woken(1, held[1], 2.), *woken(1, "kitchen", 1.)])
    assert list(more.clips.groups[more.where("false_wake")]) == ["kitchen"]
    assert sum("kept for judging" in why for _, why in more.skipped) == 3


def test_the_moment_of_a_wake_is_at_the_end_of_many_windows(tmp_path):
    "A click two seconds into three, as a keeper cuts it: windows of both looks end right behind it, and not always so"
    x = np.zeros(3*SR, np.float32) + .01
    x[2*SR - 200:2*SR] = .5
    train, _ = prepare(tmp_path/"data", NOTHING_SAID, people(), talk(), false_wakes=[Item(x, "kitchen", "click")])
    for n in (32_000, 41_280):
        batches = Batches(train, BatchConfig(batch_size=128, positive=.01, cut=0, near_miss=0, isolated=0, hard=0, false_wake=.9), AugmentConfig(), n - 25*320, 320, 2)
        rows = batches[0].pcm[1:1 + round(.9*128)]
        after = np.array([n - np.flatnonzero(np.abs(row) > 5000)[-1] for row in rows if np.abs(row).max() > 5000])
        assert batches.n == n and len(after) > .9*len(rows) and after.min() < 1600 and after.max() > 12_000 and np.mean(after < 8000) > .3
