"The model server as others' clients see it, its client as others' servers treat it, and the same models laid out for Triton."
import contextlib, gzip, hashlib, http.client, json, logging, os, shutil, signal, socket, subprocess, sys, threading, time
import numpy as np, pytest
pytest.importorskip("fastapi")
from wakekit.core import BundleError, ConfigError, read_json, write_json
from wakekit.env import Settings
from wakekit.serve import streams
from wakekit.serve.inference import MOST_BYTES, create_app
from wakekit.serve.remote import Breaker, ModelServer, Refused, RemoteError, RemoteModels, RemoteSession, ServerAway
from wakekit.serve.store import NoModel, Store, store_of
from wakekit.serve.tensors import pack, unpack
from wakekit.serve.triton import lay_out, parts_of
from wakekit.ship.stream import Bundle, Detector, graph_session
from wakekit.ship.toy import chime, toy_bundle

SR = 16_000


def sound(at=(1, 4), seconds=6., seed=0):
    x = (.001*np.random.default_rng(seed).standard_normal(int(seconds*SR))).astype(np.float32)
    for s in at: x[int(s*SR):][:5120] += chime()[:len(x) - int(s*SR)]
    return x
def times(events): return [e.time_s for e in events]
def changed(path, change):
    "Change a bundle's graph, checksums and all"
    content = change((path/"model.onnx").read_bytes())
    (path/"model.onnx").write_bytes(content)
    m = read_json(path/"manifest.json")
    m["files"]["model.onnx"] = dict(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
    write_json(path/"manifest.json", m)
    return path
def any_streams(content):
    "As exported graphs are: any number of streams"
    import onnx
    model = onnx.load_from_string(content)
    for port in (*model.graph.input, *model.graph.output): port.type.tensor_type.shape.dim[0].dim_param = "n_streams"
    return model.SerializeToString()
def registered(home, *thresholds, current=None):
    for n, t in enumerate(thresholds, 1): toy_bundle(home/str(n), verify=True, threshold=t)
    write_json(home/"registry.json", dict(name=home.name, current=current or len(thresholds), versions=[dict(number=n + 1) for n in range(len(thresholds))], history=[]))
    return home

@contextlib.contextmanager
def serving(root, store=None, **how):
    "(URL, service) of a model server in a thread"
    import uvicorn
    app = create_app(Settings(models_dir=root, **{k: how.pop(k) for k in list(how) if k in ("api_token", "inference_token")}), store, **how)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=2))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        thread = threading.Thread(target=server.run, args=([taken],), daemon=True)
        thread.start()
        until(lambda: server.started)
        yield f"http://127.0.0.1:{taken.getsockname()[1]}", app.state.service
        server.should_exit = True
        thread.join(30)

def until(true, seconds=60):
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, "it did not come true"
        time.sleep(.01)
    return found
def ready(url):
    with contextlib.suppress(OSError, http.client.HTTPException): return call(url, "GET", "/v2/health/ready")[0] == 200
def call(url, method, path, body=None, headers={}):
    "(status, JSON or bytes)"
    line = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
    with contextlib.closing(line):
        line.request(method, path, body, headers)
        r = line.getresponse()
        found = r.read()
    return r.status, json.loads(found or b"{}") if r.headers.get_content_type() == "application/json" else found

@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("served")/"models"
    registered(root/"kitchen", .5, .6)
    changed(toy_bundle(root/"hall", phrase="dong ding"), any_streams)
    return root

@pytest.fixture(scope="module")
def url(models):
    with serving(models) as (url, _):
        until(lambda: ready(url))
        yield url

@pytest.fixture
def bundle(models): return models/"kitchen"/"2"
@pytest.fixture
def feeds(bundle):
    b = Bundle.load(bundle)
    return dict(pcm=sound((.1,), .8)[None], state=np.zeros((1, b.manifest["state_size"]), np.float32))
def local(folder, feeds): return dict(zip(("score", "state_out"), graph_session(Bundle.load(folder)).run(["score", "state_out"], feeds)))


# ---- the protocol's public client

@pytest.fixture
def triton(url):
    client = pytest.importorskip("tritonclient.http")
    with client.InferenceServerClient(url.removeprefix("http://"), connection_timeout=60., network_timeout=60.) as web: yield web

def asked(feeds, binary=True):
    client, out = pytest.importorskip("tritonclient.http"), []
    for name, x in feeds.items():
        kind = {"float32": "FP32", "int16": "INT16", "float64": "FP64"}[str(x.dtype)]
        out.append(client.InferInput(name, list(x.shape), kind))
        out[-1].set_data_from_numpy(x, binary_data=binary)
    return out

def test_triton_client_reads_about_server_and_models(triton, models):
    assert triton.is_server_live() and triton.is_server_ready() and triton.get_server_metadata()["name"] == "wakekit"
    assert "binary_tensor_data" in triton.get_server_metadata()["extensions"]
    for name, version in (("kitchen", ""), ("kitchen", "1"), ("kitchen", "2"), ("kitchen_verifier", ""), ("hall", "1")): assert triton.is_model_ready(name, version)
    assert not triton.is_model_ready("attic") and not triton.is_model_ready("kitchen", "7") and not triton.is_model_ready("hall_verifier")
    about = triton.get_model_metadata("hall")
    size = Bundle.load(models/"hall").manifest["state_size"]
    assert about["inputs"] == [dict(name="pcm", datatype="FP32", shape=[-1, -1]), dict(name="state", datatype="FP32", shape=[-1, size])]
    assert about["outputs"] == [dict(name="score", datatype="FP32", shape=[-1, -1]), dict(name="state_out", datatype="FP32", shape=[-1, size])]
    assert triton.get_model_metadata("kitchen", "1")["versions"] == ["1", "2"] and json.loads(triton.get_model_metadata("kitchen", "1")["parameters"]["wakekit_manifest"])["graphs"]["float32"]["threshold"] == .5
    config = triton.get_model_config("hall")
    assert config["max_batch_size"] > 1 and config["input"][1] == dict(name="state", data_type="TYPE_FP32", dims=[size])

@pytest.mark.parametrize("binary_in,binary_out", [(True, True), (True, False), (False, True), (False, False)])
def test_triton_client_gets_the_scores_of_the_local_session(triton, bundle, feeds, binary_in, binary_out):
    client = pytest.importorskip("tritonclient.http")
    outputs = [client.InferRequestedOutput(n, binary_data=binary_out) for n in ("state_out", "score")]
    found, expected = triton.infer("kitchen", asked(feeds, binary_in), outputs=outputs, request_id="7"), local(bundle, feeds)
    for name in expected: assert found.as_numpy(name).dtype == np.float32 and (found.as_numpy(name) == expected[name]).all(), name
    assert expected["score"].max() > .9 and found.get_response()["id"] == "7" and found.get_response()["model_version"] == "2"

