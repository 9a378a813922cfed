"""A small trained model and what made it; run the programs here as `python -m examples.<name>`."""
