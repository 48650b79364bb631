"""Which activations carry a difference between two prompts: patches from one run into another."""
