"Settings from careless hands, and a machine without torch"
import os, subprocess, sys, textwrap
from dataclasses import fields
from pathlib import Path
import pytest
from wakekit.core import SettingsError
from wakekit.env import Settings, env_example
from wakekit.host import Probes, detect_host, optional

root = Path(__file__).parent.parent


def python(code, **env):
    "Standard output of `code` in a fresh process"
    got = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, env={**os.environ, **env}, cwd=root)
    assert got.returncode == 0, got.stderr
    return got.stdout.strip()


def test_env_example_is_in_sync():
    assert (root/".env.example").read_text(encoding="utf-8") == env_example(), "run `wakekit-test --fix`"


def test_env_file_from_windows(tmp_path):
    (tmp_path/".env").write_bytes("\ufeffWAKEKIT_SEED=7\r\nWAKEKIT_DEVICE=cpu\r\n".encode())
    s = Settings.load(tmp_path/".env", {})
    assert (s.seed, s.device) == (7, "cpu")


def test_env_file_that_is_no_text(tmp_path):
    (tmp_path/".env").write_bytes(b"WAKEKIT_SEED=\xff\xfe\x00")
    with pytest.raises(SettingsError, match="UTF-8"): Settings.load(tmp_path/".env", {})


@pytest.mark.parametrize("name, value", [("WAKEKIT_DEVICE", "cuda:"), ("WAKEKIT_QUANT_BACKEND", "fbgem"), ("WAKEKIT_COMPILE", "maybe"), ("WAKEKIT_DIST_BACKEND", "mpi"),
    ("WAKEKIT_MP_START", "thread"), ("WAKEKIT_NUM_WORKERS", "-3"), ("WAKEKIT_SEED", "zero")])
def test_an_impossible_value_names_the_setting_and_its_source(name, value):
    with pytest.raises(SettingsError, match=rf"{name} \(from environment\)"): Settings.load("", {name: value})


def test_a_misspelt_setting_is_reported(caplog):
    Settings.load("", {"WAKEKIT_QUANTBACKEND": "x86"})
    assert "did you mean WAKEKIT_QUANT_BACKEND" in caplog.text


def test_the_real_environment_beats_the_file(tmp_path):
    (tmp_path/".env").write_text("WAKEKIT_SEED=1\nWAKEKIT_PRESET=tiny\n", encoding="utf-8")
    code = f"from wakekit.env import Settings; s = Settings.load({str(tmp_path/'.env')!r}); print(s.seed, s.preset)"
    assert python(code, WAKEKIT_SEED="2") == "2 tiny"


def test_a_file_above_is_found(tmp_path):
    (tmp_path/".env").write_text("WAKEKIT_SEED=5\n", encoding="utf-8")
    (tmp_path/"nbs").mkdir()
    code = f"import os; os.chdir({str(tmp_path/'nbs')!r}); from wakekit.env import Settings; print(Settings.load().seed)"
    env = {k: v for k, v in os.environ.items() if k != "WAKEKIT_SEED"}
    got = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert got.stdout.strip() == "5", got.stderr


SECRETS = [f for f in fields(Settings) if f.metadata["secret"]]

def test_the_tokens_are_secrets(): assert {f.name for f in SECRETS} == {f.name for f in fields(Settings) if "token" in f.name or "password" in f.name or f.name.endswith("_key")} == {"api_token", "inference_token", "judge_key"}

@pytest.mark.parametrize("f", SECRETS, ids=lambda f: f.name)
def test_a_secret_is_read_and_nowhere_shown(tmp_path, f):
    (tmp_path/".env").write_text(f"{f.metadata['env']}=hunter2\n", encoding="utf-8")
    for s in (Settings.load(tmp_path/".env", {}), Settings.load("", {f.metadata["env"]: "hunter2"}), Settings.load("", {}, **{f.name: "hunter2"}), Settings(**{f.name: "hunter2"})):
        assert getattr(s, f.name) == "hunter2" and f.name not in s.to_dict()
        assert (s.row(f.name).value, s.row(f.name).resolved) == ("(set)", "(set)")
        for shown in (repr(s), str(s), s.to_json(), s._repr_markdown_(), str(s.row(f.name)), str(s.to_dict())): assert "hunter2" not in shown


