"""The stage `quality`: how clean the recording sounds."""

from __future__ import annotations

import pyarrow as pa

from manifests.schemas.columns import BASE, field
from manifests.schemas.row_checks import ANNOTATE, RowCheck
from manifests.schemas.spec import StageSpec

QUALITY = pa.schema(
    [
        *BASE,
        field(
            "dnsmos_sig",
            pa.float64(),
            "predicted opinion of the clarity of the speech, 1 (bad) to 5 (excellent): DNSMOS P.835, mean "
            "over windows with speech",
            "MOS",
        ),
        field(
            "dnsmos_bak",
            pa.float64(),
            "predicted opinion of the background, 1 (very intrusive noise) to 5 (no noise noticed): DNSMOS P.835",
            "MOS",
        ),
        field(
            "dnsmos_ovrl",
            pa.float64(),
            "predicted opinion of the sound overall, 1 (bad) to 5 (excellent): DNSMOS P.835",
            "MOS",
        ),
        field(
            "dnsmos_p808",
            pa.float64(),
            "predicted opinion of the sound overall, 1 (bad) to 5 (excellent), by the older model DNSMOS P.808",
            "MOS",
        ),
        field("dnsmos_windows", pa.int32(), "number of windows with speech over which the DNSMOS scores are means"),
        field(
            "snr_db",
            pa.float64(),
            "level of the speech relative to the level of the other sound; the higher, the less noise",
            "dB",
        ),
        field(
            "music_likelihood", pa.float64(), "share of the recording, 0 to 1, with steady tones like those of music"
        ),
    ]
)

SPEC = StageSpec(
    order=50,
    summary="How clean the sound is: DNSMOS scores, ratio of speech to noise, music.",
    schema=QUALITY,
    headline=(
        "dnsmos_ovrl",
        "snr_db",
        "music_likelihood",
    ),
    checks=(RowCheck("music_likelihood NOT BETWEEN 0 AND 1", "a likelihood of music outside 0 to 1", ANNOTATE),),
    cpu_hours=0.005,
)
