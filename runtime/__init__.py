"""What stages and encoders share: errors that a person can act on, models and their files, batches on a device."""
