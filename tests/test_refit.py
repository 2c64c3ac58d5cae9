"A bundle is swapped in whole, whoever interrupts it."
import json
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


def test_a_training_without_its_second_look_is_not_done(tmp_path):
    torch = pytest.importorskip("torch")
    from wakekit.core import TrainError
    from wakekit.learn.models import WakeModel
    from wakekit.learn.config import preset
    from wakekit.learn.verifier import Verifier
    from wakekit.learn.verify import identity
    from wakekit.ship.export import load_verifier, write_verifier
    from wakekit.ship.refit import _result
    pytest.importorskip("onnx")
    config = preset("tiny", ["epochs=2", "verifier.steps=5"])
    model = WakeModel(config.model)
    best = dict(weights=model.state_dict(), epoch=1, threshold=.5)
    torch.save(dict(identity=json.dumps(dict(config=config.to_dict(), train="x")), best=best, epoch=2, history="[]"), tmp_path/"checkpoint.pt")
    with pytest.raises(TrainError, match="second look"): _result(tmp_path/"checkpoint.pt", False)
    assert _result(tmp_path/"checkpoint.pt", True).verifier is None
    second = Verifier(config.verifier).eval()
    torch.save(dict(identity="older", config=config.verifier.to_json(), weights={}), tmp_path/"verifier.pt")
    with pytest.raises(BundleError, match="older wakekit"): load_verifier(tmp_path)
    with pytest.raises(TrainError, match="second look"): _result(tmp_path/"checkpoint.pt", False)
    assert _result(tmp_path/"checkpoint.pt", True).verifier is None
    write_verifier(second, tmp_path)  # of nobody knows which first look
    with pytest.raises(TrainError, match="second look"): _result(tmp_path/"checkpoint.pt", False)
    own, older = identity(model.eval(), second, "x", config), config.to_dict()
    older["verifier"].pop("looks")
    older["augment"].pop("p_band")
    torch.save(dict(identity=own, config=config.verifier.to_json(), states=second.states, weights=second.state_dict()), tmp_path/"verifier.pt")
    for trained in (config.to_dict(), older):  # an older wakekit's words for the same: it did not know every setting of today
        torch.save(dict(identity=json.dumps(dict(config=trained, train="x")), best=best, epoch=2, history="[]"), tmp_path/"checkpoint.pt")
        torch.save(dict(identity=json.dumps(dict(json.loads(own), config=trained)), config=config.verifier.to_json(), states=second.states, weights=second.state_dict()), tmp_path/"verifier.pt")
        assert _result(tmp_path/"checkpoint.pt", False).verifier is not None
    found = _result(tmp_path/"checkpoint.pt", False).verifier
    assert torch.equal(found.head.out[1].weight, second.head.out[1].weight) and not found.training and all(torch.isfinite(p).all() for p in found.parameters())


def test_a_second_look_is_kept(tmp_path):
    from wakekit.ship.refit import matched_threshold
    import numpy as np
    pytest.importorskip("onnx")
    b = Bundle.load(toy_bundle(tmp_path/"k.wake", verify=True))
    thin = Bundle.load(reexport(b.path, tmp_path/"pi", ["onnx"]))
    assert thin.verifier == b.verifier and thin.manifest["verifier"] == b.manifest["verifier"] and thin.manifest["schema_version"] == 2
    final = np.r_[np.zeros(5000), np.full(50, .9), np.full(40, .2)]
    assert matched_threshold(final, np.r_[np.zeros(5060), np.full(30, .9)], .8)[0] == .8 # not between .9 and nothing
