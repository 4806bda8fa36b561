"""Simulated conversations from recordings of single speakers, in which it is known to the sample who speaks when."""
