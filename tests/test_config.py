"What a training may be asked for: what is accepted can be trained, what cannot be trained is refused before anything is done."
import json, math
from dataclasses import fields, is_dataclass
import numpy as np, pytest
from wakekit.core import ConfigError, MissingExtraError
from wakekit.data.augment import AugmentConfig, draw
from wakekit.data.batches import BatchConfig
from wakekit.data.mel import FeatureConfig
from wakekit.env import Settings
from wakekit.learn.config import LIMITS, ModelConfig, PRESETS, TrainConfig, VerifierConfig, check_limits, contradictions, json_schema, laid_over, look_back, nested, preset
from wakekit.serve import work
from wakekit.serve.work import plan_training


def refused(overrides, *words):
    with pytest.raises(ConfigError) as e: plan_training(Settings(), "tiny", overrides)
    assert all(w in str(e.value) for w in words), str(e.value)


@pytest.mark.parametrize("config", [ModelConfig(), PRESETS["tiny"].model, ModelConfig(kernel=1, dilations=(1,)), ModelConfig(stride=3, kernel=7), ModelConfig(arch="bcresnet", channels=8), ModelConfig(features=FeatureConfig(n_fft=640, hop_length=80))], ids=str)
def test_how_far_a_network_looks_back(config):
    torch = pytest.importorskip("torch")
    from wakekit.learn.models import WakeModel
    model = WakeModel(config).eval()
    assert look_back(config) == model.receptive_field
    assert model(torch.zeros(1, look_back(config))).shape == (1, 1) and model(torch.zeros(1, look_back(config) + 2*model.step_samples)).shape == (1, 3)


def test_front_ends():
    for f in (FeatureConfig(), FeatureConfig(n_fft=320), FeatureConfig(n_fft=160), FeatureConfig(n_fft=512, hop_length=128), FeatureConfig(f_min=300, f_max=3400)): assert not contradictions(f)
    refused({"model.features.n_fft": 100}, "model.features.n_fft=100", "model.features.hop_length=160", "multiple of 160")
    refused({"model.features.hop_length": 960, "model.features.n_fft": 480}, "hop_length=960", "multiple of 960")
    refused({"model.features.hop_length": 150, "model.features.n_fft": 450}, "multiple of 300")
    refused({"model.features.f_min": 4000, "model.features.f_max": 500}, "f_min=4000", "f_max=500")
    refused({"model.features.f_min": 4000, "model.features.f_max": 4000}, "f_min=4000", "f_max=4000")
    refused({"model.features.f_min": 3000, "model.features.f_max": 3200}, "mel bands", "n_fft")
    refused({"verifier.features.f_max": 7000}, "verifier.features.f_max=7000", "features.f_max=7600")
    plan_training(Settings(), "tiny", {"verifier.features.f_max": 7000, "verifier.channels": 64, "verifier.steps": 0})
    refused({"model.features.n_mels": 64}, "must be 40")
    refused({"model.stride": 8, "model.features.hop_length": 240}, "model.stride=8", "model.features.hop_length=240", "80 ms")


def test_shares_of_a_batch():
    assert not contradictions(BatchConfig(batch_size=100, positive=.31, cut=.19, near_miss=.1, begun=.1, ended=.1, isolated=.1, hard=.1)), "exactly one"
    refused({"batch.hard": .6, "batch.near_miss": .2}, "batch.hard=0.6", "batch.near_miss=0.2", "make 1.27")
    refused({"batch.batch_size": 4, "batch.positive": .9, "batch.cut": 0, "batch.near_miss": 0, "batch.isolated": 0, "batch.hard": 0}, "batch.positive=0.9", "batch.batch_size=4", "one without it")
    refused({"batch.batch_size": 8, "batch.positive": .05}, "batch.positive=0.05", "0 of 8")
    refused({"batch.batch_size": 5, "batch.positive": .3, "batch.cut": .3, "batch.near_miss": .3, "batch.isolated": .1, "batch.hard": 0}, "batch.batch_size=5", "6 of 5", "another batch_size")
    for b in range(8, 300): assert not contradictions(BatchConfig(batch_size=b)), b


def test_where_the_phrase_ends():
    refused({"batch.end_steps": [8, 8]}, "end_steps=[8, 8]")
    refused({"batch.end_steps": [8, 27]}, "end_steps=[8, 27]", "batch.out_steps=26")
    refused({"batch.end_steps": [18, 8]}, "lowest first")
    plan_training(Settings(), "tiny", {"batch.end_steps": [8, 26], "pool_steps": 9})
    refused({"batch.end_steps": [8, 26], "pool_steps": 10}, "pool_steps=10", "lower pool_steps to 9")


def test_windows_are_no_films(): refused({"model.dilations": [64]*8}, "model.dilations=", "model.kernel=5", "at most 20 s")


def test_bands_and_masks():
    refused({"augment.band_low": [60, 3000]}, "augment.band_low=[60", "augment.band_high=[3000")
    refused({"verifier.augment.band_high": [300, 6500]}, "verifier.augment.band_low")
    refused({"augment.mask_mels": 40}, "between 0 and 39")
    draw(AugmentConfig(mask_mels=39, p_mask=1.), 4, np.random.default_rng(0))


