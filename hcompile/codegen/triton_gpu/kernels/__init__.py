"""The kernels themselves, in Triton and Gluon. Their launchers stand one folder up, under the same names."""
