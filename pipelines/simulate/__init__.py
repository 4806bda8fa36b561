"""Conversations made from recordings of single speakers, with exact truth: who speaks when, to the sample."""
