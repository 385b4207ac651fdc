"""Tables, pictures and pages, made from what a run folder holds and from nothing else."""
