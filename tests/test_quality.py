"Quality: faults that are planted are found, good clips are left alone, and what was found out is kept."
import io, json, os, subprocess, sys, warnings
import numpy as np
import pytest
import soundfile
from wakekit import Dataset
from wakekit.data import coach, quality
from wakekit.data.audio import resample, save_audio, to_int16
from wakekit.data.kept import Kept
from wakekit.data.quality import FIGURES, figures_of, findings, hits, look
from wakekit.data.report import report
from wakekit.data.suspects import suspects
from wakekit.data.twins import twins

SR = 16_000
def speechlike(seconds=1.2, seed=0, level=.2):
    "Pulses of a voice through moving resonances, with pauses and a room: wide-band, with a natural head room"
    rng, n = np.random.default_rng(seed), int(seconds*SR)
    t, pitch = np.arange(n)/SR, rng.uniform(90, 220)
    pulses = np.zeros(n)
    pulses[(np.cumsum(np.full(n, pitch) + 20*np.sin(2*np.pi*rng.uniform(1, 3)*t))/SR % 1 < pitch/SR).nonzero()] = 1
    x = sum(np.convolve(pulses, np.exp(-np.arange(400)/w)*np.sin(2*np.pi*f*np.arange(400)/SR), "same") for f, w in zip(rng.uniform([300, 900, 2200, 5000], [800, 1800, 3200, 7000]), (60, 40, 30, 15)))
    slow = np.interp(t, np.linspace(0, seconds, 12), rng.uniform(.2, 1, 12))*((t > .15) & (t < seconds - .15))
    x = x*slow
    x -= x.mean()
    return (level*x/np.abs(x).max() + rng.normal(0, 3e-4, n)).astype(np.float32)

def kinds(x, label="positive"):
    row = np.array([look(to_int16(np.asarray(x, np.float32)))[0]])
    return {k for k, v in hits(row, [label]).items() if v[0]}

def dataset(path, n=6):
    ds = Dataset.create(path, "hey jarvis")
    for k in range(n): ds.add(speechlike(seed=k), "positive" if k % 2 else "negative", speaker=f"person {k % 3}", source="desk")
    return ds


@pytest.mark.parametrize("seed", range(8))
def test_a_good_clip_has_no_findings(seed):
    assert kinds(speechlike(seed=seed)) == set()

@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("gain", (.05, .4, 1.))
def test_clipping_is_found_at_any_level(seed, gain):
    x = speechlike(seed=seed)
    assert "clipped" in kinds(gain*(x/np.sort(np.abs(x))[int(.99*len(x))]).clip(-1, 1)*.999)

def test_one_side_is_enough_to_be_clipped():
    x = speechlike()
    assert "clipped" in kinds(np.minimum(x, np.quantile(x, .99)))

@pytest.mark.parametrize("seed", range(4))
def test_a_telephone_is_found_and_a_dull_microphone_is_not(seed):
    x = speechlike(seed=seed)
    assert "narrow" in kinds(resample(resample(x, SR, 8000), 8000))
    assert "narrow" not in kinds(np.convolve(x, np.ones(6)/6, "same"))
    assert "narrow" not in kinds(resample(resample(x, SR, 14_000), 14_000, SR))  # a coder's low-pass at 7 kHz

@pytest.mark.parametrize("kind,change", [
    ("silent", lambda x: 0*x), ("faint", lambda x: x*.004), ("offset", lambda x: x + .1), ("short", lambda x: x[4000:7000]), ("begins", lambda x: x[6000:]), ("ends", lambda x: x[:-6000]),
    ("noisy", lambda x: x + np.random.default_rng(1).normal(0, .012, len(x))), ("no_speech", lambda x: np.random.default_rng(1).normal(0, .01, len(x))), ("long", lambda x: np.concatenate([x[2500:-2500]]*6))])
def test_each_fault_has_its_finding(kind, change):
    assert kind in kinds(change(speechlike())), kinds(change(speechlike()))

def test_lost_buffers_are_no_noise_gate():
    x = to_int16(speechlike())
    loudest = int(np.abs(x.astype(int)).argmax())
    lost = x.copy()
    lost[loudest - 100:loudest + 100] = 0
    assert "gaps" in kinds(lost/32768)
    gated = np.where(np.abs(speechlike()) < .004, 0, speechlike())
    gated[:9000] = 0
    assert "gaps" not in kinds(gated) and "gated" in kinds(gated)

