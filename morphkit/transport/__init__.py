"""Costs as geometries, couplings, and what is done with them; knows no training."""
