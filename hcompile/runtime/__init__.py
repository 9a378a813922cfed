"""What runs in a deployment: a program lowered to bound kernels, compiled once for all shapes."""
