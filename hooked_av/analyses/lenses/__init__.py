"""What each layer would answer: the unembedding on what is not the last layer."""
