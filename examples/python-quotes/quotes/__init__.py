"""Short pieces of old wisdom, one of them at a time."""
