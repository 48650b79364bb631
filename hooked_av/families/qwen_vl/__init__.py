"""Qwen2.5-VL: positions and the family, also the ground of video-SALMONN 2+."""
