"""One file per family: which network of another package each of ours is compared with."""
