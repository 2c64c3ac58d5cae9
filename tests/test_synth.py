"Bad phrases, exact repetition across processes and threads, and broken voices: what the synth and phrases pages do not show."
import json, multiprocessing, os, subprocess, sys, threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
import numpy as np
import pytest
from wakekit.core import MissingExtraError, PhraseError
from wakekit.data import synth
from wakekit.data.phrases import near_misses, neighbours, sentences
from wakekit.data.synth import (EspeakSynthesizer, PiperSynthesizer, Utterance, Voice, check_phrase, draw_utterances, languages,
                                phonemize, split_voices, synthesize)

pytest.importorskip("espeakng_loader")
DRAWN = draw_utterances("hey jarvis", 12, seed=5)

def speak(u): return EspeakSynthesizer().synthesize(u)
def checksum(u): return float(np.abs(speak(u)).sum()), len(speak(u))
def into(queue, u): queue.put(checksum(u))


@pytest.mark.parametrize("phrase, language", [("", "en-us"), ("   ", "en-us"), ("?!…", "en-us"), ("😀", "en-us"), ("xzqv", "en-us"),
    ("hey mqtts", "de"), ("你好", "en-us"), ("привет", "en-gb"), ("hey привет", "en-us"), ("кот", "de"), ("שלום", "en-us"), ("γειά", "en-us"),
    ("مرحبا", "fr"), ("สวัสดี", "en-us"), ("안녕", "en-us"), ("नमस्ते", "es"), ("日本", "ja"), ("hey computer", "ja")])
def test_phrases_that_cannot_be_said(phrase, language):
    with pytest.raises(PhraseError): check_phrase(phrase, language)

@pytest.mark.parametrize("phrase, language", [("hey jarvis", "en-us"), ("Computer!", "en-gb"), ("OK TV", "en-us"), ("ok tv", "en-us"), ("view_glass", "en-us"),
    ("R2 D2", "en-us"), ("XZQV", "en-us"), ("ordenador", "es"), ("Ikea", "de"), ("guten Morgen", "de"), ("привет дом", "ru"), ("да", "ru"), ("привіт", "uk"),
    ("你好小明", "cmn"), ("こんにちは", "ja"), ("안녕", "ko"), ("مرحبا", "ar"), ("שלום", "he"), ("γεια σου", "el"), ("नमस्ते", "hi"), ("hey jarvis", "ru")])
def test_phrases_that_can(phrase, language): check_phrase(phrase, language)

def test_other_script_names_the_languages_that_can():
    with pytest.raises(PhraseError, match="cmn"): check_phrase("你好", "en-us")
    with pytest.raises(PhraseError, match=r"language='ru'"): check_phrase("привет", "en-us")

def test_unpronounceable_says_the_remedy():
    with pytest.raises(PhraseError, match="as it sounds"): check_phrase("xzqv", "en-us")

def test_unknown_language_names_near_ones():
    with pytest.raises(PhraseError, match="en-us"): phonemize("hello", "en-uss")
    with pytest.raises(PhraseError): draw_utterances("hello", 1, language="klingonese")

def test_unknown_voice_and_synthesizer():
    with pytest.raises(PhraseError): list(synthesize([Utterance("hello", Voice("nobody", "m1", "en-us"))], progress=False))
    with pytest.raises(PhraseError): speak(Utterance("...", Voice("espeak", "m1", "en-us")))
    with pytest.raises(PhraseError): speak(Utterance("hello", Voice("espeak", "does-not-exist", "en-us")))

def test_missing_extra_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(MissingExtraError, match=r"wakekit\[train\]"): synth._Engine().fresh()

def test_library_that_does_not_load(monkeypatch, tmp_path):
    import espeakng_loader
    (tmp_path/"lib.so").write_bytes(b"not a library")
    monkeypatch.setattr(espeakng_loader, "get_library_path", lambda: str(tmp_path/"lib.so"))
    with pytest.raises(MissingExtraError, match="reinstall"): synth._Engine().fresh()


def test_every_voice_sounds_and_repeats():
    voices = [v for v in EspeakSynthesizer().voices("en-us") if v.language == "en-us"]
    assert len(voices) >= 100
    first = [speak(Utterance("hey computer", v, seed=3)) for v in voices]
    for x in first: assert x.dtype == np.float32 and 4000 < len(x) < 48000 and np.isfinite(x).all() and .01 < np.abs(x).max() <= 1
    for i in np.random.default_rng(0).permutation(len(voices)): assert np.array_equal(first[i], speak(Utterance("hey computer", voices[i], seed=3))), voices[i]
    assert len({x.tobytes() for x in first}) == len(voices) # no two are the same

@pytest.mark.parametrize("language", ["es", "de", "cmn", "ru", "ar", "fr", "pt-br", "hi", "ja"])
def test_other_languages_speak(language):
    text = {"cmn": "你好", "ru": "привет", "ar": "مرحبا", "hi": "नमस्ते", "ja": "こんにちは"}.get(language, "computadora")
    drawn = draw_utterances(text, 6, seed=0, language=language)
    assert all(.15 < len(x)/16000 < 4 for _, x in synthesize(drawn, progress=False))

