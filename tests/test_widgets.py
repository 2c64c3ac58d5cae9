"The widgets in a real JupyterLab, in a real browser: record, look through, train, judge, listen; and what they do when things go wrong."
import contextlib, json, os
import numpy as np
import pytest
pytest.importorskip("jupyterlab", reason="pip install wakekit[notebook]")
pytest.importorskip("anywidget", reason="pip install wakekit[notebook]")
pytest.importorskip("fastapi")
from browser import CHROMIUM
from lab import CELLS, NOTEBOOK, Lab, jupyter, until
from test_dashboard import room
from wakekit.core import SAMPLE_RATE
from wakekit.data.audio import save_audio
from wakekit.data.dataset import Dataset
from wakekit.serve import beside
from wakekit.ship.toy import chime, toy_bundle

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
SHORT = {"epochs": 2, "steps_per_epoch": 6, "warmup_steps": 2, "mine_from": 5, "verifier.steps": 0, "data.synthetic": 40, "data.near_misses": 30, "data.filler": 20, "data.synthetic_rooms": 4}
SHORT_CELL = f"SHORT = {SHORT!r}"

LONG_S = 400 # for a short training on a busy machine


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "JupyterLab over a folder with a dataset and a detector"
    folder = tmp_path_factory.mktemp("lab")
    ds, rng = Dataset.create(folder/"bell", "hey jarvis"), np.random.default_rng(0)
    for k in range(12): ds.add((np.r_[np.zeros(3000), chime(), np.zeros(3000)]*.5 + .003*rng.standard_normal(6000 + len(chime()))).astype(np.float32), "positive", speaker=f"person {k}")
    for k in range(12): ds.add((.03*rng.standard_normal(20_000)).astype(np.float32), "noise", source="room")
    toy_bundle(folder/"toy")
    save_audio(folder/"microphone.wav", room(4, [1.5]))
    try:
        with jupyter(folder) as url: yield dict(folder=folder, url=url, dataset=ds)
    finally: beside.stop(beside.root_of(ds)[0])


@pytest.fixture
def page(lab, tmp_path):
    pages = []
    def make(*cells, **how): return pages.append(Lab(lab, tmp_path, cells, **how)) or pages[-1]
    yield make
    for p in pages: p.close()
    if client := beside.known(beside.root_of(lab["dataset"])[0]): # a test that failed leaves no training to the next one
        for j in client.jobs():
            if j["state"] in ("queued", "running"): client.post(f"/jobs/{j['id']}/cancel")


def test_from_a_microphone_to_a_detection(lab, page, tmp_path):
    p = page(SHORT_CELL, *CELLS)
    p.run_all()
    # record and keep
    p.shown(1, "el.innerText.includes('hey jarvis')")
    p.press(1, "Record")
    p.shown(1, "el.querySelector('.wk-after') && !el.querySelector('.wk-after').hidden && el.querySelector('.wk-verdict').innerText.includes('Sounds good')")
    before = p.python("len(recorder.clips)")
    p.press(1, "Keep")
    until(lambda: p.python("len(recorder.clips)") == before + 1)
    # look through
    p.shown(2, "el.querySelectorAll('.wk-clip').length > 20 && el.querySelectorAll('.wk-thumb svg').length > 0")
    # augmentation
    p.shown(3, "el.querySelectorAll('figure canvas').length === 3")
    p.press(3, "▶")
    p.shown(3, "el.querySelector('audio')?.src.startsWith('blob:')")
    # train
    p.shown(4, "(() => { const all = [...el.querySelectorAll('.wk-check')].find(c => c.textContent.includes('gates')); all.querySelector('input').checked = true; return true })()")
    p.press(4, "Train")
    id = until(lambda: p.python("training.handle and training.handle.id"))
    until(lambda: p.python("training.state") == "succeeded" or "failed" in p.python("[training.state, training.handle.now()['error']]") and pytest.fail(str(p.python("training.handle.now()['error']"))), LONG_S)
    p.shown(4, "el.querySelector('.wk-state.succeeded') && el.querySelectorAll('.wk-job figure svg').length === 2")
    # judge
    p.shown(5, "el.querySelector('.wk-det svg')")
    p.shown(5, "(() => { const s = el.querySelector('input[type=range]'); s.value = s.max; s.dispatchEvent(new Event('input', {bubbles: true})); return true })()")
    until(lambda: p.python("explorer.threshold is not None and explorer.threshold > 0"))
    # listen
    p.press(6, "Listen")
    p.shown(6, "el.querySelectorAll('.wk-events li').length > 0")
    event = until(lambda: p.python("live.events"))[0]
    assert event["phrase"] == "ding dong" and event["score"] > .5
    p.press(6, "Stop")
    assert p.python("[c.label for c in recorder.clips].count('positive')") == 13 and p.python("training.handle.id") == id
    assert [u for u in p.requests if not u.startswith((lab["url"], "blob:", "data:", "about:", "ws://127.0.0.1"))] == []
    p.picture(tmp_path/"lab.png")


