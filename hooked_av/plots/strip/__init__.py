"""The token strip: a prompt in time and in order."""
