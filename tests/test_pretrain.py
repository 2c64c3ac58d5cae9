"Making the voice bank and the encoder again: end to end on a toy pack, and what must not go wrong on the way."
import csv, json, sys
import numpy as np, pytest, torch
from wakekit.core import AudioError, ConfigError, TrainError
from wakekit.data.audio import save_audio
from wakekit.data.phrases import sentences
from wakekit.data.sounds import PHONES
from wakekit.data.synth import EspeakSynthesizer, Utterance, Voice, draw_utterances
from wakekit.data.voices import PeopleSynthesizer, _unpack
from wakekit.learn import models
from wakekit.learn.align import Aligner, Alignment, Sentence, frame_labels, line, spell, viterbi
from wakekit.learn.config import ModelConfig, VerifierConfig
from wakekit.learn.models import WakeModel, encoder_key, warm_start
from wakekit.learn.encode import Timeline, learn_encoder, learn_verifier_encoder
from wakekit.learn.pretrain import cut, pretrain, trimmed, trusted, vector_quantize
from wakekit.learn.verifier import pretrained_encoder
from wakekit.learn.takes import PretrainConfig, heard, heard_rows, other_voices, people, talkers

TINY = PretrainConfig(sentences=10, talker_sentences=0, align_steps=(3, 3), align_channels=16, stages=2, steps=2, batch_size=4, verifier_steps=2, verifier_batch=2, bank_calls=3, bank_sentences=2)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    "Synthesized speech with transcripts; the last is a recording without one, one speaker is kept for judging, one file is broken"
    folder, rows = tmp_path_factory.mktemp("pack"), []
    for n, name in enumerate(("m1", "m3", "f1", "f3")):
        for k, u in enumerate(draw_utterances(sentences(4, n), 4, n, voices=[Voice("espeak", name, "en-us")], foreign=0)):
            save_audio(folder/f"speech/{name}/{k}.wav", EspeakSynthesizer().synthesize(u))
            rows.append(dict(path=f"speech/{name}/{k}.wav", speaker=name, transcript=u.text, licence="none", source="espeak-ng"))
    (folder/"speech/m1/broken.wav").write_bytes(b"RIFF")
    rows.append(dict(path="speech/m1/broken.wav", speaker="m1", transcript="the large jar", licence="none", source="espeak-ng"))
    save_audio(folder/"speech/m1/short.wav", np.random.default_rng(0).normal(0, .1, 1600).astype(np.float32))
    rows.append(dict(path="speech/m1/short.wav", speaker="m1", transcript="far too many words for a tenth of a second", licence="none", source="espeak-ng"))
    save_audio(folder/"speech/f1/mute.wav", EspeakSynthesizer().synthesize(Utterance("nobody wrote this down", Voice("espeak", "f1", "en-us"))))
    rows.append(dict(path="speech/f1/mute.wav", speaker="f1", transcript="", licence="none", source="espeak-ng"))
    rows.append(dict(path="wake/computer/0.wav", speaker="m1", transcript="computer", licence="none", source="espeak-ng"))
    with open(folder/"manifest.csv", "w", encoding="utf-8", newline="") as f:
        w = csv.DictWriter(f, rows[0])
        w.writeheader()
        w.writerows(rows)
    return folder


def test_end_to_end(pack, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)  # as where it is not installed
    about = pretrain(pack, tmp_path, TINY)
    assert about["transcribed_by"] == "" and about["talkers"] == []
    assert sum(s["recordings"] for s in about["sources"]) == 12  # not f3, not the broken, the short, the untranscribed one, nor the wake word
    with np.load(tmp_path/"voices.npz") as data:
        bank = _unpack(data)
        assert json.loads(str(data["about"]))["sources"] == about["sources"]
    assert {s["name"] for s in bank.speakers} == {"m1", "m3", "f1"} and len(bank.books) == 2 and bank.rest.min() > 0
    assert all((bank.first[bank.sentence==k][1:] == bank.last[bank.sentence==k][:-1]).all() for k in range(len(bank.who)))
    assert np.isfinite(bank.frames(0, np.arange(10))).all() and bank.usable.any() and bank.stressed.any() and not bank.stressed.all()
    kept = torch.load(tmp_path/"encoder.pt", weights_only=True)
    assert list(kept["weights"]) == [encoder_key(ModelConfig())] and kept["about"]["delays_steps"] == [7, 17, 27, 37, 47]
    second = torch.load(tmp_path/"verifier.pt", weights_only=True)
    assert second["about"]["sources"] == about["sources"] and 0 <= second["about"]["frame_accuracy"] <= 1
    monkeypatch.setattr(models.importlib.resources, "files", lambda _: tmp_path)
    assert torch.equal(pretrained_encoder().stem[0].weight, second["weights"]["stem.0.weight"].float())
    model = WakeModel()
    own = model.net.head[-1].weight.clone()
    assert warm_start(model) and torch.equal(own, model.net.head[-1].weight)
    assert torch.equal(model.net.stem.conv.weight, kept["weights"][encoder_key(ModelConfig())]["stem.conv.weight"].float())


