"""What can be done to a pass: specs, routes, values, and the plan that they make for a prompt.

May import: `decoder`, and folders above.
"""
