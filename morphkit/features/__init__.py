"""What frozen models make of raw inputs: extraction, its cache, stores of any size."""