def test_noise_may_be_what_speech_may_not():
    x = np.random.default_rng(1).normal(0, .01, SR)
    assert kinds(x, "noise") == set() and kinds(0*x, "noise") == {"silent"}
    assert not kinds(speechlike()[4000:7000], "negative") & {"short", "begins", "ends", "long"}

def test_odd_lengths_have_finite_figures():
    for n in (1, 2, 79, 319, 511, 513, 2001):
        for x in (np.zeros(n), np.ones(n)*.5, -np.ones(n), np.random.default_rng(n).normal(0, .1, n)):
            row, row_pattern = look(to_int16(x))
            assert all(np.isfinite(row[k]) for k in FIGURES.names) and np.isfinite(row_pattern).all()

def test_findings_say_how_many_and_what_to_do():
    rows = np.array([look(to_int16(x))[0] for x in (speechlike(), 0*speechlike(), .5*np.clip(9*speechlike(), -1, 1))])
    found = findings(rows, ["positive"]*3, ["a", "b", "c"])
    assert {(f.kind, tuple(f.clip_ids)) for f in found} >= {("silent", ("b",)), ("clipped", ("c",))}
    assert all(f.words.endswith(".") and ": " in f.words and f.severity in ("bad", "doubt", "note") for f in found)


def test_figures_are_computed_once(tmp_path, monkeypatch):
    ds = dataset(tmp_path/"d")
    figures_of(ds)
    looked = []
    monkeypatch.setattr(quality, "_look_at", lambda job, real=quality._look_at: looked.append(job) or real(job))
    ds.add(speechlike(seed=99), "positive")
    ds.update(ds.clips()[0].id, label="noise")
    kept, unread = figures_of(ds)
    assert len(looked) == 1 and not unread and len(kept) == 7

def test_figures_of_a_purged_clip_go(tmp_path):
    ds = dataset(tmp_path/"d")
    figures_of(ds)
    gone = ds.clips()[0]
    ds.trash(gone.id)
    ds.purge()
    ds.add(speechlike(seed=99), "positive")
    figures_of(ds)
    assert gone.sha256 not in Kept(ds.path/quality.FILE, quality.VERSION) and len(Kept(ds.path/quality.FILE, quality.VERSION)) == 6

@pytest.mark.parametrize("harm", [b"", b"PK\x03\x04 nonsense", b"\0"*5000])
def test_a_damaged_file_of_figures_is_made_again(tmp_path, harm):
    ds = dataset(tmp_path/"d")
    figures_of(ds)
    (ds.path/quality.FILE).write_bytes(harm)
    kept, _ = figures_of(ds)
    assert len(kept) == 6 and len(Kept(ds.path/quality.FILE, quality.VERSION)) == 6

def test_ctrl_c_keeps_what_was_done(tmp_path, monkeypatch):
    ds = dataset(tmp_path/"d")
    count = []
    def stops(job, real=quality._look_at):
        if len(count) == 4: raise KeyboardInterrupt
        count.append(1)
        return real(job)
    monkeypatch.setattr(quality, "_look_at", stops)
    with pytest.raises(KeyboardInterrupt): figures_of(ds)
    assert len(Kept(ds.path/quality.FILE, quality.VERSION)) == 4

def test_a_disk_that_is_full_costs_no_report(tmp_path, monkeypatch):
    ds = dataset(tmp_path/"d")
    def full(*_, **__): raise OSError(28, "No space left on device")
    monkeypatch.setattr("wakekit.data.kept.atomic_write", full)
    with pytest.warns(UserWarning, match="not kept"): r = report(ds)
    assert r.d["clips"] == 6 and sum(r.d["histograms"]["level_db"]["positive"]) == 3

def test_bad_files_among_good_ones(tmp_path):
    ds = dataset(tmp_path/"d", 8)
    clips = ds.clips()
    clips[0].path.write_bytes(b"")
    clips[1].path.write_bytes(clips[1].path.read_bytes()[:300])
    clips[2].path.write_bytes(b"RIFF" + os.urandom(500))
    clips[3].path.write_bytes(clips[4].path.read_bytes())  # another clip's samples
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        r = report(ds)
    unreadable = [f for f in r.d["findings"] if f["kind"] == "unreadable"][0]
    assert set(unreadable["clip_ids"]) == {c.id for c in clips[:4]} and unreadable["severity"] == "bad" and not r.ok
    assert r.d["labels"]["positive"]["clips"] + r.d["labels"]["negative"]["clips"] == 4
    r.save_page(tmp_path/"page.html", ds)
    assert (tmp_path/"page.html").stat().st_size > 3000

