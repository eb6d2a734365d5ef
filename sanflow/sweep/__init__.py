"""Methods x data x presets x seeds: each cell a process of its own, and the table of them all."""
