"A bundle is swapped in whole, whoever interrupts it."
import os
import subprocess
import sys

import pytest

from wakekit.core import BundleError
from wakekit.ship.export import replacing
from wakekit.ship.refit import reexport
from wakekit.ship.stream import Bundle, Detector
from wakekit.ship.toy import toy_bundle


def fill(folder, source):
    for p in source.iterdir(): (folder/p.name).write_bytes(p.read_bytes())


@pytest.fixture
def bundles(tmp_path): return toy_bundle(tmp_path/"k.wake", threshold=.5), toy_bundle(tmp_path/"new", threshold=.7)


def names(folder): return sorted(p.name for p in folder.iterdir() if p.suffix != ".lock")


@pytest.mark.parametrize("fails_at", (1, 2))
def test_an_interrupted_swap_leaves_the_old_bundle(bundles, tmp_path, monkeypatch, fails_at):
    old, new = bundles
    calls, replace = [], os.replace
    def interrupted(a, b):
        calls.append(a)
        if len(calls) == fails_at: raise KeyboardInterrupt
        replace(a, b)
    with pytest.raises(KeyboardInterrupt):
        with replacing(old) as folder:
            fill(folder, new)
            monkeypatch.setattr(os, "replace", interrupted)
    assert len(calls) >= fails_at and Detector(old).threshold == .5 and names(tmp_path) == ["k.wake", "new"]


def test_a_swap_that_was_killed_half_way_is_mended_by_the_next(bundles, tmp_path):
    old, new = bundles
    code = f"""import os
from pathlib import Path
from wakekit.ship.export import replacing
replace = os.replace
def die(a, b):
    if str(b).endswith('k.wake'): os._exit(9)
    replace(a, b)
os.replace = die
with replacing({str(old)!r}) as folder: (folder/'manifest.json').write_text('half')"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 9
    assert not old.exists()
    with pytest.raises(RuntimeError):
        with replacing(old): raise RuntimeError
    assert Detector(old).threshold == .5


def test_a_folder_that_is_no_bundle_is_left_alone(bundles, tmp_path, monkeypatch):
    (tmp_path/"photos").mkdir()
    (tmp_path/"photos"/"cat.jpg").write_bytes(b"cat")
    monkeypatch.chdir(tmp_path/"photos")
    for out in (tmp_path/"photos", "."):
        with pytest.raises(BundleError, match="not a bundle"): reexport(bundles[0], out, ["onnx"])
    assert names(tmp_path/"photos") == ["cat.jpg"]


def test_a_zip_is_whole_or_not_there(bundles, tmp_path, monkeypatch):
    import zipfile
    monkeypatch.setattr(zipfile.ZipFile, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError): reexport(bundles[0], tmp_path/"pi", ["onnx"], zipped=True)
    assert names(tmp_path) == ["k.wake", "new"]


def test_a_damaged_bundle_is_not_handed_on(bundles, tmp_path):
    (bundles[0]/"model.onnx").write_bytes(b"damaged")
    with pytest.raises(BundleError, match="damaged"): reexport(bundles[0], tmp_path/"pi", ["onnx"])
    assert not (tmp_path/"pi").exists()


def test_onnx_only_is_a_bundle_like_any_other(bundles, tmp_path):
    b = Bundle.load(reexport(bundles[0], tmp_path/"pi", ["onnx"]))
    assert b.manifest["graphs"].keys() == {"float32"} and Detector(b).threshold == .5
