"Bad weather for files and configs: full disks, kills, two processes, misspelt fields"
import errno, os, subprocess, sys, textwrap, time
from dataclasses import dataclass
from pathlib import Path
import pytest
from wakekit import core
from wakekit.core import Config, ConfigError, LockError, atomic_write, file_lock, read_json, write_json


def names(folder): return sorted(p.name for p in folder.iterdir())


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    write_json(tmp_path/"a.json", {"old": 1})
    with pytest.raises(KeyboardInterrupt):
        with atomic_write(tmp_path/"a.json") as f:
            f.write(b"half")
            raise KeyboardInterrupt
    assert read_json(tmp_path/"a.json") == {"old": 1} and names(tmp_path) == ["a.json"]


@pytest.mark.parametrize("place", ["folder", "."])
def test_a_folder_is_no_file(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    (tmp_path/"folder").mkdir()
    with pytest.raises(IsADirectoryError) as e:
        with atomic_write(place) as f: f.write(b"x")
    assert e.value.filename == place and names(tmp_path) == ["folder"]  # and not the name of a temporary file


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch, failing):
    write_json(tmp_path/"a.json", {"old": 1})
    def full(*args, **kwargs): raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(core.os, failing, full)
    with pytest.raises(OSError, match="No space left"): write_json(tmp_path/"a.json", {"new": 2})
    monkeypatch.undo()
    assert read_json(tmp_path/"a.json") == {"old": 1} and names(tmp_path) == ["a.json"]


def test_an_object_that_cannot_be_written_leaves_the_old_file(tmp_path):
    class Odd:
        def __str__(self): raise ValueError("odd")
    write_json(tmp_path/"a.json", {"old": 1})
    with pytest.raises(ValueError): write_json(tmp_path/"a.json", {"new": Odd()})
    assert read_json(tmp_path/"a.json") == {"old": 1} and names(tmp_path) == ["a.json"]


@pytest.fixture
def tiny_disk(tmp_path):
    "A real file system of 64 kB"
    folder = tmp_path/"tiny"
    folder.mkdir()
    if sys.platform != "linux" or os.geteuid() != 0: pytest.skip("needs Linux and root to mount a tiny disk")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True).returncode: pytest.skip("may not mount here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_real_full_disk_leaves_the_old_file(tiny_disk):
    write_json(tiny_disk/"a.json", {"old": 1})
    with pytest.raises(OSError) as e: write_json(tiny_disk/"a.json", {"new": "x" * 200_000})
    assert e.value.errno == errno.ENOSPC
    assert read_json(tiny_disk/"a.json") == {"old": 1} and names(tiny_disk) == ["a.json"]
    write_json(tiny_disk/"a.json", {"new": 2})
    assert read_json(tiny_disk/"a.json") == {"new": 2}


WRITER = textwrap.dedent("""
    import sys
    from wakekit.core import write_json
    n = 0
    while True:
        write_json(sys.argv[1], {"n": n, "same": [n] * 20_000})
        if n == 0: print("writing", flush=True)
        n += 1
""")


def test_a_killed_writer_leaves_a_whole_file(tmp_path):
    "Killed at different moments of writing, the file is always one that was written to its end"
    for wait_s in (.0, .013, .031, .054, .077):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path/"a.json")], stdout=subprocess.PIPE)
        assert process.stdout.readline().strip() == b"writing"
        time.sleep(wait_s)
        process.kill()
        process.wait()
        process.stdout.close()
        found = read_json(tmp_path/"a.json")
        assert set(found["same"]) == {found["n"]} and len(found["same"]) == 20_000
    assert [n for n in names(tmp_path) if not n.endswith(".tmp")] == ["a.json"]


def test_a_written_file_keeps_its_permissions(tmp_path):
    if os.name == "nt": pytest.skip("Windows has other permissions")
    write_json(tmp_path/"a.json", 1)
    (tmp_path/"a.json").chmod(0o640)
    write_json(tmp_path/"a.json", 2)
    assert (tmp_path/"a.json").stat().st_mode & 0o777 == 0o640


def test_a_path_in_any_script(tmp_path):
    path = tmp_path/"录音 größe"/("é" * 60 + ".json")
    write_json(path, {"phrase": "привет"})
    assert read_json(path) == {"phrase": "привет"}


HOLDER = textwrap.dedent("""
    import sys, time
    from wakekit.core import file_lock
    with file_lock(sys.argv[1]):
        print("held", flush=True)
        time.sleep(60)
""")


def test_a_lock_holds_between_processes_and_dies_with_its_holder(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path/"lock")], stdout=subprocess.PIPE)
    assert holder.stdout.readline().strip() == b"held"
    with pytest.raises(LockError, match="held by another process"):
        with file_lock(tmp_path/"lock", timeout_s=.1): pass
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with file_lock(tmp_path/"lock", timeout_s=10): taken = True
    assert taken


@dataclass(frozen=True)
class Run(Config):
    lr:float = .001
    epochs:int = 10
    name:str = ""
    warmup:int|None = None


@pytest.mark.parametrize("d, words", [
    ({"epoch": 3}, "did you mean epochs"), ({"lr": "0.1"}, "lr must be float"), ({"epochs": 1.5}, "epochs must be int"),
    ({"epochs": True}, "epochs must be int"), ({"warmup": "x"}, "warmup must be int"), ([1], "must be a mapping")])
def test_a_bad_config_names_the_field(d, words):
    with pytest.raises(ConfigError, match=words): Run.from_dict(d)


def test_text_survives_as_text():
    assert Run().override(["name=42"]).name == "42"
    assert Run().override(["name=none of it", "warmup=none"]).warmup is None
    assert Run().override(["name=a=b"]).name == "a=b"


def test_damaged_json_names_the_file(tmp_path):
    (tmp_path/"cut.json").write_bytes(b'{"phrase": "\xff')
    with pytest.raises(ConfigError, match="cut.json is damaged"): read_json(tmp_path/"cut.json")