def test_triton_client_other_ways_to_ask(triton, models, bundle, feeds):
    client, expected = pytest.importorskip("tritonclient.http"), local(bundle, feeds)
    assert (triton.infer("kitchen", asked(feeds)).as_numpy("score") == expected["score"]).all() # no outputs named: all of them
    mixed = [*asked(dict(pcm=feeds["pcm"])), *asked(dict(state=feeds["state"]), False)]
    assert (triton.infer("kitchen", mixed, model_version="1").as_numpy("state_out") == expected["state_out"]).all()
    for how in ("gzip", "deflate"): assert (triton.infer("kitchen", asked(feeds), request_compression_algorithm=how).as_numpy("score") == expected["score"]).all()
    small = dict(feeds, pcm=np.rint(feeds["pcm"]*32767).astype(np.int16))
    assert (triton.infer("kitchen", asked(small)).as_numpy("score") == local(bundle, dict(feeds, pcm=small["pcm"].astype(np.float32)/32768))["score"]).all()
    window = dict(pcm=sound((.6,), 1.)[None])
    assert triton.infer("kitchen_verifier", asked(window)).as_numpy("logit") == graph_session.__globals__["verifier_session"](Bundle.load(bundle)).run(None, window)[0]
    one, many = [client.InferRequestedOutput("score")], dict(pcm=np.stack([sound((.1,), .8, seed) for seed in range(5)]), state=np.zeros((5, feeds["state"].shape[1]), np.float32))
    found = triton.infer("hall", asked(many), outputs=one)
    assert found.as_numpy("state_out") is None and (found.as_numpy("score") == local(models/"hall", many)["score"]).all() and found.as_numpy("score").shape == (5, 40)

def test_triton_client_loads_and_unloads(models, tmp_path):
    client = pytest.importorskip("tritonclient.http")
    shutil.copytree(models, tmp_path/"models")
    with serving(tmp_path/"models") as (url, service), client.InferenceServerClient(url.removeprefix("http://")) as triton:
        until(triton.is_server_ready)
        rows = lambda: {(r["name"], r["version"]): r["state"] for r in triton.get_model_repository_index()}
        assert rows() == {("kitchen", "2"): "READY", ("kitchen_verifier", "2"): "READY", ("hall", "1"): "READY", ("kitchen", "1"): "UNAVAILABLE"}
        assert triton.is_model_ready("kitchen", "1") and rows()["kitchen_verifier", "1"] == "READY" # loaded because somebody asked
        triton.unload_model("kitchen")
        assert not triton.is_model_ready("kitchen") and not triton.is_model_ready("kitchen_verifier") and triton.is_model_ready("hall") and rows()["kitchen", "2"] == "UNAVAILABLE"
        with pytest.raises(client.InferenceServerException, match="no model 'kitchen'"): triton.infer("kitchen", asked(dict(pcm=np.zeros((1, 320), np.float32))))
        service.store.refresh()
        assert not triton.is_model_ready("kitchen") # what was unloaded stays away
        triton.load_model("kitchen")
        assert triton.is_model_ready("kitchen") and rows()["kitchen", "2"] == "READY"
        for name in ("attic", "kitchen_verifier"):
            with pytest.raises(client.InferenceServerException, match=name): triton.load_model(name)
        with pytest.raises(client.InferenceServerException, match="as they lie in the store"): triton.load_model("hall", config="{}")
        toy_bundle(tmp_path/"models"/"attic", phrase="new")
        triton.load_model("attic") # at once, without waiting for the next look
        assert triton.is_model_ready("attic")

def test_triton_client_is_told_what_is_wrong(triton, feeds):
    client = pytest.importorskip("tritonclient.http")
    for name, wrong, version, status, what in (("attic", feeds, "", "404", "there is no model"), ("kitchen", feeds, "9", "404", "no version '9'"), ("kitchen", dict(pcm=feeds["pcm"]), "", "400", "takes pcm, state"), ("kitchen", dict(feeds, pcm=feeds["pcm"][:, :100]), "", "400", "whole steps"),
                                               ("kitchen", dict(feeds, pcm=feeds["pcm"].astype(float)), "", "400", "is FP32"), ("kitchen", {n: np.repeat(x, 2, 0) for n, x in feeds.items()}, "", "400", "one stream at a time"), ("hall", dict(feeds, pcm=np.repeat(feeds["pcm"], 2, 0)), "", "400", "same"),
                                               ("kitchen", dict(feeds, state=feeds["state"]*np.nan), "", "400", "no numbers"), ("hall", {n: np.zeros((65, x.shape[1]), np.float32)[:, :x.shape[1]] for n, x in feeds.items()}, "", "400", "64 streams")):
        with pytest.raises(client.InferenceServerException, match=what) as e: triton.infer(name, asked(wrong), model_version=version)
        assert e.value.status() == status, e.value
    for odd in (client.InferRequestedOutput("logit"), client.InferRequestedOutput("score", class_count=3)):
        with pytest.raises(client.InferenceServerException, match="outputs"): triton.infer("kitchen", asked(feeds), outputs=[odd])


# ---- what anybody may send

def good(feeds): return pack(dict(outputs=[dict(name="score", parameters=dict(binary_data=True))]), "inputs", feeds)

def test_nonsense_gets_the_protocols_errors_and_nobody_else_is_disturbed(url, models, feeds):
    body, n = good(feeds)
    length = lambda n: {"Inference-Header-Content-Length": str(n)}
    infer, index = "/v2/models/kitchen/infer", "/v2/repository/index"
    cases = [(infer, b"", {}, 400), (infer, b"<html>", {}, 400), (infer, b"{}", {}, 400), (infer, body, {}, 400), (infer, body, length(n - 1), 400), (infer, body[:-5], length(n), 400), (infer, body + b"12", length(n), 400), (infer, body, length(len(body) + 1), 400), (infer, body, length("x"), 400), (infer, body, length(-1), 400),
             (infer, body, {**length(n), "Content-Encoding": "br"}, 415), (infer, body, {**length(n), "Content-Encoding": "gzip"}, 400), (infer, gzip.compress(body)[:-9], {**length(n), "Content-Encoding": "gzip"}, 400), (infer, gzip.compress(bytes(MOST_BYTES + 2)), {"Content-Encoding": "gzip"}, 413),
             ("/v2/models/../../etc/passwd/infer", body, length(n), 404), ("/v2/models/kitchen/versions/..%2F1/infer", body, length(n), 404), ("/v2/models//infer", body, length(n), 404), ("/v2/models/kitchen/versions/1e999/infer", body, length(n), 404), ("/v2/nowhere", b"", {}, 404), (infer + "/", body, length(n), 307),
             (index, b"[1]", {}, 400), (index, b"{", {}, 400), ("/v2/repository/models/kitchen/load", b'{"parameters": {"file:x": "eA=="}}', {}, 400), ("/v2/repository/models/kitchen/load", b'{"parameters": 5}', {}, 400), ("/v2/repository/models/..%2Fx/load", b"", {}, 404), ("/v2/repository/models/kitchen_verifier/unload", b"", {}, 400), ("/v2", b"", {}, 405)]
    for path, sent, headers, status in cases:
        got, said = call(url, "POST", path, sent, headers)
        assert got == status, (path, sent[:60], headers, got, said)
        if status != 307: assert list(said) == ["error"] and said["error"] and "Traceback" not in said["error"] and str(models) not in said["error"], said
        assert call(url, "POST", infer, body, length(n))[0] == 200
    assert call(url, "POST", infer, body, {**length(n), "Content-Length": str(MOST_BYTES + 1)})[0] == 413

