"""Passes over a program: raise every attention found, select its variants, lower it to kernels, verify."""
