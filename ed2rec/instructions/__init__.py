"""What the LLM is asked: wordings, and how histories become packed batches of tokens."""
