"""The library's attention on a GPU, as a code generator like any other: torch's SDPA by flash, cuDNN, or its own."""
