"The page for browsers, in a real browser: headless Chromium, driven over its DevTools protocol."
import base64, contextlib, json, os, signal, subprocess, sys, threading, urllib.request
import numpy as np
import pytest

pytest.importorskip("onnx", reason="the toy detector is written with onnx")
pytest.importorskip("websockets.sync.client", reason="the browser is driven over a WebSocket")
from browser import CHROMIUM, MICROPHONE, Page as Browser

from wakekit.core import SAMPLE_RATE, BundleError
from wakekit.data.audio import save_audio
from wakekit.ship.stream import Bundle, Detector
from wakekit.ship.toy import chime, toy_bundle
from wakekit.ship.web import ORT_WEB, WebError, runtime_files, web_server, write_web


class Page(Browser):
    "The page that `wakekit web` writes"
    def go(self, url):
        self("Page.navigate", url=url)
        return self.until("document.readyState === 'complete' && /^(Ready|Not ready)\\./.test(document.getElementById('status').textContent) && document.getElementById('status').textContent")
    def text(self, name): return self.run(f"document.getElementById('{name}').textContent")
    def problem(self): return self.run("document.getElementById('problem').hidden ? '' : document.getElementById('problem').textContent")
    def click(self, name): self.run(f"document.getElementById('{name}').click()")

    def choose(self, path):
        "Give the page a recording"
        self.run("document.getElementById('status').textContent = 'asked'")
        node = self("DOM.querySelector", nodeId=self("DOM.getDocument")["root"]["nodeId"], selector="#file")["nodeId"]
        self("DOM.setFileInputFiles", files=[str(path)], nodeId=node)

    def hear(self, path):
        "Let the page hear a recording to its end; its events"
        self.choose(path)
        self.until("/(once|times) in|Not listening/.test(document.getElementById('status').textContent)")
        return self.events()

    def events(self):
        "What the table says, the oldest first"
        rows = self.run("[...document.querySelectorAll('#events tr')].map(r => ({time_s: +r.cells[0].firstChild.value, score: +r.cells[1].firstChild.value, start_s: +r.dataset.start, peak_s: +r.dataset.peak, end_s: +r.dataset.end}))")
        return sorted(rows, key=lambda e: e["time_s"])


