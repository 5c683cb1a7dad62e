"""Which runs answer the question, and what do they answer?"""
