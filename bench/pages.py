"""The dashboard in a real browser (headless Chromium): pictures of every tab, and how fast it is. Speed prints its figures as JSON; exit code 1 when a mark is missed.

    python bench/pages.py pictures --out shots          every tab, 390 and 1440 pixels wide, light and dark, of a dataset that is synthesized and trained on
    python bench/pages.py pictures --out shots --url http://127.0.0.1:7860 --dataset kitchen      the same of a dashboard that runs
    python bench/pages.py widgets --out shots           every widget in JupyterLab, light and dark, of a dataset that is synthesized and trained on
    python bench/pages.py reviewing --out shots         the widgets for the inbox and the map of a dataset, likewise
    python bench/pages.py speed                         first page, tabs, a dataset of 20 clips and one of 20,000, curves behind the worker
"""
import argparse, base64, contextlib, datetime, json, statistics, sys, tempfile, time
from pathlib import Path
import numpy as np
sys.path.insert(0, str(Path(__file__).resolve().parents[1]/"tests"))
from browser import MICROPHONE, Page
from lab import CELLS, Lab, jupyter, until
from service import Service
from wakekit import Dataset as Whole
from wakekit.data.audio import save_audio
from wakekit.data.dataset import Dataset
from wakekit.data.speech import speak_into
from wakekit.data.synth import draw_utterances, synthesize
from wakekit.serve import beside
from wakekit.serve.client import Client
import wakekit.serve.curate, wakekit.serve.review # noqa: E401, F401 (Client.look, Client.put_sound)
from wakekit.serve.dashboard import TABS
from wakekit.ship.toy import chime, toy_bundle


@contextlib.contextmanager
def house(root):
    "A training service with a worker, and a dashboard in front of it"
    env = dict(WAKEKIT_DATA_DIR=str(root), WAKE_TRAINING_DATA_DIR=str(root/"service"), WAKEKIT_MODELS_DIR=str(root/"models"), WAKEKIT_DEVICE="cpu", GRADIO_ANALYTICS_ENABLED="False")
    with contextlib.ExitStack() as stack:
        training = Service(root, "serve", "training", **env)
        training.start()
        stack.callback(training.stop)
        url = f"http://127.0.0.1:{training.port}"
        dashboard = Service(root, "serve", "dashboard", "--training", url, **env)
        dashboard.start()
        stack.callback(dashboard.stop)
        yield f"http://127.0.0.1:{dashboard.port}", Client(url)


def browser(folder, width=1440, dark=False, sound=None):
    return Page(folder, MICROPHONE + ([f"--use-file-for-fake-audio-capture={sound}"] if sound else []), width, dark)

def opened(page, url, dataset):
    page.open(url, "!!document.querySelector('.wk-desk select option')")
    page.run(f"sessionStorage.setItem('wakekit ', JSON.stringify({{dataset: {json.dumps(dataset)}}}))")
    page.open(url, f"document.querySelector('.wk-desk select')?.value === {json.dumps(dataset)}")

def tab(page, name):
    "Choose a tab, in the menu if it is there"
    page.until(f"""(() => {{
        const named = b => b.textContent.trim() === {json.dumps(name)}, shown = [...document.querySelectorAll('button[role=tab]')].find(b => named(b) && b.offsetParent)
        if (shown) shown.click()
        else {{ if (!document.querySelector('.overflow-dropdown button')) document.querySelector('.overflow-menu > button')?.click(); [...document.querySelectorAll('.overflow-dropdown button')].find(named)?.click() }}
        return !!document.querySelector('#panel-{TABS[name][0]} .wakekit')?.panel && !!document.querySelector('#panel-{TABS[name][0]}').offsetParent }})()""")


SEEN = {"Data quality": "document.querySelectorAll('#panel-quality .wk-advice li').length > 0", "Inbox": "document.querySelectorAll('#panel-inbox .wk-found').length > 3 && !!document.querySelector('#panel-inbox .wakekit').panel.trim.picture", "Dataset": "!!document.querySelector('#panel-clips .wk-clip svg') && (document.querySelector('#panel-clips .wk-clip').click(), true)", "Synthesize": "!!document.querySelector('#panel-synthesize .wk-voice')", "Train": "!!document.querySelector('#panel-train .wk-choice')",
        "Evaluate": "!!document.querySelector('#panel-evaluate .wk-det svg')", "Try live": "!!document.querySelector('#panel-live option')", "Ship": "!!document.querySelector('#panel-ship td a')", "Environment": "!!document.querySelector('#panel-environment td')"}
