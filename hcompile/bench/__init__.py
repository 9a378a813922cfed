"""Whole-model measurements: dense against hybrid, interleaved, against the strongest dense baseline."""
