"""Kill -9 whoever works on a dataset, at random moments, and look whether a clip was lost, doubled or half-written.

    python bench/kill_data.py                        (100 kills of each kind, some minutes)
    python bench/kill_data.py --kills 10 --kinds import trash --out found.json

Each round copies a dataset, starts a process that imports (a folder, or a zip file), trashes, restores, relabels, empties the trash or freezes a version, and kills it: every other time after a random while, and else right before the n-th of its file operations (rename, unlink, fsync, mkdir), with n drawn at random. Imports commit 12 clips at a time here, so that there is a middle.
Then all files are read, byte by byte and not through the index: each clip that was there is there once, in the trash or not, with its samples and its sidecar; what the process had reported as done is done; the operation can be finished as if nothing had happened.
The tally goes to stdout as JSON (and to --out). Exit code 1 when anything was wrong. Needs fork, so not Windows.
"""
import argparse, hashlib, itertools, json, os, random, shutil, signal, sys, tempfile, time, wave
from collections import Counter
from pathlib import Path
import numpy as np
from wakekit.data import imports
from wakekit.data.audio import save_audio
from wakekit.data.interchange import Dataset
from wakekit.ship.speed import machine

KINDS = ("import", "trash", "restore", "relabel", "purge", "zip", "freeze")
CLIPS, MORE = 16, 48 # Clips that are there, recordings that are imported


def voice(seed): return (np.random.default_rng(seed).standard_normal(4_000)*.1).astype(np.float32)
def sound(path):
    "SHA-256 of a WAV file's samples, and how many"
    with wave.open(str(path)) as w:
        n = w.getnframes()
        data = w.readframes(n)
    if len(data) != 2*n: raise ValueError(f"{path.name} is cut off")
    return hashlib.sha256(data).hexdigest(), n

def prepare(work):
    "The dataset that each round starts from, and what is imported"
    ds = Dataset.create(work/"base", "hey jarvis")
    for i in range(CLIPS): ds.add(voice(i), "positive" if i % 2 else "negative", speaker=f"s{i % 5}", notes=f"clip {i}")
    for i in range(MORE): save_audio(work/"usb"/("positive" if i % 3 else "noise")/f"{i}.wav", voice(1000 + i))
    shutil.make_archive(str(work/"usb"), "zip", work, "usb")

def act(kind, path, work, tell):
    "What is interrupted; tells each step that is done"
    ds = Dataset.open(path)
    tell("start")
    if kind == "import": tell(len(ds.import_folder(work/"usb").added))
    elif kind == "zip": tell(len(ds.import_zip(work/"usb.zip").added))
    elif kind == "purge": tell(ds.purge())
    elif kind == "freeze":
        for i in range(100):
            if not (path/"versions"/f"v{i}.json").exists(): tell(ds.freeze(f"v{i}").name)
            if i > 10: break
    else:
        for c in ds.clips(trashed=kind == "restore"):
            if kind == "relabel": ds.update(c.id, label="noise", speaker="new")
            else: getattr(ds, kind)(c.id)
            tell(c.id)

def arm(last):
    "Count file operations; before number `last` the process kills itself as hard as it can"
    count = itertools.count(1)
    for name in ("replace", "rename", "unlink", "fsync", "mkdir"):
        def counted(*args, _real=getattr(os, name), **kwargs):
            if next(count) == last: os.kill(os.getpid(), signal.SIGKILL)
            return _real(*args, **kwargs)
        setattr(os, name, counted)
    return lambda: next(count) - 1

def started(kind, path, work, last=0):
    "(pid, pipe) of a child that acts; it has opened the dataset"
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        os.close(read)
        try:
            imports.BATCH = 12
            done = arm(last)
            act(kind, path, work, lambda what: os.write(write, f"{what}\n".encode()))
            os.write(write, f"steps {done()}\n".encode())
            os._exit(0)
        except BaseException as e:
            os.write(write, f"error {e!r}\n".encode())
            os._exit(3)
    os.close(write)
    pipe = os.fdopen(read)
    pipe.readline()
    return pid, pipe

def whole(path, wrong):
    "{id: (place, sidecar)} of all clips, from their files alone"
    found = {}
    for place in ("clips", "trash"):
        for wav in sorted((path/place).glob("*.wav")):
            if wav.stem in found: wrong["doubled"] += 1
            try:
                sha, n = sound(wav)
                sidecar = json.loads(wav.with_suffix(".json").read_text(encoding="utf-8"))
                if not sha == sidecar["sha256"] or not wav.stem == sidecar["id"] == sha[:16] or abs(sidecar["duration_s"] - n/16_000) > 1e-9: wrong["half_written"] += 1
            except Exception: wrong["half_written"] += 1
            else: found[wav.stem] = place, sidecar
    return found

