"The dashboard's tab Inbox in a real browser, over a real training service: sounds are heard, trimmed and judged."
import json, shutil, signal, time
import numpy as np
import pytest
pytest.importorskip("gradio", reason="pip install wakekit[dashboard]")
pytest.importorskip("fastapi")
from test_dashboard import Desk, browsers, house, until # noqa: F401 (a fixture)
from wakekit.core import SAMPLE_RATE
from wakekit.data.audio import save_audio
from wakekit.data.dataset import Dataset
from wakekit.data.inbox import Inbox
from wakekit.data.synth import draw_utterances, synthesize
from wakekit.serve.registry import Registry
from wakekit.ship.toy import chime, toy_bundle

HOSTILE = "<img src=x onerror=\"window.hurt = 1\">"


def sound(k, seconds=1.5):
    "A chime in faint noise, no two the same; (time,)"
    x = .002*np.random.default_rng(k).standard_normal(round(seconds*SAMPLE_RATE))
    x[4000:][:5120] += chime()[:max(0, len(x) - 4000)]
    return x.astype(np.float32)


def inbox_of(house, name, n=0, phrase="hey jarvis", **about):
    "The inbox of a new dataset, with sounds: `about` may hold functions of their number"
    house["client"].create_dataset(name, phrase)
    box = Inbox(Dataset.open(house["folder"]/"data"/"datasets"/name))
    for k in range(n): box.put(sound(k), **({"kind": "trigger", "origin": f"room {k}"} | {a: v(k) if callable(v) else v for a, v in about.items()}))
    return box


def registry_of(house, *bundles):
    "Name of a model with these versions"
    registry = Registry(house["folder"]/"models")
    for b in bundles: registry.promote("jarvis", b)
    return "jarvis"


