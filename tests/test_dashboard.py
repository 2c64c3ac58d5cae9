"The dashboard in a real browser, over a real training service with a real worker: from a microphone to a detection."
import contextlib, json, os, re, signal, socket, subprocess, sys, time
import numpy as np
import pytest
pytest.importorskip("gradio", reason="pip install wakekit[dashboard]")
pytest.importorskip("fastapi")
from browser import CHROMIUM, MICROPHONE, PATIENCE_S, Page
from fastapi.testclient import TestClient
from wakekit.core import SAMPLE_RATE
from wakekit.data.audio import save_audio
from wakekit.data.synth import draw_utterances, synthesize
from wakekit.env import Settings
from wakekit.learn.metrics import poisson_interval, wilson_interval
from wakekit.serve.client import Client
from wakekit.serve.dashboard import TABS, create_app
from wakekit.serve.registry import Registry
from wakekit.serve.relay import Relay, ToTry
from wakekit.ship.toy import chime, toy_bundle

browsers = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
TOKEN = "the token of a test"


def room(seconds, chimes=(), seed=0):
    "Faint noise with chimes in it; starts in s"
    x = (.002*np.random.default_rng(seed).standard_normal(int(seconds*SAMPLE_RATE))).astype(np.float32)
    for s in chimes: x[int(s*SAMPLE_RATE):][:5120] += chime()
    return x


