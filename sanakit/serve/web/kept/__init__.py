"""Images that were drawn before: a strip and a gallery of them, and what can be made of one."""
