"""How well good and defective parts are told apart, with intervals, pictures and provenance."""