def test_order_does_not_matter():
    forward = {u: x for u, x in synthesize(DRAWN, progress=False)}
    for u, x in synthesize(DRAWN[::-1], progress=False): assert np.array_equal(x, forward[u])

def test_fresh_process_gives_the_same_samples():
    code = ("import numpy as np; from wakekit.data.synth import *\n"
            "print([(float(np.abs(x).sum()), len(x)) for _, x in synthesize(draw_utterances('hey jarvis', 12, seed=5)[:4], progress=False)])")
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert eval(out) == [checksum(u) for u in DRAWN[:4]]

@pytest.mark.parametrize("method", [m for m in ("fork", "spawn") if m in multiprocessing.get_all_start_methods()])
def test_child_processes_while_a_thread_speaks(method):
    context, stop = multiprocessing.get_context(method), threading.Event()
    def chatter():
        while not stop.is_set(): speak(DRAWN[1])
    thread = threading.Thread(target=chatter); thread.start()
    try:
        queue = context.Queue()
        child = context.Process(target=into, args=(queue, DRAWN[0])); child.start()
        assert queue.get(timeout=60) == checksum(DRAWN[0])
        child.join(30)
    finally: stop.set(); thread.join()

def test_threads_take_turns():
    alone = [speak(u) for u in DRAWN]
    with ThreadPoolExecutor(4) as pool: together = list(pool.map(speak, DRAWN))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together))

def test_parameters_are_heard():
    u = Utterance("hey computer", Voice("espeak", "m3", "en-us"))
    assert len(speak(replace(u, rate=260))) < .85*len(speak(u)) < .85*.85*len(speak(replace(u, rate=110)))
    assert abs(len(speak(replace(u, warp=1.15)))/len(speak(u)) - 1) < .1 # the tempo stays
    for change in (dict(pitch=90), dict(range=0), dict(ending="?"), dict(gap=10)): assert not np.array_equal(speak(u), speak(replace(u, **change))), change

def test_drawing_nothing_and_bad_texts():
    assert draw_utterances("hey jarvis", 0) == [] and draw_utterances([], 5) == []
    with pytest.raises(PhraseError): draw_utterances(["hello", ""], 5)

def test_texts_are_used_equally_often():
    drawn = draw_utterances(["one", "two", "three"], 30, seed=1)
    assert sorted(sum(u.text == t for u in drawn) for t in ("one", "two", "three")) == [10, 10, 10]

def test_foreign_readings_are_few_and_only_where_readable():
    drawn = draw_utterances("hey jarvis", 400, seed=0, foreign=.1)
    away = [u for u in drawn if not u.voice.language.startswith("en")]
    assert 10 < len(away) < 70 and not any(u.voice.language == "ja" for u in away)
    assert all(u.voice.language.startswith("en") for u in draw_utterances("[[h'eI]]", 50, foreign=1.))

def test_split_is_disjoint_for_every_share():
    voices = EspeakSynthesizer().voices("de")
    for share in (0, .1, .5, 1):
        train, test = split_voices(voices, share, seed=2)
        assert len(train)+len(test) == len(voices) and train and not {v.family for v in train} & {v.family for v in test}
    assert split_voices(voices, .3, 1) == split_voices(voices, .3, 1) != split_voices(voices, .3, 2)


def test_piper_voice_that_is_broken(tmp_path):
    (tmp_path/"a.onnx").write_bytes(b"")
    with pytest.raises(PhraseError, match="missing"): PiperSynthesizer(tmp_path/"a.onnx")
    (tmp_path/"a.onnx.json").write_text(json.dumps({"audio": {"sample_rate": 22050}}), encoding="utf-8")
    with pytest.raises(PhraseError, match="phoneme_id_map"): PiperSynthesizer(tmp_path/"a.onnx")


@pytest.mark.parametrize("phrase, language", [("hey jarvis", "en-us"), ("computer", "en-gb"), ("kit", "en-us"), ("ordenador", "es"), ("привет дом", "ru"), ("你好小明", "cmn")])
def test_near_misses_are_different_repeatable_and_audible(phrase, language):
    misses = near_misses(phrase, language, n=50, seed=4)
    assert misses == near_misses(phrase, language, n=50, seed=4) != near_misses(phrase, language, n=50, seed=5)
    bare = lambda text: phonemize(text, language).translate({ord(c): None for c in " ˈˌː."})
    assert len({bare(m.text) for m in misses}) == len(misses) > 30
    assert not any(bare(phrase) in bare(m.text) for m in misses)
    assert {m.kind for m in misses} >= {"part", "repeated", "extended", "sound_alike"}
    for m in misses[:12]: assert len(speak(Utterance(m.text, Voice("espeak", "m2", language)))) > 1000

def test_near_misses_of_a_phrase_that_cannot_be_said():
    with pytest.raises(PhraseError): near_misses("你好", "en-us")

def test_homophones_are_not_neighbours():
    assert "hay" not in neighbours("hey") and "way" in neighbours("weigh", n=40) + ("way",)
    assert phonemize("hay") == phonemize("hey")

def test_sentences_avoid_the_phrase():
    said = sentences(3000, seed=1, avoid="view glass")
    assert len(set(said)) == 3000 and not any({"view", "glass"} & set(s.lower().split()) for s in said)
    assert all(check_phrase(s, "en-us") is None for s in said[:300])
