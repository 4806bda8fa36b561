"""Run NeMo Curator's reader and voice activity detection on its Ray Data executor, in its own environment.

Arguments: MANIFEST OUT.
"""

import sys

import ray
from nemo_curator.backends.ray_data import RayDataExecutor
from nemo_curator.pipeline import Pipeline
from nemo_curator.stages.audio.common import ManifestReader, ManifestWriterStage
from nemo_curator.stages.audio.postprocessing.timestamp_mapper import TimestampMapperStage
from nemo_curator.stages.audio.segmentation import VADSegmentationStage

if __name__ == "__main__":
    manifest, out = sys.argv[1:]
    ray.init(num_cpus=6, include_dashboard=False)  # with the real number, two, its actors wait for one another
    stages = [ManifestReader(manifest), VADSegmentationStage(), TimestampMapperStage(), ManifestWriterStage(out)]
    Pipeline(name="vad", stages=stages).run(RayDataExecutor())