ALSO = {"Train": "document.querySelector('#panel-train .wk-more').open = true", "Ship": "document.querySelector('#panel-ship details').open = true"}

def pictures(a):
    "Every tab as people see it"
    out = Path(a.out)
    out.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        root, sound = Path(stack.enter_context(tempfile.TemporaryDirectory())), None
        if a.url: url, dataset = a.url, a.dataset
        else:
            url, client = stack.enter_context(house(root))
            dataset, sound = "kitchen", learnt(client, root)
        for dark in (False, True):
            for width in (1440, 390):
                page = browser(root/f"{width}-{dark}", width, dark, sound)
                opened(page, url, dataset)
                for name in TABS:
                    page.look(width, dark)
                    tab(page, name)
                    if name in SEEN: page.until(SEEN[name])
                    if name in ALSO: page.run(ALSO[name])
                    if name == "Record & upload" and sound:
                        page.run("document.querySelector('#panel-record .wk-big').click()")
                        page.until("!document.querySelector('#panel-record .wk-after').hidden")
                    if name == "Try live" and sound:
                        page.run("document.querySelector('#panel-live .wk-big').click()")
                        time.sleep(12)
                    time.sleep(1)
                    page.look(width, dark, min(4000, page.run("Math.max(800, document.querySelector('.gradio-container').scrollHeight)")))
                    time.sleep(.5)
                    page.picture(file := out/f"{TABS[name][0]}-{width}-{'dark' if dark else 'light'}.png")
                    print(file)
                    if name == "Try live" and sound: page.run("document.querySelector('#panel-live .wk-big').click()")
                if page.console: print("the browser's console says:", page.console, file=sys.stderr)
                page.close()

NAMES = ("recorder", "clip_reviewer", "augmentation_preview", "training_panel", "threshold_explorer", "live_detector")

def shot(page, k, path):
    "The output of a cell as a picture"
    page.look(1250, False, min(2400, int(page.run(f"{page.cell(k)}.offsetHeight")) + 200))
    time.sleep(.5) # it is laid out anew
    x, y, width, height = page.run(f"(() => {{ {page.cell(k)}.scrollIntoView(); const b = {page.cell(k)}.querySelector('.jp-OutputArea-output').getBoundingClientRect(); return [b.x, b.y, b.width, b.height] }})()")
    time.sleep(.5)
    path.write_bytes(base64.b64decode(page("Page.captureScreenshot", format="png", clip=dict(x=x, y=y, width=width, height=height, scale=1))["data"]))

def widgets(a):
    "Every widget as people see it, in JupyterLab"
    out = Path(a.out)
    out.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ds, rng = Dataset.create(folder/"bell", "okay house"), np.random.default_rng(0)
        stack.callback(lambda: beside.stop(beside.root_of(ds)[0]))
        speak_into(ds, 30)
        for k in range(12): ds.add((.02*rng.standard_normal(30_000)).astype(np.float32), "noise", source="living room")
        toy_bundle(folder/"toy")
        save_audio(folder/"microphone.wav", np.r_[np.zeros(24_000), chime(), np.zeros(24_000)].astype(np.float32) + (.002*rng.standard_normal(48_000 + len(chime()))).astype(np.float32))
        place = dict(folder=folder, url=stack.enter_context(jupyter(folder)))
        short = {"epochs": 6, "steps_per_epoch": 20, "warmup_steps": 6, "mine_from": 9, "verifier.steps": 0, "data.synthetic": 100, "data.near_misses": 80, "data.filler": 60, "data.synthetic_rooms": 4}
        for dark in (False, True):
            (folder/f"page-{dark}").mkdir()
            page = stack.enter_context(contextlib.closing(Lab(place, folder/f"page-{dark}", [f"SHORT = {short!r}", *CELLS], width=1250)))
            if dark: page.command("apputils:change-theme", dict(theme="JupyterLab Dark"))
            page.command("application:toggle-left-area")
            page.run_all()
            for k in range(1, 7): page.shown(k)
            if not dark: page.python("training.start(force=True).id")
            until(lambda: page.python("training.state") == "succeeded", 600)
            page.shown(2, "(() => { const c = el.querySelector('.wk-clip'); c?.click(); return !!c && !!el.querySelector('.wk-thumb svg') })()")
            page.shown(3, "el.querySelectorAll('figure canvas').length === 3")
            page.shown(4, "el.querySelectorAll('.wk-job figure svg').length === 2")
            page.shown(5, "!!el.querySelector('.wk-det svg')")
            page.press(6, "Listen")
            page.shown(6, "el.querySelectorAll('.wk-events li').length > 0")
            page.press(6, "Stop")
            for k, name in enumerate(NAMES, 1): shot(page, k, out/f"{name}{'-dark' if dark else ''}.png")
    print(f"{2*len(NAMES)} pictures in {out}")


