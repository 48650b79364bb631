"""From which layer on tokens can go, and what that saves."""
