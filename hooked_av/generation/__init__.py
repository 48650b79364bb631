"""Answers, token by token, with hooks and interventions live.

May import: `interventions`, `decoder`, and folders above.
"""