def judge(kind, path, before, said, wrong):
    "Everything that must hold after a kill"
    ds = Dataset.open(path)
    if ds.problems: wrong["problems"] += 1
    found = whole(path, wrong)
    listed = {c.id: "trash" if c.trashed else "clips" for t in (False, True) for c in ds.clips(trashed=t)}
    if listed != {i: place for i, (place, _) in found.items()}: wrong["index"] += 1
    for id, (place, old) in before.items():
        if id not in found:
            if not (kind == "purge" and place == "trash"): wrong["lost"] += 1
            continue
        new = found[id][1]
        same = {k: v for k, v in new.items() if k not in ("label", "speaker")} == {k: v for k, v in old.items() if k not in ("label", "speaker")}
        changed = (new["label"], new["speaker"]) != (old["label"], old["speaker"])
        if not same or changed and (kind != "relabel" or (new["label"], new["speaker"]) != ("noise", "new")): wrong["changed"] += 1
        if kind not in ("trash", "restore") and found[id][0] != place: wrong["moved"] += 1
    for id in said:
        done = {"trash": lambda: found[id][0] == "trash", "restore": lambda: found[id][0] == "clips", "relabel": lambda: found[id][1]["label"] == "noise"}.get(kind, lambda: True)
        if kind in ("trash", "restore", "relabel") and not done(): wrong["forgotten"] += 1
    if kind == "freeze" and not set(said) <= {v.name for v in ds.versions()}: wrong["forgotten"] += 1
    if {p.name for p, _ in ds.problems}: wrong["problems"] += 1
    return found

def again(kind, path, work, before, wrong):
    "Finish it, as if nothing had happened"
    act(kind, path, work, lambda what: None)
    found = whole(path, wrong)
    wanted = {"import": CLIPS + MORE, "zip": CLIPS + MORE, "purge": sum(place == "clips" for place, _ in before.values())}.get(kind, CLIPS)
    right = len(found) == wanted and all({"trash": place == "trash", "restore": place == "clips", "relabel": d["label"] == "noise"}.get(kind, True) for place, d in found.values())
    if not right: wrong["not_finished"] += 1
    if kind == "purge" and any((path/"trash").iterdir()): wrong["left_in_trash"] += 1
    wrong["without_recording"] += sum(not p.with_suffix(".wav").exists() for place in ("clips", "trash") for p in (path/place).glob("*.json"))
    if [p for p in path.iterdir() if p.name not in (".lock", "clips", "trash", "dataset.json", "index.sqlite", "versions") and not p.name.startswith((".unpack-", "index.sqlite"))]: wrong["stray"] += 1

def rounds(kind, kills, work, rng):
    "Tally of one kind"
    wrong, tally, took, steps = Counter(), Counter(), None, 0
    while tally["killed"] < kills:
        path = work/"round"
        shutil.copytree(work/"base", path)
        ds = Dataset.open(path)
        for c in ds.clips() if kind in ("restore", "purge") else ():
            if kind == "restore" or int(c.id, 16) % 2: ds.trash(c.id)
        before = whole(path, wrong)
        pid, pipe = started(kind, path, work, rng.randint(1, steps) if steps and tally["killed"] % 2 else 0)
        if took is None:  # once, to know how long it takes
            t = time.monotonic()
            said = pipe.read().split()
            os.waitpid(pid, 0)
            took, steps = time.monotonic() - t, int(said[-1])
        else:
            # one that kills itself is given time; it is a zombie then, and the kill does nothing
            time.sleep(rng.uniform(0, took) if not tally["killed"] % 2 else 2*took + .2)
            os.kill(pid, signal.SIGKILL)
            said = pipe.read().split()
            _, status = os.waitpid(pid, 0)
            tally["killed"] += os.WIFSIGNALED(status)
            tally["too_late"] += not os.WIFSIGNALED(status)
            if any(w == "error" for w in said): wrong["errors"] += 1
            found = judge(kind, path, before, [w for w in said if w in before or kind == "freeze" and w.startswith("v")], wrong)
            done = {"trash": sum(p == "trash" for p, _ in found.values()), "restore": sum(p == "clips" for p, _ in found.values()), "relabel": sum(d["label"] == "noise" for _, d in found.values()),
                    "purge": len(before) - len(found), "freeze": len(list((path/"versions").glob("v*.json")))}.get(kind, len(found) - len(before))
            tally["in_the_middle"] += 0 < done < {"import": MORE, "zip": MORE, "purge": len([1 for p, _ in before.values() if p == "trash"]), "freeze": 12}.get(kind, CLIPS)
            again(kind, path, work, before, wrong)
        pipe.close()
        shutil.rmtree(path)
    return dict(tally) | dict(operation_s=round(took, 3), steps=steps, wrong=dict(+wrong))

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--kills", type=int, default=100, help="of each kind")
    p.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", type=Path, help="also write the tally there")
    a = p.parse_args()
    if not hasattr(os, "fork"): sys.exit("this needs fork, which Windows does not have")
    work, rng, found = Path(tempfile.mkdtemp()), random.Random(a.seed), {}
    try:
        prepare(work)
        for kind in a.kinds:
            found[kind] = rounds(kind, a.kills, work, rng)
            print(f"{kind}: {found[kind]}", file=sys.stderr, flush=True)
    finally: shutil.rmtree(work, ignore_errors=True)
    tally = dict(command=f"python bench/kill_data.py --kills {a.kills} --seed {a.seed} --kinds {' '.join(a.kinds)}", kills=sum(f["killed"] for f in found.values()), wrong=sum(sum(f["wrong"].values()) for f in found.values()), kinds=found, machine=machine(),
        figures={k: dict(value=sum(f["wrong"].values()), unit=f"of {f['killed']}", what=f"kills in the middle of {k} after which the dataset did not open, lacked a clip, had one twice or refused the next step", command=f"python bench/kill_data.py --kills {a.kills} --kinds {k}") for k, f in found.items()},
        cannot_show="kill -9, as of a program that dies; not a machine whose power goes, where the disk decides what was written.")
    print(json.dumps(tally, indent=1))
    if a.out: a.out.write_text(json.dumps(tally, indent=1) + "\n", encoding="utf-8")
    return 1 if tally["wrong"] else 0


if __name__ == "__main__": sys.exit(main())