def test_what_makes_no_numbers_is_told_as_an_error_of_the_request(url, feeds):
    for wrong in (dict(feeds, pcm=np.full_like(feeds["pcm"], 1e38)), dict(feeds, pcm=np.array(.5, np.float32))):
        body, n = good(wrong)
        status, said = call(url, "POST", "/v2/models/kitchen/infer", body, {"Inference-Header-Content-Length": str(n)})
        assert status == 400 and said["error"]

def test_a_bundle_that_changes_while_it_is_read_is_read_at_the_next_look(tmp_path, monkeypatch):
    toy_bundle(tmp_path/"models"/"hall", threshold=.6)
    load = Bundle.load
    def slow(where):
        found = load(where)
        monkeypatch.setattr(Bundle, "load", load)
        toy_bundle(tmp_path/"models"/"hall", threshold=.7)
        return found
    monkeypatch.setattr(Bundle, "load", slow)
    store = Store(tmp_path/"models").refresh()
    assert not store.served and "being changed" in store.problems["hall"]
    assert store.refresh().served["hall"].about()["threshold"] == .7 and not store.problems

def test_requests_that_break_off(url, feeds):
    body, n = good(feeds)
    at = tuple(url.removeprefix("http://").split(":"))
    for cut in (1, len(body)//2, len(body) - 1):
        with socket.create_connection(at, timeout=30) as s:
            s.sendall(f"POST /v2/models/kitchen/infer HTTP/1.1\r\nHost: x\r\nInference-Header-Content-Length: {n}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body[:cut])
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0") # a reset, not an end
        assert call(url, "POST", "/v2/models/kitchen/infer", body, {"Inference-Header-Content-Length": str(n)})[0] == 200

def test_bytes_changed_at_random_make_no_server_error(url, feeds):
    rng, short = np.random.default_rng(7), dict(feeds, pcm=feeds["pcm"][:, :640])
    line, seen = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30), set()
    for _ in range(400):
        binary = rng.random() < .5
        body, n = pack(dict(id="1", outputs=[dict(name="score")], parameters=dict(binary_data_output=True)), "inputs", short, None if binary else ())
        odd, head = bytearray(body), n or len(body)
        for _ in range(int(rng.integers(1, 4))): odd[int(rng.integers(min(400, head)))] = int(rng.integers(256))
        line.request("POST", "/v2/models/kitchen/infer", bytes(odd), {"Inference-Header-Content-Length": str(n)} if binary else {})
        r = line.getresponse()
        said = r.read()
        assert r.status in (200, 400), (r.status, bytes(odd[:400]), said[:300])
        if r.status == 400: assert list(json.loads(said)) == ["error"]
        seen.add(r.status)
    line.close()
    assert seen == {200, 400}

def test_a_token(models):
    with serving(models, api_token="secret") as (url, _):
        until(lambda: ready(url)) # asks for none
        assert call(url, "GET", "/v2/models/kitchen") == (401, dict(error="this service asks for a token: send Authorization: Bearer <token>")) and call(url, "GET", "/metrics")[0] == 401
        with pytest.raises(Refused, match="asks for a token"): RemoteModels(url).models()
        assert set(RemoteModels(url, "secret").models()) == {"kitchen", "hall"}

def test_the_model_server_has_a_token_of_its_own_where_one_is_set(models, tmp_path):
    "Whoever may call the detection service may not load and unload its models"
    with serving(models, api_token="for callers", inference_token="for graphs") as (url, _):
        until(lambda: ready(url))
        for token, status in (("for callers", 401), ("", 401), ("for graphs", 200)): assert call(url, "POST", "/v2/repository/models/hall/load", b"", {"Authorization": f"Bearer {token}"})[0] == status
        settings = Settings(models_dir=tmp_path/"none", inference_url=url, api_token="for callers", inference_token="for graphs")
        assert set(store_of(settings).refresh().served) == {"kitchen", "hall"}
        store = store_of(settings.replace(inference_token="")).refresh()
        assert not store.served and "401" in store.problems["none"] and "WAKEKIT_INFERENCE_TOKEN" in store.problems["none"]
        assert "for callers" not in str(store.problems)

@pytest.mark.parametrize("token", ["geheim-ü", "日本語 €", "x"*1000, "a:b=c;d,e"])
def test_a_token_of_any_letters(models, token):
    with serving(models, inference_token=token) as (url, _):
        until(lambda: ready(url))
        assert set(RemoteModels(url, token).models()) == {"kitchen", "hall"}
        with pytest.raises(Refused, match="401"): RemoteModels(url, token + "x").models()

@pytest.mark.parametrize("api, own, sent", [("for callers", "for graphs", b"Bearer for graphs"), ("for callers", "", b"Bearer for callers"), ("", "for graphs", b"Bearer for graphs"), ("", "", None)])
def test_which_token_is_sent(tmp_path, odd, api, own, sent):
    "In each request; and none to wherever a server points"
    seen, elsewhere = [], odd(lambda s: None)
    def points_elsewhere(s):
        while found := request_of(s):
            seen.append(next((l.partition(b": ")[2] for l in found[1].split(b"\r\n") if l.lower().startswith(b"authorization:")), None))
            s.sendall(f"HTTP/1.1 307 x\r\nLocation: {elsewhere.url}/v2\r\nContent-Length: 0\r\n\r\n".encode())
    store = store_of(Settings(models_dir=tmp_path/"none", inference_url=odd(points_elsewhere).url, api_token=api, inference_token=own))
    for _ in range(2): assert "answers 307" in store.refresh().problems["none"]
    assert seen == [sent]*2 and elsewhere.n == 0

@pytest.mark.parametrize("url, warned", [("http://inference:8001", True), ("http://192.168.0.7:8001", True), ("http://[2001:db8::1]:8001", True), ("http://127.0.0.1.example:8001", True), ("http://localhost.example", True),
                                         ("https://inference:8001", False), ("http://127.0.0.1:8001", False), ("http://127.9.8.7", False), ("http://[::1]:8001", False), ("http://LOCALHOST:8001", False)])
def test_a_token_that_others_could_read_on_its_way(caplog, url, warned):
    RemoteModels(url)
    assert not caplog.records # there is nothing to read
    RemoteModels(url, "for graphs")
    assert [r.levelno for r in caplog.records] == [logging.WARNING]*warned and "for graphs" not in caplog.text
    if warned: assert url in caplog.text and "use https, or a network" in caplog.text

def test_the_warning_comes_once_and_the_token_goes_there_all_the_same(models, tmp_path, caplog):
    with serving(models, inference_token="for graphs") as (url, _):
        until(lambda: ready(url))
        store = store_of(Settings(models_dir=tmp_path/"none", inference_url="http://inference.example:8001", inference_token="for graphs"))
        store.on.server._line = ModelServer(url)._line # where that name leads
        for _ in range(3): store.refresh()
        served = store.get("kitchen")
        assert times(Detector(served.bundle).detect(sound())) == times(Detector(models/"kitchen"/"2").detect(sound())) != []
    assert caplog.text.count("use https") == 1 and "for graphs" not in caplog.text

def test_what_cannot_be_a_token_or_an_address_is_refused_and_not_shown(tmp_path):
    for token in ("hunter2\n", "hunter2\r\nX-Other: 1", "hunter2\0", "\thunter2"):
        with pytest.raises(ConfigError, match="WAKEKIT_INFERENCE_TOKEN") as e: store_of(Settings(models_dir=tmp_path, inference_url="http://127.0.0.1:1", inference_token=token))
        assert "hunter2" not in str(e.value)
    with pytest.raises(ConfigError, match="no address of a model server.*WAKEKIT_INFERENCE_TOKEN") as e: ModelServer("http://me:hunter2@inference:8001")
    assert "hunter2" not in str(e.value)

def test_it_is_ready_when_its_models_are_warm(models):
    gate, store = threading.Event(), Store(models)
    refresh = store.refresh
    def slow():
        assert gate.wait(60)
        return refresh()
    store.refresh = slow
    with serving(models, store) as (url, _):
        assert call(url, "GET", "/v2/health/live")[0] == 200
        for method, path in (("GET", "/v2/health/ready"), ("GET", "/v2/models/kitchen/ready"), ("GET", "/v2/models/kitchen"), ("POST", "/v2/models/kitchen/infer")):
            status, said = call(url, method, path)
            assert status == 503 and "being loaded" in said["error"]
        patient = threading.Thread(target=lambda: found.append(RemoteSession(ModelServer(url, patience_s=60), "kitchen")), daemon=True)
        found = []
        patient.start() # a client that comes too early waits
        gate.set()
        until(lambda: ready(url))
        patient.join(60)
        assert [p.name for p in found[0].get_inputs()] == ["pcm", "state"]

def test_without_models_it_is_not_ready_until_there_is_one(tmp_path):
    (tmp_path/"models").mkdir()
    with serving(tmp_path/"models", Store(tmp_path/"models", check_every_s=.05)) as (url, service):
        until(lambda: service.loaded)
        assert call(url, "GET", "/v2/health/ready") == (503, dict(error="no model is loaded: put a bundle into models, or promote one there"))
        toy_bundle(tmp_path/"models"/"hall")
        until(lambda: ready(url))


# ---- models that change

def test_versions_pins_and_a_hot_promotion(tmp_path, feeds):
    home = registered(tmp_path/"models"/"kitchen", .5, .6)
    for n in (1, 2): changed(home/str(n), lambda c: c + bytes([0x32, 1, 96 + n]))
    threshold = lambda path: json.loads(call(url, "GET", path)[1]["parameters"]["wakekit_manifest"])["graphs"]["float32"]["threshold"]
    with serving(home.parent, Store(home.parent, check_every_s=.05)) as (url, service):
        until(lambda: ready(url))
        assert [threshold(f"/v2/models/kitchen{v}") for v in ("", "/versions/1", "/versions/2")] == [.6, .5, .6]
        shutil.copytree(home/"1", home/"3")
        write_json(home/"registry.json", dict(name="kitchen", current=3, versions=[dict(number=n) for n in (1, 2, 3)], history=[]))
        body, n = good(feeds)
        asked_for = lambda path: call(url, "POST", path, body, {"Inference-Header-Content-Length": str(n)})
        while b'"model_version": "3"' not in (found := asked_for("/v2/models/kitchen/infer"))[1]: assert found[0] == 200 # nobody is turned away meanwhile
        assert b'"model_version": "2"' in asked_for("/v2/models/kitchen/versions/2/infer")[1] # for streams that have not changed over
    with serving(home.parent, Store(home.parent, dict(kitchen="2"))) as (url, _):
        until(lambda: ready(url))
        assert threshold("/v2/models/kitchen") == .6

def test_a_bundle_with_a_wrong_checksum_is_refused_and_the_old_one_goes_on(tmp_path, feeds):
    toy_bundle(tmp_path/"models"/"hall")
    body, n = good(feeds)
    with serving(tmp_path/"models", Store(tmp_path/"models", check_every_s=.05)) as (url, service):
        until(lambda: ready(url))
        before = service.store.served["hall"].digest
        toy_bundle(tmp_path/"new", threshold=.7)
        (tmp_path/"new"/"model.onnx").write_bytes(b"x" + (tmp_path/"new"/"model.onnx").read_bytes()[1:])
        shutil.copytree(tmp_path/"new", tmp_path/"models"/"attic")
        shutil.copytree(tmp_path/"new", tmp_path/"models"/"hall", dirs_exist_ok=True)
        until(lambda: set(service.store.problems) == {"hall", "attic"})
        assert call(url, "POST", "/v2/models/hall/infer", body, {"Inference-Header-Content-Length": str(n)})[0] == 200 and service.store.served["hall"].digest == before
        status, said = call(url, "GET", "/v2/models/attic")
        assert status == 404 and "SHA-256" in said["error"] and str(tmp_path) not in said["error"]
        status, said = call(url, "POST", "/v2/repository/models/attic/load")
        assert status == 400 and "SHA-256" in said["error"] and str(tmp_path) not in said["error"]
        rows = call(url, "POST", "/v2/repository/index")[1]
        assert "SHA-256" in next(r["reason"] for r in rows if r["name"] == "attic") and str(tmp_path) not in json.dumps(rows)
        assert b"wakekit_model_problems 2.0" in call(url, "GET", "/metrics")[1]
        toy_bundle(tmp_path/"models"/"hall", threshold=.7)
        until(lambda: service.store.served["hall"].digest != before)


# ---- detectors whose graphs run there

def test_a_remote_detector_is_the_local_one(url, models):
    x = sound((1, 3.5), 6)
    remote, alone = Store(models, on=RemoteModels(url)).refresh(), Store(models.parent/"nowhere", on=RemoteModels(url)).refresh()
    assert set(remote.served) == set(alone.served) == {"kitchen", "hall"} and not remote.problems and not alone.problems
    for name, folder in (("kitchen", models/"kitchen"/"2"), ("hall", models/"hall")):
        expected = Detector(folder).score(x)
        for store in (remote, alone):
            served = store.get(name)
            assert isinstance(served.bundle.sessions["float32"], RemoteSession) and served.digest == Store(models).refresh().get(name).digest
            assert (Detector(served.bundle).score(x) == expected).all() and Detector(served.bundle).detect(x) == Detector(folder).detect(x) != []
            d, cuts = Detector(served.bundle), (0, 1, 5001, 37_000, len(x))
            pieces = [d.score(x[a:b]) for a, b in zip(cuts, cuts[1:])] # of any length
            assert np.allclose(np.concatenate(pieces), expected, atol=1e-6)
    with pytest.raises(BundleError, match="no graph 'int8'"): Detector(alone.get("hall").bundle, graph="int8")
    assert alone.get("kitchen", "1").bundle.manifest["graphs"]["float32"]["threshold"] == remote.get("kitchen", "1").bundle.manifest["graphs"]["float32"]["threshold"] == .5
    assert Store(models.parent/"nowhere", dict(kitchen="1"), on=RemoteModels(url)).refresh().get("kitchen").version == "1"
    with pytest.raises(RemoteError, match="no version '9'"): alone.get("kitchen", "9")
    with pytest.raises(NoModel): remote.get("kitchen", "9")

def test_streams_of_a_remote_model_share_requests(url, models, monkeypatch):
    served, sent, run = Store(models, on=RemoteModels(url)).refresh().select(["hall"]), [], RemoteSession.run
    monkeypatch.setattr(RemoteSession, "run", lambda self, names, feeds: (sent.append(len(feeds["pcm"])), run(self, names, feeds))[1])
    xs = [np.rint(32767*sound((1 + .1*i,), 3, i)).astype("<i2") for i in range(5)]
    lines, heard = [streams.Stream(served) for _ in xs], [[] for _ in xs]
    for at in range(0, 3*SR, 3200):
        for s, x in zip(lines, xs): s.feed(x[at:at + 3200].tobytes())
        for h, out in zip(heard, streams.work(lines)): h += out
    assert set(sent) == {5} and [[m["time_s"] for m in h if m["type"] == "event"] for h in heard] == [times(Detector(models/"hall").process(x)) for x in xs]

def test_frames_for_the_second_look_go_there_and_come_back(tmp_path, monkeypatch):
    "A bundle whose first look hands its frames over: alone, several streams in one request, and as Triton reads it"
    folder = changed(toy_bundle(tmp_path/"models"/"porch", verify=True, mel=True), any_streams)
    xs = [np.rint(32767*sound((1 + .1*i, 2.5), 4, i)).astype("<i2") for i in range(4)]
    expected = [Detector(folder).process(x) for x in xs]
    assert all(len(e) for e in expected)
    with serving(tmp_path/"models") as (url, _):
        until(lambda: ready(url))
        served = [Store(tmp_path/where, on=RemoteModels(url)).refresh().get("porch") for where in ("models", "nowhere")]
        for s in served: assert [times(Detector(s.bundle).process(x)) for x in xs] == [times(e) for e in expected]
        for store in (Store(tmp_path/"models"), Store(tmp_path/"nowhere", on=RemoteModels(url))):
            lines, heard = [streams.Stream(store.refresh().select(["porch"])) for _ in xs], [[] for _ in xs]
            for at in range(0, 4*SR, 3200):
                for s, x in zip(lines, xs): s.feed(x[at:at + 3200].tobytes())
                for h, out in zip(heard, streams.work(lines)): h += out
            assert [[m["time_s"] for m in h if m["type"] == "event"] for h in heard] == [times(e) for e in expected]
    written = {w["name"]: w for w in lay_out(Store(tmp_path/"models").refresh(), tmp_path/"triton")}
    assert 'name: "mel"' in (tmp_path/"triton"/"porch"/"config.pbtxt").read_text() and "porch_verifier" in written

def test_many_threads_one_session(url, models):
    served, wrong = Store(models, on=RemoteModels(url)).refresh().get("kitchen"), []
    xs = [sound((1,), 2.5, seed) for seed in range(8)]
    expected = [Detector(models/"kitchen"/"2").score(x) for x in xs]
    def run(i):
        for _ in range(3):
            if not (Detector(served.bundle).score(xs[i]) == expected[i]).all(): wrong.append(i)
    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(8)]
    for t in threads: t.start()
    for t in threads: t.join(60)
    assert not wrong and not any(t.is_alive() for t in threads)