@contextlib.contextmanager
def served(folder):
    server = web_server(folder, 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try: yield f"http://localhost:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def runtime():
    "onnxruntime-web: from WAKEKIT_TEST_ORT_WEB, the cache or npm"
    if CHROMIUM is None: pytest.skip("no Chromium here")
    try: found = runtime_files(os.environ.get("WAKEKIT_TEST_ORT_WEB"))
    except WebError as e: pytest.skip(f"onnxruntime-web is not here: {e}")
    return found

@pytest.fixture(scope="module")
def package(runtime, tmp_path_factory):
    "The two files where `write_web` looks for them"
    folder = tmp_path_factory.mktemp("package")
    for name, content in runtime.items():
        (folder/name).parent.mkdir(exist_ok=True)
        (folder/name).write_bytes(content)
    return folder

@pytest.fixture(scope="module")
def page(runtime, tmp_path_factory):
    page = Page(tmp_path_factory.mktemp("browser"))
    yield page
    page.close()


def room(seconds, chimes, others=(), rate=SAMPLE_RATE):
    "Faint noise, chimes, and chimes in the middle of noise, which a second look does not take for calls; starts in s"
    rng = np.random.default_rng(0)
    x = (.001*rng.standard_normal(int(seconds*SAMPLE_RATE))).astype(np.float32)
    for s in others: x[int((s - .8)*SAMPLE_RATE):int(s*SAMPLE_RATE)] += (.08*rng.standard_normal(int(s*SAMPLE_RATE) - int((s - .8)*SAMPLE_RATE))).astype(np.float32)
    for s in (*chimes, *others): x[int(s*SAMPLE_RATE):][:5120] += chime()
    return x


def same(found, wanted, most=1e-3):
    assert len(found) == len(wanted), (found, wanted)
    for a, b in zip(found, wanted):
        assert {k: a[k] for k in ("time_s", "start_s", "peak_s", "end_s")} == {k: getattr(b, k) for k in ("time_s", "start_s", "peak_s", "end_s")}
        assert abs(a["score"] - b.score) <= most


@pytest.mark.parametrize("verify", [False, True])
def test_a_recording_gives_the_events_of_the_detector(page, package, tmp_path, verify):
    write_web(toy_bundle(tmp_path/"b", verify=verify), tmp_path/"web", package)
    recording = tmp_path/"evening.wav"
    save_audio(recording, room(14.37, (1, 2.013, 4.5, 9.99), (6, 12)))
    wanted = Detector(tmp_path/"b").detect(recording)
    assert len(wanted) == (4 if verify else 6)
    page.requests.clear()
    with served(tmp_path/"web") as address:
        assert page.go(address) == "Ready.", page.problem()
        same(page.hear(recording), wanted)
        if verify: # the first look alone, as Detector(…, verify=False)
            page.run("document.getElementById('verify').click()")
            alone = Detector(tmp_path/"b", verify=False).detect(recording)
            assert len(alone) == 6
            same(page.hear(recording), alone)
        page.run("document.getElementById('threshold').value = .9; document.getElementById('threshold').oninput()")
        same(page.hear(recording), Detector(tmp_path/"b", verify=False, threshold=.9).detect(recording))
        assert not page.problem()
        hosts = {u.split("/")[2] for u in page.requests if u.startswith("http")}
        assert hosts == {address.split("/")[2]} and any(u.endswith("worker.js") for u in page.requests)


@pytest.mark.parametrize("rate, subtype, channels", [(48_000, "PCM_24", 2), (44_100, "FLOAT", 1), (8_000, "PCM_U8", 1), (22_050, "PCM_32", 1), (44_100, "FLAC", 2)])
def test_other_rates_and_formats(page, package, tmp_path, rate, subtype, channels):
    import soundfile, soxr
    write_web(toy_bundle(tmp_path/"b"), tmp_path/"web", package)
    x = soxr.resample(room(8, (1, 3.3, 5.77)), SAMPLE_RATE, rate)
    recording = tmp_path/("evening.flac" if subtype == "FLAC" else "evening.wav")
    soundfile.write(recording, np.stack([x, .5*x], 1) if channels == 2 else x, rate, subtype=None if subtype == "FLAC" else subtype)
    wanted = Detector(tmp_path/"b").detect(recording)
    with served(tmp_path/"web") as address:
        page.go(address)
        found = page.hear(recording)
    assert len(found) == len(wanted) == 3
    for a, b in zip(found, wanted): # another resampler: a step, where the score rises through the threshold
        assert abs(a["time_s"] - b.time_s) < .021 and abs(a["score"] - b.score) < .02


def test_the_resampler_keeps_the_band_and_nothing_above(page, package, tmp_path):
    import soxr
    write_web(toy_bundle(tmp_path/"b"), tmp_path/"web", package)
    with served(tmp_path/"web") as address:
        page.go(address)
        for rate in 48_000, 44_100, 22_050, 8_000:
            t = np.arange(rate)/rate
            x = np.sin(2*np.pi*(100*t + (.4*min(rate, SAMPLE_RATE) - 100)*t**2/2)).astype(np.float32) # a sweep to 80 % of the lower Nyquist frequency
            got = {}
            for name, wave in dict(sweep=x, above=np.sin(2*np.pi*9500*t).astype(np.float32)).items():
                code = "(async b => { const {Resampler} = await import('./audio.js'); const r = new Resampler(%d, 16000); const x = new Float32Array(Uint8Array.from(atob(b), c => c.charCodeAt(0)).buffer); const out = []; for (let i = 0; i < x.length; i += 128) out.push(...r.process(x.subarray(i, i + 128))); out.push(...r.finish()); return out })('%s')"
                got[name] = np.array(page.run(code % (rate, base64.b64encode(wave.tobytes()).decode())))
            wanted = soxr.resample(x, rate, SAMPLE_RATE, "VHQ")
            assert abs(len(got["sweep"]) - SAMPLE_RATE) <= 1
            inner = slice(200, SAMPLE_RATE - 200)
            assert np.abs(got["sweep"][inner] - wanted[inner]).max() < 2e-3
            if rate > 20_000: assert np.abs(got["above"][inner]).max() < 1e-4 # -80 dB


def test_the_decision_on_random_scores(page, package, tmp_path):
    "The JavaScript detector against Python's, with networks that answer the same noise: smoothing, gates, looks, refractory times, chunks of any length"
    write_web(toy_bundle(tmp_path/"b", verify=True), tmp_path/"web", package)
    toy, rng, cases, wanted = Bundle.load(tmp_path/"b"), np.random.default_rng(1), [], []

    class Noise: # stands for both sessions; the verifier's answer depends on the window
        def __init__(self, scores): self.scores, self.at = scores, 0
        def run(self, names, feeds):
            if names == ["logit"]: return [((w := next(iter(feeds.values()))).reshape(len(w), -1)[:, 0] + w.reshape(len(w), -1)[:, -1])*60 - 1]
            n = feeds["pcm"].shape[1]//320
            self.at += n
            frames = feeds["pcm"].reshape(1, 2*n, 160)[..., :3].transpose(0, 2, 1) # a picture of three bands: the first samples of each frame
            return [self.scores[None, self.at - n:self.at], feeds["state"], np.ascontiguousarray(frames)][:len(names)]

    for _ in range(60):
        n, step = int(rng.integers(200, 900)), lambda *of: rng.choice(of).item()
        v = dict(file="verifier.onnx", samples=step(160, 640, 1000, 16_000), every_ms=step(20, 50, 100, 130), smooth_ms=step(20, 50, 80, 130), open_at=step(.2, .5, .6), looks=step(1, 2, 3), first_weight=step(0., .2, 1.))
        mel = bool(rng.integers(2))
        if mel: v |= dict(frames=step(1, 7, 100), hop_samples=160, n_mels=3, floor=-.01, rates=[[1.], [1., .8], [.9, .7, .5]][rng.integers(3)]) | (dict(sure=[-2., 1.]) if rng.integers(2) else {})
        m = toy.manifest | dict(smooth_ms=step(20, 30, 50, 70, 90, 100), refractory_ms=step(0, 20, 250, 1000, 1001), verifier=v)
        m["graphs"] = {"float32": {"file": "model.onnx", "threshold": step(.3, .5, .7)}}
        walk = np.cumsum(rng.standard_normal(n))*step(.05, .2, .5)
        scores = (1/(1 + np.exp(-(walk - walk.mean()) - .5*rng.standard_normal(n)))).round(6).astype(np.float32)
        pcm = ((np.arange(n*320 + 100)*7919%2003 - 1001)/20_000).astype(np.float32) # no two looks begin and end alike
        verify, sizes = bool(rng.integers(4)), rng.integers(1, 3000, 400).tolist()
        bundle = Bundle(toy.path, m, toy.graphs, {"float32": (session := Noise(scores)), "verifier": session}, toy.verifier)
        d = Detector(bundle, verify=verify)
        session.scores = np.concatenate([scores, np.zeros(100, np.float32)]) # the quiet after the end
        wanted.append([vars(e) for e in d.detect(pcm)])
        cases.append(dict(manifest={k: x for k, x in m.items() if k != "config"}, scores=session.scores.round(6).tolist(), n=len(pcm), verify=verify, sizes=sizes))
    with served(tmp_path/"web") as address:
        page.go(address)
        found = page.run("""(async cases => { const {Detector} = await import('./detector.js'), all = []
            for (const c of cases) {
              const x = Float32Array.from({ length: c.n }, (_, i) => (i*7919 % 2003 - 1001)/20000), events = new Map()
              let at = 0
              const d = new Detector(c.manifest, async pcm => ({ scores: Float32Array.from(c.scores.slice(at, at += pcm.length/320)), state: null, mel: 'frames' in c.manifest.verifier ? Float32Array.from({ length: pcm.length/160*3 }, (_, i) => pcm[i % (pcm.length/160)*160 + Math.floor(i/(pcm.length/160))]) : undefined }), async ws => ws.map(w => Math.fround((w[0] + w.at(-1))*60 - 1)), { verify: c.verify })
              const keep = out => out.events.forEach(e => events.set(e.n, {...e}))
              for (let i = 0, k = 0; i < x.length; i += c.sizes[k++ % c.sizes.length]) keep(await d.process(x.subarray(i, i + c.sizes[k % c.sizes.length])))
              keep(await d.finish())
              all.push([...events.values()])
            }
            return all })(CASES)""".replace("CASES", json.dumps(cases)))
    assert sum(map(len, wanted)) > 200
    for a, b, c in zip(found, wanted, cases):
        keys = ("time_s", "start_s", "peak_s", "end_s", "threshold")
        assert [[e[k] for k in keys] for e in a] == [[e[k] for k in keys] for e in b], c["manifest"]
        np.testing.assert_allclose([e["score"] for e in a], [e["score"] for e in b], atol=1e-6)


@pytest.mark.parametrize("at_16_khz", [True, False])
def test_the_microphone(package, tmp_path, at_16_khz):
    """The same calls at the same distances. The page starts to listen at an unknown moment, which decides where steps begin and when second looks are due
    (every 100 ms while the gate is open), so every distance has to be one that the detector itself gives for some start, give or take a step for the other resampler."""
    write_web(toy_bundle(tmp_path/"b", verify=True), tmp_path/"web", package)
    x = room(14, (4, 5.5, 8.01, 10.73), (7,))
    save_audio(tmp_path/"mic.wav", x)
    detector = Detector(tmp_path/"b")
    possible = np.array([np.diff([e.time_s for e in detector.detect(x[at:])]) for at in range(0, 1600, 80)])
    assert possible.shape[1] == 3
    page = Page(tmp_path, [*MICROPHONE, f"--use-file-for-fake-audio-capture={tmp_path}/mic.wav%noloop"])
    try:
        with served(tmp_path/"web") as address:
            if not at_16_khz: # as browsers that refuse: the audio thread resamples
                page("Page.addScriptToEvaluateOnNewDocument", source="window.AudioContext = class extends AudioContext { constructor(o = {}) { if (o.sampleRate) throw new DOMException('no', 'NotSupportedError'); super(o) } }")
            assert page.go(address) == "Ready.", page.problem()
            page.click("start")
            page.until("/^Listening/.test(document.getElementById('status').textContent)")
            page.until("document.querySelectorAll('#events tr').length >= 4")
            assert not page.problem() and ("resampled" in page.text("status")) is not at_16_khz
            page.click("start")
            page.until("document.getElementById('status').textContent === 'Stopped.'")
            found = page.events()
    finally: page.close()
    assert len(found) == 4
    apart = np.diff([e["time_s"] for e in found])
    assert (apart > possible.min(0) - .021).all() and (apart < possible.max(0) + .021).all(), (apart, possible)


def test_a_refused_microphone(package, tmp_path):
    write_web(toy_bundle(tmp_path/"b"), tmp_path/"web", package)
    save_audio(tmp_path/"evening.wav", room(3, (1,)))
    cases = (["--use-fake-device-for-media-stream", "--deny-permission-prompts"], "localhost", "The microphone was refused"), (["--host-resolver-rules=MAP door.example 127.0.0.1"], "door.example", "https or localhost only")
    for i, (flags, host, said) in enumerate(cases):
        (tmp_path/str(i)).mkdir()
        page = Page(tmp_path/str(i), flags)
        try:
            with served(tmp_path/"web") as address:
                assert page.go(address.replace("localhost", host)) == "Ready.", page.problem()
                page.click("start")
                assert said in page._until(page.problem)
                assert page.text("status") == "Not listening."
                assert len(page.hear(tmp_path/"evening.wav")) == 1 and not page.problem() # a recording still works
        finally: page.close()


def test_a_damaged_folder(page, package, tmp_path):
    write_web(toy_bundle(tmp_path/"b", verify=True), tmp_path/"web", package)
    web = tmp_path/"web"
    def flip(name):
        content = bytearray((web/name).read_bytes())
        content[len(content)//2] ^= 1
        (web/name).write_bytes(content)
    def change(**what): (web/"bundle/manifest.json").write_text(json.dumps(json.loads((web/"bundle/manifest.json").read_text()) | what))
    outside = dict(json.loads((web/"bundle/manifest.json").read_text())["files"], **{"../../secret": {"sha256": "", "bytes": 1}})
    faults = [(lambda: flip("bundle/model.onnx"), "bundle/model.onnx is damaged: its SHA-256"), (lambda: flip("bundle/verifier.onnx"), "bundle/verifier.onnx is damaged"),
              (lambda: flip("runtime/ort-wasm-simd-threaded.wasm"), "ort-wasm-simd-threaded.wasm is damaged"), (lambda: (web/"bundle/model.onnx").unlink(), "bundle/model.onnx is missing on the server"),
              (lambda: (web/"runtime/ort.wasm.bundle.min.mjs").unlink(), "ort.wasm.bundle.min.mjs is missing"), (lambda: (web/"bundle/manifest.json").write_text("{"), "manifest.json is damaged"),
              (lambda: change(schema_version=9), "newer wakekit"), (lambda: change(step_samples=0), "wrong in step_samples"), (lambda: change(files=outside), "outside the bundle")]
    with served(web) as address:
        for fault, said in faults:
            fault()
            assert page.go(address) == "Not ready."
            assert said in page.problem()
            assert page.run("document.getElementById('start').disabled && document.getElementById('file').disabled")
            write_web(tmp_path/"b", web, package)
        assert page.go(address) == "Ready." and not page.problem()


def test_a_graph_that_fits_its_checksum_but_not_the_manifest(page, package, tmp_path):
    b = toy_bundle(tmp_path/"b", verify=True)
    m = json.loads((b/"manifest.json").read_text())
    m["graphs"]["float32"]["file"] = "verifier.onnx"
    (b/"manifest.json").write_text(json.dumps(m))
    write_web(b, tmp_path/"web", package)
    with served(tmp_path/"web") as address:
        assert page.go(address) == "Not ready." and "does not fit the manifest" in page.problem()


def test_no_webassembly(page, package, tmp_path):
    write_web(toy_bundle(tmp_path/"b"), tmp_path/"web", package)
    script = page("Page.addScriptToEvaluateOnNewDocument", source="delete globalThis.WebAssembly")["identifier"]
    try:
        with served(tmp_path/"web") as address: assert page.go(address) == "Not ready." and "WebAssembly" in page.problem()
    finally: page("Page.removeScriptToEvaluateOnNewDocument", identifier=script)


def test_what_was_heard_can_be_saved_and_nothing_goes_elsewhere(page, package, tmp_path):
    write_web(toy_bundle(tmp_path/"b"), tmp_path/"web", package)
    save_audio(tmp_path/"evening.wav", room(5, (1, 3)))
    with served(tmp_path/"web") as address, served(tmp_path/"web") as elsewhere:
        page.go(address)
        page.hear(tmp_path/"evening.wav")
        page("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path/"downloads"))
        page.click("save")
        saved = json.loads(page._until(lambda: (tmp_path/"downloads"/"events.json").is_file() and (tmp_path/"downloads"/"events.json").read_text()))
        same(saved["events"], Detector(tmp_path/"b").detect(tmp_path/"evening.wav"))
        assert saved["source"] == "evening.wav" and set(saved["events"][0]) == {"phrase", "time_s", "start_s", "peak_s", "end_s", "score", "threshold"}
        blocked = "new Promise(done => { addEventListener('securitypolicyviolation', e => done(e.effectiveDirective), {once: true}); fetch('%s').catch(() => {}) })"
        assert page.run(blocked % elsewhere) == "connect-src"


def test_a_long_recording_can_be_stopped(page, package, tmp_path):
    write_web(toy_bundle(tmp_path/"b"), tmp_path/"web", package)
    save_audio(tmp_path/"evening.wav", room(5, (1, 3)))
    save_audio(tmp_path/"year.wav", np.tile(room(60, (5, 20)), 60))
    with served(tmp_path/"web") as address:
        page.go(address)
        page.choose(tmp_path/"year.wav")
        page.until("document.querySelectorAll('#events tr').length > 2")
        page.click("start")
        page.until("document.getElementById('status').textContent === 'Stopped.'")
        assert int(page.text("count")) < 120
        same(page.hear(tmp_path/"evening.wav"), Detector(tmp_path/"b").detect(tmp_path/"evening.wav"))


def test_opened_as_a_file(page, package, tmp_path):
    write_web(toy_bundle(tmp_path/"b"), tmp_path/"web", package)
    page("Page.navigate", url=(tmp_path/"web"/"index.html").as_uri())
    page.until("document.readyState === 'complete' && getComputedStyle(document.getElementById('stuck')).visibility === 'visible'") # after some seconds
    assert "needs a web server" in page.text("stuck") and page.run("document.getElementById('start').disabled")


def test_the_command(package, tmp_path):
    b, command = toy_bundle(tmp_path/"b"), [sys.executable, "-c", "import sys, wakekit.cli_web\nfrom wakekit.cli_data import commands\nsys.exit(commands.run())", "web"]
    with subprocess.Popen([*command, str(b), str(tmp_path/"web"), "--runtime", str(package), "--serve", "--port", "0", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as p:
        try:
            address = p.stderr.readline().split()[0]
            with urllib.request.urlopen(address + "/web.json", timeout=30) as r: assert "bundle/model.onnx" in json.load(r)["files"]
            p.send_signal(signal.SIGINT)
            out, err = p.communicate(timeout=60)
        finally: p.kill()
    assert p.returncode == 0 and "stopped" in err and json.loads(out)["phrase"] == "ding dong"


def test_files_that_are_no_recordings(page, package, tmp_path):
    write_web(toy_bundle(tmp_path/"b"), tmp_path/"web", package)
    (tmp_path/"letter.wav").write_text("Dear Sir")
    (tmp_path/"empty.wav").write_bytes(b"")
    save_audio(tmp_path/"evening.wav", room(3, (1,)))
    (tmp_path/"cut.wav").write_bytes((tmp_path/"evening.wav").read_bytes()[:70_000]) # its header promises more
    with served(tmp_path/"web") as address:
        page.go(address)
        for name in "letter.wav", "empty.wav":
            assert page.hear(tmp_path/name) == [] and f"{name} cannot be read" in page.problem()
        assert len(page.hear(tmp_path/"cut.wav")) == 1 and not page.problem()


def test_checksums_without_a_secure_context(page, package, tmp_path):
    "crypto.subtle is missing on plain http: the page's own SHA-256 has to be right"
    write_web(toy_bundle(tmp_path/"b"), tmp_path/"web", package)
    with served(tmp_path/"web") as address:
        page.go(address)
        assert page.run("""(async () => { const {slowSha256, sha256} = await import('./bundle.js')
            for (const n of [0, 1, 55, 56, 63, 64, 65, 119, 120, 1000, 99999]) { const x = Uint8Array.from({length: n}, (_, i) => i*31 + 7); if (slowSha256(x) !== await sha256(x)) return n }
            return 'right' })()""") == "right"


def test_the_folder_without_a_browser(tmp_path):
    "Bad input to write_web; needs no network and no Chromium"
    b = toy_bundle(tmp_path/"b")
    (tmp_path/"b2").mkdir()
    with pytest.raises(BundleError, match="is not a bundle"): write_web(tmp_path/"b2", tmp_path/"web", tmp_path)
    with pytest.raises(WebError, match="does not hold onnxruntime-web"): write_web(b, tmp_path/"web", tmp_path)
    assert not (tmp_path/"web").exists()
    (tmp_path/"fake"/"dist").mkdir(parents=True)
    for name in ORT_WEB.files: (tmp_path/"fake"/name).write_bytes(b"another version")
    with pytest.raises(WebError, match="is another version, or damaged"): write_web(b, tmp_path/"web", tmp_path/"fake")
    (tmp_path/"package.tgz").write_bytes(b"no archive")
    with pytest.raises(WebError, match="its sha512 is another"): write_web(b, tmp_path/"web", tmp_path/"package.tgz")
    with pytest.raises(WebError, match="is a file"): write_web(b, b/"manifest.json", tmp_path/"fake")
    with pytest.raises(WebError, match="no folder for the browser"): web_server(tmp_path)


def test_no_torch(tmp_path):
    code = "import sys\nfor m in ('torch', 'onnx', 'librosa'): sys.modules[m] = None\nimport wakekit.ship.web as w\nassert 'index.html' in w.page_files()"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, cwd=tmp_path)