def test_a_new_bank_speaks(pack, tmp_path):
    pretrain(pack, tmp_path, TINY.replace(networks=()))
    with np.load(tmp_path/"voices.npz") as data: people = PeopleSynthesizer(_unpack(data))
    u = draw_utterances("the table", 1, 0, voices=people.voices())[0]
    x = people.synthesize(u)
    assert len(x) > 3200 and np.isfinite(x).all() and x.any()


def test_without_a_second_look(pack, tmp_path):
    pretrain(pack, tmp_path, TINY.replace(networks=(), verifier_steps=0))
    assert not (tmp_path/"verifier.pt").exists()


def test_what_is_learned_is_kept(tmp_path):
    "The weights that are returned are those after training"
    from wakekit.data.cache import PcmCache
    rng = np.random.default_rng(0)
    cache = PcmCache.build(tmp_path/"c", ((rng.normal(0, .1, 60_000).astype(np.float32), "a", "b", str(k)) for k in range(2)), "k")
    line = Timeline([(cache, k, rng.integers(1, 40, 375)) for k in range(2)], rng)
    rooms = np.zeros((1, 4), np.float32)
    rooms[0, 0] = 1
    for learn, of in ((lambda c: learn_encoder(ModelConfig(), (line, line), cache, rooms, c), "stem.conv.weight"), (lambda c: learn_verifier_encoder(VerifierConfig(), (line,)*3, cache, rooms, c), "stem.0.weight")):
        one, more = (learn(TINY.replace(steps=n, verifier_steps=n))[0][of] for n in (2, 3))
        assert not torch.equal(one, more)


def test_goes_on_where_it_was(pack, tmp_path, monkeypatch):
    pretrain(pack, tmp_path, TINY)
    first = torch.load(tmp_path/"encoder.pt", weights_only=True)
    for name in ("wakekit.learn.takes.learn_alignment", "wakekit.learn.pretrain.learn_encoder", "wakekit.learn.pretrain.learn_verifier_encoder"):
        monkeypatch.setattr(name, lambda *_, **__: pytest.fail("learned twice"))
    pretrain(pack, tmp_path, TINY)
    again = torch.load(tmp_path/"encoder.pt", weights_only=True)
    assert again["about"] == first["about"]


def test_a_bad_network_is_refused_by_name(pack, tmp_path):
    with pytest.raises(ConfigError, match="fast"): pretrain(pack, tmp_path, TINY.replace(networks=("huge",)))


def test_pack_without_speech(tmp_path):
    with pytest.raises(AudioError, match="manifest.csv"): heard_rows(tmp_path)
    (tmp_path/"manifest.csv").write_text("path,speaker,transcript,licence,source\nspeech/a/1.wav,,hello,,\n", encoding="utf-8")
    with pytest.raises(AudioError, match="speaker and transcript"): heard_rows(tmp_path)


def test_who_is_heard():
    names = [f"speaker {k}" for k in range(400)]
    share = np.mean([heard(dict(path=f"speech/x/{n}.wav", speaker=n)) for n in names])
    assert .68 < share < .82
    assert not any(heard(dict(path=f"{kind}/x/{n}.wav", speaker=n)) for n in names for kind in ("wake", "words"))
    assert .6 < np.mean([heard(dict(path=f"noise/{n}.wav", speaker="")) for n in names]) < .8


def test_recognized_words_are_saved_as_they_come(pack, tmp_path, monkeypatch):
    class Decoder:
        calls = 0
        def __init__(self, **_): pass
        def start_utt(self): Decoder.calls += 1
        def process_raw(self, pcm, **_): assert len(pcm) > 1000
        def end_utt(self): pass
        def hyp(self): return type("Hypothesis", (), dict(hypstr="nobody wrote this down"))
    monkeypatch.setitem(sys.modules, "pocketsphinx", type(sys)("pocketsphinx"))
    sys.modules["pocketsphinx"].Decoder = Decoder
    for _ in range(2): takes = people(pack, heard_rows(pack)["speech"], tmp_path, TINY)
    assert [t.text for t in takes if t.kind=="told"] == ["nobody wrote this down"] and Decoder.calls == 1