def reviewing(a):
    "The widgets for the inbox and the map, in JupyterLab"
    out = Path(a.out)
    out.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ds = Whole.create(folder/"kitchen", "okay house")
        stack.callback(lambda: beside.stop(beside.root_of(ds)[0]))
        speak_into(ds, 80, near=60)
        for k, c in enumerate(ds.clips("negative")[:3]): ds.update(c.id, label="positive") # labels that the sound contradicts
        for k, (u, x) in enumerate(synthesize(draw_utterances(["okay mouse", "okay house", "hey horse", "okay house"], 4, seed=3))):
            ds.inbox.put(np.pad(x, 6000) + .003*np.random.default_rng(k).standard_normal(len(x) + 12_000), ("trigger", "near", "trigger", "proposal")[k], origin="kitchen device", start_s=600.*k, score=.9 - k/10, detector=dict(name="okay_house", version="3", threshold=.6),
                predictions=[dict(by="okay_house 4", label="positive" if u.text == ds.phrase else "negative", score=.2 + .6*(u.text == ds.phrase))])
        place = dict(folder=folder, url=stack.enter_context(jupyter(folder)))
        cells = ["from wakekit import Dataset\nfrom wakekit.serve.reviewing import *\nds = Dataset.open('kitchen')", "reviewer = InboxReviewer(ds); reviewer", "explorer = ClipExplorer(ds); explorer"]
        for dark in (False, True):
            (folder/f"page-{dark}").mkdir()
            page = stack.enter_context(contextlib.closing(Lab(place, folder/f"page-{dark}", cells, flags=(), width=1250)))
            if dark: page.command("apputils:change-theme", dict(theme="JupyterLab Dark"))
            page.command("application:toggle-left-area")
            page.run_all()
            page.shown(1, "el.querySelectorAll('.wk-found').length === 4")
            if not dark: page.press(2, "Listen to all clips")
            until(lambda: page.python("explorer.map is not None"), 300)
            page.shown(2, "(() => { const b = [...el.querySelectorAll('button')].find(b => b.offsetParent && /^show/.test(b.textContent)); b?.click(); return !!b })()")
            page.shown(2, "el.querySelectorAll('.wk-pick').length > 0 && !!el.querySelector('.wk-spectrogram').naturalWidth")
            for k, name in enumerate(("inbox_reviewer", "clip_explorer"), 1): shot(page, k, out/f"{name}{'-dark' if dark else ''}.png")
    print(f"4 pictures in {out}")


def learnt(client, root, phrase="hey jarvis"):
    "A dataset of synthesized clips and a training on it; a recording in which the phrase is said"
    from wakekit.data.audio import save_audio
    client.create_dataset("kitchen", phrase)
    client.synthesize("kitchen", 60, 60).wait()
    job = client.train("kitchen", "tiny", {"epochs": 6, "data.synthetic": 300, "data.near_misses": 150, "data.filler": 300}, force=True)
    job.wait()
    client.promote("kitchen", job)
    client.look("kitchen").wait()
    for k, (label, kind) in enumerate((("positive", "near"), ("negative", "trigger"), ("positive", "missed"), ("negative", "proposal"))):
        client.put_sound("kitchen", client.audio("kitchen", list(client.clips("kitchen", label=label))[k]["id"]), kind, origin="living room", start_s=600.*k, score=.4 + .1*k, detector="kitchen", version="1", threshold=.5)
    said, rng = [client.audio("kitchen", c["id"]) for c in client.clips("kitchen", label="positive")][:2], np.random.default_rng(0)
    parts = [p for x in said for p in (np.zeros(24_000), .5*x/np.abs(x).max(), np.zeros(24_000))]
    x = np.concatenate(parts)
    save_audio(root/"microphone.wav", (x + 3e-4*rng.standard_normal(len(x))).astype(np.float32))
    return root/"microphone.wav"


