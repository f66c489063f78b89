"""One module for each version of Megatron-LM, written by scripts/generate_megatron_dataclass.py."""
