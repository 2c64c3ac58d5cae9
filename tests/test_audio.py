"Recordings as people really bring them: each is read, read in part with a warning, or refused with a remedy."
import io, subprocess, sys, warnings
import numpy as np, pytest, soundfile as sf
from wakekit.core import AudioError
from wakekit.data import audio
from wakekit.data.audio import (AudioWarning, check_waveform, find_audio, iter_audio, load_audio, noise_floor, peak_db, probe_audio,
                                resample, rms_db, save_audio, speech_bounds, to_float32, to_int16, trim_silence)

SR = 16_000


def voice(seconds=1.0, sr=SR, seed=0):
    "A buzz with moving level and pitch over faint noise: everything below 4 kHz"
    t = np.arange(int(seconds*sr))/sr
    x = sum(np.sin(2*np.pi*110*h*t + .7*h*np.sin(2*np.pi*2*t))/h for h in range(1, 12))*(.6 + .4*np.sin(2*np.pi*3*t))
    return (.3*x/np.abs(x).max() + .001*np.random.default_rng(seed).standard_normal(len(t))).astype(np.float32)


@pytest.mark.parametrize("subtype,eps", [("PCM_U8", 1e-2), ("PCM_16", 4e-5), ("PCM_24", 1e-6), ("PCM_32", 1e-6), ("FLOAT", 1e-7), ("DOUBLE", 1e-7), ("ULAW", 2e-2)])
def test_codings_of_wav(tmp_path, subtype, eps):
    sf.write(tmp_path/"a.wav", voice(), SR, subtype=subtype)
    x = load_audio(tmp_path/"a.wav")
    assert x.dtype == np.float32 and x.shape == (SR,) and np.abs(x - voice()).max() < eps


