"ESPHome's manifests: what its own schema says where esphome is installed, two manifests of its collection, and what is refused."
import copy, json, random
import pytest
from wakekit.ship.esphome import ManifestError, check_together, manifest_doubts, manifest_problems, read_manifest, write_manifest

# Two manifests of github.com/esphome/micro-wake-word-models (Apache-2.0): models/v2/okay_nabu.json and models/hey_jarvis.json, at 066901ef
OKAY_NABU = """{
  "type": "micro",
  "wake_word": "Okay Nabu",
  "author": "Kevin Ahrendt",
  "website": "https://www.kevinahrendt.com/",
  "model": "okay_nabu.tflite",
  "trained_languages": ["en"],
  "version": 2,
  "micro": {
    "probability_cutoff": 0.97,
    "feature_step_size": 10,
    "sliding_window_size": 5,
    "tensor_arena_size": 22860,
    "minimum_esphome_version": "2024.7.0"
  }
}
"""
HEY_JARVIS = """{
  "type": "micro",
  "wake_word": "Hey Jarvis",
  "author": "Kevin Ahrendt",
  "website": "https://www.kevinahrendt.com/",
  "model": "./hey_jarvis.tflite",
  "version": 1,
  "micro": {
    "probability_cutoff": 0.5,
    "sliding_window_average_size": 10
  }
}
"""
V2, V1 = json.loads(OKAY_NABU), json.loads(HEY_JARVIS)


def changed(base, path, value):
    "A copy with one field replaced, added, or (…) taken away"
    m = copy.deepcopy(base)
    *where, last = path.split(".")
    level = m[where[0]] if where else m
    if value is ...: level.pop(last, None)
    else: level[last] = value
    return m


@pytest.mark.parametrize("text", [OKAY_NABU, HEY_JARVIS])
def test_published_manifests_are_taken(tmp_path, text):
    (tmp_path/"m.json").write_text(text, encoding="utf-8")
    assert manifest_problems(json.loads(text)) == manifest_doubts(json.loads(text)) == []
    assert read_manifest(tmp_path/"m.json")["version"] == 2

def test_version_1_becomes_what_esphome_makes_of_it(tmp_path):
    (tmp_path/"m.json").write_text(HEY_JARVIS, encoding="utf-8")
    m = read_manifest(tmp_path/"m.json")
    assert m["micro"] == dict(probability_cutoff=.5, sliding_window_size=10, tensor_arena_size=45672, feature_step_size=20) and m["trained_languages"] == ["en"]
    with pytest.raises(ManifestError, match="Okay Nabu has 10 ms, Hey Jarvis has 20 ms"): check_together([V2, m])
    assert check_together([V2, {**V2, "wake_word": "Hey"}]) == 10 and check_together([]) == 0


@pytest.mark.parametrize("base, field, value, says", [
    (V2, "type", "nano", '"micro"'), (V2, "wake_word", None, "text, not null"), (V2, "author", ..., "is missing"), (V2, "model", ["a"], "text"), (V2, "trained_languages", ..., "is missing"),
    (V2, "trained_languages", ["en", None], "a list of texts"), (V2, "website", "kevinahrendt.com", "https://example.org"), (V1, "website", ..., "is missing"), (V2, "version", 3, "1 or 2"), (V2, "version", ..., "is missing"), (V2, "version", "2", "1 or 2"),
    (V2, "micro", ..., "is missing"), (V2, "micro", [], "a JSON object"), (V2, "micro.feature_step_size", 31, "from 0 to 30, not 31"), (V2, "micro.feature_step_size", -1, "from 0 to 30"), (V2, "micro.feature_step_size", 10.5, "whole number"),
    (V2, "micro.tensor_arena_size", ..., "is missing"), (V2, "micro.tensor_arena_size", "many", "whole number"), (V2, "micro.probability_cutoff", "high", "a number"), (V2, "micro.sliding_window_size", -1, "from 0 on"),
    (V2, "micro.minimum_esphome_version", ..., "is missing"), (V2, "micro.minimum_esphome_version", 2024.7, "a version"), (V1, "micro.minimum_esphome_version", "new", "a version"),
    (V2, "micro.sliding_window_average_size", 5, "no such field"), (V1, "micro.tensor_arena_size", 1000, "no such field"), (V2, "licence", "MIT", "no such field")])
def test_problems_name_field_and_rule(base, field, value, says):
    found = manifest_problems(changed(base, field, value))
    assert len(found) == 1 and found[0].startswith(field + ":") and says in found[0]


@pytest.mark.parametrize("field, value", [("micro.probability_cutoff", 1.0), ("micro.probability_cutoff", 0), ("micro.probability_cutoff", .003), ("micro.probability_cutoff", 97), ("micro.probability_cutoff", float("nan")), ("micro.probability_cutoff", "0.97"),
    ("micro.sliding_window_size", 0), ("micro.sliding_window_size", "5"), ("micro.sliding_window_size", True), ("micro.feature_step_size", 0), ("micro.tensor_arena_size", 0), ("micro.tensor_arena_size", -5),
    ("micro.minimum_esphome_version", "2024.7"), ("model", "https://example.org/x.tflite.zip"), ("model", "../x.tflite"), ("model", "/x.tflite"), ("model", "x.onnx"), ("wake_word", " "), ("trained_languages", [])])