def test_the_doctor_shows_no_secret():
    for how in ("[]", "['--json']"):
        out = python(f"""
            import sys
            sys.modules["torch"] = None
            from wakekit.cli import main
            main(["doctor", *{how}])
        """, **{f.metadata["env"]: "hunter2" for f in SECRETS})
        assert out.count("(set)") >= len(SECRETS) and "hunter2" not in out


def test_the_model_servers_token_is_the_services_where_it_has_none_of_its_own():
    for own, api, means in (("", "", ""), ("", "a", "a"), ("b", "", "b"), ("b", "a", "b")): assert Settings(api_token=api, inference_token=own).resolve("inference_token") == means


def test_without_torch_everything_but_torch_resolves():
    out = python("""
        import sys
        sys.modules["torch"] = None
        from wakekit.env import Settings, resolve_device, quant_scheme
        from wakekit.core import SettingsError
        from wakekit.doctor import doctor
        s = Settings.load("", {})
        print(s.resolve("device"), s.resolve("compile"), s.resolve("dist_backend"), s.resolve("mp_start") != "")
        try: resolve_device("cuda")
        except SettingsError as e: print("not installed" in str(e))
        print(any(c.name == "training" and c.status == "off" for c in doctor(s)))
    """)
    assert out.splitlines() == ["cpu off off True", "True", "True"]


def test_the_guard_hides_a_broken_torchaudio(tmp_path):
    "A torchaudio whose compiled part raises on import, as the one from PyPI does beside another torch"
    pytest.importorskip("torch")
    package = tmp_path/"torchaudio"
    (package/"_extension").mkdir(parents=True)
    (package/"__init__.py").write_text("from torchaudio import _extension\nfrom torchaudio import later\n", encoding="utf-8")
    (package/"later.py").write_text("from torchaudio._extension import _IS_TORCHAUDIO_EXT_AVAILABLE as ok\n", encoding="utf-8")
    for error in ("OSError('libc10_cuda.so')", "RuntimeError('different CUDA versions')"):
        (package/"_extension"/"__init__.py").write_text(f"raise {error}\n", encoding="utf-8")
        out = python(f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nfrom wakekit.env import torchaudio\nta = torchaudio()\nprint(ta.later.ok, ta.wakekit_guard)")
        assert out.startswith("False installed, but does not load: " + error.split("(")[0])


def test_a_device_tree_with_odd_bytes():
    host = detect_host(Probes("Linux", "armv7l", "6.6", {}, 4, {"/proc/device-tree/model": "Orange Pi 5\0", "/sys/fs/cgroup/cpu.max": "max 100000", "/sys/fs/cgroup/memory.max": "max"}))
    assert (host.board, host.cpus, host.memory_gb, host.jetson) == ("Orange Pi 5", 4, None, False)


def test_optional_tells_a_missing_dependency_from_a_missing_package(tmp_path, monkeypatch):
    (tmp_path/"needs_more.py").write_text("import a_thing_that_is_not_there", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    assert optional("needs_more")[1] == "needs a_thing_that_is_not_there, which is not installed"


def test_workers_on_a_cpu_are_none_unless_asked_for():
    "The table says what the trainer does"
    s = Settings.load("", {}, device="cpu")
    assert s.row("num_workers").resolved == "0" and s.replace(num_workers=3).resolve("num_workers") == 3
    assert Settings.load("", {"WAKEKIT_NUM_WORKERS": "2"}, device="cpu").row("num_workers").resolved == "2"
    assert Settings.load("", {}, device="cuda:99").row("num_workers").ok # the row of the device says what is wrong
