"What a small board needs: detecting, from the command line, with a bundle that is already there. No torch, no onnx."
import json, subprocess, sys, wave
from pathlib import Path
import numpy as np

BUNDLE = Path(__file__).parent/"data"/"toy_bundle" # scores how loud 20 ms are; its graph is half a kB


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
