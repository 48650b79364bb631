"""The decoder of every family: weights, attention, cuts of attention, blocks, and what they cost.

May import: `hooks`, and folders above.
"""
