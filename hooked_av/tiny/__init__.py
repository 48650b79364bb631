"""tiny-av: the task, the trainer and the shipped checkpoint of a small Qwen2.5-Omni that works.

May import: everything above.
"""
