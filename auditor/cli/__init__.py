"""The command line: parses, calls the verbs, prints."""
