"""The package that user programs import. `speechmill.reader` reads datasets for training."""