class Judge(Desk):
    "The tab Inbox of a dataset"
    def __init__(self, house, folder, name, **how):
        super().__init__(house, folder, [], **how)
        self.name = name
        self.choose(name)
        self.until("""(() => { const b = [...document.querySelectorAll('button[role=tab]')].find(b => b.textContent.trim() === 'Inbox' && b.offsetParent)
            if (b) b.click()
            else { if (!document.querySelector('.overflow-dropdown button')) document.querySelector('.overflow-menu > button')?.click(); [...document.querySelectorAll('.overflow-dropdown button')].find(b => b.textContent.trim() === 'Inbox')?.click() }
            return !!document.querySelector('#panel-inbox .wakekit')?.panel?.drawn && !!document.querySelector('#panel-inbox').offsetParent })()""")
    def choose(self, name):
        self.until(f"!!document.querySelector('.wk-desk select option[value=\"{name}\"]')")
        self.put(".wk-desk select", name)
    def of(self, code): return self.run(f"(p => {code})(document.querySelector('#panel-inbox .wakekit').panel)")
    def till(self, code): return self.until(f"(p => {code})(document.querySelector('#panel-inbox .wakekit').panel)")
    def press(self, *keys):
        "Keys of a keyboard, wherever the focus is"
        for key in keys:
            code, number = {" ": ("Space", 32), "ArrowLeft": ("ArrowLeft", 37), "ArrowRight": ("ArrowRight", 39), "Tab": ("Tab", 9)}.get(key, ((f"Digit{key}" if key.isdigit() else f"Key{key.upper()}"), ord(key.upper())) if len(key) == 1 else (key, 0))
            about = dict(key=key, code=code, windowsVirtualKeyCode=number, **({"text": key} if len(key) == 1 else {}))
            self("Input.dispatchKeyEvent", type="keyDown", **about)
            self("Input.dispatchKeyEvent", type="keyUp", **about)
    def at(self, selector):
        "Where the middle of something is"
        return self.until(f"(() => {{ const e = [...document.querySelectorAll({json.dumps('#panel-inbox ' + selector)})].find(e => e.offsetParent); if (!e) return null; e.scrollIntoView({{block: 'center'}}); const b = e.getBoundingClientRect(); return [b.x + b.width/2, b.y + b.height/2] }})()")
    def mouse(self, kind, x, y): self("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)
    def click(self, selector):
        x, y = self.at(selector)
        for kind in ("mousePressed", "mouseReleased"): self.mouse(kind, x, y)
    def shows(self, origin): return self.till(f"!p.busy && p.trim.picture !== null && p.facts.innerText.includes({json.dumps(origin)}) && p.sound?.id")


@pytest.fixture
def judge(house, tmp_path):
    made = []
    def open(name, **how):
        made.append(Judge(house, tmp_path/str(len(made)), name, **how))
        return made[-1]
    yield open
    for page in made: page.close()
    for d in house["client"].datasets(): house["client"].ask("DELETE", f"/datasets/{d['name']}")


@browsers
def test_sounds_are_judged_one_after_the_other_with_the_keyboard(house, judge):
    client, box = house["client"], inbox_of(house, "porch", 5, kind=lambda k: ("near", "trigger", "proposal", "missed", "trigger")[k], score=lambda k: .5 + k/20, start_s=lambda k: 61.5*k,
        detector=lambda k: dict(name="kitchen", version="7", threshold=.5), predictions=lambda k: [dict(by="examples", label="positive", score=.71, words="hey travis")] if k == 4 else [])
    page = judge("porch")
    page.says("inbox", "5 sounds wait")
    page.shows("room 4, at 4:06.0")
    told = page.of("p.stage.innerText + p.about.innerText")
    assert all(words in told for words in ("woke a detector", "0.70", "kitchen, version 7, threshold 0.50", "predictions, not labels", "examples: positive, 0.71", "hey travis"))
    loads = page.run("performance.timeOrigin")
    # the tab is chosen with the mouse: space plays at once
    x, y = page.run("(() => { const b = [...document.querySelectorAll('button[role=tab]')].find(b => b.textContent.trim() === 'Inbox').getBoundingClientRect(); return [b.x + b.width/2, b.y + b.height/2] })()")
    for kind in ("mousePressed", "mouseReleased"): page.mouse(kind, x, y)
    assert page.run("document.activeElement.getAttribute('role')") == "tab"
    page.press(" ")
    page.till("p.player.currentTime > 0 && !p.player.paused")
    page.put("#panel-inbox input[placeholder='your name']", "anna")
    page.run("document.activeElement.blur()")
    page.press("1")
    page.shows("room 3")
    page.says("inbox", "4 sounds wait")
    [clip] = list(client.clips("porch"))
    assert clip["label"] == "positive" and clip["source"] == "inbox: room 4" and box[page.of("p.done[0].id")].decision["by"] == "anna"
    page.press("2")
    page.shows("room 2")
    page.press("x")
    page.shows("room 1")
    assert [f.outcome for f in box.found(open=None, by_time=True)] == ["positive", "negative", "rejected", "open", "open"]
    # back and forth, and what was decided is taken back, the last first
    page.press("ArrowRight")
    page.shows("room 0")
    page.press("j", "k", "ArrowLeft")
    page.shows("room 1")
    page.press("u")
    page.shows("room 2")
    page.press("u")
    page.shows("room 3")
    assert [f.outcome for f in box.found(open=None, by_time=True)] == ["positive", "open", "open", "open", "open"] and client.dataset("porch")["trash"] == 1
    page.press("3")
    page.shows("room 2")
    assert {c["label"] for c in client.clips("porch")} == {"positive", "noise"}
    # what is typed is no command
    page.click("input[placeholder='speaker, if known']")
    page.press("1", "x")
    assert page.of("p.speaker.value") == "1x" and len(box) == 3
    page.run("document.activeElement.blur()")
    page.press("1")
    page.shows("room 1")
    assert next(iter(c for c in client.clips("porch", speaker="1x")))["source"] == "inbox: room 2"
    page.press("2")
    page.shows("room 0")
    page.press("2")
    page.says("inbox", "Nothing waits for a decision")
    page.press("u") # even the last one
    page.shows("room 0")
    assert page.run("performance.timeOrigin") == loads and not page.console


@browsers
def test_a_part_is_kept_with_handles_by_mouse_and_by_keyboard(house, judge):
    client, box = house["client"], inbox_of(house, "porch", 3)
    page = judge("porch")
    page.shows("room 2")
    x, y = page.at(".wk-handle.start")
    width = page.of("p.trim.over.clientWidth")
    for kind, dx in (("mousePressed", 0), ("mouseMoved", width/10), ("mouseMoved", width/5), ("mouseReleased", width/5)): page.mouse(kind, x + dx, y)
    start = page.of("p.trim.start")
    assert abs(start - .3) < .03 and page.of("p.trim.end") == 1.5
    page.run("document.querySelector('#panel-inbox .wk-handle.end').focus()")
    page.press(*["ArrowLeft"]*10)
    end = page.of("p.trim.end")
    assert abs(end - 1.3) < .005 and page.of("p.trim.handles[1].getAttribute('aria-valuetext')") == f"{end:.2f} s" and page.of("p.sound.origin") == "room 2" # it moved, and nothing else did
    page.press(" ") # plays just that
    page.till("p.player.currentTime >= p.trim.start")
    page.till("p.player.paused")
    assert page.of("p.player.currentTime") < 1.45
    page.click(".wk-acts .negative")
    page.shows("room 1")
    [clip] = list(client.clips("porch"))
    assert clip["label"] == "negative" and abs(clip["duration_s"] - (end - start)) < .002
    assert page.of("p.trim.whole") # the next one is whole
    # after a click the next sound is not judged by the space that shall play it
    page.press(" ")
    page.till("p.player.currentTime > 0")
    assert len(box) == 2
    # handles cannot pass each other
    page.run("document.querySelector('#panel-inbox .wk-handle.start').focus()")
    page.press("End")
    assert page.of("p.trim.end - p.trim.start") >= .099 and page.of("p.trim.end") == 1.5
    page.until("[...document.querySelectorAll('#panel-inbox .wk-link')].find(b => b.offsetParent && b.textContent === 'keep all of it')?.click() ?? true")
    # what was decided can be looked at and changed
    page.put("#panel-inbox select[aria-label=State]", "decided")
    page.till("p.rows.length === 1 && p.about.innerText.includes('negative (something else said)')")
    assert abs(page.till("p.trim.start") - start) < .006
    page.click(".wk-acts .positive")
    until(lambda: [c["label"] for c in client.clips("porch")] == ["positive"])
    page.till("p.sound.outcome === 'positive' && !p.busy")
    page.click("dd .wk-link") # take it back
    until(lambda: len(box) == 3 and not list(client.clips("porch")))
    page.says("inbox", "Nothing was decided yet")
    page.put("#panel-inbox select[aria-label=State]", "open")
    page.put("#panel-inbox select[aria-label=Kind]", "missed")
    page.says("inbox", "No sound is like that")


@browsers
def test_a_thumb_judges_on_a_phone(house, judge):
    client, box = house["client"], inbox_of(house, "porch", 2)
    page = judge("porch", width=390)
    page("Emulation.setTouchEmulationEnabled", enabled=True)
    page.shows("room 1")
    x, y = page.at(".wk-handle.end")
    width = page.of("p.trim.over.clientWidth")
    touch = lambda kind, *points: page("Input.dispatchTouchEvent", type=kind, touchPoints=[dict(x=a, y=b) for a, b in points])
    touch("touchStart", (x, y))
    for part in (.1, .2, .3, .4, .4, .4): # a thumb that comes to rest: after a fling, browsers take the next tap for its end
        touch("touchMove", (x - part*width, y))
        time.sleep(.05)
    touch("touchEnd")
    assert abs(page.till("!p.trim.whole && p.trim.end") - .6*1.5) < .03
    x, y = page.at(".wk-trim-over")
    touch("touchStart", (x - .3*width, y))
    touch("touchEnd")
    page.till("p.player.currentTime >= .3") # a tap plays from there
    x, y = page.at(".wk-acts .noise")
    touch("touchStart", (x, y))
    touch("touchEnd")
    page.shows("room 0")
    [clip] = list(client.clips("porch"))
    assert clip["label"] == "noise" and abs(clip["duration_s"] - .9) < .03 and len(box) == 1 and page.run("window.scrollX") == 0


@browsers
def test_names_are_words_and_never_part_of_the_page(house, judge):
    box = inbox_of(house, "porch", 1, origin=HOSTILE, detector=dict(name=HOSTILE, version=HOSTILE, more=HOSTILE), predictions=[dict(by=HOSTILE, label="", score=.5, words=HOSTILE)], heard=HOSTILE)
    page = judge("porch")
    page.shows(HOSTILE)
    told = page.of("p.root.innerText")
    assert told.count(HOSTILE) >= 6
    page.put("#panel-inbox input[placeholder='your name']", HOSTILE)
    page.run("document.activeElement.blur()")
    page.press("1")
    until(lambda: not len(box))
    page.put("#panel-inbox select[aria-label=State]", "all")
    page.says("inbox", f"by {HOSTILE}")
    page.choose("porch")
    assert page.run("window.hurt") is None and page.run("document.querySelectorAll('#panel-inbox img').length") == 0
    assert not page.console


@browsers
def test_what_others_do_meanwhile_is_said_and_overwritten_by_nobody(house, judge):
    client, box = house["client"], inbox_of(house, "porch", 5)
    page = judge("porch")
    first = page.shows("room 4")
    page.of("p.stops.splice(0).forEach(f => f())") # this page does not look by itself any more
    page.of("document.addEventListener('keydown', e => p.key(e))")
    box.accept(first, "noise", by="berta")
    page.press("1")
    page.says("inbox", "berta has decided on room 4 meanwhile: noise")
    assert box[first].outcome == "noise"
    second = page.shows("room 3")
    for suffix in (".json", ".wav"): (box.path/f"{second}{suffix}").unlink()
    page.press("1")
    page.says("inbox", "this sound is gone")
    third = page.shows("room 2")
    page.press("2")
    page.shows("room 1")
    box.undo(third) # somebody else takes it back first
    page.press("u")
    page.says("inbox", "was taken back already")
    page.shows("room 2")
    assert len(box) == 3 and page.of("p.total") == 3
    page.press("2")
    page.shows("room 1")
    box.accept(third, "noise", by="berta") # and now decides differently
    page.press("u")
    page.says("inbox", "berta has decided anew meanwhile: noise. That was left alone.")
    assert box[third].outcome == "noise"
    box.undo(third)
    # a page that looks by itself
    other = judge("porch")
    now = other.shows("room 2")
    box.reject(now)
    other.says("inbox", "Somebody else has decided on that sound meanwhile")
    other.shows("room 1")
    box.put(sound(50), "near", origin="room 50")
    other.says("inbox", "3 sounds wait")
    assert other.of("p.sound.origin") == "room 1" # who judges a sound is not torn away from it
    assert {c["label"] for c in client.clips("porch")} == {"noise"}


@browsers
def test_a_sound_is_deleted_for_good_when_somebody_is_sure(house, judge):
    client, box = house["client"], inbox_of(house, "cellar", 3)
    page = judge("cellar")
    page.shows("room 2")
    page.press("1")
    page.shows("room 1")
    answer = lambda text: page.run(f"[...document.querySelectorAll('dialog[open] button')].find(b => b.textContent === '{text}').click()")
    def ask():
        page.of("p.goneButton.click()")
        page.until("!!document.querySelector('dialog[open]')")
    ask()
    assert "cannot be brought back" in page.run("document.querySelector('dialog[open]').innerText")
    page.press("2") # a dialog is no place to judge
    answer("Keep it")
    page.shows("room 1")
    assert len(box) == 2 and len(list(client.clips("cellar"))) == 1
    ask()
    answer("Delete it")
    page.shows("room 0")
    page.says("inbox", "room 1: deleted.")
    assert {f.origin for f in box.found(None)} == {"room 0", "room 2"}
    assert page.of("p.waiting") == 1 == page.of("p.total")
    page.put("#panel-inbox select[aria-label=State]", "decided") # the sound goes, the clip stays
    page.shows("room 2")
    ask()
    assert "The clip that it became stays" in page.run("document.querySelector('dialog[open]').innerText")
    answer("Delete it")
    page.says("inbox", "Nothing was decided yet")
    assert len(box) == 1 and [c["label"] for c in client.clips("cellar")] == ["positive"]
    assert page.of("p.undoButton.disabled") # nothing of it can be taken back


@browsers
def test_a_decision_that_does_not_arrive_is_not_lost(house, judge):
    box = inbox_of(house, "porch", 2)
    page = judge("porch")
    page.shows("room 1")
    page.of("p.trim.set(.2, 1.2)")
    house["training"].stop(signal.SIGKILL)
    page.press("1")
    page.till("!p.busy && !!p.said.querySelector('.bad')")
    assert "does not answer" in page.of("p.said.innerText") and page.of("p.sound.origin") == "room 1" and abs(page.of("p.trim.end") - 1.2) < .001 and len(box) == 2
    house["training"].start()
    house["training"].address()
    page.until("document.querySelector('.wk-desk .wk-note.bad').hidden")
    page.press("1")
    page.shows("room 0")
    house["training"].stop(signal.SIGKILL)
    page.press("u")
    page.till("!p.busy && !!p.said.querySelector('.bad')")
    house["training"].start()
    house["training"].address()
    page.until("document.querySelector('.wk-desk .wk-note.bad').hidden")
    page.press("u")
    page.shows("room 1")
    assert len(box) == 2


@browsers
def test_an_inbox_of_any_size_is_gone_through_to_its_end(house, judge):
    box = inbox_of(house, "porch", 230)
    page = judge("porch")
    page.says("inbox", "230 sounds wait")
    page.shows("room 229")
    assert page.of("p.rows.length") == 100
    seen = set()
    for k in range(229, -1, -1): # skip those with even numbers, reject the others
        page.till(f"!p.busy && p.sound?.origin === 'room {k}'")
        seen.add(page.of("p.sound.id"))
        page.press("x" if k%2 else "ArrowRight")
    page.till("p.total === 115 && !p.busy")
    assert len(seen) == 230 and len(box) == 115 and page.of("p.rows.length") == 115 and page.of("document.querySelectorAll('#panel-inbox .wk-found').length") == 115


@browsers
@pytest.mark.parametrize("width,dark", [(390, True), (1300, False)])
def test_an_empty_inbox_says_how_sounds_come_in_and_everything_fits(house, judge, width, dark):
    inbox_of(house, "the attic")
    inbox_of(house, "porch", 3, origin="x"*300, detector=dict(name="y"*200), predictions=[dict(by="z"*120, label="positive", score=.5, words="w "*200)])
    page = judge("the attic", width=width, dark=dark)
    said = page.says("inbox", "Nothing waits for a decision") and page.of("p.none.innerText")
    assert "wakekit listen FOLDER --mic --inbox 'the attic'" in said and "WAKEKIT_INBOX='the attic'" in said and "wakekit annotate" in said
    assert page.run("document.documentElement.scrollWidth") <= width
    page.choose("porch")
    page.shows("xxx")
    assert page.run("document.documentElement.scrollWidth") <= width
    unnamed = page.run("[...document.querySelectorAll('#panel-inbox button, #panel-inbox input, #panel-inbox select, #panel-inbox [role=slider], #panel-inbox [role=listbox], #panel-inbox canvas')].filter(e => e.offsetParent && !(e.ariaLabel || e.labels?.length || e.innerText?.trim())).map(e => e.outerHTML.slice(0, 80))")
    assert unnamed == []
    # each control shows where the focus is
    page.run("document.querySelector('#panel-inbox select').focus()")
    for _ in range(12):
        page.press("Tab")
        if page.run("document.querySelector('#panel-inbox').contains(document.activeElement)"): assert page.run("getComputedStyle(document.activeElement).outlineStyle !== 'none' || document.activeElement.matches('.wk-clips')"), page.run("document.activeElement.outerHTML.slice(0, 90)")


@browsers
def test_recordings_are_brought_in_and_machines_are_laid_beside_people(house, judge, tmp_path):
    says = lambda k: [dict(by="examples", label="positive", score=.6 + .03*k), dict(by=HOSTILE, label="positive" if k%2 else "negative", score=.4)]
    box = inbox_of(house, "porch", 12, kind="proposal", predictions=says)
    page = judge("porch")
    page.says("machines", "Nobody has decided on anything yet")
    for f in box.found(): box.accept(f.id, "positive", by="anna") if f.score is None and f.predictions[0]["score"] > .7 else box.reject(f.id)
    page.run("document.querySelector('#panel-machines .wakekit').panel.load()")
    page.says("machines", "People held 8 of 12 sounds for the phrase")
    rows = page.run("[...document.querySelectorAll('#panel-machines tbody tr')].map(r => [...r.children].map(c => c.innerText))")
    assert sorted(rows)[1][:6] == ["examples", "12", "12", "8", "67 %", "100 %"] and sorted(rows)[0][0] == HOSTILE and page.run("window.hurt") is None
    # recordings: one that is good, one that is there already, one that is none
    save_audio(tmp_path/"call.wav", sound(70))
    shutil.copy(box.found(open=False)[0].path, tmp_path/"known.wav")
    (tmp_path/"notes.wav").write_text("these are words")
    page.files("#panel-annotate input[aria-label='Recordings of a minute at most']", [tmp_path/n for n in ("call.wav", "known.wav", "notes.wav")])
    page.until("document.querySelectorAll('#panel-annotate li').length === 3 && document.querySelector('#panel-annotate .wakekit > .wk > div > progress').hidden")
    told = page.run("[...document.querySelectorAll('#panel-annotate li')].map(e => e.innerText)")
    assert told[0].startswith("call.wav: waits above") and told[1].startswith("known.wav: is there already") and told[2].startswith("notes.wav: ") and page.run("document.querySelectorAll('#panel-annotate li .wk-bad').length") == 1
    page.shows("call.wav")
    [found] = box.found()
    assert (found.kind, found.origin) == ("missed", "call.wav")


@browsers
def test_machines_look_for_calls_in_a_long_recording(house, judge, tmp_path):
    box = inbox_of(house, "porch")
    said = [x for _, x in synthesize(draw_utterances(["hey jarvis", "turn on the light", "what a fine day", "hey jarvis"], 4, seed=3))]
    gap = lambda k: (.001*np.random.default_rng(k).standard_normal(2*SAMPLE_RATE)).astype(np.float32)
    save_audio(tmp_path/"evening.wav", np.concatenate([gap(0), *(p for k, x in enumerate(said) for p in (x, gap(k + 1)))]))
    (tmp_path/"notes.wav").write_text("these are words")
    page = judge("porch")
    page.says("inbox", "Nothing waits for a decision")
    put = lambda *names: (page.files("#panel-annotate input[aria-label='Long recordings']", [tmp_path/n for n in names]), page.until("(() => { const b = [...document.querySelectorAll('#panel-annotate button')].find(b => b.textContent === 'Look for calls'); if (b.disabled) return false; b.click(); return true })()"))
    put("evening.wav", "notes.wav")
    page.says("annotate", "notes.wav") # why it is none
    page.until("!!document.querySelector('#panel-annotate .wk-note.bad')")
    bell = registry_of(house, toy_bundle(tmp_path/"toy-1", phrase="Hey Jarvis"), toy_bundle(tmp_path/"toy-2", phrase="hey jarvis"))
    page.run("document.querySelector('#panel-annotate details').open = true")
    page.until("(how => how.judge.options.length === 2 && how.model.options.length >= 3)(document.querySelector('#panel-annotate .wakekit').panel.how)")
    page.run(f"(how => {{ how.voices.value = 6; how.threshold.value = ''; how.model.selectedIndex = 1; how.judge.value = '{bell}' }})(document.querySelector('#panel-annotate .wakekit').panel.how)")
    put("evening.wav")
    page.until("document.querySelector('#panel-annotate .wakekit').panel.view.id")
    asked = house["client"].get("/jobs", kind="annotate", dataset="porch")["jobs"][0]["payload"]
    assert (asked["threshold"], asked["judge"], asked["model"]["model"]) == (.1, dict(model=bell, number=2), bell) # an empty field is no 0, with which a detector proposes everything
    page.says("annotate", "possible call")
    page.says("annotate", "1 recording heard")
    page.till("p.total > 0 && p.rows.every(s => s.kind === 'proposal' && s.origin.startsWith('evening'))") # no reload
    page.shows("evening")
    assert "predictions, not labels" in page.of("p.machines.innerText")
    assert len(box.found(kind="proposal")) == page.of("p.total") and not list(house["client"].clips("porch"))
    page.press("1")
    page.says("machines", "People held 1 of 1 sound for the phrase")
    # whoever opens the page sees a run that goes on, or has failed
    assert not [c for c in page.console if "rror" in c]


@browsers
def test_two_models_hear_the_same_inbox(house, judge, tmp_path):
    box = inbox_of(house, "porch", 2, phrase="okay bell")
    for k in range(3): box.put(.002*np.random.default_rng(90 + k).standard_normal(24_000) + .03*np.pad(chime(), (4000, 24_000 - 4000 - len(chime()))), "trigger", origin=f"faint {k}")
    registry = Registry(house["folder"]/"models")
    registry.promote("bell", toy_bundle(tmp_path/"toy-1", phrase="okay bell"))
    page = judge("porch")
    page.says("machines", "There are not two models of this phrase yet")
    registry.promote("bell", toy_bundle(tmp_path/"toy-2", phrase="okay bell", threshold=.9))
    page.run("document.querySelector('#panel-machines .wakekit').panel.load()")
    page.until("[...document.querySelectorAll('#panel-machines select')].map(e => e.selectedOptions[0]?.innerText).join() === 'bell 1,bell 2, in use'")
    page.until("(() => { const b = [...document.querySelectorAll('#panel-machines button')].find(b => b.textContent === 'Let both hear it' && !b.disabled); b?.click(); return !!b })()")
    page.says("machines", "Of 5 sounds, 3 that wake bell 1 leave bell 2 quiet, and 0 wake bell 2 only")
    page.until("[...document.querySelectorAll('#panel-machines button')].find(b => b.textContent === 'hear the 3 that leave bell 2 quiet').click() ?? true")
    page.says("inbox", "Only 3 sounds that leave bell 2 quiet")
    page.shows("faint")
    page.press("2", "ArrowRight", "ArrowRight")
    page.till("!p.busy && p.total === 3")
    page.press("x")
    until(lambda: len(box) == 3)
    assert all(f.origin.startswith("faint") for f in box.found(open=False))
    page.until("[...document.querySelectorAll('#panel-inbox button')].find(b => b.textContent === 'Show the whole inbox').click() ?? true")
    page.till("p.total === 3 && !p.picked && p.rows.length === 3")
    # it is there again after a reload
    again = judge("porch")
    again.says("machines", "3 that wake bell 1 leave bell 2 quiet")
    assert not [c for c in page.console if "rror" in c]
