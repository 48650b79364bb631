"""What several test files share: small random models, and prompts of every kind as transformers' own tensors."""
