"""Synthetic voices: texts, their phonemes by espeak-ng, and text-to-speech that tells the time of each phoneme."""
