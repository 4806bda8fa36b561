"""Shared by stages and encoders: errors with a remedy, model files, and batches on a device."""