def test_doubts_are_taken_by_esphome_and_name_the_field(field, value):
    m = changed(V2, field, value)
    found = manifest_doubts(m)
    assert manifest_problems(m) == [] and len(found) == 1 and found[0].startswith(field + ":")


@pytest.mark.parametrize("other", [None, [], "micro", 3, [V2]])
def test_what_is_no_manifest_at_all(other): assert "should be a JSON object" in manifest_problems(other)[0]


def mutants(n=4000, seed=0):
    "Manifests with one to three fields replaced by anything"
    rng = random.Random(seed)
    values = [..., None, True, False, 0, 1, 2, 5, 10, 30, 31, -1, 2.0, 2.5, 1e300, float("nan"), float("inf"), "", " ", "2", "10", "0x1F", "0x", "1_0", " 7 ", "+3", "-4", "1e3", "nan", "en", "micro", "true", [], {}, ["en"], ["en", 3, None], [["en"]], [True], {"a": 1},
              "https://x.org", "x.org", "file:", "file:///a", "//x", "http:/x", "https://[", "2024.7.0", "2024.7", "2024.7.0-dev", "2024.7.0.b1", "2024x7x0", "1.2", "12", "2024.7.0-dev1-2", "２.１.０", "٣"]
    fields = ["type", "wake_word", "author", "website", "model", "trained_languages", "version", "micro", "extra", "micro.extra", *(f"micro.{k}" for k in (*V2["micro"], "sliding_window_average_size"))]
    for _ in range(n):
        m = copy.deepcopy(rng.choice([V1, V2]))
        for _ in range(rng.choice([1, 1, 2, 3])):
            field = rng.choice(fields)
            if "." not in field or isinstance(m.get("micro"), dict): m = changed(m, field, rng.choice(values))
        yield m


def test_esphome_itself_agrees_about_every_mutant():
    component = pytest.importorskip("esphome.components.micro_wake_word", reason="pip install esphome")
    import esphome.config_validation as cv
    taken, refused, apart = 0, 0, []
    for m in mutants():
        try: component._validate_manifest_version(copy.deepcopy(m))
        except cv.Invalid: theirs = False
        except Exception: continue # it crashes on this one
        else: theirs = True
        if theirs == bool(manifest_problems(m)): apart.append((theirs, m, manifest_problems(m)))
        taken, refused = taken + theirs, refused + (not theirs)
    assert not apart, f"{len(apart)}: {apart[:4]}"
    assert taken > 300 and refused > 1000


def test_problems_and_doubts_never_crash():
    "Whatever the JSON holds"
    for m in mutants(seed=1):
        if not manifest_problems(m): assert isinstance(manifest_doubts(m), list)


def model(path, head=b"\x1c\0\0\0TFL3"):
    path.write_bytes(head + b"\0"*40)
    return path

def test_writing(tmp_path):
    p = write_manifest(model(tmp_path/"hey_kit.tflite"), "Hey Kit", "Me", "de", "https://example.org", tensor_arena_size=26080, probability_cutoff=.9)
    m = read_manifest(p)
    assert p == tmp_path/"hey_kit.json" and m["model"] == "hey_kit.tflite" and m["trained_languages"] == ["de"] and m["micro"]["probability_cutoff"] == .9 and m["website"] == "https://example.org"

@pytest.mark.parametrize("how, says", [(dict(), "micro.tensor_arena_size: is missing"), (dict(tensor_arena_size=1000, probability_cutoff=1), "micro.probability_cutoff: should lie"), (dict(tensor_arena_size=1000, website="me"), "website: should be an address"),
    (dict(tensor_arena_size=1000, window=5), "micro.window: there is no such field"), (dict(tensor_arena_size=1000, minimum_esphome_version="2024.7"), "three numbers"), (dict(tensor_arena_size=1000, trained_languages=[]), "trained_languages: is empty")])
def test_writing_refuses_what_would_not_work(tmp_path, how, says):
    with pytest.raises(ManifestError) as e: write_manifest(model(tmp_path/"hey_kit.tflite"), "Hey Kit", "Me", **how)
    assert says in str(e.value) and not (tmp_path/"hey_kit.json").exists()

def test_models_that_are_none(tmp_path):
    with pytest.raises(ManifestError, match="is not there"): write_manifest(tmp_path/"x.tflite", "Hey", "Me", tensor_arena_size=1)
    with pytest.raises(ManifestError, match="no TensorFlow Lite file"): write_manifest(model(tmp_path/"x.tflite", b"<!doctype html>"), "Hey", "Me", tensor_arena_size=1)
    for text, says in (("{", "is not JSON"), ("[]", "should be a JSON object"), ("{}", "version: is missing")):
        (tmp_path/"x.json").write_text(text)
        with pytest.raises(ManifestError, match=says): read_manifest(tmp_path/"x.json")
    with pytest.raises(ManifestError, match="is not there"): read_manifest(tmp_path/"y.json")
