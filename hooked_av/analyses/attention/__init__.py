"""Where attention goes, and which heads write the answer."""