def test_the_detection_service_with_its_graphs_elsewhere(url, models, tmp_path):
    import io, soundfile as sf
    from fastapi.testclient import TestClient
    from wakekit.serve.detect import create_app as detection
    out = io.BytesIO()
    sf.write(out, sound(), SR, format="WAV", subtype="FLOAT")
    settings = Settings(models_dir=tmp_path/"none", inference_url=url)
    with TestClient(detection(settings, store_of(settings))) as web:
        until(lambda: web.get("/ready").status_code == 200)
        found = web.post("/detect?model=kitchen", content=out.getvalue(), headers={"Content-Type": "audio/wav"}).json()
    assert times(Detector(models/"kitchen"/"2").detect(sound())) == [e["time_s"] for e in found["events"]] != [] and found["models"][0]["version"] == "2"

def test_folder_and_server_have_to_agree(url, models, tmp_path):
    registered(tmp_path/"models"/"kitchen", .5, .6, .7)
    store = Store(tmp_path/"models", on=RemoteModels(url)).refresh() # version 3 is not there yet
    assert not store.served and "404" in store.problems["kitchen"]
    toy_bundle(tmp_path/"models"/"kitchen"/"2", verify=True, threshold=.65)
    write_json(tmp_path/"models"/"kitchen"/"registry.json", dict(name="kitchen", current=2, versions=[dict(number=2)], history=[]))
    assert "it is used when both agree" in store.refresh().problems["kitchen"]
    shutil.rmtree(tmp_path/"models")
    shutil.copytree(models, tmp_path/"models")
    assert set(store.refresh().served) == {"hall", "kitchen"} and not store.problems

