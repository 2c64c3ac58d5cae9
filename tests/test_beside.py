"The service beside a notebook, and what a kernel shows of a widget, with ipywidgets of whichever version."
import json, os, subprocess, sys, time
import numpy as np
import psutil
import pytest
pytest.importorskip("fastapi", reason="pip install wakekit[serve]")
from wakekit.core import SAMPLE_RATE, WakekitError
from wakekit.data.dataset import Dataset
from wakekit.env import Settings
from wakekit.serve import beside
from wakekit.ship.toy import toy_bundle

PATIENCE_S = 120

def until(what):
    end = time.monotonic() + PATIENCE_S
    while not (found := what()):
        assert time.monotonic() < end
        time.sleep(.05)
    return found

@pytest.fixture
def root(tmp_path):
    yield tmp_path/"root"
    beside.stop(tmp_path/"root")

def note(root): return json.loads((root/beside.NOTE).read_text())


def test_many_kernels_start_one_service(root, tmp_path):
    code = f"from wakekit.env import Settings; from wakekit.serve.beside import start; print(start({str(root)!r}, Settings(models_dir={str(tmp_path/'models')!r})).url)"
    asked = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    urls = {p.communicate(timeout=PATIENCE_S)[0].strip() for p in asked}
    assert len(urls) == 1 and not any(p.returncode for p in asked)
    pid = note(root)["pid"]
    assert psutil.pid_exists(pid) # those who started it have ended
    assert os.name == "nt" or os.getpgid(pid) != os.getpgid(0)


def test_it_ends_when_nobody_needs_it(root, tmp_path):
    client = beside.start(root, Settings(models_dir=tmp_path/"models"), idle_s=2)
    pid = note(root)["pid"]
    client.create_dataset("kitchen", "hey jarvis")
    until(lambda: not beside._children or beside._children[-1].poll() is not None)
    assert not (root/beside.NOTE).exists() and beside.known(root) is None
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    assert [d["name"] for d in beside.start(root, Settings(models_dir=tmp_path/"models")).datasets()] == ["kitchen"]


def test_it_stays_while_a_job_runs(root, tmp_path):
    "Nobody asks for longer than it may be idle"
    client = beside.start(root, Settings(models_dir=tmp_path/"models"), idle_s=2)
    client.create_dataset("kitchen", "hey jarvis")
    client.synthesize("kitchen", 600)
    begun = time.monotonic()
    until(lambda: len(list((root/"datasets"/"kitchen"/"clips").glob("[!.]*.wav"))) >= 550)
    assert time.monotonic() - begun > 2 # or it proves nothing: let it speak more
    until(lambda: not (root/beside.NOTE).exists()) # and then it goes


def test_notes_that_lie(root, tmp_path):
    root.mkdir()
    for text in ("", "{", "[]", '{"url": "http://127.0.0.1:9", "token": "", "pid": 1}', '{"url": 3}'):
        (root/beside.NOTE).write_text(text)
        assert beside.known(root) is None and not beside.stop(root)
    other = beside.start(tmp_path/"other", Settings(models_dir=tmp_path/"models"))
    try:
        (root/beside.NOTE).write_text((tmp_path/"other"/beside.NOTE).read_text()) # copied with its folder
        assert beside.known(root) is None
        mine = beside.start(root, Settings(models_dir=tmp_path/"models"))
        assert mine.url != other.url and beside.known(tmp_path/"other").url == other.url
    finally: beside.stop(tmp_path/"other")


def test_a_service_that_cannot_start_says_why(root):
    with pytest.raises(WakekitError, match="did not start: .*All of it is in .*service.log"): beside.start(root, Settings(database_url="postgresql://nobody@127.0.0.1:9/none"))
    assert not (root/beside.NOTE).exists()


def test_a_dataset_anywhere(tmp_path):
    ds = Dataset.create(tmp_path/"my things"/"kitchen", "hey jarvis")
    Dataset.create(tmp_path/"my things"/"hall", "computer")
    client, name = beside.attach(ds, settings=Settings(models_dir=tmp_path/"models"))
    try:
        assert name == "kitchen" and {d["name"] for d in client.datasets()} == {"kitchen", "hall"}
        client.upload("kitchen", np.full(8000, .1, np.float32), "noise")
        ds.refresh()
        assert len(ds) == 1
        client.ask("DELETE", "/datasets/hall")
        assert not (tmp_path/"my things"/"hall").exists() # in the trash, from where it comes back
        client.post(f"/trash/{client.get('/trash')['datasets'][0]['id']}/restore")
        assert Dataset.open(tmp_path/"my things"/"hall").phrase == "computer"
    finally: beside.stop(beside.root_of(ds)[0])


# ---- in a kernel

CODE = """
import numpy as np
from wakekit.serve.widgets import AugmentationPreview, LiveDetector
live = LiveDetector({toy!r})
display(live)
AugmentationPreview(np.full(16000, .1, np.float32), n=3)
"""

def test_what_a_kernel_shows(tmp_path):
    "A widget for who can show it, and a picture for who cannot"
    pytest.importorskip("anywidget", reason="pip install wakekit[notebook]")
    manager = pytest.importorskip("jupyter_client.manager")
    kernel, client = manager.start_new_kernel(kernel_name="python3", extra_arguments=[f"--IPython.ipython_dir={tmp_path}"], startup_timeout=PATIENCE_S)
    try:
        said = []
        reply = client.execute_interactive(CODE.format(toy=str(toy_bundle(tmp_path/"toy"))), output_hook=said.append, timeout=PATIENCE_S)
        assert reply["content"]["status"] == "ok", reply["content"]
        shown = [m["content"]["data"] for m in said if m["msg_type"] in ("display_data", "execute_result")]
        assert len(shown) == 2 and all({"application/vnd.jupyter.widget-view+json", "image/png", "text/plain"} <= d.keys() for d in shown), [d.keys() for d in shown]
        opened = {m["content"]["comm_id"]: m["content"]["data"]["state"] for m in said if m["msg_type"] == "comm_open"}
        for d in shown: assert "$notebook.render" in opened[d["application/vnd.jupyter.widget-view+json"]["model_id"]]["_esm"]
        # a question of the browser's
        id = shown[0]["application/vnd.jupyter.widget-view+json"]["model_id"]
        msg = client.session.msg("comm_msg", dict(comm_id=id, data=dict(method="custom", content=dict(what="ask", id=7, view="v", method="GET", path="/models"))))
        client.shell_channel.send(msg)
        def answer():
            m = client.get_iopub_msg(timeout=PATIENCE_S)
            return m["msg_type"] == "comm_msg" and m["content"]["data"].get("method") == "custom" and m["content"]["data"]["content"]
        found = until(answer)
        assert found["id"] == 7 and found["view"] == "v" and found["found"] == dict(models=[dict(name="toy", current="1")])
    finally:
        client.stop_channels()
        kernel.shutdown_kernel(now=True)
