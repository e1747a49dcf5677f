"""What `benches/compare/run` does, in the order it does it."""