def test_a_model_that_is_exchanged_under_its_version_is_noticed(tmp_path):
    changed(toy_bundle(tmp_path/"models"/"hall"), any_streams)
    with serving(tmp_path/"models", Store(tmp_path/"models", check_every_s=.05)) as (url, service):
        until(lambda: ready(url))
        remote = Store(tmp_path/"nowhere", on=RemoteModels(url)).refresh()
        d = Detector(remote.get("hall").bundle)
        assert times(d.process(sound((1,), 2))) != []
        toy_bundle(tmp_path/"models"/"hall", threshold=.6)
        until(lambda: service.store.served["hall"].bundle.manifest["graphs"]["float32"]["threshold"] == .6)
        with pytest.raises(Refused, match="another hall now"): d.process(sound((1,), 2))
        assert Detector(remote.refresh().get("hall").bundle).threshold == .6


# ---- a model server as it should not be

class Odd:
    "A server at a socket that does what it is told to with each connection; counts them"
    def __init__(self, do):
        self.do, self.n, self.socket, self.open = do, 0, socket.create_server(("127.0.0.1", 0)), []
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        threading.Thread(target=self._run, daemon=True).start()
    def _run(self):
        with contextlib.suppress(OSError):
            while True:
                s, _ = self.socket.accept()
                self.n += 1
                self.open.append(s)
                threading.Thread(target=self._one, args=(s,), daemon=True).start()
    def _one(self, s):
        with contextlib.suppress(OSError): self.do(s)
    def close(self):
        with contextlib.suppress(OSError): self.socket.shutdown(socket.SHUT_RDWR)
        for s in (self.socket, *self.open): s.close()

