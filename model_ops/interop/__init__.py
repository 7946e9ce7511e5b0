"""Other people's files: what is read from them, and what is written for their code."""
