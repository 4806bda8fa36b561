"""Simulated conversations, in which the times at which each speaker speaks are known to the sample."""
