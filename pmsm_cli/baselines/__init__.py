"""The conversions that ours is compared with, each faithful to its paper; docs/compare.md derives them."""