def test_no_other_programs(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("wakekit.learn.takes.shutil.which", lambda _: None)
    assert talkers() == [] and other_voices(["the large jar"], tmp_path, TINY.replace(talker_sentences=2)) == []
    assert "flite-awb" in caplog.text


def _slow_viterbi(logp, states, optional):
    "Every way through, and the best of them"
    best = (-np.inf, None)
    def walk(t, s, score, path):
        nonlocal best
        score, path = score + logp[t, states[s]], [*path, s]
        if t==len(logp) - 1:
            if (s==len(states) - 1 or (s==len(states) - 2 and optional[-1])) and score > best[0]: best = score, path
            return
        for n in (s, s + 1, s + 2):
            if n < len(states) and (n < s + 2 or optional[s + 1]): walk(t + 1, n, score, path)
    walk(0, 0, 0., [])
    if optional[0]: walk(0, 1, 0., [])
    return best[1]


@pytest.mark.parametrize("seed", range(8))
def test_viterbi_finds_the_best_of_all_ways(seed):
    rng = np.random.default_rng(seed)
    states, optional, _ = line([[(p, False) for p in rng.integers(1, 5, 2)], [(int(rng.integers(1, 5)), True)]])
    logp = np.log(rng.dirichlet(np.ones(5), 7))
    found, best = viterbi(logp, states, optional), _slow_viterbi(logp, states, optional)
    worth = lambda path: logp[np.arange(len(logp)), states[path]].sum()
    steps = set(np.diff(found)) | {0}
    assert worth(found) == pytest.approx(worth(best)) and steps <= {0, 1, 2}  # two ways may be worth the same
    assert set(np.flatnonzero(~optional)) <= set(found.tolist())


def test_long_sentences_and_crowded_ones():
    word = [[(p % 41 + 1, False)] for p in range(200)]
    states, optional, _ = line(word)
    logp = np.full((len(states), len(PHONES)), -9.)
    logp[np.arange(len(states)), states] = 0
    assert viterbi(logp, states, optional).tolist() == list(range(len(states)))  # more than 127 states
    net = Aligner(8)
    found = net.align([Sentence(np.zeros((200, 40), np.float32), word)])[0]
    assert [states[k] for k, *_ in found.units()] == [p for w in word for p, _ in w]
    with pytest.raises(TrainError, match="cannot hold"): net.align([Sentence(np.zeros((199, 40), np.float32), word)])


def test_long_units_come_in_pieces_that_are_not_used():
    a = Alignment(np.r_[np.zeros(600, int), np.ones(10, int)], np.r_[np.zeros(600, np.uint8), np.ones(10, np.uint8)], np.zeros(610))
    picture = Sentence(np.zeros((610, 40)), [[(1, True)]])
    units = list(a.units())
    assert [(k, b - c) for k, c, b, _ in units] == [(0, 255), (0, 255), (0, 90), (1, 10)] and [s for *_, s in units] == [-99]*3 + [0]
    take = type("Take", (), dict(kind="read"))
    pieces = cut([take], [picture], [a])
    assert pieces["unit_usable"].tolist() == [False]*3 + [True] and pieces["unit_stressed"].tolist() == [False]*3 + [True]
    short = trimmed(picture, a)
    assert len(short[0].feats) == len(short[1].labels) == 18 and short[1].labels.sum() == 10  # 80 ms of silence are kept
    assert trusted([take]*30, [Alignment(a.states, a.labels, a.sure - k) for k in range(30)]) == list(range(27))


def test_labels_follow_the_sounds():
    x, sounds = EspeakSynthesizer().timed(Utterance("a", Voice("espeak", "m1", "en-us"), warp=1.1))
    n = (len(x) - 480)//160 + 1
    labels = frame_labels(sounds, n)
    assert len(labels) == n and labels.any()
    two = frame_labels([(0., "h"), (.1, "aʊs"), (.3, "")], 60)  # a diphthong and a fricative share their time
    assert [PHONES[p] for p in two[[2, 12, 25, 40]]] == ["h", "aʊ", "s", "sil"]
    assert not frame_labels([(0., "(en)"), (.5, "")], 50).any()  # a change of language is no sound
    assert [[PHONES[p] for p, _ in w] for w in spell("Large jar!")] == [["l", "ɑ", "ɹ", "dʒ"], ["dʒ", "ɑ", "ɹ"]]


def test_quantizer_with_little_to_learn_from():
    x = np.random.default_rng(0).normal(size=(20, 80)).astype(np.float32)
    books, codes, left = vector_quantize(x, 2, rounds=2)
    assert codes.shape == (20, 2) and left.shape == (2, 80) and left[-1].max() < .05  # fewer vectors than entries: each has its own


def test_windows_across_sentences(tmp_path):
    from wakekit.data.cache import PcmCache
    clips = [np.full(1000 + 160*k, 100*(k + 1), np.int16) for k in range(5)]
    cache = PcmCache.build(tmp_path/"clips", ((x, "a", "b", str(k)) for k, x in enumerate(clips)), "key")
    time = Timeline([(cache, k, np.full(5, k + 1)) for k in range(5)], np.random.default_rng(0))
    whole = np.zeros(len(time), np.int16)
    for k, x in enumerate(clips): whole[time.starts[k]:time.starts[k] + len(x)] = x
    for at in (0, 1, 999, int(time.starts[2]) - 7, int(time.starts[4]) + 300):
        n = min(5000, len(time) - at)
        assert (time.window(at, n) == whole[at:at + n]).all()