def speed(a):
    "What people wait for"
    from wakekit.data.interchange import Dataset
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name, n in ("few", 20), ("many", 20_000):
            d, rng = Dataset.create(root/"service"/"datasets"/name, "hey jarvis"), np.random.default_rng(n)
            for at in range(0, n, 500): d.commit([d.stage(rng.normal(0, .1, 8000).astype(np.float32), ("positive", "negative")[i%2], speaker=f"person {i%40}") for i in range(at, min(n, at + 500))])
        url, client = stack.enter_context(house(root))
        client.dataset("many")
        page, firsts, tabs, browse = browser(root/"browser"), [], {}, {}
        stack.callback(page.close)
        opened(page, url, "few") # the browser's cache is warm from here on
        for _ in range(5):
            begun = time.perf_counter()
            page.open(url, "!!document.querySelector('#panel-record .wk-say strong') && document.querySelector('#panel-record').offsetParent !== null")
            firsts.append(time.perf_counter() - begun)
        for again in range(3):
            for name in TABS:
                begun = time.perf_counter()
                tab(page, name)
                if again: tabs.setdefault(name, []).append(1000*(time.perf_counter() - begun))
        for name in ("few", "many"):
            opened(page, url, name)
            tab(page, "Dataset")
            page.until("document.querySelectorAll('#panel-clips .wk-clip').length > 0")
            for k in range(8): # look for a label, and for all again
                want = ("positive", "")[k%2]
                begun = time.perf_counter()
                page.run(f"(async () => {{ const p = document.querySelector('#panel-clips .wakekit').panel; p.filter.label.value = {json.dumps(want)}; await p.first() }})()")
                browse.setdefault(name, []).append(1000*(time.perf_counter() - begun))
        lag = behind(page, url, client)
    med = lambda v: round(statistics.median(v), 1)
    found = dict(first_page_s=round(max(firsts), 2), tab_ms={k: med(v) for k, v in tabs.items()}, browse_20_ms=med(browse["few"]), browse_20000_ms=med(browse["many"]), curve_behind_s=lag)
    marks = found["first_page_s"] <= 3 and max(found["tab_ms"].values()) <= 300 and found["browse_20000_ms"] <= max(300, 3*found["browse_20_ms"]) and max(lag) <= 2
    return found, marks

def behind(page, url, client):
    "How long after the worker has told of an epoch it is drawn, s"
    job = client.train("few", "tiny", {"epochs": 4, "steps_per_epoch": 20, "verifier.steps": 2, "data.synthetic": 10, "data.near_misses": 6, "data.filler": 10}, force=True)
    opened(page, url, "few")
    tab(page, "Train")
    page.run(f"document.querySelector('#panel-jobs .wakekit').panel.chosen.set('job', '{job.id}')")
    lags = []
    for n in range(1, 5):
        page.until(f"document.querySelector('#panel-jobs .wakekit').panel.view.epochs.length >= {n} && document.querySelectorAll('#panel-jobs .wk-job svg').length === 2")
        seen = time.time()
        told = next(e for e in client.get(f"/jobs/{job.id}/events")["events"] if e["kind"] == "job.epoch" and e["data"]["epoch"] == n)["time"]
        lags.append(round(seen - (told if isinstance(told, (int, float)) else datetime.datetime.fromisoformat(told).timestamp()), 2))
    return lags


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = p.add_subparsers(dest="part", required=True)
    pics = parts.add_parser("pictures")
    pics.add_argument("--out", required=True)
    pics.add_argument("--url", help="a dashboard that runs; default: one with synthesized clips")
    pics.add_argument("--dataset", default="kitchen")
    parts.add_parser("widgets").add_argument("--out", required=True)
    parts.add_parser("reviewing").add_argument("--out", required=True)
    parts.add_parser("speed")
    a = p.parse_args()
    if a.part != "speed": return dict(pictures=pictures, widgets=widgets, reviewing=reviewing)[a.part](a)
    found, met = speed(a)
    print(json.dumps(found, indent=1))
    return 0 if met else 1


if __name__ == "__main__": sys.exit(main())