def test_several_processes_find_the_same(tmp_path, monkeypatch):
    ds = dataset(tmp_path/"d", 12)
    monkeypatch.setattr(quality, "MANY", 5)
    many, _ = figures_of(ds, processes=2, keep_every=5)
    shas = [c.sha256 for c in ds.clips()]
    found = many.of("figures", shas)
    (ds.path/quality.FILE).unlink()
    one, _ = figures_of(ds)
    assert (one.of("figures", shas) == found).all() and (one.of("pattern", shas) == many.of("pattern", shas)).all()


def changed(x, how):
    f = io.BytesIO()
    if how == "mp3": soundfile.write(f, x, SR, format="MP3", subtype="MPEG_LAYER_III")
    if how == "opus": soundfile.write(f, x, SR, format="OGG", subtype="OPUS")
    if how in ("mp3", "opus"):
        f.seek(0)
        return soundfile.read(f, dtype="float32")[0]
    return dict(gain=.2*x, offset=x + .02, later=np.pad(x, (3000, 1000)), trimmed=x[600:-600], telephone=resample(resample(x, SR, 8000), 8000))[how]

@pytest.mark.parametrize("how", ("gain", "offset", "mp3", "opus", "later", "trimmed", "telephone"))
def test_a_copy_is_found(tmp_path, how):
    ds = dataset(tmp_path/"d", 10)
    one = ds.clips()[3]
    copy = ds.add(changed(ds.load(one), how), one.label)
    kept, _ = figures_of(ds)
    found = twins(ds, ds.clips(), kept.of("pattern", [c.sha256 for c in ds.clips()]))
    assert [sorted(t.ids) for t in found] == [sorted([one.id, copy.id])]

def test_two_labels_and_two_names_of_one_recording(tmp_path):
    ds = dataset(tmp_path/"d", 10)
    one = ds.clips("positive")[0]
    ds.add(.4*ds.load(one), "negative", speaker="somebody else")
    d = report(ds).d
    assert any(f["kind"] == "two_labels" and one.id in f["clip_ids"] for f in d["findings"])
    assert any(x["kind"] == "names" and "somebody else" in x["words"] for x in d["leaks"])

def test_names_that_differ_in_spelling(tmp_path):
    ds = Dataset.create(tmp_path/"d", "hey jarvis")
    for k, name in enumerate(("Anna", "anna ", "ben", "an-na")): ds.add(speechlike(seed=k), "positive", speaker=name)
    leaks = [x for x in report(ds).d["leaks"] if x["kind"] == "names"]
    assert len(leaks) == 1 and "3 ways" in leaks[0]["words"]


def test_swapped_labels_come_first():
    rng = np.random.default_rng(0)
    unit = lambda v: v/np.linalg.norm(v, axis=1, keepdims=True)
    truth = np.arange(400) % 4 == 0
    rows = unit(unit(rng.normal(size=(2, 30)))[truth.astype(int)] + .12*rng.normal(size=(400, 30)))
    swapped = set(rng.choice(400, 30, replace=False).tolist())
    labels = ["positive" if t != (k in swapped) else "negative" for k, t in enumerate(truth)]
    found = suspects(rows, labels, list(range(400)), most=40)
    assert len(swapped & {s.id for s in found[:35]}) == 30
    assert all(s.looks != s.label and s.id not in s.neighbours for s in found[:30])

@pytest.mark.parametrize("others, doubted", [(1, set()), (3, set()), (4, {0})])
def test_a_label_of_a_few_clips_is_not_doubted(others, doubted):
    "None of its neighbours could be called the same"
    rng = np.random.default_rng(1)
    unit = lambda v: v/np.linalg.norm(v, axis=1, keepdims=True)
    rows = unit(np.eye(2, 30)[[0]*20 + [1]*(others - 1)] + .05*rng.normal(size=(19 + others, 30))) # the first lies among the calls
    assert {s.id for s in suspects(rows, ["negative"] + ["positive"]*19 + ["negative"]*(others - 1), list(range(19 + others)))} & {0} == doubted

