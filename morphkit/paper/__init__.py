"""The paper's figures: each a sweep of runs, the lines it comes to, a picture, and a claim."""
