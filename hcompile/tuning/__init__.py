"""Autotuning: which schedule runs a workload fastest on this machine.

`tune.Tuner` is the entry. `search` is the loop over an abstract space, `strategies` propose, `measure` runs candidates
in child processes, `replay` answers from a recorded sweep, and `latency` predicts the time of nodes never measured.
"""
