"""Many containers and codecs of one recording, and tiny and odd sounds: python make_formats.py $AUDIO OUT (needs ffmpeg, sox)."""
import pathlib, subprocess, sys
import numpy as np, soundfile as sf
audio, out = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve(); out.mkdir(parents=True, exist_ok=True)
src = audio / "watson/en-US_Broadband_sample1.flac"
def ff(name, *a, extra=()):
    r = subprocess.run(["ffmpeg", "-nostdin", "-v", "error", "-y", "-i", str(src), *extra, *a, str(out / name)], capture_output=True, text=True)
    if r.returncode: print(name, r.stderr.splitlines()[-1]); (out / name).unlink(missing_ok=True)
ff("f_wma.wma", "-c:a", "wmav2"); ff("f_amrnb.amr", "-ar", "8000", "-c:a", "libopencore_amrnb", "-b:a", "12.2k"); ff("f_amrwb.amr", "-c:a", "libvo_amrwbenc")
ff("f_amr.3gp", "-ar", "8000", "-c:a", "libopencore_amrnb", "-b:a", "12.2k"); ff("f_gsm.wav", "-ar", "8000", "-c:a", "libgsm_ms"); ff("f_ima.wav", "-c:a", "adpcm_ima_wav"); ff("f_ms.wav", "-c:a", "adpcm_ms")
ff("f_alaw.au", "-ar", "8000", "-c:a", "pcm_alaw"); ff("f_w64.w64"); ff("f_rf64.wav", "-rf64", "always"); ff("f_f64.wav", "-c:a", "pcm_f64le"); ff("f_24be.aiff", "-c:a", "pcm_s24be"); ff("f_alac.caf", "-c:a", "alac")
ff("f_alac.m4a", "-c:a", "alac"); ff("f_tta.mka", "-c:a", "tta"); ff("f_wv.wv"); ff("f_ac3.ac3", "-ar", "48000", "-c:a", "ac3"); ff("f_eac3.ts", "-ar", "48000", "-c:a", "eac3"); ff("f_mp2.ts", "-c:a", "mp2")
ff("f_latm.ts", "-c:a", "aac", "-mpegts_flags", "latm"); ff("f_dts.mka", "-ar", "48000", "-c:a", "dca", "-strict", "-2"); ff("f_opus.mp4", "-c:a", "libopus"); ff("f_flac.mp4", "-c:a", "flac", "-strict", "-2"); ff("f_flac.ogg", "-c:a", "flac")
ff("f_speex.ogg", "-c:a", "libspeex"); ff("f_swf.mkv", "-c:a", "adpcm_swf", "-ar", "22050"); ff("f_g726.wav", "-ar", "8000", "-c:a", "g726"); ff("f_g722.wav", "-c:a", "adpcm_g722"); ff("f_mp3inwav.wav", "-c:a", "libmp3lame"); ff("f_cbr8.mp3", "-ar", "16000", "-b:a", "8k", "-write_xing", "0")
ff("f_flv.mov", "-c:a", "pcm_s16be"); ff("f_qdm.mov", "-c:a", "adpcm_ima_qt"); ff("f_low4k.wav", "-ar", "4000"); ff("f_11025.wav", "-ar", "11025"); ff("f_192k.flac", "-ar", "192000"); ff("f_stream.flac", extra=())
raw = subprocess.run(["ffmpeg", "-v", "error", "-i", str(src), "-f", "flac", "-"], capture_output=True).stdout; (out / "f_stream.flac").write_bytes(raw)
raw = subprocess.run(["ffmpeg", "-v", "error", "-i", str(src), "-f", "wav", "-"], capture_output=True).stdout; (out / "f_pipe.wav").write_bytes(raw)
raw = subprocess.run(["ffmpeg", "-v", "error", "-i", str(src), "-c:a", "libopus", "-f", "webm", "-"], capture_output=True).stdout; (out / "f_live.webm").write_bytes(raw)
x, rate = sf.read(src)
import sys
for n in (1, 100, 1600, 4800, 16000): sf.write(out / f"t_{n:06d}.wav", x[40000 : 40000 + n], rate)
for r in (2000, 500, 50, 4): sf.write(out / f"r_{r:05d}.wav", x[: 10 * max(r, 50)], r)