@pytest.mark.parametrize("sr", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_any_rate_and_channel_count(tmp_path, sr, channels):
    x = voice(sr=sr)
    sf.write(tmp_path/"a.wav", np.stack([x]*channels, axis=1), sr, subtype="PCM_24")
    y = load_audio(tmp_path/"a.wav")
    assert abs(len(y) - SR) <= 1
    assert np.abs(y - resample(x, sr, SR)[:len(y)]).max() < 1e-4


@pytest.mark.parametrize("name,kw", [("a.mp3", {}), ("a.flac", {}), ("a.ogg", {}), ("a.opus", dict(format="OGG", subtype="OPUS")), ("a.aiff", {}), ("a.au", {}), ("a.caf", {})])
def test_formats(tmp_path, name, kw):
    sf.write(tmp_path/name, voice(2), SR, **kw)
    y = load_audio(tmp_path/name)
    assert abs(len(y)/SR - 2) < .06
    piece = voice(2)[1200:5200]
    windows = np.lib.stride_tricks.sliding_window_view(y[:6400], 4000)  # codecs may shift by a frame
    assert (windows @ piece/np.linalg.norm(windows, axis=1)/np.linalg.norm(piece)).max() > .97
    assert (load_audio((tmp_path/name).read_bytes()) == y).all()
    with open(tmp_path/name, "rb") as f: assert (load_audio(f) == y).all()


def test_a_pipe_that_cannot_seek(tmp_path):
    save_audio(tmp_path/"a.wav", voice())
    class Pipe(io.RawIOBase):
        def __init__(self, data): self.rest = io.BytesIO(data)
        def readable(self): return True
        def read(self, n=-1): return self.rest.read(n)
    assert len(load_audio(Pipe((tmp_path/"a.wav").read_bytes()))) == SR


@pytest.mark.parametrize("sr", [16_000, 44_100, 8_000])
@pytest.mark.parametrize("chunk_s", [.01, .37, 1, 100])
def test_streaming_is_loading(tmp_path, sr, chunk_s):
    sf.write(tmp_path/"a.flac", voice(5.3, sr), sr)
    whole, chunks = load_audio(tmp_path/"a.flac"), list(iter_audio(tmp_path/"a.flac", chunk_s))
    assert all(len(c) == round(chunk_s*SR) for c in chunks[:-1]) and len(chunks[-1]) <= round(chunk_s*SR)
    assert np.abs(np.concatenate(chunks) - whole).max() < 1e-4 and len(np.concatenate(chunks)) == len(whole)
    assert np.abs(whole - resample(sf.read(tmp_path/"a.flac", dtype="float32")[0], sr)).max() < 1e-4


def test_a_part(tmp_path):
    save_audio(tmp_path/"a.wav", voice(3))
    x = load_audio(tmp_path/"a.wav")
    assert (load_audio(tmp_path/"a.wav", start_s=1, duration_s=.5) == x[SR:SR*3//2]).all()
    assert (load_audio(tmp_path/"a.wav", start_s=2.5) == x[SR*5//2:]).all()
    with pytest.raises(AudioError, match="no samples after 7 s"): load_audio(tmp_path/"a.wav", start_s=7)
    for kw in (dict(start_s=-1), dict(duration_s=0)):
        with pytest.raises(AudioError): load_audio(tmp_path/"a.wav", **kw)


def wav_bytes(x, **kw):
    f = io.BytesIO()
    sf.write(f, x, SR, format="WAV", **kw)
    return f.getvalue()


refused = {
    "empty.wav": (b"", "empty"),
    "header-only.wav": (wav_bytes(voice())[:44], "nothing in it can be decoded"),
    "header-cut.wav": (wav_bytes(voice())[:20], "damaged in its header"),
    "zero-length.wav": (wav_bytes(voice()[:0]), "no samples"),
    "jpeg.wav": (b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(3000), "JPEG"),
    "png.wav": (b"\x89PNG\r\n\x1a\n" + bytes(3000), "PNG"),
    "text.mp3": (b"hello world\n"*200, "no audio format"),
    "page.wav": (b"<!DOCTYPE html><html>404</html>", "web page"),
    "zeros.wav": (bytes(5000), "zero bytes"),
    "phone.m4a": (b"\0\0\0\x20ftypM4A isom" + bytes(500), "ffmpeg"),
    "browser.webm": (b"\x1aE\xdf\xa3" + bytes(500), "ffmpeg"),
    "pointer.wav": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "hollow.flac": (b"fLaC" + bytes(2000), "damaged"),
    "nan.wav": (wav_bytes(np.where(np.arange(SR) == 900, np.nan, voice()), subtype="FLOAT"), "NaN"),
    "inf.wav": (wav_bytes(np.where(np.arange(SR) == 900, np.inf, voice()), subtype="FLOAT"), "infinite"),
    "integer-scale.wav": (wav_bytes(voice()*32768, subtype="FLOAT"), "divide it by 32768"),
}

@pytest.mark.parametrize("name", refused)
def test_refused_with_a_remedy(tmp_path, name):
    data, says = refused[name]
    (tmp_path/name).write_bytes(data)
    with pytest.raises(AudioError, match=says) as e: load_audio(tmp_path/name)
    assert name in str(e.value)
    with pytest.raises(AudioError, match=says): load_audio(data)
    with pytest.raises(AudioError): list(iter_audio(tmp_path/name, .1))


def test_missing_and_folder(tmp_path):
    with pytest.raises(AudioError, match="does not exist, and neither does the folder"): load_audio(tmp_path/"no"/"a.wav")
    with pytest.raises(AudioError, match="is a folder"): load_audio(tmp_path)


def test_truncated_wav_gives_what_is_there(tmp_path):
    data = wav_bytes(voice(2))
    (tmp_path/"cut.wav").write_bytes(data[:44 + SR*2 + 1])  # cut in the middle of a sample
    with pytest.warns(AudioWarning, match="damaged 1.00 s into its 2.00 s"): x = load_audio(tmp_path/"cut.wav")
    assert len(x) == SR and np.abs(x - voice(2)[:SR]).max() < 1e-4


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF])
def test_a_wav_from_a_pipe_has_no_length_and_is_fine(tmp_path, size):
    data = bytearray(wav_bytes(voice()))
    data[4:8] = data[40:44] = size.to_bytes(4, "little")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(load_audio(bytes(data))) == SR


def test_whole_recordings_do_not_warn(tmp_path):
    for i, (name, kw) in enumerate({"a.wav": {}, "b.wav": dict(subtype="PCM_24"), "c.wav": dict(subtype="FLOAT"), "d.mp3": {}, "e.ogg": {}, "f.flac": {}, "g.aiff": {}}.items()):
        sf.write(tmp_path/name, voice(2.0001), SR, **kw)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            load_audio(tmp_path/name)
            load_audio(tmp_path/name, start_s=1.5)


def test_damaged_flac_gives_what_can_be_decoded(tmp_path):
    x = voice(4)
    sf.write(tmp_path/"good.flac", x, SR)
    data = (tmp_path/"good.flac").read_bytes()
    noise = np.random.default_rng(0).integers(0, 256, 3000, dtype=np.uint8).tobytes()
    for name, hurt in {"tail": data[:-3000] + noise, "cut": data[:-3000], "middle": data[:len(data)//2] + noise + data[len(data)//2 + 3000:]}.items():
        (tmp_path/f"{name}.flac").write_bytes(hurt)
        with pytest.warns(AudioWarning, match="kept the"): y = load_audio(tmp_path/f"{name}.flac")
        assert SR < len(y) < 4*SR and np.abs(y - x[:len(y)]).max() < 1e-4
        with pytest.warns(AudioWarning): z = load_audio(hurt)
        assert (y == z).all()


def test_a_flac_damaged_from_its_start_is_refused(tmp_path):
    sf.write(tmp_path/"a.flac", voice(), SR)
    data = (tmp_path/"a.flac").read_bytes()
    at = data.index(b"\xff\xf8")  # the first frame
    (tmp_path/"a.flac").write_bytes(data[:at] + b"\x55"*(len(data) - at))
    with pytest.raises(AudioError, match="nothing in it can be decoded|damaged"): load_audio(tmp_path/"a.flac")


def test_half_an_mp3(tmp_path):
    sf.write(tmp_path/"a.mp3", voice(4), SR)
    data = (tmp_path/"a.mp3").read_bytes()
    (tmp_path/"a.mp3").write_bytes(data[:len(data)//2])
    with pytest.warns(AudioWarning, match="kept"): assert SR < len(load_audio(tmp_path/"a.mp3")) < 3*SR


def test_digital_silence_loads_and_can_be_told(tmp_path):
    save_audio(tmp_path/"a.wav", np.zeros(SR, np.float32))
    x = load_audio(tmp_path/"a.wav")
    assert not x.any() and rms_db(x) == peak_db(x) == noise_floor(x) == audio.SILENCE_DB
    assert speech_bounds(x) == (0, SR) and len(trim_silence(x)) == SR


@pytest.mark.parametrize("n", [0, 1, 5, 479, 480, 481])
def test_measures_of_very_short_waveforms(n):
    x = np.full(n, .5, np.float32)
    assert rms_db(x) <= 0 and speech_bounds(x) == (0, n) and np.isfinite(noise_floor(x))


def test_loud_floats_are_clipped():
    assert check_waveform(np.array([1.5, -3, .2])).tolist() == pytest.approx([1, -1, .2])
    for bad in (np.zeros((2, 100)), np.zeros(0), np.zeros(5, dtype=complex), np.zeros(5, dtype=np.int32)):
        with pytest.raises(AudioError): check_waveform(bad)


def test_sixteen_bits_survive(tmp_path):
    x = np.random.default_rng(0).integers(-32768, 32768, SR).astype(np.int16)
    save_audio(tmp_path/"a.wav", x)
    assert (to_int16(load_audio(tmp_path/"a.wav")) == x).all()
    save_audio(tmp_path/"b.wav", to_float32(x))
    assert (tmp_path/"a.wav").read_bytes() == (tmp_path/"b.wav").read_bytes()


def test_full_disk_keeps_the_old_file(tmp_path, monkeypatch):
    save_audio(tmp_path/"a.wav", voice())
    before = (tmp_path/"a.wav").read_bytes()
    def full(): yield voice(); raise OSError(28, "No space left on device")
    with pytest.raises(OSError, match="No space"): save_audio(tmp_path/"a.wav", full())
    assert (tmp_path/"a.wav").read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.wav"]


def test_find_audio(tmp_path):
    with pytest.raises(AudioError, match="found nothing"): find_audio(tmp_path)
    for n in ("b/two.FLAC", "a/one.wav", "a/._one.wav", ".cache/x.wav", "notes.txt"):
        (tmp_path/n).parent.mkdir(exist_ok=True)
        (tmp_path/n).write_bytes(b"x")
    assert [p.relative_to(tmp_path).as_posix() for p in find_audio(tmp_path)] == ["a/one.wav", "b/two.FLAC"]
    with pytest.raises(AudioError, match="1 × .txt"): find_audio(tmp_path, recursive=False)
    assert find_audio([tmp_path/"notes.txt", tmp_path/"a"]) == [tmp_path/"a/one.wav", tmp_path/"notes.txt"]


three_hours = """
import sys, numpy as np, soundfile as sf
from wakekit.data.audio import iter_audio, save_audio
folder = sys.argv[1]
rng = np.random.default_rng(0)
piece = (rng.standard_normal((22_050*30, 2))*3000).astype(np.int16)
with sf.SoundFile(folder + "/long.wav", "w", 22_050, 2, "PCM_16") as f:
    for _ in range(3*120): f.write(piece)
del piece
import tracemalloc
tracemalloc.start()
n = save_audio(folder + "/out.wav", iter_audio(folder + "/long.wav"))
print(n/16_000, tracemalloc.get_traced_memory()[1]/2**20)
"""

def test_three_hours_in_constant_memory(tmp_path):
    done = subprocess.run([sys.executable, "-c", three_hours, str(tmp_path)], capture_output=True, text=True, check=True)
    seconds, peak_mib = map(float, done.stdout.split())
    assert seconds == pytest.approx(3*3600, abs=.01)
    assert peak_mib < 30  # the whole would be 660 MiB as float32
    assert probe_audio(tmp_path/"out.wav").duration_s == pytest.approx(3*3600, abs=.01)
    for f in tmp_path.iterdir(): f.unlink()