class Running:
    "A command of wakekit, as long as it is wanted"
    def __init__(self, folder, *args, **env):
        self.args, self.env, self.log = args, {**os.environ, "WAKEKIT_DATA_DIR": str(folder/"data"), "WAKEKIT_MODELS_DIR": str(folder/"models"), "WAKEKIT_LOGS_DIR": str(folder/"logs"), "GRADIO_ANALYTICS_ENABLED": "False", **env}, folder/f"{args[1]}.log"
        self.start()
    def start(self):
        with self.log.open("w") as f: self.process = subprocess.Popen([sys.executable, "-c", "import sys; from wakekit.cli import main; sys.exit(main())", *self.args], env=self.env, stdout=f, stderr=f, cwd=self.log.parent)
    def address(self):
        end = time.monotonic() + PATIENCE_S
        while not (found := re.search(r"(?:service|dashboard): (http://127.0.0.1:\d+)", self.log.read_text())):
            assert self.process.poll() is None and time.monotonic() < end, self.log.read_text()
            time.sleep(.1)
        return found[1]
    def stop(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        try: self.process.wait(60)
        except subprocess.TimeoutExpired: self.process.kill()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as s: return s.getsockname()[1]


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    "A training service with a worker, a dashboard, a model and a microphone that hears a chime every four seconds"
    folder = tmp_path_factory.mktemp("house")
    Registry(folder/"models").promote("doorbell", toy_bundle(folder/"toy"))
    save_audio(folder/"microphone.wav", room(4, [1.5]))
    port = free_port()
    with contextlib.ExitStack() as stack:
        training = Running(folder, "serve", "training", "--port", str(port))
        stack.callback(lambda: training.stop())
        dashboard = Running(folder, "serve", "dashboard", "--port", "0", "--training", f"http://127.0.0.1:{port}")
        stack.callback(dashboard.stop)
        training.address()
        yield dict(folder=folder, training=training, url=dashboard.address(), client=Client(f"http://127.0.0.1:{port}"))


class Desk(Page):
    "The dashboard"
    def __init__(self, house, folder, flags=None, width=1300, **how):
        super().__init__(folder, MICROPHONE + [f"--use-file-for-fake-audio-capture={house['folder']/'microphone.wav'}"] if flags is None else flags, width, **how)
        self.open(house["url"], "!!document.querySelector('.wk-desk .wk-pill:not(:empty)') && document.querySelector('.wk-pill').textContent !== '…'")
    def tab(self, name):
        self.until(f"(() => {{ const b = [...document.querySelectorAll('button[role=tab]')].find(b => b.textContent.trim() === {json.dumps(name)}); b?.click(); return b?.getAttribute('aria-selected') === 'true' && [...document.querySelectorAll('.wakekit')].filter(e => e.offsetParent && e.panel).length >= {1 + len(TABS[name])} }})()")
    def panel(self, name, code): return f"(document.querySelector('#panel-{name} .wakekit').panel){code}"
    def press(self, panel, text): self.until(f"(() => {{ const b = [...document.querySelectorAll('#panel-{panel} button')].find(b => b.offsetParent && b.textContent.trim() === {json.dumps(text)} && !b.disabled); b?.click(); return !!b }})()")
    def says(self, panel, words): return self.until(f"document.querySelector('#panel-{panel}').innerText.includes({json.dumps(words)})")
    def put(self, selector, value): self.until(f"(() => {{ const e = document.querySelector({json.dumps(selector)}); if (!e) return false; e.value = {json.dumps(value)}; for (const k of ['input', 'change']) e.dispatchEvent(new Event(k, {{bubbles: true}})); return true }})()")
    def files(self, selector, paths):
        node = self("DOM.querySelector", nodeId=self("DOM.getDocument")["root"]["nodeId"], selector=selector)["nodeId"]
        self("DOM.setFileInputFiles", files=[str(p) for p in paths], nodeId=node)
    def keys(self, panel, *keys):
        for k in keys: self.run(f"document.querySelector('#panel-{panel} .wk-clips').dispatchEvent(new KeyboardEvent('keydown', {{key: {json.dumps(k)}, bubbles: true}}))")


@pytest.fixture
def desk(house, tmp_path):
    if CHROMIUM is None: pytest.skip("no Chromium here")
    page = Desk(house, tmp_path)
    yield page
    page.close()


def until(what):
    end = time.monotonic() + PATIENCE_S
    while not (found := what()):
        assert time.monotonic() < end
        time.sleep(.1)
    return found


@browsers
def test_from_a_microphone_to_a_detection(house, desk, tmp_path):
    client = house["client"]
    # a dataset
    if desk.run("document.querySelector('.wk-desk form').hidden"): desk.press("desk", "New dataset")
    desk.put(".wk-desk form input[placeholder=kitchen]", "bell")
    desk.put(".wk-desk form input[placeholder='hey jarvis']", "hey jarvis")
    desk.press("desk", "Make it")
    until(lambda: [d["name"] for d in client.datasets()] == ["bell"])
    # record and keep
    desk.press("record", "Record")
    desk.until("document.querySelector('#panel-record .wk-after') && !document.querySelector('#panel-record .wk-after').hidden")
    assert "Sounds good" in desk.run("document.querySelector('#panel-record .wk-verdict').innerText")
    desk.put("#panel-record input[placeholder=anna]", "anna")
    desk.press("record", "Keep")
    [clip] = until(lambda: list(client.clips("bell")))
    assert clip["label"] == "positive" and clip["speaker"] == "anna" and clip["source"] == "microphone" and .8 < clip["duration_s"] < 5
    x = client.audio("bell", clip["id"])
    loud = np.abs(x).max()
    assert .5*np.abs(chime()).max() < loud < 1.5*np.abs(chime()).max() # as loud as it was played: nothing made it "better"
    # upload: good files, one that is none, one that is there already
    for k in range(12):
        save_audio(tmp_path/f"call-{k}.wav", room(1.2, [.3], seed=k + 1))
        save_audio(tmp_path/f"other-{k}.wav", 20*room(1.2, seed=k + 20))
    (tmp_path/"notes.wav").write_text("these are words")
    desk.files("#panel-record .wk-drop input", [*sorted(tmp_path.glob("call-*.wav")), tmp_path/"notes.wav"])
    desk.until("[...document.querySelectorAll('#panel-record .wk-upload')].filter(r => r.className.match(/good|bad/)).length === 13")
    assert desk.run("document.querySelectorAll('#panel-record .wk-upload.bad').length") == 1
    assert "notes.wav" in desk.run("document.querySelector('#panel-record .wk-upload.bad').innerText")
    desk.put("#panel-record details select", "negative")
    desk.files("#panel-record .wk-drop input", [*sorted(tmp_path.glob("other-*.wav")), tmp_path/"call-3.wav"])
    desk.until("[...document.querySelectorAll('#panel-record .wk-upload')].filter(r => r.className.match(/good|bad/)).length === 26")
    assert client.dataset("bell")["labels"]["negative"]["clips"] == 12 and client.dataset("bell")["labels"]["positive"]["clips"] == 13
    assert not desk.console and all(u.startswith((house["url"], "data:", "blob:", "ws://127.0.0.1")) for u in desk.requests)
    house["trained"] = True


@browsers
def test_clips_are_corrected_thrown_away_and_brought_back(house, desk):
    assert house.get("trained"), "the test before made the dataset"
    client = house["client"]
    desk.tab("Dataset")
    desk.until("document.querySelectorAll('#panel-clips .wk-clip').length === 25")
    desk.keys("clips", "ArrowDown")
    [first] = [c for c in client.clips("bell") if c["id"] == desk.run(desk.panel("clips", ".clip.id"))]
    other = "noise" if first["label"] != "noise" else "negative"
    desk.keys("clips", {"noise": "o", "negative": "n"}[other])
    label = lambda: next((c["label"] for c in client.clips("bell") if c["id"] == first["id"]), None)
    until(lambda: label() == other)
    desk.until(desk.panel("clips", f".clip.label === '{other}'"))
    desk.keys("clips", "u")
    until(lambda: label() == first["label"])
    desk.until("document.querySelectorAll('#panel-clips .wk-clip').length === 25")
    desk.keys("clips", "x")
    until(lambda: label() is None)
    desk.until("document.querySelectorAll('#panel-clips .wk-clip').length === 24")
    desk.keys("clips", "u")
    until(lambda: label() == first["label"])
    desk.until("document.querySelectorAll('#panel-clips .wk-clip').length === 25")
    desk.put("#panel-clips .wk-filters select", "negative")
    desk.until("document.querySelectorAll('#panel-clips .wk-clip').length === 12")
    # somebody else changes the clip that is shown here
    desk.keys("clips", "ArrowDown")
    mine = desk.run(desk.panel("clips", ".clip.id"))
    client.change("bell", mine, notes="heard elsewhere")
    desk.put("#panel-clips .wk-detail .wk-row select", "noise")
    desk.says("clips", "Somebody else has changed this clip")
    assert next(c for c in client.clips("bell") if c["id"] == mine)["label"] == "negative"


@browsers
def test_a_training_is_followed_judged_shipped_and_gone(house, desk):
    assert house.get("trained")
    client = house["client"]
    desk.tab("Train")
    desk.until("[...document.querySelectorAll('#panel-train .wk-choice')].length === 3")
    desk.run("[...document.querySelectorAll('#panel-train .wk-choice')].find(b => b.innerText.startsWith('tiny')).click()")
    desk.until("document.querySelector('#panel-train .wk-choice[aria-checked=true]').innerText.startsWith('tiny')")
    for name, value in {"epochs": 2, "steps_per_epoch": 2, "verifier.steps": 2, "data.synthetic": 10, "data.near_misses": 6, "data.filler": 10}.items():
        desk.put(f"#panel-train .wk-field[data-name^='{name} '] input", str(value))
    desk.put("#panel-train .wk-field[data-name^='lr '] input", "fast")
    assert desk.run(desk.panel("train", ".fields.changed.lr")) is None and desk.run("!!document.querySelector('#panel-train .wk-field.bad')")
    desk.put("#panel-train .wk-field[data-name^='lr '] input", ".002")
    desk.run("document.querySelector('#panel-train .wk-more input[type=checkbox]:last-of-type').closest('details').querySelector('.wk-check input').click()")
    desk.press("train", "Train")
    job = until(lambda: client.jobs())[0]
    config = job["payload"]["config"]
    assert (config["epochs"], config["steps_per_epoch"], config["lr"], config["verifier"]["steps"], job["payload"]["data"]["synthetic"], job["payload"]["force"]) == (2, 2, .002, 2, 10, True)
    end = time.monotonic() + 400
    while client.jobs()[0]["state"] not in ("succeeded", "failed", "cancelled"):
        assert time.monotonic() < end
        time.sleep(.5)
    assert client.jobs()[0]["state"] == "succeeded", client.jobs()[0]["error"]
    desk.until("document.querySelector('#panel-jobs .wk-job .wk-state')?.textContent === 'done'")
    assert desk.run("document.querySelectorAll('#panel-jobs .wk-job svg').length") == 2
    desk.run("document.querySelector('#panel-jobs .wk-job details').open = true")
    desk.until("document.querySelector('#panel-jobs .wk-log').innerText.includes('epoch')")
    # judged
    desk.tab("Evaluate")
    desk.until("!!document.querySelector('#panel-evaluate .wk-det svg .curve')")
    m = client.get(f"/jobs/{job['id']}/artifacts/metrics.json")["held_out"]["float32"]
    tiles = lambda: desk.run("[...document.querySelectorAll('#panel-evaluate .wk-tile b')].map(b => b.textContent)")
    assert tiles()[0] == f"{m['at_bundle_threshold']['threshold']:.3f}"
    desk.put("#panel-evaluate input[type=range]", "0")
    threshold, fa, frr = m["det"][0]
    assert tiles() == [f"{threshold:.3f}", f"{100*frr:.1f} %", f"{fa:.2f}"]
    # shipped: every file arrives whole
    desk.tab("Ship")
    desk.until("document.querySelectorAll('#panel-ship td a[download]').length > 5")
    for a in client.get(f"/jobs/{job['id']}/artifacts")["artifacts"]:
        found = desk.run(f"(async () => {{ const r = await fetch([...document.querySelectorAll('#panel-ship td a[download]')].find(a => a.download === {json.dumps(a['name'])}).href); const d = await crypto.subtle.digest('SHA-256', await r.arrayBuffer()); return [...new Uint8Array(d)].map(b => b.toString(16).padStart(2, '0')).join('') }})()")
        assert found == a["sha256"]
    desk.press("ship", "Make it the current version")
    until(lambda: any(x["name"] == "bell" for x in client.get("/models")["models"]))
    # deleted elsewhere
    client.ask("DELETE", f"/jobs/{job['id']}")
    desk.tab("Train")
    desk.until("!document.querySelector('#panel-jobs table')")


@browsers
def test_the_microphone_wakes_it(house, desk):
    desk.tab("Try live")
    desk.until("[...document.querySelectorAll('#panel-live option')].some(o => o.value === 'model doorbell')")
    desk.put("#panel-live select", "model doorbell")
    desk.press("live", "Listen")
    desk.until("document.querySelectorAll('#panel-live .wk-events li').length >= 2")
    times = desk.run("[...document.querySelectorAll('#panel-live .wk-events li')].map(li => +/at ([0-9.]+) s/.exec(li.textContent)[1])")
    assert all(abs(a - b - 4) < .1 for a, b in zip(times, times[1:])) # every four seconds, as it is played
    desk.press("live", "Stop")
    # a recording takes the same way
    save_audio(path := house["folder"]/"three.wav", room(9, [1, 4, 7]))
    desk.files("#panel-live input[type=file]", [path])
    desk.until("document.querySelectorAll('#panel-live .wk-events li').length === 3 && document.querySelector('#panel-live .wk-big').textContent === 'Listen'")
    assert not desk.console


@browsers
def test_a_job_that_failed_says_why_and_is_tried_again(house, desk):
    client = house["client"]
    for name in ("long", "broken"): client.create_dataset(name, f"hey {name}")
    before, job = client.synthesize("long", 5000), client.synthesize("broken", 5) # one at a time: the second one waits
    client.ask("DELETE", "/datasets/broken")
    before.cancel()
    until(lambda: job.now()["state"] not in ("queued", "running"))
    assert job.now()["state"] == "failed"
    desk.run(desk.panel("desk", f".chosen.set('job', '{job.id}')"))
    desk.tab("Train")
    desk.until("document.querySelector('#panel-jobs .wk-job .wk-state')?.textContent === 'failed'")
    assert "deleted" in desk.run("document.querySelector('#panel-jobs .wk-job .wk-bad').innerText")
    desk.until("document.querySelector('#panel-jobs .wk-log').innerText.includes('deleted')")
    desk.press("jobs", "Try again")
    until(lambda: job.now()["attempt"] > 1 and job.now()["state"] == "failed") # its dataset is still away
    # both go for good, and the page shows it without an error
    def sure():
        desk.until("!!document.querySelector('dialog[open]')")
        desk.run("document.querySelector('dialog[open] .wk-main').click()")
    desk.run("document.querySelector('#panel-jobs input[type=checkbox]').click()") # of all datasets
    desk.until(f"(() => {{ const b = document.querySelector('#panel-jobs [aria-label=\"Delete job {job.id}\"]'); b?.click(); return !!b }})()")
    sure()
    desk.until(f"!document.querySelector('#panel-jobs [aria-label=\"Delete job {job.id}\"]')")
    desk.until("(() => { const b = [...document.querySelectorAll('.wk-desk button')].find(b => b.textContent === 'Delete for good' && b.parentElement.textContent.startsWith('broken')); b?.click(); return !!b })()")
    sure()
    desk.until("![...document.querySelectorAll('.wk-desk button')].some(b => b.textContent === 'Delete for good' && b.parentElement.textContent.startsWith('broken'))")
    assert job.id not in [j["id"] for j in client.get("/jobs")["jobs"]] and "broken" not in [d["name"] for d in client.get("/trash")["datasets"]]
    assert not [c for c in desk.console if "rror" in c], desk.console
    client.ask("DELETE", "/datasets/long")


@browsers
def test_an_answer_from_before_a_button_was_pressed_ends_nothing(desk):
    "A slow look at a failed job comes back after it was tried again: the page must go on looking"
    states = desk.run("""import('/ui/jobs.js').then(async ({ JobView }) => {
        let state = 'failed', hold = null, look
        const job = () => ({ id: 'j', kind: 'train', payload: {}, state, attempt: 1, error: 'a gate fails' }), seen = []
        const service = {
            get: async path => { if (!path.endsWith('/events')) return job(); if (hold) await hold; return { events: [] } },
            ask: async () => '', post: async () => { state = 'queued' } }
        const panel = { service, every: (ms, f) => look = f, doing: (button, work) => work() }
        const view = new JobView(panel)
        view.follow('j')
        await look()
        view.over = false // the log was opened
        let free; hold = new Promise(f => free = f)
        const slow = look() // has read `failed` and waits for events
        await new Promise(f => setTimeout(f, 20))
        hold = null
        const button = [...view.root.querySelectorAll('button')].find(b => b.textContent === 'Export it all the same')
        button.click()
        await new Promise(f => setTimeout(f, 20))
        seen.push(view.job.state)
        free(); await slow
        seen.push(view.job.state, view.over)
        state = 'succeeded'
        await look()
        return [...seen, view.root.querySelector('.wk-state').className]
    })""")
    assert states == ["queued", "queued", False, "wk-state succeeded"]


def test_what_was_recorded_goes_where_it_was_recorded_for(house, desk):
    client = house["client"]
    for name in ("one", "two"): client.create_dataset(name, f"hey {name}")
    desk.until("[...document.querySelectorAll('.wk-desk option')].some(o => o.value === 'two')")
    desk.put(".wk-desk select", "one")
    desk.says("record", "hey one")
    desk.press("record", "Record")
    desk.until("!document.querySelector('#panel-record .wk-after').hidden")
    desk.run(desk.panel("record", ".choose(-1)")) # another line is chosen, and another dataset
    desk.put(".wk-desk select", "two")
    desk.says("record", "hey two")
    desk.press("record", "Keep in one")
    [clip] = until(lambda: list(client.clips("one")))
    assert clip["label"] == "positive" and list(client.clips("two")) == []
    for name in ("one", "two"): client.ask("DELETE", f"/datasets/{name}")


@browsers
def test_a_service_that_goes_and_comes_back(house, desk):
    desk.put("#panel-record input[placeholder=anna]", "berta")
    house["training"].stop(signal.SIGKILL)
    desk.until("!document.querySelector('.wk-desk .wk-note.bad').hidden")
    assert "does not answer" in desk.run("document.querySelector('.wk-desk .wk-note.bad').innerText")
    house["training"].start()
    desk.until("document.querySelector('.wk-desk .wk-note.bad').hidden")
    assert desk.run("document.querySelector('#panel-record input[placeholder=anna]').value") == "berta"
    house["training"].stop(signal.SIGKILL) # and who opens the page meanwhile
    desk.open(house["url"], "!!document.querySelector('.wk-desk .wk-note.bad:not([hidden])')")
    house["training"].start()
    desk.until("document.querySelectorAll('#panel-record .wk-prompt').length > 2")


@browsers
@pytest.mark.parametrize("flags,words", [([], "There is no microphone"), (["--use-fake-device-for-media-stream", "--deny-permission-prompts"], "may not use the microphone")], ids=["none", "denied"])
def test_without_a_microphone_it_says_what_to_do(house, tmp_path, flags, words):
    page = Desk(house, tmp_path, flags)
    try:
        if not house["client"].datasets(): house["client"].create_dataset("bell", "hey jarvis")
        page.press("record", "Record")
        page.until("!!document.querySelector('#panel-record .wk-note.bad')")
        assert words in page.run("document.querySelector('#panel-record .wk-note.bad').innerText")
    finally: page.close()


@browsers
def test_intervals_and_verdicts_are_right(desk):
    cases = [(0, 6), (1, 6), (3, 40), (40, 40), (12, 411)]
    found = desk.run(f"import('/ui/plot.js').then(m => {json.dumps(cases)}.map(([k, n]) => m.wilson(k, n)))")
    assert np.allclose(found, [wilson_interval(k, n) for k, n in cases], atol=1e-9)
    cases = [(0, 1.5), (1, 1.5), (7, .25), (60, 12.), (800, 3.)]
    found = desk.run(f"import('/ui/plot.js').then(m => {json.dumps(cases)}.map(([k, h]) => m.poisson(k, h)))")
    assert np.allclose(found, [poisson_interval(k, h) for k, h in cases], rtol=2e-3)
    say = lambda code: desk.run(f"import('/ui/record.js').then(m => {{ const x = new Float32Array(24000).map(() => .001*(Math.random() - .5)); {code}; const v = m.verdict(x); return [v.fatal, v.trouble.join(' ')] }})")
    speak = "for (let i = 8000; i < 16000; i++) x[i] += {}*Math.sin(i*.3)"
    assert say(speak.format(.3)) == [False, ""]
    assert "Too loud" in say(speak.format(3) + "; for (let i = 0; i < x.length; i++) x[i] = Math.max(-1, Math.min(1, x[i]))")[1]
    assert "Very quiet" in say(speak.format(.002))[1] and "Hardly louder" in say(speak.format(.0005))[1]
    fatal, words = say("x.fill(0)")
    assert fatal and "muted" in words


@browsers
def test_two_pages_see_what_the_other_does(house, desk, tmp_path):
    other = Desk(house, tmp_path/"other")
    try:
        house["client"].create_dataset("attic", "hey attic")
        for page in (desk, other): page.until("[...document.querySelectorAll('.wk-desk option')].some(o => o.value === 'attic')")
        house["client"].ask("DELETE", "/datasets/attic")
        for page in (desk, other): page.until("![...document.querySelectorAll('.wk-desk option')].some(o => o.value === 'attic')")
    finally: other.close()


@browsers
@pytest.mark.parametrize("width,dark", [(390, False), (390, True), (1440, True)])
def test_every_tab_fits_the_screen(house, desk, width, dark):
    desk.look(width, dark)
    desk.open(house["url"], "!!document.querySelector('.wk-desk .wk-pill:not(:empty)')")
    for name in TABS:
        desk.until(f"""(() => {{
            const named = b => b.textContent.trim() === {json.dumps(name)}, shown = [...document.querySelectorAll('button[role=tab]')].find(b => named(b) && b.offsetParent)
            if (shown) shown.click()
            else {{ const more = document.querySelector('.overflow-menu > button'); if (![...document.querySelectorAll('.overflow-dropdown button')].length) more?.click(); [...document.querySelectorAll('.overflow-dropdown button')].find(named)?.click() }}
            return [...document.querySelectorAll('.wakekit')].filter(e => e.offsetParent && e.panel).length >= {1 + len(TABS[name])} && !!document.querySelector('#panel-{TABS[name][0]} .wakekit')?.offsetParent }})()""")
        assert desk.run("document.documentElement.scrollWidth") <= width, name


# ---- Without a browser

def app_of(tmp_path, token=""):
    settings = Settings(data_dir=tmp_path, training_dir=tmp_path/"training", models_dir=tmp_path/"models", device="cpu", api_token=token, training_url="http://127.0.0.1:9")
    return create_app(settings)


def test_nobody_comes_in_without_the_token(tmp_path):
    web = TestClient(app_of(tmp_path, TOKEN), base_url="http://127.0.0.1")
    for path in ("/", "/ui/main.js", "/api/datasets", "/live/models", "/gradio_api/info", "/config"):
        assert web.get(path).status_code == 401, path
    assert web.get("/health").status_code == 200
    page = web.get("/", headers={"Accept": "text/html"})
    assert page.status_code == 401 and "Token of this service" in page.text
    assert web.post("/login", content="token=wrong").status_code == 401
    assert web.post("/login", content=f"token={TOKEN.replace(' ', '+')}", follow_redirects=False).status_code == 303
    assert TOKEN not in str(dict(web.cookies)) and web.get("/ui/main.js").status_code == 200
    assert web.get("/api/health").status_code == 502 # the door is open; behind it nobody is at home
    foreign = {"Origin": "http://evil.example"}
    assert web.post("/api/datasets", json=dict(name="x"), headers=foreign).status_code == 403
    web.cookies.set("wakekit", "x"*64)
    assert web.get("/ui/main.js", headers={"Cookie": "wakekit=" + "0"*64}).status_code == 401


def test_pages_may_not_go_elsewhere(tmp_path):
    r = TestClient(app_of(tmp_path), base_url="http://127.0.0.1").get("/")
    assert r.status_code == 200 and "default-src 'self'" in r.headers["content-security-policy"]
    assert not re.findall(r"""(?:src|href)=["'](?:https?:)?//""", r.text)
    assert TestClient(app_of(tmp_path), base_url="http://rebound.example").get("/").status_code == 403


def test_bodies_pass_and_headers_are_chosen(tmp_path):
    from fastapi import FastAPI, Request
    import httpx2 as httpx
    from wakekit.serve.relay import relay_routes
    service, seen = FastAPI(), []
    @service.post("/echo/{path:path}")
    async def echo(request: Request):
        seen.append((request.scope["raw_path"], dict(request.headers)))
        return dict(n=sum([len(p) async for p in request.stream()]))
    app = FastAPI()
    app.include_router(relay_routes(Relay("http://service", TOKEN, httpx.AsyncClient(transport=httpx.ASGITransport(service), base_url="http://service"))))
    def pieces():
        for _ in range(20): yield bytes(100_000)
    r = TestClient(app).post("/api/echo/a%2Fb?x=1%262", content=pieces(), headers={"Cookie": "wakekit=secret", "X-Forwarded-For": "me", "Content-Type": "audio/wav", "Content-Length": "2000000"})
    assert r.json() == dict(n=2_000_000)
    path, headers = seen[0]
    assert path.startswith(b"/echo/a%2Fb") and headers["authorization"] == f"Bearer {TOKEN}" and headers["content-type"] == "audio/wav"
    assert "cookie" not in headers and "x-forwarded-for" not in headers


def test_no_address_leads_to_another_host(tmp_path):
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer
    asked = []
    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, dict(self.headers)))
            self.send_response(200)
            self.end_headers()
        log_message = lambda *a: None
    other = HTTPServer(("127.0.0.1", 0), Elsewhere)
    threading.Thread(target=other.serve_forever, daemon=True).start()
    try:
        web = TestClient(app_of(tmp_path), base_url="http://127.0.0.1")
        there = f"http://127.0.0.1:{other.server_port}/steal"
        for path in (f"/api{there}", f"/api/api{there}", f"/api/{there}", f"/api//{there[7:]}", f"/api/..//{there[7:]}", f"/api/%2e%2e/{there}", f"/api/@127.0.0.1:{other.server_port}/"):
            assert web.get(path).status_code in (404, 502), path
    finally: other.shutdown()
    assert asked == []


