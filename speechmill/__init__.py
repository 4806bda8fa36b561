"""What programs of users import: `speechmill.reader` reads datasets for trainers."""
