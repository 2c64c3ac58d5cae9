"The session with curl that README shows, run as it stands there, against a service of its own."
import json, os, re, shutil, socket, subprocess, sys, time, urllib.request
from pathlib import Path
import numpy as np
import pytest
from wakekit.data.audio import save_audio
from wakekit.data.synth import draw_utterances, synthesize

ROOT = Path(__file__).parents[1]
LITTLE = {"epochs": 2, "steps_per_epoch": 6, "batch.batch_size": 32, "verifier.steps": 0, "data.synthetic": 0, "data.near_misses": 0, "data.filler": 24, "data.synthetic_rooms": 4}


def session():
    "The commands of README"
    return next(b for b in re.findall(r"```sh\n(.*?)```", (ROOT/"README.md").read_text(encoding="utf-8"), re.S) if b.startswith("api="))


@pytest.fixture
def service(tmp_path):
    "A service with a worker, in a process of its own; its address"
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    env = {**os.environ, "WAKEKIT_DATA_DIR": str(tmp_path/"data"), "WAKEKIT_MODELS_DIR": str(tmp_path/"models"), "WAKEKIT_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
    (tmp_path/".env").touch()
    with open(tmp_path/"log.txt", "wb") as log:
        p = subprocess.Popen([sys.executable, "-c", "import sys; from wakekit.cli import main; sys.exit(main())", "serve", "training", "--port", str(port)], cwd=tmp_path, env=env, stdout=log, stderr=log)
    for _ in range(600):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
            break
        except OSError: time.sleep(.1)
        assert p.poll() is None, (tmp_path/"log.txt").read_text()
    yield f"http://127.0.0.1:{port}"
    p.terminate()
    assert p.wait(60) in (0, -15), (tmp_path/"log.txt").read_text()


def test_from_an_empty_data_root_to_a_bundle_on_a_device(service, tmp_path):
    if not shutil.which("curl") or not shutil.which("bash"): pytest.skip("needs curl and bash")
    for folder, phrases in (("calls", ["computer"]), ("talk", ["good morning", "what time is it", "turn the radio off"])):
        for i, (_, x) in enumerate(synthesize(draw_utterances(phrases, 24, seed=1))): save_audio(tmp_path/folder/f"{i} .wav", x.astype(np.float32))
    text = session()
    assert '{"dataset": "kitchen"}' in text
    text = text.replace("http://127.0.0.1:8080", service).replace('{"dataset": "kitchen"}', json.dumps(dict(dataset="kitchen", preset="tiny", force=True, config_overrides=LITTLE)))
    scripts = tmp_path/"bin"
    scripts.mkdir()
    (scripts/"wakekit").write_text(f"#!/bin/sh\nexec '{sys.executable}' -c 'import sys; from wakekit.cli import main; sys.exit(main())' \"$@\"\n")
    (scripts/"wakekit").chmod(0o755)
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", text], cwd=tmp_path, env={**os.environ, "PATH": f"{scripts}:{os.environ['PATH']}"}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}\n{(tmp_path/'log.txt').read_text()[-2000:]}"
    assert '"ready":true' in done.stdout and "event: end" in done.stdout and "manifest.json" in done.stdout
    manifest = json.loads((tmp_path/"device"/"current"/"manifest.json").read_text())
    assert manifest["phrase"] == "computer" and manifest["lineage"]["clips"] == dict(positive=24, negative=24, noise=0)
