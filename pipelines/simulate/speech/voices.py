"""The synthetic voices, their names on the command line, and their options for speed and pitch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from runtime.errors import OverrideError

Range = tuple[float, float]
KNOWN = {
    "piper:joe": ("piper-joe", "joe"),
    **{f"kokoro:{style}": ("kokoro", style) for style in ("jf_alpha", "jf_gongitsune", "jm_kumo")},
}
"""The model and the style of each voice. Kokoro's styles jf_nezumi and jf_tebukuro are left out, because by their
embeddings they may be the same person as jf_gongitsune, who could then be on both sides."""
BOUNDS: dict[str, Range] = {"rate": (0.5, 2.0), "pitch": (0.5, 2.0)}
EVERYBODY = "all"


@dataclass(frozen=True)
class Speaker:
    """A synthetic voice. For each utterance, values are drawn from the ranges."""

    voice: str
    """As in `KNOWN`."""
    rate: Range = (1.0, 1.0)
    """Speed: 1 is the voice's own, 2 is twice as fast."""
    pitch: Range = (1.0, 1.0)
    """Factor of the fundamental frequency."""

    @property
    def name(self) -> str:
        """The name of the voice in the truth, from which its side follows. It does not depend on the options."""
        return self.voice.replace(":", "-")

    @property
    def model(self) -> str:
        return KNOWN[self.voice][0]

    @property
    def style(self) -> str:
        return KNOWN[self.voice][1]


def speakers(named: Iterable[str]) -> tuple[Speaker, ...]:
    """Parse the values of `--tts`: `piper:joe`, `kokoro` for all voices of a model, or `all`, each with options as in
    `kokoro:jm_kumo,rate=0.8..1.25,pitch=0.9`.

    Raises OverrideError for unknown voices and options, and for a voice that is named twice.
    """
    found: dict[str, Speaker] = {}
    for word in named:
        name, *options = word.split(",")
        voices = [voice for voice in KNOWN if name in (voice, voice.partition(":")[0], EVERYBODY)]
        if not voices:
            known = ", ".join([EVERYBODY, "kokoro", *KNOWN])
            raise OverrideError(f"--tts {word!r:.60}: there is no synthetic voice {name!r:.40}", f"name one of {known}")
        ranges = dict(_range(word, option) for option in options)
        if "pitch" in ranges and any(voice.startswith("piper") for voice in voices):
            what = f"--tts {word!r:.60}: the pitch of Piper voices cannot be set"
            raise OverrideError(what, "leave pitch out, or name only voices of kokoro")
        for voice in voices:
            if voice in found:
                what = f"--tts names the voice {voice} twice"
                raise OverrideError(what, "name it once, with a range such as rate=0.8..1.25")
            found[voice] = Speaker(voice, **ranges)
    return tuple(found[voice] for voice in sorted(found))


def _range(word: str, option: str) -> tuple[str, Range]:
    key, _, value = option.partition("=")
    low, _, high = value.partition("..")
    try:
        least, most = BOUNDS[key]
        span = float(low), float(high or low)
        if not least <= span[0] <= span[1] <= most:
            raise ValueError
    except (KeyError, ValueError):
        allowed = ", ".join(f"{name} from {least:g} to {most:g}" for name, (least, most) in BOUNDS.items())
        what = f"--tts {word!r:.60}: {option!r:.40} is not an option of a synthetic voice"
        raise OverrideError(
            what, f"write a number or a range such as rate=0.8..1.25; the options are {allowed}"
        ) from None
    return key, span
