"""Tests of gpuhost."""