def test_another_token_than_the_services_is_said(tmp_path):
    import httpx2 as httpx
    from wakekit.serve.training import create_app as training_app
    service = training_app(Settings(data_dir=tmp_path, training_dir=tmp_path/"training", models_dir=tmp_path/"models", device="cpu", api_token="the service's own"))
    app = create_app(Settings(data_dir=tmp_path/"desk", models_dir=tmp_path/"models", device="cpu"), Relay("http://127.0.0.1", "", httpx.AsyncClient(transport=httpx.ASGITransport(service), base_url="http://127.0.0.1")), Client(http=TestClient(service)))
    found = TestClient(app, base_url="http://127.0.0.1").get("/api/datasets")
    assert found.status_code == 502 and found.json()["code"] == "other_token" # a 401 would send people to the door of the dashboard


def test_what_is_too_large_is_refused_before_it_is_sent(tmp_path):
    web = TestClient(app_of(tmp_path), base_url="http://127.0.0.1")
    r = web.post("/api/datasets/kitchen/recordings", content=b"RIFF", headers={"Content-Length": "3000000000", "Content-Type": "audio/wav"})
    assert r.status_code == 413 and r.headers["content-type"] == "application/problem+json"
    assert web.get("/health").json()["max_upload_bytes"] == 200_000_000


