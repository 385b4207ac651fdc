"""One run: what is asked, the run itself, how it is judged."""
