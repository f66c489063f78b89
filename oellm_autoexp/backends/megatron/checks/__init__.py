"""Checks of Megatron-LM's arguments, by topic; `validation.py` puts them in order. Pure.

Comments name where Megatron (core_v0.19.0) checks the same. Its longest files go by a letter: A is
megatron/training/arguments.py, T megatron/core/transformer/transformer_config.py, S
megatron/core/optimizer_param_scheduler.py; other paths that begin with core/ lie in megatron/, other names in
megatron/training/.
"""