def test_words_of_json():
    assert laid_over(TrainConfig(), {"epochs": 2.0}).epochs == 2 and type(laid_over(TrainConfig(), {"epochs": 2.0}).epochs) is int
    assert type(laid_over(TrainConfig(), {"lr": 1}).lr) is float
    for changes, words in (({"epochs": 2.5}, "epochs must be of type integer, not 2.5"), ({"epochs": "2"}, 'epochs must be of type integer, not "2"'), ({"epochs": [2]}, "integer"), ({"lr": False}, "number, not false"), ({"lr": 10**400}, "number"),
                           ({"batch": {"synthetic": "none"}}, "batch.synthetic must be of type number or null"), ({"start": 3}, "start must be of type string"), ({"model": {"features": []}}, "model.features must be of type object"), ({"model": {"dilations": "1,2"}}, "model.dilations must be of type array")):
        with pytest.raises(ConfigError) as e: laid_over(TrainConfig(), changes)
        assert words in str(e.value) and len(str(e.value)) < 200, str(e.value)
    assert laid_over(TrainConfig(), {"batch": {"synthetic": None}}).batch.synthetic is None


def test_dots_and_dicts():
    assert nested({"model.features.f_min": 80, "model": {"features": {"f_max": 7000}, "channels": 8}}) == {"model": {"features": {"f_min": 80, "f_max": 7000}, "channels": 8}}
    for twice in ({"model.channels": 8, "model": {"channels": 9}}, {"model": {"channels": 9}, "model.channels": 8}, {"model": 3, "model.channels": 8}, {"model.channels": 8, "model": 3}):
        with pytest.raises(ConfigError, match="model"): nested(twice)


def test_lists_on_the_command_line():
    assert preset("tiny", ["model.dilations=1,2,4"]) == preset("tiny", ["model.dilations=[1,2,4]"])
    assert preset("tiny", ["verifier.rates=1,0.8"]).verifier.rates == (1., .8)


def _leaves(config, where=""):
    for f in fields(config):
        value, limit = getattr(config, f.name), LIMITS[type(config)].get(f.name)
        if is_dataclass(value): yield from _leaves(value, f"{where}{f.name}.")
        elif limit: yield f"{where}{f.name}", value, limit

def test_no_slip_goes_through_and_no_default_is_refused():
    for name in PRESETS: plan_training(Settings(), name)
    for name, value, limit in _leaves(TrainConfig()):
        wrong = ["pretrained", 3] if isinstance(limit[0], str) else [math.nan, math.inf, -math.inf, limit[0] - 1, limit[1] + 1, 1e300, -1e300, "3", True]
        for w in wrong: refused({name: [w, w] if isinstance(value, tuple) else w}, name)


def test_a_form_says_what_is_accepted():
    form = json_schema(PRESETS["tiny"])["properties"]
    assert form["model"]["properties"]["dilations"]["items"]["type"] == "integer" and form["verifier"]["properties"]["rates"]["items"]["type"] == "number"
    assert form["warmup_steps"]["minimum"] == 1 and form["augment"]["properties"]["mask_mels"]["maximum"] == 39


def test_the_second_look_keeps_the_shape_of_its_encoder():
    torch = pytest.importorskip("torch")
    from wakekit.learn.verifier import pretrained_encoder
    pretrained_encoder(check_limits(VerifierConfig(rates=(.4, 1.), frames=64), "verifier."))
    for changes in ({"verifier.channels": 96}, {"verifier.dilations": [1, 1, 2, 2, 4, 4, 16]}, {"verifier.rates": [.3]}, {"verifier.frames": 63}, {"verifier.batch_size": 12}): refused(changes, next(iter(changes)))


def test_languages(monkeypatch):
    def missing(): raise MissingExtraError("espeakng_loader is not installed")
    monkeypatch.setattr(work, "languages", missing)
    assert plan_training(Settings(), language="xx-klingon")["language"] == "xx-klingon"  # the training will say what is missing
    monkeypatch.setattr(work, "languages", lambda: ["de", "en-gb", "en-us"])
    assert plan_training(Settings(), language="EN-us")["language"] == "EN-us"
    for language, near in (("en-uk", "en-us"), ("de-AT", "de"), ("xx-klingon", "one of de"), ("x"*10_000, "one of de")):
        with pytest.raises(ConfigError, match=near) as e: plan_training(Settings(), language=language)
        assert len(str(e.value)) < 300


@pytest.mark.parametrize("seed", range(3))
def test_what_is_accepted_makes_batches_that_fit(seed):
    "Random overrides within the limits: none that passes asks for more windows than there are, or for scores that are not there"
    rng, accepted = np.random.default_rng(seed), 0
    leaves = [(n, v, l) for n, v, l in _leaves(TrainConfig()) if not isinstance(l[0], str)]
    for _ in range(150):
        def one(value, limit): return int(rng.integers(limit[0], limit[1] + 1)) if isinstance(value, int) else float(rng.uniform(*limit))
        picked = [leaves[i] for i in rng.choice(len(leaves), 4, replace=False)]
        changes = {n: sorted(one(v[0], l) for _ in range(2)) if isinstance(v, tuple) else one(v, l) for n, v, l in picked}
        try: config = TrainConfig.from_dict(json.loads(json.dumps(plan_training(Settings(), "tiny", changes)["config"])))
        except ConfigError as e:
            assert any(n in str(e) for n in changes), (str(e), changes)
            continue
        accepted, b, f = accepted + 1, config.batch, config.model.features
        windows = [round(s*b.batch_size) for s in (b.positive, b.cut, b.near_miss, b.begun, b.ended, b.isolated, b.hard)]
        assert sum(windows) <= b.batch_size and 0 < windows[0] < b.batch_size and config.pool_steps <= b.out_steps and b.end_steps[0] < b.end_steps[1] <= b.out_steps
        assert f.n_fft%f.hop_length == 0 == f.n_fft%4 and f.f_min < f.f_max and config.model.stride*f.hop_length <= 1280
    assert accepted > 20, accepted
