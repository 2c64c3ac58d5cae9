"What a small board needs: detecting, from the command line, with a bundle that is already there. No torch, no onnx."
import hashlib, json, shutil, subprocess, sys, wave
from pathlib import Path
import numpy as np

BUNDLE = Path(__file__).parent/"data"/"toy_bundle" # scores how loud 20 ms are; its graph is half a kB
VERIFIER = Path(__file__).parent/"data"/"toy_verifier.onnx" # `wakekit.ship.toy.quiet_before_graph`: was it quiet before?


def test_detect_needs_neither_torch_nor_onnx(tmp_path):
    x = np.zeros(3*16_000, "<i2")
    x[16_000:20_000] = np.random.default_rng(0).integers(-9000, 9000, 4000)
    with wave.open(str(tmp_path/"evening.wav"), "wb") as f:
        f.setnchannels(1); f.setsampwidth(2); f.setframerate(16_000)
        f.writeframes(x.tobytes())
    code = "import sys\nfor m in ('torch', 'onnx', 'librosa'): sys.modules[m] = None\nfrom wakekit.cli import main\nsys.exit(main())"
    for where in (["evening.wav"], ["-"]):
        p = subprocess.run([sys.executable, "-c", code, "detect", str(BUNDLE), "--json", *where], input=x.tobytes(), capture_output=True, cwd=tmp_path, timeout=120)
        assert p.returncode == 0, p.stderr.decode()
        found = json.loads(p.stdout)
        event, = found["files"][0]["events"] if "files" in found else [found]
        assert 1 <= event["time_s"] < 1.3


def test_a_second_look_needs_neither_torch_nor_onnx(tmp_path):
    bundle = shutil.copytree(BUNDLE, tmp_path/"b")
    shutil.copy(VERIFIER, bundle/"verifier.onnx")
    m = json.loads((bundle/"manifest.json").read_text(encoding="utf-8"))
    m["files"]["verifier.onnx"] = dict(sha256=hashlib.sha256(VERIFIER.read_bytes()).hexdigest(), bytes=VERIFIER.stat().st_size)
    m |= dict(schema_version=2, smooth_ms=20, refractory_ms=300, verifier=dict(file="verifier.onnx", samples=16_000, every_ms=100, smooth_ms=40, open_at=.5))
    (bundle/"manifest.json").write_text(json.dumps(m), encoding="utf-8")
    x = np.zeros(4*16_000, "<i2")
    for at in (16_000, 24_000, 56_000): x[at:at + 4000] = np.random.default_rng(at).integers(-9000, 9000, 4000) # the second comes soon after the first
    code = "import sys\nfor m in ('torch', 'onnx', 'librosa'): sys.modules[m] = None\nfrom wakekit.cli import main\nsys.exit(main())"
    p = subprocess.run([sys.executable, "-c", code, "detect", str(bundle), "--json", "-"], input=x.tobytes(), capture_output=True, cwd=tmp_path, timeout=120)
    assert p.returncode == 0, p.stderr.decode()
    heard = [json.loads(line)["time_s"] for line in p.stdout.decode().splitlines()]
    assert len(heard) == 2 and 1 <= heard[0] < 1.3 and 3.5 <= heard[1] < 3.8