def test_report_is_json_and_has_its_shape(tmp_path):
    ds = dataset(tmp_path/"d", 8)
    rows = np.eye(8, 20, dtype=np.float32)
    d = report(ds, rows).to_dict()
    assert json.loads(json.dumps(d, allow_nan=False)) == d
    assert set(d) >= {"name", "phrase", "created", "fingerprint", "clips", "labels", "histograms", "speakers", "sources", "findings", "suspects", "duplicates", "leaks", "coach"}
    for h in d["histograms"].values():
        assert set(h) == {"edges", "positive", "negative", "noise"} and len(h["edges"]) == len(h["positive"]) + 1 and sum(h["positive"]) + sum(h["negative"]) == 8
    assert {r["name"] for r in d["speakers"]} == {"person 0", "person 1", "person 2"} and sum(r["positive"] for r in d["speakers"]) == 4
    assert all(set(a) == {"words", "why", "severity"} for a in d["coach"])
    assert d["fingerprint"] == ds.fingerprint()

def test_report_of_nothing(tmp_path):
    r = report(Dataset.create(tmp_path/"d", "hey jarvis"))
    assert r.d["clips"] == 0 and r.ok and r._repr_markdown_()
    r.save_page(tmp_path/"page.html", Dataset.open(tmp_path/"d"))

def test_page_escapes_what_comes_from_outside(tmp_path):
    evil = "</script><script>alert(1)</script><img src=x onerror=y>\"'"
    ds = Dataset.create(tmp_path/"d", evil, name=evil)
    x = speechlike()
    ds.add(x, "positive", speaker=evil, source=evil, notes=evil, original_name=evil + "/../../etc")
    ds.add(.5*x, "negative", speaker=evil + "2", source=evil)
    ds.add(0*x, "noise", speaker="", source=evil)
    page = report(ds, np.eye(3, 9, dtype=np.float32)).save_page(tmp_path/"page.html", ds).read_text(encoding="utf-8")
    assert "<script" not in page and "<img" not in page and "onerror=y>" not in page and "alert(1)" in page

def test_players_are_limited(tmp_path):
    ds = Dataset.create(tmp_path/"d", "hey jarvis")
    for k in range(12): ds.add(.5*np.clip(9*speechlike(seed=k), -1, 1), "positive")
    page = report(ds).save_page(tmp_path/"page.html", ds, players=3).read_text(encoding="utf-8")
    assert page.count("<audio") <= 3


def test_coach_of_real_reports(tmp_path):
    ds = Dataset.create(tmp_path/"d", "ok")
    for k in range(12): ds.add(.04*(x := speechlike(seed=k))/np.sqrt(np.mean(x**2)), "positive", speaker="anna", source="laptop")
    said = " ".join(a["words"] + a["why"] for a in report(ds).d["coach"])
    for part in ("longer phrase", "88 more calls", "two more people", "metres", "recorder run", "negatives"): assert part in said, (part, said)

def test_coach_says_when_everything_is_synthetic(tmp_path):
    ds = Dataset.create(tmp_path/"d", "hey jarvis")
    for k in range(4): ds.add(speechlike(seed=k), "positive", voice=f"voice {k}")
    assert any("no recorded call" in a["why"] for a in report(ds).d["coach"])

def test_nobody_is_told_to_record_a_synthesizer_again(tmp_path):
    "Faults of what was made are nobody's, its labels are certain, and two words of one voice are no copies"
    def report_of(name, spoken="say jarvis", **who):
        told = lambda label: {**who, "notes": "hey jarvis" if label == "positive" else spoken} if who else None
        ds = Dataset.create(tmp_path/name, "hey jarvis")
        loud = lambda k: np.clip(4*(x := speechlike(seed=k))/np.abs(x).max(), -1, 1)
        for k in range(20): ds.add(loud(k), label := "positive" if k < 10 else "negative", **(told(label) or dict(speaker=f"person {k}")))
        ds.add(.99*loud(0), "negative", **(told("negative") or dict(speaker="person 0")))
        rows = np.eye(2, 20, dtype=np.float32)[[int(c.label == "negative") for c in ds.clips()]]
        first = next(k for k, c in enumerate(ds.clips()) if c.label == "negative")
        rows[first] = np.eye(2, 20)[0]
        return report(ds, rows).d
    voice = dict(voice="espeak:anika", speaker="espeak:anika", source="synthesized by espeak")
    people, machine = report_of("people"), report_of("machine", **voice)
    assert len(report_of("moved", "Hey Jarvis", **voice)["suspects"]) == 1 # somebody has filed the phrase as something else
    assert {"clipped", "two_labels"} <= {f["kind"] for f in people["findings"]} and len(people["suspects"]) == 1 and people["duplicates"]
    assert machine["findings"] == machine["suspects"] == machine["duplicates"] == [] and machine["clips"] == people["clips"] and not machine["leaks"]

