"""Attacks: what kills, forks, interrupts and starves the package, and what holds nevertheless."""
