"""Warm-up of the index generators, then joint training with the LLM."""