def test_a_recording_that_is_a_copy_of_what_was_synthesized_is_found(tmp_path):
    ds = Dataset.create(tmp_path/"d", "hey jarvis")
    for k in range(4): ds.add(speechlike(seed=k), "positive", voice="espeak:anika")
    ds.add(.9*speechlike(seed=2), "negative", speaker="anna")
    assert [len(t["ids"]) for t in report(ds).d["duplicates"]] == [2]

def test_coach_after_a_training_survives_what_is_missing():
    assert coach.after({}) == [] and coach.after({"missed": None, "positives_by": None, "at_bundle_threshold": None}, {"sounds": None}) == []
    heard = dict(sounds=[dict(kind="nearly", kept=None), dict(kind="missed", kept=dict(clip_id="x"))])
    assert len(coach.after(dict(false_accepts=[dict(file="tv.wav")]*2), heard)) == 2


def test_coach_names_words_of_what_was_misheard_only_where_it_woke():
    woke, near = (dict(kind=k, file=f"{k}.wav", time_s=1., said="hey travis") for k in ("false_accept", "nearly"))
    said = [a.words for a in coach.after(dict(phrase="hey jarvis", false_accepts=[dict(file="false_accept.wav", time_s=1.), dict(file="nearly.wav", time_s=9.)]), dict(sounds=[woke, near]))]
    assert said[0].startswith("Record “hey travis”") and said[1].startswith("Listen to “nearly.wav”") and len(said) == 3


def test_embeddings_are_kept_and_repaired(tmp_path, one_thread):
    from wakekit.learn.embed import DIMS, FILE, embed
    ds = dataset(tmp_path/"d", 5)
    rows = embed(ds)
    assert rows.shape == (5, DIMS) and rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=2e-3)
    (ds.path/FILE).write_bytes(b"PK damaged")
    np.testing.assert_allclose(embed(ds), rows, atol=2e-3)
    np.testing.assert_allclose(embed(ds.clips()[::-1]), rows[::-1], atol=2e-3)
    np.testing.assert_allclose(embed([ds.load(c) for c in ds.clips()]), rows, atol=2e-3)
    assert embed([]).shape == (0, DIMS)

def cli(home, *words):
    return subprocess.run([sys.executable, "-c", "import sys; from wakekit.cli import main; sys.exit(main())", *words], capture_output=True, text=True, encoding="utf-8", env={**{k: v for k, v in os.environ.items() if not k.startswith("WAKE")}, "WAKEKIT_DATA_DIR": str(home), "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"})

def test_command_line(tmp_path):
    ds = dataset(tmp_path/"datasets"/"kitchen", 6)
    done = cli(tmp_path, "data", "report", "kitchen", "--json", "--no-suspects", "--html", str(tmp_path/"page.html"))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["clips"] == 6 and (tmp_path/"page.html").is_file()
    assert cli(tmp_path, "data", "check", "kitchen").returncode == 0
    ds.add(.5*np.clip(9*speechlike(seed=50), -1, 1), "positive")
    done = cli(tmp_path, "data", "check", "kitchen")
    assert done.returncode == 1 and "clipped" in done.stdout

def test_check_of_a_folder_with_spaces_and_rubbish(tmp_path):
    place = tmp_path/"my takes 🎤"/"positive"
    save_audio(place/"one take.wav", speechlike())
    (place/"empty.wav").write_bytes(b"")
    (place/"page.mp3").write_bytes(b"<html>")
    done = cli(tmp_path, "data", "check", str(place.parent), "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 1 and found["clips"] == 3 and len(found["findings"][0]["clip_ids"]) == 2, done.stderr
