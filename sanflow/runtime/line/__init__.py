"""The in-line station: cameras in, exactly one ordered verdict per part out, by its deadline."""