@pytest.fixture
def odd():
    made = []
    def make(do):
        made.append(Odd(do))
        return made[-1]
    yield make
    for o in made: o.close()

def request_of(s):
    "Read a request from a socket; False when there is none"
    got = b""
    while b"\r\n\r\n" not in got:
        if not (more := s.recv(65536)): return False
        got += more
    head, _, body = got.partition(b"\r\n\r\n")
    n = next((int(l.split(b":")[1]) for l in head.split(b"\r\n") if l.lower().startswith(b"content-length:")), 0)
    while len(body) < n: body += s.recv(65536)
    return head.split(b" ")[1].decode(), head, body

def session_on(url, bundle, **how):
    "A session of a good server, moved to another address"
    s = RemoteSession(url, "kitchen", "2", expect=lambda f: dict(score=(1, f["pcm"].shape[1]//320), state_out=f["state"].shape))
    def move(to, **more): s.server = ModelServer(to, **{**dict(patience_s=.2, answer_s=10., breaker=Breaker(failures=1000)), **more})
    return s, move

def test_answers_that_are_none(url, bundle, feeds, odd):
    session, move = session_on(url, bundle)
    expected = local(bundle, feeds)
    body, n = pack({}, "outputs", expected)
    answer = lambda body, n=None, status="200 OK", more="": f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n".encode() + (f"Inference-Header-Content-Length: {n}\r\n" if n is not None else "").encode() + more.encode() + b"\r\n" + body
    spoilt = lambda **how: answer(*pack({}, "outputs", {**expected, **how}))
    json_answer, _ = pack({}, "outputs", expected, ())
    for i, (sent, kind, what) in enumerate([
        (answer(b"<html>It works!</html>"), RemoteError, "nonsense"), (answer(b""), RemoteError, "nonsense"), (answer(b"[]"), RemoteError, "nonsense"), (answer(b'{"outputs": []}'), RemoteError, "nonsense"), (answer(body), RemoteError, "nonsense"), (answer(body, n + 1), RemoteError, "nonsense"), (answer(body[:-7], n), RemoteError, "nonsense"),
        (answer(body, "many"), RemoteError, "nonsense"), (answer(body + b"x", n), RemoteError, "nonsense"), (spoilt(score=expected["score"]*np.float32(np.nan)), RemoteError, "no numbers"), (spoilt(score=expected["score"] + 1), RemoteError, "lies in"), (spoilt(score=expected["score"][:, 1:]), RemoteError, "not float32"), (spoilt(score=expected["score"][None]), RemoteError, "not float32"),
        (spoilt(state_out=expected["state_out"][:, :-1]), RemoteError, "not float32"), (spoilt(state_out=expected["state_out"].astype(float)), RemoteError, "not float32"), (spoilt(state_out=expected["state_out"]*np.float32(np.inf)), RemoteError, "no numbers"), (answer(*pack({}, "outputs", dict(score=expected["score"]))), RemoteError, "no state_out"),
        (answer(b"oops", status="500 Internal Server Error"), RemoteError, "answers 500"), (answer(b"", status="302 Found", more="Location: http://other.example/\r\n"), RemoteError, "other.example"), (answer(b'{"error": "no such version"}', status="404 Not Found"), Refused, "no such version"), (answer(b"<html>", status="403 Forbidden"), Refused, "403"),
        (answer(b'{"error": "busy"}', status="503 Service Unavailable"), ServerAway, "busy"), (b"SSH-2.0-OpenSSH_9.2\r\n", RemoteError, "does not speak HTTP"), (b"HTTP/1.1 two hundred\r\n\r\n", RemoteError, "does not speak HTTP"), (b"\x16\x03\x01\x02\x00"*100, RemoteError, "does not speak HTTP"), (b"HTTP/1.1 200 OK\r\n" + b"x"*70_000, RemoteError, "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n"*500 + b"\r\n", RemoteError, "does not speak HTTP"), (f"HTTP/1.1 200 OK\r\nContent-Length: {10**12}\r\n\r\n".encode() + body, ServerAway, "too early"), (answer(body, n)[:-9], ServerAway, "too early"), (answer(body, n)[:40], RemoteError, None), (b"", ServerAway, "cannot be reached"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", ServerAway, "cannot be reached"), (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel", ServerAway, "cannot be reached"), (answer(json_answer, status="200 OK"), None, "")]):
        def once(s):
            if request_of(s): s.sendall(sent)
            s.shutdown(socket.SHUT_WR)
        move(odd(once).url)
        if kind is None: assert (session.run(["score"], feeds)[0] == expected["score"]).all() # numbers in JSON are an answer, too
        else:
            with pytest.raises(kind, match=what) as e: session.run(["score", "state_out"], feeds)
            assert type(e.value) is kind or not what, (i, e.value)
            assert str(e.value).count("\n") == 0 and len(str(e.value)) < 600
    move(url)
    assert (session.run(None, feeds)[0] == expected["score"]).all()

def test_too_large_an_answer_is_not_read_to_its_end(url, bundle, feeds, odd, monkeypatch):
    session, move = session_on(url, bundle)
    monkeypatch.setattr("wakekit.serve.remote.MOST_BYTES", 100_000)
    def flood(s):
        request_of(s)
        s.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        while True: s.sendall(b"x"*65536)
    move(odd(flood).url)
    with pytest.raises(RemoteError, match="more than 100000 bytes"): session.run(None, feeds)

@pytest.mark.parametrize("how", ["hangs", "trickles its head", "trickles its body", "does not accept"])
def test_a_slow_server_is_given_up_in_time_and_not_asked_twice(url, bundle, feeds, odd, how):
    session, move = session_on(url, bundle)
    gate = threading.Event()
    def slow(s):
        request_of(s)
        if how == "hangs": gate.wait(60)
        s.sendall(b"HTTP/1.1 200 OK\r\n" if how == "trickles its head" else b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        while not gate.wait(.02): s.sendall(b"x")
    server = odd(slow)
    if how == "does not accept":
        full = socket.create_server(("127.0.0.1", 0), backlog=0)
        crowd = [socket.socket() for _ in range(4)]
        for c in crowd:
            c.setblocking(False)
            c.connect_ex(full.getsockname())
        move(f"http://127.0.0.1:{full.getsockname()[1]}", answer_s=.3, connect_s=.3)
    else: move(server.url, answer_s=.3, patience_s=30.)
    with pytest.raises(ServerAway, match="not answered within|cannot be reached"): session.run(None, feeds)
    assert server.n <= 1
    gate.set()
    if how == "does not accept":
        for c in (full, *crowd): c.close()

def test_connections_that_the_server_has_dropped_are_no_failure(url, bundle, feeds, odd):
    session, move = session_on(url, bundle)
    out, n = pack({}, "outputs", local(bundle, feeds))
    def rude(s): # promises to stay, and goes after the first answer
        request_of(s)
        s.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(out)}\r\nInference-Header-Content-Length: {n}\r\n\r\n".encode() + out)
        s.close()
    server = odd(rude)
    move(server.url, patience_s=0.)
    for _ in range(5): session.run(None, feeds)
    assert server.n == 5 and session.server.breaker.failed == 0

def test_connections_are_kept(url, bundle, feeds):
    real, session = ModelServer._connected, RemoteSession(url, "kitchen")
    n = []
    def count(self):
        n.append(1)
        return real(self)
    ModelServer._connected = count
    try:
        for _ in range(20): session.run(["score"], feeds)
    finally: ModelServer._connected = real
    assert len(n) <= 1 # the session has asked once before

def test_a_dead_server_is_left_alone_and_tried_again(url, bundle, feeds, odd):
    now, session = [0.], session_on(url, bundle)[0]
    seen = odd(lambda s: s.close()) # there, and hangs up at once
    session.server = ModelServer(seen.url, patience_s=0, breaker=Breaker(3, 5., clock=lambda: now[0]))
    for _ in range(10):
        with pytest.raises(ServerAway): session.run(None, feeds)
    assert seen.n == 3 # then nobody knocked any more
    with pytest.raises(ServerAway, match="left alone for a moment after 3 failures"): session.run(None, feeds)
    now[0] = 5.1
    for _ in range(5):
        with pytest.raises(ServerAway): session.run(None, feeds)
    assert seen.n == 4 # one tried
    now[0], good = 11., ModelServer(url)
    session.server._line = good._line # it is back
    session.run(None, feeds)
    assert not session.server.breaker.open and session.server.breaker.failed == 0
    session.run(None, feeds)


# ---- the process

def command(models, port, *more):
    code = "import sys\nfor m in ('torch', 'torchaudio', 'librosa', 'onnx', 'sqlalchemy'): sys.modules[m] = None\nimport wakekit.cli_detect\nfrom wakekit.cli_data import commands\nsys.exit(commands.run())"
    return subprocess.Popen([sys.executable, "-c", code, "serve", "inference", "--models", str(models), "--port", str(port), *more], stderr=subprocess.PIPE, text=True, env={**os.environ, "WAKEKIT_API_TOKEN": "", "WAKEKIT_INFERENCE_TOKEN": ""})

@contextlib.contextmanager
def process(models, port, *more):
    p = command(models, port, *more)
    said = p.said = []
    threading.Thread(target=lambda: [said.append(l) for l in p.stderr], daemon=True).start()
    try:
        until(lambda: ready(f"http://127.0.0.1:{port}") or p.poll() is not None)
        assert p.poll() is None, "".join(said)
        yield p
    finally:
        p.kill()
        p.wait(30)

@pytest.fixture
def port():
    "Where nobody listens, and which nobody else is given: on Linux a socket may be bound to it beside the one that listens"
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind(("127.0.0.1", 0))
        n = s.getsockname()[1]
        if sys.platform != "linux": s.close()
        yield n

def test_a_server_that_restarts_in_the_middle_of_a_stream(models, port):
    "Killed and started again: nothing of a stream is lost; with no patience it is told so, and goes on afterwards"
    x = sound((1, 4, 7, 10), 12)
    expected = times(Detector(models/"kitchen"/"2").process(x))
    assert len(expected) == 4
    chunks = [x[i:i + 3200] for i in range(0, len(x), 3200)]
    with process(models, port):
        patient = Detector(Store(models, on=RemoteModels(ModelServer(f"http://127.0.0.1:{port}", patience_s=120., answer_s=60.))).refresh().get("kitchen").bundle)
        hasty = Detector(Store(models, on=RemoteModels(ModelServer(f"http://127.0.0.1:{port}", patience_s=0., answer_s=60., breaker=Breaker(2, .05)))).refresh().get("kitchen").bundle)
        heard, heard_too = [], []
        for c in chunks[:25]: heard, heard_too = heard + patient.process(c), heard_too + hasty.process(c)
    for c in chunks[25:28]: # it is gone
        with pytest.raises(ServerAway): hasty.process(c)
    rest = []
    going_on = threading.Thread(target=lambda: rest.extend(e for c in chunks[25:] for e in patient.process(c)), daemon=True)
    going_on.start() # its first request finds nobody
    with process(models, port) as p:
        going_on.join(120)
        assert times(heard + rest) == expected
        def back():
            with contextlib.suppress(ServerAway): return hasty._session.server.ask("GET", "/v2/health/live")
        until(back) # as long as the breaker rests, nobody is asked
        for c in chunks[28:]: heard_too += hasty.process(c)
        assert len(heard_too) == 4 and times(heard_too)[:2] == expected[:2]
        p.send_signal(signal.SIGTERM)
        assert p.wait(60) in (0, -signal.SIGTERM), p.said
    assert "Traceback" not in "".join(p.said) and f"WAKEKIT_INFERENCE_URL=http://127.0.0.1:{port}" in "".join(p.said)

def test_the_client_needs_neither_torch_nor_a_web_framework(url, models):
    code = "import sys\nfor m in ('torch', 'fastapi', 'starlette', 'uvicorn', 'onnx', 'sqlalchemy', 'httpx2'): sys.modules[m] = None\nfrom wakekit.serve.store import Store\nfrom wakekit.serve.remote import RemoteModels\n"
    code += f"print(sorted(Store('nowhere', on=RemoteModels({url!r})).refresh().served))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120).stdout.strip() == "['hall', 'kitchen']"


# ---- Triton

def test_what_triton_reads_is_valid_and_fits_the_graphs(models, tmp_path):
    pb2 = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    import onnxruntime as ort
    from google.protobuf import text_format
    written = lay_out(Store(models).refresh(), tmp_path/"triton", sequences=True)
    assert {w["name"]: w["version"] for w in written} == {"kitchen": 2, "kitchen_verifier": 2, "hall": 1, "hall_sequence": 1}
    for w in written:
        home = tmp_path/"triton"/w["name"]
        c = text_format.Parse((home/"config.pbtxt").read_text(), pb2.ModelConfig()) # fails at any field or value that Triton does not have
        assert c.name == home.name and c.backend == "onnxruntime" and list(c.version_policy.specific.versions) == [w["version"]]
        session = ort.InferenceSession(str(home/str(w["version"])/c.default_model_filename), providers=["CPUExecutionProvider"])
        batch = [-1]*(c.max_batch_size > 0)
        told = {p.name: (p.data_type, batch + list(p.dims)) for p in (*c.input, *c.output)}
        if c.HasField("sequence_batching"):
            state, = c.sequence_batching.state
            assert (state.input_name, state.output_name) == ("state", "state_out") and state.initial_state[0].zero_data and list(state.initial_state[0].dims) == list(state.dims) and c.sequence_batching.WhichOneof("strategy_choice") == "oldest"
            told |= {n: (state.data_type, batch + list(state.dims)) for n in (state.input_name, state.output_name)}
        graph = {p.name: (pb2.TYPE_FP32, [d if isinstance(d, int) else -1 for d in p.shape]) for p in (*session.get_inputs(), *session.get_outputs())}
        assert told == graph, home.name
        for warm in c.model_warmup: # as Triton would warm it up
            out = session.run(None, {n: np.zeros(([1]*len(batch)) + list(i.dims), np.float32) for n, i in warm.inputs.items()})
            assert all(np.isfinite(o).all() for o in out) and all(i.zero_data for i in warm.inputs.values())
        assert json.loads(c.parameters["wakekit_manifest"].string_value)["phrase"] == w["phrase"] and c.parameters["wakekit_digest"].string_value == w["digest"] and c.parameters["wakekit_version"].string_value == str(w["version"])
    assert text_format.Parse((tmp_path/"triton"/"hall"/"config.pbtxt").read_text(), pb2.ModelConfig()).HasField("dynamic_batching")

def test_a_phrase_of_any_letters_survives_the_configuration(tmp_path):
    pb2 = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    from google.protobuf import text_format
    phrase = 'hé "wake"\\ 你好\n\t😀 \x7f'
    toy_bundle(tmp_path/"models"/"odd ünïcode", phrase=phrase)
    lay_out(Store(tmp_path/"models").refresh(), tmp_path/"triton")
    c = text_format.Parse((tmp_path/"triton"/"odd ünïcode"/"config.pbtxt").read_text(encoding="utf-8"), pb2.ModelConfig())
    assert c.name == "odd ünïcode" and json.loads(c.parameters["wakekit_manifest"].string_value)["phrase"] == phrase
    with serving(tmp_path/"models") as (url, _):
        until(lambda: ready(url))
        assert Store(tmp_path/"none", on=RemoteModels(url)).refresh().get("odd ünïcode").phrase == phrase

def test_a_server_that_tells_of_models_as_triton_does(url, models, odd):
    "No parameters in the metadata, but in the configuration, and of one version only"
    def relay(s):
        while found := request_of(s):
            path, head, body = found
            headers = {k.decode(): v.decode() for k, v in (l.split(b": ", 1) for l in head.split(b"\r\n")[1:] if b": " in l)}
            line = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
            line.request(head.split(b" ")[0].decode(), path, body, {k: v for k, v in headers.items() if k.lower() != "host"})
            r = line.getresponse()
            out, n = r.read(), r.headers.get("Inference-Header-Content-Length")
            if "/infer" not in path and "/config" not in path and path.startswith("/v2/models/"): out = json.dumps({k: v for k, v in json.loads(out).items() if k != "parameters"}).encode()
            if "/infer" in path:
                tensors = unpack(out, n, "outputs")[1]
                out, n = pack(dict(model_name="x"), "outputs", tensors)
            s.sendall(f"HTTP/1.1 {r.status} x\r\nContent-Length: {len(out)}\r\n".encode() + (f"Inference-Header-Content-Length: {n}\r\n" if n else "").encode() + b"\r\n" + out)
            line.close()
    there = odd(relay).url
    for store in (Store(models, on=RemoteModels(there)).refresh(), Store(models.parent/"nowhere", on=RemoteModels(there)).refresh()):
        assert set(store.served) == {"kitchen", "hall"} and not store.problems
        assert times(Detector(store.get("kitchen").bundle).detect(sound())) == times(Detector(models/"kitchen"/"2").detect(sound())) != []

def test_laying_out_again(tmp_path):
    home, there = registered(tmp_path/"models"/"kitchen", .5, .6, .7, current=2), tmp_path/"triton"
    def versions(): return sorted(p.name for p in (there/"kitchen").iterdir() if p.is_dir()), (there/"kitchen"/"config.pbtxt").read_text().split("versions: ")[1].split("\n")[0]
    def promote(n):
        write_json(home/"registry.json", dict(name="kitchen", current=n, versions=[dict(number=i) for i in (1, 2, 3)], history=[]))
        lay_out(store.refresh(), there)
    store = Store(tmp_path/"models")
    promote(2)
    assert versions() == (["2"], "[2]")
    promote(3)
    assert versions() == (["2", "3"], "[2, 3]") # streams of the second go on
    promote(2)
    assert versions() == (["2"], "[2]") # the highest number that is there is what Triton serves by default
    promote(1)
    assert versions() == (["1"], "[1]")
    assert [p.name for p in parts_of(store.get("kitchen"))] == ["kitchen", "kitchen_verifier"] and (there/"kitchen_verifier"/"1"/"model.onnx").read_bytes() == (home/"1"/"verifier.onnx").read_bytes()
    (there/"mine").mkdir()
    (there/"mine"/"config.pbtxt").write_text('name: "mine"\n')
    toy_bundle(tmp_path/"models"/"mine")
    with pytest.raises(Exception, match="not wakekit's"): lay_out(store.refresh(), there)
    assert (there/"mine"/"config.pbtxt").read_text() == 'name: "mine"\n'