def test_a_bundle_that_arrives_damaged_is_not_kept(tmp_path):
    class Liar:
        "A service whose files are not what they were"
        def get(self, path): return dict(artifacts=[dict(name=n, sha256="0"*64) for n in ("manifest.json", "model.onnx")])
        def ask(self, method, path): return type("R", (), dict(content=(bundle/path.rpartition("/")[2]).read_bytes()[:-5] if path.endswith("onnx") else (bundle/"manifest.json").read_bytes()))
    bundle = toy_bundle(tmp_path/"toy")
    to_try = ToTry(tmp_path/"try", Liar())
    with pytest.raises(Exception, match="checksum|damaged|differs|bytes"): to_try.fetch("job", "abc")
    assert list((tmp_path/"try").iterdir()) == []


def test_the_few_latest_detectors_stay(tmp_path):
    class Many:
        def get(self, path): return dict(current=1, versions=[dict(number=1, version="0123456789ab")])
        def download(self, name, folder, number): toy_bundle(folder)
    to_try = ToTry(tmp_path/"try", Many())
    for k in range(9):
        assert to_try.fetch("model", f"m{k}")["phrase"]
        os.utime(tmp_path/"try"/f"m{k}-1-01234567", (k + 1, k + 1))
    assert len(list((tmp_path/"try").iterdir())) <= 7 and (last := tmp_path/"try"/"m8-1-01234567").is_dir()
    (last/"model.onnx").unlink() # half of it went
    assert to_try.fetch("model", "m8")["phrase"] and (last/"model.onnx").is_file()


