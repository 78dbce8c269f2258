"""The quality benchmark (`make bench-quality`): every system on the same cases, ranked by one honest protocol."""
