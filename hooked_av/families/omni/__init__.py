"""Qwen2.5-Omni: layout, preparation, and the family."""
