"""Natural corruptions and white-box attacks."""