@browsers
def test_a_look_that_somebody_else_has_begun_is_followed(house, desk):
    client = house["client"]
    client.create_dataset("looked", "hey jarvis")
    client.upload("looked", [x for _, x in synthesize(draw_utterances(["hey jarvis"], 10, seed=2))], "positive")
    desk.until("!!document.querySelector('.wk-desk select option[value=looked]')")
    desk.put(".wk-desk select", "looked")
    desk.tab("Data quality")
    desk.says("quality", "Nobody has listened to this dataset yet")
    client.ask("POST", "/datasets/looked/look")
    desk.open(house["url"], "!!document.querySelector('.wk-desk .wk-pill:not(:empty)')")
    desk.tab("Data quality")
    desk.says("quality", "What to record next")
    assert not desk.run("document.querySelector('#panel-quality').innerText").count("Nobody has listened")
    client.ask("DELETE", "/datasets/looked")


@browsers
def test_a_map_whose_clips_are_chosen_with_a_rectangle_and_set_right(house, desk, tmp_path):
    client = house["client"]
    client.create_dataset("map", "hey jarvis")
    client.upload("map", [x for _, x in synthesize(draw_utterances(["hey jarvis"], 10, seed=0))], "positive")
    client.upload("map", [x for _, x in synthesize(draw_utterances(["turn on the light"], 10, seed=1))], "positive", notes="the other words")
    desk.until("!!document.querySelector('.wk-desk select option[value=map]')")
    desk.put(".wk-desk select", "map")
    desk.tab("Data quality")
    desk.says("quality", "Nobody has listened to this dataset yet")
    desk.press("quality", "Listen to all clips")
    desk.says("map", "20 clips. Those that lie together sound alike")
    # the report: what to record next, and what was found, whose clips are shown on the map
    desk.says("quality", "What to record next")
    assert desk.run("document.querySelectorAll('#panel-quality .wk-advice li').length") >= 3 and "20" in desk.run("document.querySelector('#panel-quality .wk-tiles').innerText")
    assert TestClient(create_app(Settings(training_url=client.url, data_dir=tmp_path)), base_url="http://127.0.0.1").get("/api/datasets/map/report.html").text.startswith("<!doctype html>")
    # a rectangle around all points that are what they are not: the panel itself says where they lie
    where = desk.until(desk.panel("map", """ && (() => { const p = document.querySelector('#panel-map .wakekit').panel, r = p.canvas.getBoundingClientRect()
        p.canvas.scrollIntoView({block: 'center'})
        const at = p.points.filter(q => q.notes).map(q => p.place(q)), b = p.canvas.getBoundingClientRect(), xs = at.map(a => a[0]), ys = at.map(a => a[1])
        return [b.left + Math.min(...xs) - 8, b.top + Math.min(...ys) - 8, b.left + Math.max(...xs) + 8, b.top + Math.max(...ys) + 8] })()"""))
    for kind, x, y in (("mousePressed", *where[:2]), ("mouseMoved", *where[2:]), ("mouseReleased", *where[2:])): desk("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)
    assert desk.until(desk.panel("map", ".picked.length")) == 10 # those, and no others: the sounds keep them apart
    assert desk.run(desk.panel("map", ".picked.every(p => p.notes === 'the other words')"))
    desk.until("document.querySelector('#panel-map .wk-spectrogram').naturalWidth > 20") # the marked one is seen
    desk.press("map", "All negative")
    desk.says("map", "10 clips to label 'negative'")
    assert {c["notes"] for c in client.clips("map", label="negative")} == {"the other words"} and len(list(client.clips("map", label="negative"))) == 10
    # one more by keyboard, then both are taken back
    desk.run("document.querySelector('#panel-map .wk-clips').dispatchEvent(new KeyboardEvent('keydown', {key: 'x', bubbles: true}))")
    until(lambda: client.dataset("map")["trash"] == 1)
    desk.press("map", "Undo")
    until(lambda: client.dataset("map")["trash"] == 0)
    desk.press("map", "Undo")
    until(lambda: client.dataset("map")["wake_clips"] == 20)
    desk.press("map", "Redo")
    until(lambda: client.dataset("map")["wake_clips"] == 10)
    desk.until("document.querySelector('#panel-map .wk-map-key').innerText.includes('negative (10)')") # the map shows what they are now
    # a click on a point plays it
    desk.until(desk.panel("map", ".points.length === 20"))
    x, y = desk.run(desk.panel("map", """ && (() => { const p = document.querySelector('#panel-map .wakekit').panel; p.choose([]); p.canvas.scrollIntoView({block: 'center'}); const b = p.canvas.getBoundingClientRect(), [x, y] = p.place(p.points[0]); return [b.left + x, b.top + y] })()"""))
    for kind in ("mousePressed", "mouseReleased"): desk("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)
    desk.until(desk.panel("map", ".picked.length === 1") + " && " + desk.panel("map", ".player.currentTime > 0"))
    assert not [c for c in desk.console if "rror" in c], desk.console
