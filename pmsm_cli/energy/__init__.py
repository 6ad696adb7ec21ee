"""Energy: constants with their sources, and what counted operations cost by them."""
