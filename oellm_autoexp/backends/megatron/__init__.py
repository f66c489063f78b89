"""Megatron-LM as a backend."""