ONE = "from wakekit.data.dataset import Dataset\nfrom wakekit.serve.widgets import *\nds = Dataset.open('bell')"


def test_a_kernel_that_is_restarted_finds_its_training(lab, page):
    long = SHORT | {"epochs": 500}
    cells = ONE, f"training = TrainingPanel(ds, preset='tiny', overrides={long!r}); training"
    p = page(*cells)
    p.run_all()
    before = p.python("training.job")
    p.press(1, "Train")
    until(lambda: p.python("training.job") != before)
    assert p.python("training.handle.now()['payload']['config']['epochs']") == 500 # what the panel was told, not the preset's
    until(lambda: p.python("any(e['kind'] == 'job.epoch' for e in training.client.get(f'/jobs/{training.handle.id}/events')['events'])"), LONG_S)
    p.shown(1, "el.querySelector('.wk-state.running') && el.querySelectorAll('.wk-job figure svg').length === 2")
    id = p.python("training.handle.id")
    p.run(f"{NOTEBOOK}.sessionContext.session.kernel.restart().then(() => true)")
    p.run_all()
    until(lambda: p.run(f"{NOTEBOOK}.sessionContext.session.kernel.status === 'idle'") and p.python("'training' in globals()"))
    assert p.python("training.handle.id") == id
    p.shown(1, f"el.innerText.includes('{id}') && el.querySelector('.wk-state.running')")
    p.press(1, "Cancel")
    p.shown(1, "el.querySelector('.wk-state.cancelled')")
    assert p.python("training.state") == "cancelled"


def test_a_busy_kernel_is_told_of_and_nothing_is_lost(lab, page):
    p = page(ONE, "recorder = Recorder(ds); recorder", "import time\nwhile not __import__('pathlib').Path('go').exists(): time.sleep(.1)")
    p.run_all()
    with contextlib.suppress(FileNotFoundError): (lab["folder"]/"go").unlink()
    p.shown(1, "el.innerText.includes('it is busy with another cell')") # it waits for its first answer
    (lab["folder"]/"go").touch()
    p.shown(1, "el.innerText.includes('hey jarvis') && !el.innerText.includes('it is busy')")


def test_the_service_is_killed_and_comes_back(lab, page):
    p = page(ONE, "reviewer = ClipReviewer(ds); reviewer")
    p.run_all()
    p.shown(1, "el.querySelectorAll('.wk-clip').length > 20")
    root = beside.root_of(lab["dataset"])[0]
    first = json.loads((root/beside.NOTE).read_text())
    os.kill(first["pid"], 9)
    until(lambda: not beside.known(root))
    p.press(1, "▶") # its sound is asked for
    p.shown(1, "(() => { const s = el.querySelector('input[type=search]'); s.value = 'person 3'; s.dispatchEvent(new Event('input')); return true })()")
    p.shown(1, "el.querySelectorAll('.wk-clip').length === 1")
    assert json.loads((root/beside.NOTE).read_text())["pid"] != first["pid"] and beside.known(root)


def test_no_microphone(lab, page):
    p = page("import sys\nsys.modules['sounddevice'] = None\n" + ONE, "recorder = Recorder(ds); recorder", flags=())
    p.run_all()
    p.press(1, "Record")
    p.shown(1, "/The browser may not use the microphone|There is no microphone/.test(el.querySelector('.wk-note.bad')?.innerText ?? '')")
    # files instead: a good one, larger than a message may be, and a picture
    rng, folder = np.random.default_rng(5), lab["folder"]
    save_audio(folder/"long.wav", (.02*rng.standard_normal(70*SAMPLE_RATE)).astype(np.float32))
    (folder/"picture.wav").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(1000))
    p.shown(1, "(() => { const s = [...el.querySelectorAll('select')].find(s => [...s.options].some(o => o.value === 'noise')); s.value = 'noise'; return true })()")
    node = p("DOM.querySelector", nodeId=p("DOM.getDocument")["root"]["nodeId"], selector=".wk-drop input")["nodeId"]
    p("DOM.setFileInputFiles", files=[str(folder/"long.wav"), str(folder/"picture.wav")], nodeId=node)
    p.shown(1, "el.querySelectorAll('.wk-upload').length === 2")
    p.shown(1, "el.querySelectorAll('.wk-upload.good').length === 1 && el.querySelector('.wk-upload.bad')?.innerText.includes('it is a PNG image')")
    lab["dataset"].refresh()
    assert max(c.duration_s for c in lab["dataset"].clips()) == 70


def test_the_microphone_of_the_kernels_machine(lab, page):
    (lab["folder"]/"packages").mkdir(exist_ok=True)
    (lab["folder"]/"packages"/"sounddevice.py").write_text(f"""
import time, wave
class PortAudioError(Exception): pass
class RawInputStream:
    def __init__(self, **how): self.data, self.at = wave.open({str(lab['folder']/'microphone.wav')!r}).readframes(10**8), 0
    def __enter__(self): return self
    def __exit__(self, *_): pass
    def read(self, n):
        time.sleep(n/16000)
        self.at = self.at%len(self.data)
        out = (self.data*2)[self.at:self.at + 2*n]
        self.at += 2*n
        return out, False
""")
    p = page(ONE, "recorder = Recorder(ds); recorder", "live = LiveDetector('toy'); live", flags=()) # the browser has none
    p.run_all()
    p.press(1, "Record")
    p.shown(1, "el.querySelector('.wk-after') && !el.querySelector('.wk-after').hidden && el.querySelector('.wk-verdict').innerText.includes('Sounds good')")
    p.press(2, "Listen")
    p.shown(2, "el.querySelectorAll('.wk-events li').length > 0")
    p.press(2, "Stop")
    until(lambda: p.python("len(live._open) == 0"))


def test_a_training_that_fails_is_shown_with_its_log(lab, page):
    p = page(SHORT_CELL, ONE, "training = TrainingPanel(ds, preset='tiny', overrides=SHORT); training")
    p.run_all()
    p.shown(2, "[...el.querySelectorAll('button')].some(b => b.textContent === 'Train' && !b.disabled)")
    id = p.python("training.start().id") # from Python; its gates refuse a training of seconds
    p.shown(2, f"el.innerText.includes('{id}')")
    until(lambda: p.python("training.state") == "failed", LONG_S)
    p.shown(2, "el.querySelector('.wk-job .wk-state.failed') && el.querySelectorAll('.wk-log span').length > 3 && el.querySelector('.wk-job .wk-bad').innerText.includes('gate')")
    p.press(2, "Export it all the same")
    until(lambda: p.python("training.state") == "succeeded", LONG_S)
    p.shown(2, "el.querySelector('.wk-job .wk-state.succeeded')")


def test_what_is_changed_in_a_form_is_known_to_the_kernel(lab, page):
    p = page(ONE, "preview = AugmentationPreview(ds, n=2); preview")
    p.run_all()
    p.shown(1, "el.querySelectorAll('figure canvas').length === 3")
    for name, value in (("p room", "1"), ("p noise", "0")):
        p.shown(1, f"(() => {{ const i = [...el.querySelectorAll('.wk-field')].find(f => f.querySelector('span').textContent === '{name}').querySelector('input'); i.value = '{value}'; i.dispatchEvent(new Event('input')); return true }})()")
        until(lambda: len(p.python("preview.overrides")) == 1 + (name == "p noise"))
    assert p.python("preview.overrides") == {"augment.p_room": 1, "augment.p_noise": 0}
    p.shown(1, "[...el.querySelectorAll('figure > small')].slice(1).every(s => s.textContent.includes('in a room') && !s.textContent.includes('noise'))")
